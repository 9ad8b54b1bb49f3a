from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from slurm_units import read_scripts

from scalable.cluster import AdaptivePolicy
from scalable.errors import ProviderNotSetUpError, ValidationFailedError
from scalable.planning import build_plan
from scalable.providers.base import DeploymentProvider, DeploymentSpec, ResourceRequest
from scalable.providers.registry import get_provider
from scalable.providers.slurm import SlurmProvider, provider
from scalable.providers.slurm.commands import SlurmCommandError
from scalable.testing.offline import manifest_of, modules_of_planning, spec_of

if TYPE_CHECKING:
    from conftest import Calls, FakeCommand


def warnings_of(spec: DeploymentSpec) -> list[tuple[str, str]]:
    report = SlurmProvider().validate(spec)
    assert report.ok
    return [(issue.path, issue.code) for issue in report.warnings]


def test_the_provider_is_found_by_name() -> None:
    provider = get_provider("Slurm")
    assert isinstance(provider, SlurmProvider)
    assert isinstance(provider, DeploymentProvider)


def test_an_obsolete_option_is_accepted_with_a_warning() -> None:
    assert warnings_of(spec_of("slurm", "comm_port: 1919")) == [
        ("targets.here.comm_port", "W_NO_EFFECT")
    ]


@pytest.mark.parametrize(
    ("component", "container_runtime", "warned"),
    [
        ("mounts: {/data: /data}", "auto", True),
        ("mounts: {/data: /data}, image: gcam.sif", "auto", False),
        ("mounts: {/data: /data}, image: gcam.sif", "none", True),
        ("mounts: {/data: /data}, image: gcam.sif, runtime: none", "auto", True),
        ("mounts: {/data: /data}, image: gcam.sif, runtime: none", "podman", False),
        ("image: gcam.sif", "none", False),
    ],
)
def test_mounts_require_a_container(component: str, container_runtime: str, warned: bool) -> None:
    options = f"container_runtime: {container_runtime}"
    spec = spec_of("slurm", options, f"gcam: {{{component}}}")
    assert warnings_of(spec) == [("components.gcam.mounts", "W_NO_EFFECT")] * warned


def test_a_missing_interface_is_reported_with_its_position() -> None:
    spec = spec_of("slurm", "interface: nosuch0")
    with pytest.raises(ValidationFailedError) as caught:
        SlurmProvider().build_cluster(spec)
    (issue,) = caught.value.report.errors
    assert (issue.path, issue.code, issue.line) == ("targets.here.interface", "E_INTERFACE", 6)
    assert "set interface to one of: " in issue.message


@pytest.mark.parametrize(("runtime", "refused"), [("apptainer", True), ("podman", False)])
def test_a_mount_that_the_runtime_would_misread_is_rejected(runtime: str, refused: bool) -> None:
    component = "gcam: {image: gcam.sif, mounts: {'/data:2': /data}}"
    report = SlurmProvider().validate(spec_of("slurm", f"container_runtime: {runtime}", component))
    found = [(issue.path, issue.code) for issue in report.errors]
    assert found == [('components.gcam.mounts."/data:2"', "E_MOUNT")] * refused


@pytest.mark.parametrize(
    ("component", "path", "code"),
    [
        ("gcam: {runtime: podman}", "components.gcam.image", "E_NO_IMAGE"),
        ("gcam: {image: a:1, env: {PATH: /bin}}", "components.gcam.env.PATH", "E_CONTAINER_ENV"),
    ],
)
def test_what_no_container_can_do_is_rejected(component: str, path: str, code: str) -> None:
    report = SlurmProvider().validate(spec_of("slurm", "container_runtime: podman", component))
    assert [(issue.path, issue.code) for issue in report.errors] == [(path, code)]


def test_job_options_of_an_unknown_component_are_rejected() -> None:
    options = "components: {gcan: {queue: gpu}}"
    (issue,) = SlurmProvider().validate(spec_of("slurm", options, "gcam: {}")).errors
    assert (issue.path, issue.code) == ("targets.here.components.gcan", "E_UNKNOWN_COMPONENT")
    assert "did you mean 'gcam'" in issue.message


