"""Plans in files: what a run still has to match, how two plans differ, and what a plan would take."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from scalable.cli import main
from scalable.costing import CostEstimate, CostLineItem
from scalable.providers.base import Artifact, ClusterHandle, DeploymentSpec, ScalePlan
from scalable.providers.common import BaseProvider
from scalable.providers.options import TargetOptions
from scalable.providers.registry import clear_registry, register_provider


class StartedError(RuntimeError):
    """The run got as far as a start."""


class BatchProvider(BaseProvider[TargetOptions]):
    """A provider that renders, has prices, and does not build."""

    name = "batch"
    options_model = TargetOptions

    def __init__(self) -> None:
        self.script = "#!/bin/sh\n"

    def render(self, spec: DeploymentSpec, plan: ScalePlan) -> Sequence[Artifact]:
        return [Artifact(f"{tag}.job", "text/plain", self.script) for tag in spec.components]

    def estimate_cost(self, spec: DeploymentSpec, plan: ScalePlan) -> CostEstimate:
        return CostEstimate(
            tuple(
                CostLineItem(
                    tag, Decimal(n), "node", Decimal(2), source="test", as_of=date(2026, 1, 1)
                )
                for tag, n in plan.workers_by_tag.items()
            )
        )

    def _build(self, spec: DeploymentSpec, options: TargetOptions) -> ClusterHandle:
        raise StartedError("built")


MANIFEST = """
version: 1
project: {name: test}
targets:
  hpc: {provider: batch, workers: {gcam: WORKERS, plots: 0}}
  big: {provider: batch, workers: {gcam: {minimum: 0, maximum: 8}, plots: 0}}
  tight: {provider: batch, workers: {gcam: 4, plots: 0}, limits: {max_cost: 1, on_exceed: abort}}
components:
  gcam: {cpus: 4, memory: 8G}
  plots: {}
tasks: {run: {component: gcam}}
overlays:
  more: {components: {gcam: {memory: 16G}}}
