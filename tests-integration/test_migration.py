"""Each row of docs/migration.md: what it says of earlier scripts, commands, manifests and plugins is true."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType

import pytest
from click.testing import CliRunner, Result

from scalable.cli import main
from scalable.errors import (
    ManifestError,
    ManifestParseError,
    NotSupportedError,
    ValidationFailedError,
)
from scalable.manifest import load_manifest, parse_manifest
from scalable.manifest.validate import ValidationReport
from scalable.providers.registry import iter_provider_names
from scalable.session import ScalableSession

PAGE = Path(__file__).parents[1] / "docs" / "migration.md"

MANIFEST = """
version: 1
project: {name: x}
targets: {here: {provider: local}}
components: {gcam: {memory: 8G, tags: [x]}}
tasks: {run: {component: gcam}}
"""


def rows() -> Iterator[tuple[str, str]]:
    """Yield the rows of the page: what was written earlier, and what is now."""
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 2 and cells[0] != "Earlier" and not set(cells[0]) <= {"-"}:
            yield cells[0], cells[1]


ROWS = dict(rows())

IMPORT = re.compile(r"`(from [\w.]+ import \w+)`")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    for name in ("SCALABLE_MANIFEST", "SCALABLE_TARGET", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scalable.yaml").write_text(MANIFEST)
    (tmp_path / "workflow.py").write_text("")
    return lambda *words: CliRunner().invoke(main, words, prog_name="scalable")


@pytest.mark.parametrize("earlier", [row for row in ROWS if IMPORT.fullmatch(row)])
def test_what_moved_is_imported_from_where_the_page_says(earlier: str) -> None:
    found = IMPORT.search(ROWS[earlier])
    assert found is not None, ROWS[earlier]
    with pytest.raises(ImportError):
        exec(earlier.strip("`"), {})  # the page would not need the row
    exec(found[1], {})


COMMANDS = {
    row: row.strip("`").split()[1:] for row in ROWS if re.fullmatch(r"`scalable [^`]*`", row)
}


@pytest.mark.parametrize("earlier", list(COMMANDS))
def test_an_earlier_command_works_or_names_the_present_one(
    earlier: str, cli: Callable[..., Result]
) -> None:
    words = COMMANDS[earlier]
    workflow = ["--workflow", "workflow.py"] if words[0] == "run" else []
    result = cli(*words, *workflow)
    if "The same" in ROWS[earlier]:
        assert result.exit_code == 0 or "there are no runs" in result.stderr, result.stderr
        return
    assert result.exit_code == 2
    first = re.findall(r"`([^`]*)`", ROWS[earlier])[0]
    assert first in result.stderr


def version(cli: Callable[..., Result]) -> None:
    from importlib.metadata import version

    assert version("scalable-core")


def sessions(cli: Callable[..., Result]) -> None:
    session = ScalableSession.from_yaml()
    assert session.plan(dry_run=True) == session.plan()
    assert session.target_name == session.target == "here"
    with pytest.raises(ValueError, match="never starts"):
        session.plan(dry_run=False)
    client = session.start(session.plan())
    try:
        assert client.submit(abs, -1, tag="gcam", n=1).result(timeout=120) == 1
        assert client.submit(abs, -2, task="run").result(timeout=120) == 2
    finally:
        session.close()


def values(cli: Callable[..., Result]) -> None:
    manifest = load_manifest("scalable.yaml")
    component = manifest.components["gcam"]
    assert (component.memory, component.tags) == (8_000_000_000, {"x": ""})
    assert (manifest.source, manifest.raw["version"]) == ("scalable.yaml", 1)
    report = ValidationReport.of([])
    assert (report.ok, report.errors) == (True, ())


def dotenv(cli: Callable[..., Result]) -> None:
    Path(".env").write_text("NAME_OF_A_TEST=gcam-7\n")
    Path("scalable.yaml").write_text(MANIFEST.replace("name: x", 'name: "${NAME_OF_A_TEST}"'))
    assert load_manifest("scalable.yaml").project.name == "gcam-7"


def results(cli: Callable[..., Result]) -> None:
    from scalable.results import cached

    assert callable(cached)


def slurm_cluster(cli: Callable[..., Result]) -> None:
    from scalable.providers.slurm import SlurmCluster

    class Recorded(SlurmCluster):
        groups = MappingProxyType({})

        def __init__(self) -> None:
            self.counts: list[object] = []

        def scale_groups(self, counts: object) -> None:
            self.counts.append(counts)

    cluster = Recorded()
    cluster.add_workers("gcam", 4)  # type: ignore[arg-type]
    cluster.add_workers(4, "gcam")
    cluster.add_workers(n=4, tag="gcam")
    assert cluster.counts == [{"gcam": 4}] * 3


def other_arguments(cli: Callable[..., Result]) -> None:
    from distributed.security import Security

    from scalable.providers.slurm import SlurmCluster

    with pytest.raises(NotSupportedError, match=r"logging\.getLogger"):
        SlurmCluster(queue="q", silence_logs=False)
    with pytest.raises(NotSupportedError, match="plan --render"):
        SlurmCluster(queue="q", use_run_scripts=True)
    with pytest.raises(NotSupportedError, match="security=True"):
        SlurmCluster(queue="q", security=Security())  # type: ignore[arg-type]
    with SlurmCluster(queue="q") as cluster:
        with pytest.raises(ValidationFailedError, match="pass the image as path"):
            cluster.add_container("GCAM", cpus=1, dirs={"/data": "/data"})
        cluster.add_container("GCAM", cpus=1)
        assert list(cluster.groups) == ["GCAM"]


def gone(cli: Callable[..., Result]) -> None:
    from scalable.client import ScalableClient

    assert not hasattr(ScalableSession, "record_artifact")
    assert not hasattr(ScalableClient, "set_telemetry_store")
    assert cli("runs", "--help").exit_code == cli("report", "--help").exit_code == 0


def images(cli: Callable[..., Result]) -> None:
    assert load_manifest("scalable.yaml").components["gcam"].image is None
    scripts = entry_points(group="console_scripts")
    assert "scalable" in scripts.names
    assert "scalable_bootstrap" not in scripts.names


def storage(cli: Callable[..., Result]) -> None:
    text = MANIFEST.replace("name: x", "name: x, default_storage: kept").replace(
        "{component: gcam}", "{component: gcam, cache: true}"
    )
    assert codes(text) == set()
    assert load_manifest("scalable.yaml").tasks["run"].cache is True


def relative_mounts(cli: Callable[..., Result]) -> None:
    Path("data").mkdir()
    text = MANIFEST.replace("memory: 8G", "image: x, mounts: {./data: /data}")
    assert not any(code.startswith("E_") for code in codes(text))


def suppressed_logs(cli: Callable[..., Result]) -> None:
    target = "{provider: slurm, queue: q, walltime: 1h, suppress_logs: true}"
    assert "E_UNKNOWN_KEY" in codes(MANIFEST.replace("{provider: local}", target))


def metadata(cli: Callable[..., Result]) -> None:
    from scalable.providers.base import ClusterHandle

    assert {field.name for field in dataclasses.fields(ClusterHandle)} >= {"backend", "metadata"}
    session = ScalableSession.from_yaml()
    with session:
        assert {tag: each.running for tag, each in session.cluster.groups.items()} == {"gcam": 1}


def names(cli: Callable[..., Result]) -> None:
    assert {"local", "slurm"} <= set(iter_provider_names())
    assert "slurm" in iter_provider_names()


def empty(cli: Callable[..., Result]) -> None:
    with pytest.raises(ManifestParseError):
        parse_manifest("")


def codes(text: str) -> set[str]:
    Path("scalable.yaml").write_text(text)
    try:
        report = ScalableSession.from_yaml().validate()
    except ManifestError as error:
        return {issue.code for issue in error.issues}
    return {issue.code for issue in (*report.errors, *report.warnings)}


def no_workflow(cli: Callable[..., Result]) -> None:
    assert "--workflow" in cli("run").stderr


def plan_file(cli: Callable[..., Result]) -> None:
    assert cli("plan", "--output", "plan.json").exit_code == 0
    assert cli("run", "--plan", "plan.json", "--workflow", "workflow.py").exit_code == 0
    Path("scalable.yaml").write_text(MANIFEST.replace("8G", "4G"))
    assert cli("run", "--plan", "plan.json", "--workflow", "workflow.py").exit_code == 2


def local_processes(cli: Callable[..., Result]) -> None:
    from scalable.providers.local.options import LocalOptions

    assert LocalOptions().processes is True


def local_tags(cli: Callable[..., Result]) -> None:
    Path("scalable.yaml").write_text(MANIFEST.replace("components: {", "components: {fair: {}, "))
    assert ScalableSession.from_yaml().plan().scale_plan.workers_by_tag == {"fair": 1, "gcam": 1}


def overlays(cli: Callable[..., Result]) -> None:
    def with_overlay(body: str) -> str:
        target = "{provider: local, overlay: more}"
        text = MANIFEST.replace("{provider: local}", target)
        return f"{text}overlays: {{more: {{components: {{fair: {{{body}}}}}}}}}\n"

    assert any(code.startswith("E_") for code in codes(with_overlay("cpus: 1")))
    assert not any(code.startswith("E_") for code in codes(with_overlay("new: true")))


def list_of_tags(cli: Callable[..., Result]) -> None:
    assert codes(MANIFEST) == set()


def nothing_to_run(cli: Callable[..., Result]) -> None:
    assert "E_NO_TARGET" in codes(MANIFEST.replace("{here: {provider: local}}", "{}"))


def bad_memory(cli: Callable[..., Result]) -> None:
    assert codes(MANIFEST.replace("8G", "much")) == {"E_BAD_VALUE"}


def comm_port(cli: Callable[..., Result]) -> None:
    target = "{provider: slurm, queue: debug, account: x, walltime: 1h, comm_port: 8786}"
    found = codes(MANIFEST.replace("{provider: local}", target))
    assert found
    assert all(code.startswith("W_") for code in found)


def outputs(cli: Callable[..., Result]) -> None:
    with_output = "{component: gcam, outputs: {emissions: out/emissions.csv}}"
    kind = "{component: gcam, outputs: {emissions: table}}"
    assert codes(MANIFEST.replace("{component: gcam}", kind)) == {"W_OUTPUT_KIND"}
    manifest = parse_manifest(MANIFEST.replace("{component: gcam}", with_output))
    assert codes(MANIFEST.replace("{component: gcam}", with_output)) == set()
    assert manifest.tasks["run"].outputs == {"emissions": "out/emissions.csv"}


def unknown_option(cli: Callable[..., Result]) -> None:
    assert codes(MANIFEST.replace("local}", "local, sise: 7}")) == {"E_UNKNOWN_KEY"}
    assert codes(MANIFEST.replace("local}", "local, x-size: 7}")) == set()


def foreign_cluster(cli: Callable[..., Result]) -> None:
    from distributed import LocalCluster

    from scalable.errors import IncompleteClusterError
    from scalable.providers.base import ClusterHandle, DeploymentSpec, ScalePlan
    from scalable.providers.registry import register_provider

    class Earlier:
        name = "earlier"

        def validate(self, spec: DeploymentSpec) -> ValidationReport:
            return ValidationReport.of([])

        def build_cluster(self, spec: DeploymentSpec) -> ClusterHandle:
            cluster = LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0")
            return ClusterHandle(cluster, lambda: None)  # type: ignore[arg-type, return-value]

        def scale(self, cluster: ClusterHandle, plan: ScalePlan) -> None: ...

        def close(self, cluster: ClusterHandle) -> None:
            cluster.backend.close()

    from scalable.providers.registry import clear_registry

    register_provider("earlier", Earlier)
    try:
        Path("scalable.yaml").write_text(MANIFEST.replace("local", "earlier"))
        with pytest.raises(IncompleteClusterError, match="GroupedCluster"):
            ScalableSession.from_yaml().start()
    finally:
        clear_registry()


CHECKS: dict[str, Callable[[Callable[..., Result]], None]] = {
    "`scalable.__version__`": version,
    "`scalable.planning.dryrun.build_dry_run_plan`": sessions,
    "`session.plan(dry_run=True)`": sessions,
    "`session.start(plan)`": sessions,
    "`session.target_name`": sessions,
    '`client.submit(f, x, tag="gcam", n=1)`': sessions,
    '`client.submit(f, _scalable_task_name="run")`': sessions,
    "`report.errors == []`": values,
    '`component.memory == "8G"`': values,
    '`component.tags == ["x"]`': values,
    "`manifest.source_path`, `manifest.raw_unresolved`": values,
    "A `.env` file": dotenv,
    "`@cacheable`": results,
    '`cluster.add_workers("gcam", 4)`': slurm_cluster,
    "`session.record_artifact(path)`": gone,
    "`client.set_telemetry_store(store)`": gone,
    "`SlurmCluster(silence_logs=False)`": other_arguments,
    "`SlurmCluster(use_run_scripts=True)`": other_arguments,
    "`SlurmCluster(security=Security(…))`": other_arguments,
    '`cluster.add_container("GCAM", dirs=…)` without `path`': other_arguments,
    "The command `scalable_bootstrap`": images,
    "`project.default_storage`, `cache: true`": storage,
    "A relative path of the host in `mounts` is an error.": relative_mounts,
    "`suppress_logs` of a Slurm target": suppressed_logs,
    '`ClusterHandle.metadata["n_workers"]`': metadata,
    '`"slurm" in iter_provider_names()`': names,
    "An empty manifest raises `ManifestSchemaError`.": empty,
    "`scalable run` without `--workflow`": no_workflow,
    "`plan.json` beside `manifest.lock`": plan_file,
    "A local target without `processes` ran threads.": local_processes,
    "Every local worker had every tag.": local_tags,
    "An overlay may add a component.": overlays,
    "`tags: [x]`": list_of_tags,
    "A manifest may have no target, or no component.": nothing_to_run,
    "A wrong value has a code of its own, such as `E_BAD_MEMORY`.": bad_memory,
    "`comm_port` of a Slurm target": comm_port,
    "`outputs: {emissions: table}`, a kind": outputs,
    "Unknown options were warnings.": unknown_option,
    "`ClusterHandle.backend` is any Dask cluster.": foreign_cluster,
    "`ValidationReport()` that is appended to": values,
}


def test_every_row_is_tested() -> None:
    imports = {row for row in ROWS if IMPORT.fullmatch(row)}
    assert ROWS.keys() == imports | COMMANDS.keys() | CHECKS.keys()


@pytest.mark.parametrize("check", list(dict.fromkeys(CHECKS.values())), ids=lambda c: c.__name__)
def test_a_row_is_true(
    check: Callable[[Callable[..., Result]], None], cli: Callable[..., Result]
) -> None:
    check(cli)