def test_a_plan_has_the_walltime_of_each_component() -> None:
    options = "walltime: 02:00:00\ncomponents: {gcam: {walltime: 1-00:00:00}}"
    plan = build_plan(spec_of("slurm", options, "gcam: {}\nplots: {}"), SlurmProvider()).scale_plan
    walltimes = {tag: asked.walltime for tag, asked in plan.resources_by_tag.items()}
    assert walltimes == {"gcam": 86400, "plots": 7200}


def test_a_plan_has_counts_in_order_of_precedence_and_the_walltime() -> None:
    spec = spec_of(
        "slurm",
        """
        walltime: 02:00:00
        workers: {gcam: 8, fair: {minimum: 0, maximum: 40}}
        adaptive: {minimum: 1, maximum: 4, idle_timeout: 10m}
        n_workers: 2
        max_workers: 30
        """,
        "gcam: {cpus: 4, memory: 16Gi}\nplots: {gpus: 1}\nfair: {}",
    )
    plan = build_plan(spec, SlurmProvider()).scale_plan
    assert plan.workers_by_tag == {"gcam": 8, "plots": 2, "fair": 0}
    assert plan.ranges_by_tag == {"plots": (1, 4), "fair": (0, 30)}
    assert plan.policies_by_tag == {"plots": AdaptivePolicy(scale_in_delay=600)}
    assert plan.max_workers == 30
    assert plan.resources_by_tag == {
        "gcam": ResourceRequest(cpus=4, memory=2**34, walltime=7200),
        "plots": ResourceRequest(gpus=1, walltime=7200),
        "fair": ResourceRequest(walltime=7200),
    }


def test_jobs_are_listed_for_the_user_that_slurm_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ``su`` or ``sudo``, LOGNAME may be another user's; squeue gets the user id instead."""
    squeue = tmp_path / "squeue"
    squeue.write_text(
        f'#!/bin/sh\ncase "$*" in *--user={os.getuid()}*) '
        "echo '7|0|RUNNING|None|1:30|node1|scalable-r|scalable run=r1 tag=gcam request=f00';; esac\n"
    )
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("LOGNAME", "nobody")
    (owned,) = SlurmProvider().list_owned(spec_of("slurm"))
    assert (owned.name, owned.run_id, owned.owner != "nobody") == ("7_0", "r1", True)


def test_jobs_whose_comment_the_site_rewrites_are_listed_and_no_others(
    fake_command: FakeCommand, calls: Calls
) -> None:
    names = {
        4: ("scalable-run-1f00", "climate"),
        5: ("climate_scalable-run-1f00", ""),
        6: ("scalable-benchmark", "mine"),  # somebody's own
        7: ("wrf", "scalable test n=5"),
        8: ("wrf", "scalable run=r2 tag=gcam request=f00"),
        9: ("scalable-over", ""),
        10: ("wrf", ""),
        12: ("climate_job", "climate"),
    }
    lines = [f"{job}|0|RUNNING|None|1:30|node1|{name}|{c}\n" for job, (name, c) in names.items()]
    lines.append("11|N/A|RUNNING|None|1:30|node1|scalable-run-1f00|\n")
    fake_command("squeue", stdout="".join(lines))
    script = "#!/bin/sh\n# scalable run=run-1f00 tag=gcam request=f00\n"
    scripts = {"4": script, "5": script, "6": "#!/bin/sh\n# scalable model\n", "12": script}
    read_scripts(fake_command, scripts)
    found = SlurmProvider().list_owned(spec_of("slurm"))
    assert [(each.name, each.run_id, each.detail) for each in found] == [
        ("4_0", "run-1f00", "gcam running on node1"),
        ("5_0", "run-1f00", "gcam running on node1"),
        ("8_0", "r2", "gcam running on node1"),
        ("12_0", "run-1f00", "gcam running on node1"),
    ]
    assert not any("script 11 " in call or "script 8 " in call for call in calls("scontrol"))


@pytest.mark.parametrize(
    ("script", "missing"),
    [
        (None, "squeue is not on PATH"),
        ("echo 'squeue: fatal: Could not establish a configuration source' >&2; exit 1", "fatal"),
    ],
)
def test_a_machine_without_slurm_is_not_set_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, missing: str
) -> None:
    if script is not None:
        squeue = tmp_path / "squeue"
        squeue.write_text(f"#!/bin/sh\n{script}\n")
        squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProviderNotSetUpError, match=missing):
        SlurmProvider().list_owned(spec_of("slurm"))