"""


def write_manifest(project: Path, workers: int = 2, **changes: str) -> None:
    text = MANIFEST.replace("WORKERS", str(workers))
    for old, new in changes.items():
        text = text.replace(old, new)
    (project / "scalable.yaml").write_text(text)


@pytest.fixture
def batch(project: Path) -> Iterator[BatchProvider]:
    write_manifest(project)
    (project / "workflow.py").write_text(
        "from scalable.session import ScalableSession\nScalableSession.from_yaml().start()\n"
    )
    clear_registry()
    made = BatchProvider()
    register_provider("batch", lambda: made)
    yield made
    clear_registry()


Cli = Callable[..., Result]


@pytest.fixture
def cli(batch: BatchProvider) -> Cli:
    def cli(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, prog_name="scalable")

    return cli


def save(cli: Cli, *arguments: str) -> dict[str, Any]:
    result = cli("plan", "-t", "hpc", *arguments, "--output", "plan.json")
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(Path("plan.json").read_text())
    return document


# -- run --plan


def was_started(result: Result) -> bool:
    return "StartedError" in result.stderr


def test_a_plan_that_is_still_true_is_started(cli: Cli) -> None:
    document = save(cli)

    result = cli("run", "--plan", "plan.json", "-w", "workflow.py")

    assert was_started(result)
    assert document["launch"]["versions"]["scalable-core"] == metadata.version("scalable-core")
    assert sorted(document["launch"]["artifacts"]) == ["gcam.job", "plots.job"]


def change_manifest(project: Path, batch: BatchProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    write_manifest(project, workers=3)


def change_script(project: Path, batch: BatchProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    batch.script += "module load gcam\n"


def change_version(project: Path, batch: BatchProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        return "99.0" if name == "scalable-core" else real(name)

    monkeypatch.setattr(metadata, "version", version)


Change = Callable[[Path, BatchProvider, pytest.MonkeyPatch], None]


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (change_manifest, ["error: manifest: ", "error: workers of gcam: 2 in the plan, 3 now"]),
        (change_script, ["error: content of gcam.job: ", "error: content of plots.job: "]),
        (change_version, ["error: version of scalable-core: "]),
    ],
)
def test_what_has_changed_since_is_refused_in_a_line_each(
    cli: Cli,
    project: Path,
    batch: BatchProvider,
    monkeypatch: pytest.MonkeyPatch,
    change: Change,
    lines: list[str],
) -> None:
    save(cli)
    change(project, batch, monkeypatch)

    result = cli("run", "--plan", "plan.json", "-w", "workflow.py")

    assert result.exit_code == 2
    *found, last = result.stderr.splitlines()
    assert len(found) == len(lines), result.stderr
    assert all(line.startswith(start) for line, start in zip(found, lines, strict=True))
    assert "nothing was started" in last
    assert not (project / ".scalable").exists()


def test_other_prices_are_no_change(cli: Cli, batch: BatchProvider, project: Path) -> None:
    save(cli)
    document = json.loads((project / "plan.json").read_text())
    document["cost"]["items"][0]["unit_price"] = "1.5"
    (project / "plan.json").write_text(json.dumps(document))

    assert was_started(cli("run", "--plan", "plan.json", "-w", "workflow.py"))


def test_the_overlay_of_a_plan_is_that_of_its_run(cli: Cli) -> None:
    document = save(cli, "--overlay", "more")

    assert document["scale_plan"]["resources_by_tag"]["gcam"]["memory"] == 16 * 10**9
    assert was_started(cli("run", "--plan", "plan.json", "-w", "workflow.py"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "plan.json: No such file or directory"),
        ("{}", "plan.json: this is not a plan of format 1"),
        ("[1]", "plan.json: this is not a plan of format 1"),
        ("\xff", "plan.json: this is not a plan"),
        ("PIPE", "plan.json: it is a pipe to which no program writes"),
        ("OLD", "plan.json: it was written by an earlier version; make it again"),
    ],
)
def test_what_is_no_plan_is_refused_in_one_line(
    cli: Cli, project: Path, text: str | None, message: str
) -> None:
    path = project / "plan.json"
    if text == "OLD":
        document = save(cli)
        del document["launch"]
        path.write_text(json.dumps(document))
    elif text == "PIPE":
        os.mkfifo(path)
    elif text is not None:
        path.write_bytes(text.encode("latin-1"))

    result = cli("run", "--plan", "plan.json", "-w", "workflow.py")

    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {message}")


def test_a_plan_is_for_its_own_target(cli: Cli) -> None:
    save(cli)

    result = cli("run", "--plan", "plan.json", "-t", "big", "-w", "workflow.py")

    assert result.exit_code == 2
    assert result.stderr == "error: plan.json is a plan for target 'hpc', not 'big'\n"


# -- plan --render-to, --diff


def test_what_a_run_would_send_is_written_to_files(cli: Cli, project: Path) -> None:
    result = cli("plan", "-t", "hpc", "--render-to", "out/scripts")

    assert "wrote 2 files" in result.stderr
    written = project / "out" / "scripts" / "gcam.job"
    assert written.read_text() == "#!/bin/sh\n"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert stat.S_IMODE(written.parent.stat().st_mode) == 0o700
    assert "#!/bin/sh" not in result.stdout


def test_targets_and_files_are_compared(cli: Cli) -> None:
    save(cli)

    result = cli("plan", "--diff", "plan.json", "big")
    assert ["workers", "of", "gcam", "2", "0"] in map(str.split, result.stdout.splitlines())
    assert "range of gcam" in result.stdout
    differences = json.loads(cli("plan", "--diff", "hpc", "big", "--json").stdout)
    assert {"what": "range of gcam", "first": "-", "second": "0 to 8"} in differences
    assert "the plans are the same" in cli("plan", "--diff", "plan.json", "hpc").stderr


def test_an_unknown_target_is_no_plan_to_compare(cli: Cli) -> None:
    result = cli("plan", "--diff", "hpc", "hpx")

    assert result.exit_code == 2
    assert "hpx" in result.stderr


# -- plan --simulate


def simulated(cli: Cli, *arguments: str) -> dict[str, Any]:
    result = cli("plan", "--simulate", "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    forecast: dict[str, Any] = json.loads(result.stdout)["simulation"]
    return forecast


def test_a_fixed_group_takes_its_start_and_its_work(cli: Cli) -> None:
    forecast = simulated(cli, "-t", "hpc", "--work", "gcam=10x10m", "--starts", "gcam=30m+2m")

    assert forecast["makespan"] == pytest.approx(1800 + 120 + 5 * 600, rel=0.01)
    assert forecast["worker_hours"]["gcam"] == pytest.approx(2 * 3120 / 3600, rel=0.01)
    assert forecast["cost"] == pytest.approx(2 * 2 * 3120 / 3600, rel=0.01)
    assert (forecast["tasks"], forecast["failed"]) == (10, 0)


def test_an_adaptive_group_follows_its_work(cli: Cli) -> None:
    forecast = simulated(cli, "-t", "big", "--work", "gcam=80x10m", "--starts", "gcam=30s")

    assert forecast["most_workers"]["gcam"] == 8
    assert 6000 <= forecast["makespan"] < 7000


def test_a_limit_is_kept_in_a_simulation(cli: Cli) -> None:
    forecast = simulated(cli, "-t", "tight", "--work", "gcam=80x10m")

    assert "limits.max_cost is reached" in forecast["limit"]
    assert forecast["failed"] > 0
    assert forecast["cost"] == pytest.approx(1, rel=0.05)


def record_run(project: Path, rows: Sequence[Mapping[str, Any]], target: str = "hpc") -> None:
    directory = project / ".scalable" / "runs" / "20260101T000000Z-aaaaaa"
    directory.mkdir(parents=True)
    count = {"done": len(rows), "failed": 0, "left": 0, "cancelled": 0}
    tasks = [{"name": "f", "component": "gcam", **count}]
    summary = {"tasks": tasks, "starts": {"gcam": {"queue": 0, "boot": 60}}}
    usual: dict[str, Any] = {"status": "finished", "ended": None, "provider": "", "manifest": {}}
    usual["started"] = "2026-01-01T00:00:00+00:00"
    (directory / "record.json").write_text(
        json.dumps({**usual, "id": directory.name, "target": target, "summary": summary})
    )
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (directory / "tasks.jsonl").write_text(lines)


def test_durations_and_starts_are_those_of_a_recorded_run(cli: Cli, project: Path) -> None:
    row = {"task": "f", "component": "gcam", "worker": "gcam-1", "status": "done"}
    record_run(project, [row | {"started": 10.0, "ended": 310.0}] * 4)

    forecast = simulated(cli, "-t", "hpc")

    assert forecast["makespan"] == pytest.approx(60 + 600, rel=0.01)
    assert "durations and starts of run 20260101T000000Z-aaaaaa" in forecast["sources"]
    other = simulated(cli, "-t", "big", "--run", "20260101")
    assert other["tasks"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no task is known: state some with --work"),
        (["--work", "gcam=many"], "--work gcam=many: write COMPONENT=COUNTxDURATION"),
        (["--work", "gcam=0x3s"], "--work gcam=0x3s: write COMPONENT=COUNTxDURATION"),
        (["--work", "gcma=3x3s"], "there is no component 'gcma' (did you mean 'gcam'?)"),
        (["--work", "gcam=3x3s", "--starts", "gcam=soon"], "--starts gcam=soon: write"),
        (["--work", "plots=3x3s"], "the tasks of plots never run"),
    ],
)
def test_what_cannot_be_simulated_is_said_in_one_line(
    cli: Cli, arguments: list[str], message: str
) -> None:
    result = cli("plan", "-t", "hpc", "--simulate", *arguments)

    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert message in line


def test_what_only_a_simulation_takes_is_refused_without(cli: Cli) -> None:
    result = cli("plan", "-t", "hpc", "--work", "gcam=3x3s")

    assert result.exit_code == 2
    assert "--simulate" in result.stderr


def test_a_simulation_leaves_the_log_of_clusters_as_it_was(cli: Cli) -> None:
    import logging

    result = cli("plan", "--simulate", "-t", "tight", "--work", "gcam=80x10m")

    assert "cluster" not in result.stderr
    assert not logging.getLogger("scalable.cluster").disabled


def test_a_plan_imports_no_dask(project: Path, environment: dict[str, str]) -> None:
    import subprocess

    code = (
        "import sys\nfrom scalable.cli import main\n"
        "from scalable.providers.common import PlansOnly\n"
        "from scalable.providers.options import TargetOptions\n"
        "from scalable.providers.registry import register_provider\n"
        "class Demo(PlansOnly[TargetOptions]):\n    name, options_model = 'demo', TargetOptions\n"
        "register_provider('demo', Demo)\n"
        "try:\n    main(['plan', '--output', 'plan.json'])\nexcept SystemExit as end:\n"
        "    assert not end.code, end\n"
        "print([name for name in sys.modules if name in ('dask', 'distributed')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"
