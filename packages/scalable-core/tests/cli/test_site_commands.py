"""Commands that query a target's site: check, plan --render, ps, reap."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scalable.cli import main
from scalable.cluster.port import Leftover
from scalable.errors import ClusterError
from scalable.providers.base import (
    Artifact,
    CheckResult,
    ClusterHandle,
    DeploymentSpec,
    Owned,
    ScalePlan,
)
from scalable.providers.common import BaseProvider, PlansOnly
from scalable.providers.options import TargetOptions
from scalable.providers.registry import clear_registry, register_provider


class BatchProvider(BaseProvider[TargetOptions]):
    """A provider whose site can be checked, and has resources of runs."""

    name = "batch"
    options_model = TargetOptions

    def __init__(self) -> None:
        self.findings: list[CheckResult] = [CheckResult("auth", True, "is valid")]
        self.owned = [
            Owned("job", "job-1", run_id="r1", owner="ann", detail="gcam running"),
            Owned("job", "job-2", run_id="r2", owner="ann"),
        ]
        self.locked: set[str] = set()
        self.down = False

    def preflight(self, spec: DeploymentSpec) -> Sequence[CheckResult]:
        return self.findings

    def render(self, spec: DeploymentSpec, plan: ScalePlan) -> Sequence[Artifact]:
        return [Artifact(f"{tag}.job", "text/plain", f"run {tag}\n") for tag in spec.components]

    def list_owned(self) -> Sequence[Owned]:
        if self.down:
            raise ClusterError("the site is down; try again later")
        return self.owned

    def reap(self, owned: Sequence[Owned]) -> Sequence[Leftover]:
        left = [resource for resource in owned if resource.name in self.locked]
        self.owned = [
            resource for resource in self.owned if resource not in owned or resource in left
        ]
        return [Leftover(resource.kind, resource.name, "it is locked") for resource in left]

    def _build(self, spec: DeploymentSpec, options: TargetOptions) -> ClusterHandle:
        raise AssertionError("nothing here builds")


@pytest.fixture
def batch(project: Path) -> Iterator[BatchProvider]:
    manifest = project / "scalable.yaml"
    manifest.write_text(manifest.read_text().replace("provider: demo", "provider: batch"))
    clear_registry()
    made = BatchProvider()
    register_provider("batch", lambda: made)
    yield made
    clear_registry()


Cli = Callable[..., Result]


@pytest.fixture
def cli(project: Path) -> Cli:
    def cli(*arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(main, arguments, prog_name="scalable", input=stdin)

    return cli


def test_check_shows_each_finding(batch: BatchProvider, cli: Cli) -> None:
    batch.findings.append(CheckResult("job", None, "cannot be seen", "look into the queue"))
    result = cli("check")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1:] == [
        "ok       auth   is valid",
        "unsure   job    cannot be seen",
    ]
    assert result.stderr == "warning: job: look into the queue\n"


def test_a_failing_check_shows_its_remedy(batch: BatchProvider, cli: Cli) -> None:
    batch.findings.append(CheckResult("key", False, "has expired", "renew it"))
    result = cli("check")
    assert result.exit_code == 1
    assert "error: key: renew it" in result.stderr
    assert json.loads(cli("check", "--json").stdout)[1]["ok"] is False


def test_an_invalid_manifest_is_not_checked_at_the_site(
    batch: BatchProvider, cli: Cli, project: Path
) -> None:
    manifest = project / "scalable.yaml"
    manifest.write_text(manifest.read_text().replace("n_workers: 1", "n_wrokers: 1"))
    result = cli("check")
    assert result.exit_code == 2
    assert "did you mean 'n_workers'?" in result.stderr


def test_a_provider_without_checks_is_reported(demo: None, cli: Cli) -> None:
    result = cli("check")
    assert result.exit_code == 0
    assert "has no checks beyond" in result.stderr


def test_a_target_that_cannot_run_in_this_version_fails_its_check(
    demo: None, cli: Cli, project: Path
) -> None:
    class PlansOnlyProvider(PlansOnly[TargetOptions]):
        name = "plans"
        options_model = TargetOptions

    register_provider("plans", PlansOnlyProvider)
    manifest = project / "scalable.yaml"
    manifest.write_text(manifest.read_text().replace("provider: demo", "provider: plans"))

    result = cli("check")

    assert result.exit_code == 1
    assert "provider 'plans' cannot build clusters in this version" in result.output


def test_a_plan_shows_what_would_be_sent(batch: BatchProvider, cli: Cli) -> None:
    assert "--- gcam.job\nrun gcam\n" in cli("plan", "--render").stdout
    document = json.loads(cli("plan", "--render", "--json").stdout)
    assert [artifact["name"] for artifact in document["artifacts"]] == ["fair.job", "gcam.job"]


def test_ps_lists_the_resources_of_runs(batch: BatchProvider, cli: Cli) -> None:
    result = cli("ps", "--provider", "batch")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split() == [
        "batch",
        "r1",
        "job",
        "job-1",
        "ann",
        "gcam",
        "running",
    ]
    assert {resource["run_id"] for resource in json.loads(cli("ps", "--json").stdout)} >= {
        "r1",
        "r2",
    }


def test_ps_reports_a_provider_that_cannot_list(batch: BatchProvider, cli: Cli) -> None:
    batch.down = True
    result = cli("ps", "--provider", "batch")
    assert result.exit_code == 1
    assert result.stderr == (
        "error: provider 'batch' cannot list its resources: the site is down; try again later\n"
    )


def test_reap_removes_the_runs_that_are_named_and_no_other(batch: BatchProvider, cli: Cli) -> None:
    result = cli("reap", "r1", "--yes", "--provider", "batch")
    assert result.exit_code == 0
    assert [resource.name for resource in batch.owned] == ["job-2"]


@pytest.mark.parametrize("arguments", [[], ["r1", "--all"]])
def test_reap_needs_runs_or_all(batch: BatchProvider, cli: Cli, arguments: list[str]) -> None:
    result = cli("reap", *arguments)
    assert result.exit_code == 2
    assert len(batch.owned) == 2


def test_reap_asks_before_it_removes(batch: BatchProvider, cli: Cli) -> None:
    assert cli("reap", "--all", "--provider", "batch", stdin="n\n").exit_code == 1
    assert len(batch.owned) == 2
    assert cli("reap", "--all", "--provider", "batch", stdin="y\n").exit_code == 0
    assert batch.owned == []


def test_reap_names_what_could_not_be_removed(batch: BatchProvider, cli: Cli) -> None:
    batch.locked = {"job-1"}
    result = cli("reap", "--all", "--yes", "--provider", "batch")
    assert result.exit_code == 1
    assert "error: could not remove job job-1 (it is locked)" in result.stderr
    assert [resource.name for resource in batch.owned] == ["job-1"]


def test_reap_prints_json(batch: BatchProvider, cli: Cli) -> None:
    batch.locked = {"job-1"}
    result = cli("reap", "--all", "--yes", "--json", "--provider", "batch")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert [each["name"] for each in document["removed"]] == ["job-2"]
    assert document["left"] == [
        {"provider": "batch", "kind": "job", "name": "job-1", "error": "it is locked"}
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["r3", "r4"],
            "there are no resources of r3 or r4 in a queue or a cloud; see `scalable ps`",
        ),
        (["--all"], "no run has resources in a queue or a cloud"),
    ],
)
def test_reap_reports_that_there_is_nothing(
    batch: BatchProvider, cli: Cli, arguments: list[str], message: str
) -> None:
    if arguments == ["--all"]:
        batch.owned = []
    result = cli("reap", *arguments, "--yes", "--provider", "batch")
    assert (result.exit_code, result.stderr) == (0, f"scalable: {message}\n")
    assert json.loads(cli("reap", *arguments, "--json", "--provider", "batch").stdout) == {
        "removed": [],
        "left": [],
    }


def test_ps_refuses_a_provider_without_resources(demo: None, cli: Cli) -> None:
    result = cli("ps", "--provider", "demo")
    assert result.exit_code == 2
    assert "has no resources that could be listed" in result.stderr
