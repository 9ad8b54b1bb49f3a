from __future__ import annotations

import pytest

from scalable.manifest import parse_manifest
from scalable.manifest.validate import ValidationReport
from scalable.providers.base import DeploymentSpec
from scalable.providers.slurm import SlurmOptions, SlurmProvider
from scalable.testing.offline import spec_of

EVERYTHING = """
    queue: short
    account: GCIMS
    walltime: 02:00:00
    interface: ib0
    container_runtime: apptainer
    logs_location: /scratch/logs of mine
    name: nightly
    qos: high
    constraint: "[rack1|rack2]&ssd"
    reservation: workshop
    modules: [gcc/13, openmpi/5.0]
    prologue: [ulimit -s unlimited, 'export TITLE="it''s"']
    directives: [--exclusive, "--mail-type=END,FAIL", --gres=gpu:a100:1]
    python: /projects/env/bin/python
    local_directory: /local/scratch
    components:
      gcam: {queue: long, walltime: 1-00:00:00, constraint: ssd, directives: [--exclusive]}
"""
COMPONENT = "gcam: {image: gcam.sif}"


def report_of(options: str) -> ValidationReport:
    return SlurmProvider().validate(spec_of("slurm", options, COMPONENT))


def test_every_option_is_accepted() -> None:
    assert report_of(EVERYTHING).issues == ()
    options = SlurmProvider().parse_options(spec_of("slurm", EVERYTHING, COMPONENT))
    assert options.walltime == 7200
    assert options.directives == ("--exclusive", "--mail-type=END,FAIL", "--gres=gpu:a100:1")
    assert options.prologue[1] == 'export TITLE="it\'s"'


def test_no_option_is_required() -> None:
    assert report_of("").issues == ()
    options = SlurmProvider().parse_options(spec_of("slurm"))
    assert options == SlurmOptions(container_runtime="auto")
    assert (options.queue, options.account, options.walltime) == (None, None, None)


@pytest.mark.parametrize(
    ("line", "path", "message"),
    [
        ("queue: short --comment=x", "queue", "must be one word"),
        ('account: "a\\n#SBATCH -x"', "account", "must be one word"),
        ("name: a,b", "name", "without whitespace, commas or slashes"),
        ("name: a/b", "name", "without whitespace, commas or slashes"),
        ("cluster: ALL", "cluster", "must be the name of one cluster"),
        ("walltime: 30s", "walltime", "must be at least 60"),
        ("walltime: two hours", "walltime", "must be a duration"),
        ("interface: a/b", "interface", "must be the name of a network interface"),
        ("interface: longer-than-15-chars", "interface", "must be the name of a network interface"),
        ("container_runtime: aptainer", "container_runtime", "did you mean 'apptainer'?"),
        ('logs_location: "a\\nb"', "logs_location", "must be one line of text"),
        ("local_directory: $(mktemp -d)", "local_directory", "may have variables such as $TMPDIR"),
        ("modules: gcc", "modules", "must be a list"),
        ("modules: [gcc 13]", "modules[0]", "must be one word"),
        ('prologue: [a, "b\\nc"]', "prologue[1]", "must be one line of text"),
        ("directives: [-p short]", "directives[0]", "an option of sbatch in one word"),
        ('directives: ["--mail-type END"]', "directives[0]", "an option of sbatch in one word"),
        ("directives: [--partition=x]", "directives[0]", "use the option queue"),
        ("directives: [--part=x]", "directives[0]", "use the option queue"),
        ("directives: [--exclusive, --mem=1G]", "directives[1]", "memory of the component"),
        ("directives: [--array=0-9]", "directives[0]", "Scalable sets it itself"),
        ("directives: [--quiet]", "directives[0]", "it would hide what sbatch answers"),
        ("directives: [--cluster=two]", "directives[0]", "use the option cluster"),
        ('directives: ["--signal=B:USR1@60"]', "directives[0]", "drained before its walltime"),
        ("directives: [--dependency=singleton]", "directives[0]", "one after another"),
        ("directives: [--export-file=x]", "directives[0]", "use env of the component"),
        ("comm_port: 70000", "comm_port", "must be at most 65535"),
        ("qeue: short", "qeue", "did you mean 'queue'?"),
    ],
)
def test_invalid_values_are_rejected(line: str, path: str, message: str) -> None:
    [issue] = report_of(line).issues
    assert issue.severity == "error"
    assert (issue.path, issue.line) == (f"targets.here.{path}", 6)
    assert message in issue.message


def test_directives_that_only_share_a_prefix_with_ours_are_accepted() -> None:
    line = "directives: [--nodelist=n1, --ntasks-per-core=1, --wait-all-nodes=1, --signal=USR1@60]"
    assert report_of(line).issues == ()


def test_every_problem_is_reported_at_once_with_its_position() -> None:
    report = report_of(
        "queue: a b\nwalltime: never\nacount: x\ncomm_port: x\n"
        "workers: {gcma: 2}\nlimits: {max_hourly_cost: 3}"
    )
    assert [(issue.path.removeprefix("targets.here."), issue.line) for issue in report.errors] == [
        ("queue", 6),
        ("walltime", 7),
        ("acount", 8),
        ("comm_port", 9),
        ("workers.gcma", 10),
        ("limits.max_hourly_cost", 11),
    ]
    assert str(report.errors[0]).startswith("scalable.yaml:6:5 E_BAD_VALUE targets.here.queue: ")


def test_values_from_the_environment_are_not_shown() -> None:
    manifest = parse_manifest(
        {
            "version": 1,
            "project": {"name": "x"},
            "targets": {"hpc": {"provider": "slurm", "account": "${ACCOUNT}"}},
        },
        env={"ACCOUNT": "s3cret account"},
    )
    spec = DeploymentSpec.from_manifest(manifest, target_name="hpc")
    [issue] = SlurmProvider().validate(spec).errors
    assert "s3cret" not in str(issue)
    assert "${ACCOUNT}" in str(issue)


def test_every_option_is_described() -> None:
    properties = SlurmProvider().options_schema()["properties"]
    assert set(properties) == set(SlurmOptions.model_fields)
    assert all(option["description"].endswith(".") for option in properties.values())