def test_the_keys_of_a_run_go_with_its_last_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that was killed has left them."""
    lines = [
        f"{job}|0|RUNNING|None|1:30|node1|scalable-r|scalable run={run} tag=gcam request=f00"
        for job, run in ((7, "r1"), (8, "r2"), (9, "r2"))
    ]
    for name, body in (("squeue", "".join(f"echo '{line}'\n" for line in lines)), ("scancel", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}")
        (tmp_path / name).chmod(0o755)
    for run in ("r1", "r2"):
        (tmp_path / "logs" / run / "tls").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    spec = spec_of("slurm", f"logs_location: {tmp_path}/logs")
    one, two, _ = SlurmProvider().list_owned(spec)
    assert list(SlurmProvider().reap(spec, [one, two])) == []
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["r2"]


def test_a_listing_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\nexec sleep 600\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(provider, "_LIST_TIMEOUT", 0.5)
    with pytest.raises(SlurmCommandError, match="squeue: no answer in"):
        SlurmProvider().list_owned(spec_of("slurm"))


def test_a_controller_that_does_not_answer_is_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmCommandError, match="Unable to contact"):
        SlurmProvider().list_owned(spec_of("slurm"))


def test_invalid_options_build_nothing() -> None:
    with pytest.raises(ValidationFailedError):
        SlurmProvider().build_cluster(spec_of("slurm", "walltime: never"))


def test_neither_finding_nor_validating_nor_planning_imports_dask() -> None:
    assert not {"dask", "distributed", "dask_jobqueue"} & modules_of_planning(manifest_of("slurm"))


def test_dask_jobqueue_configuration_of_the_user_applies(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".config/dask").mkdir(parents=True)
    (home / ".config/dask/jobqueue.yaml").write_text(
        "jobqueue: {slurm: {queue: long, account: climate, walltime: '00:20:00', cores: 6, memory: 3 GiB, "
        "job-script-prologue: [ulimit -s unlimited], local-directory: /local}}"
    )
    manifest = tmp_path / "scalable.yaml"
    manifest.write_text(manifest_of("slurm", "account: mine", "gcam: {}\nplots: {cpus: 1}"))
    rendered = subprocess.run(
        [sys.executable, "-m", "scalable.cli", "plan", str(manifest), "--render", "--json"],
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    gcam, plots = (artifact["content"] for artifact in json.loads(rendered.stdout)["artifacts"])
    for text in ("--partition=long", "--account=mine", "--time=00:20:00", "--mem=3072M", "/local"):
        assert text in gcam
    assert "ulimit -s unlimited\n" in gcam
    assert "--cpus-per-task=6" in gcam
    assert "--cpus-per-task=1" in plots


@pytest.mark.parametrize(
    ("component", "options", "path"),
    [
        ("nodes: 2, ranks: 8", "", None),
        ("nodes: 4, ranks: 2", "", "components.gcam.ranks"),
        ("nodes: 2, slots: 2", "", "components.gcam.slots"),
        ("nodes: 2, image: a.sif", "", "components.gcam.image"),
        ("nodes: 2", "workers_per_job: 4", "targets.here.workers_per_job"),
        ("nodes: 2, image: a.sif", "container_runtime: none", None),
    ],
)
def test_what_an_mpi_component_cannot_have_is_refused(
    component: str, options: str, path: str | None
) -> None:
    spec = spec_of("slurm", options, f"gcam: {{{component}}}")
    assert [issue.path for issue in SlurmProvider().validate(spec).errors] == [path] * bool(path)


def test_the_script_of_several_workers_is_rendered() -> None:
    spec = spec_of("slurm", "workers_per_job: 4\nn_workers: 6", "gcam: {cpus: 2, memory: 1Gi}")
    (artifact,) = SlurmProvider().render(spec, build_plan(spec, SlurmProvider()).scale_plan)
    assert "--cpus-per-task=8 --mem=4096M " in artifact.content
    assert "--array=0-1 " in artifact.content
    assert '"workers": 6, "room": 4' in artifact.content
