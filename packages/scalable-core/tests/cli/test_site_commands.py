"""Commands that query a target's site: check, plan --render. For ps and reap, see `test_owned`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scalable.cli import main
from scalable.providers.base import (
    Artifact,
    CheckResult,
    ClusterHandle,
    DeploymentSpec,
    ScalePlan,
)
from scalable.providers.common import BaseProvider, PlansOnly
from scalable.providers.options import TargetOptions
from scalable.providers.registry import clear_registry, register_provider


class BatchProvider(BaseProvider[TargetOptions]):
    """A provider whose site can be checked."""

    name = "batch"
    options_model = TargetOptions

    def __init__(self) -> None:
        self.findings: list[CheckResult] = [CheckResult("auth", True, "is valid")]

    def preflight(self, spec: DeploymentSpec) -> Sequence[CheckResult]:
        return self.findings

    def render(self, spec: DeploymentSpec, plan: ScalePlan) -> Sequence[Artifact]:
        return [Artifact(f"{tag}.job", "text/plain", f"run {tag}\n") for tag in spec.components]

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


def test_check_says_which_of_several_targets_it_has_checked(
    batch: BatchProvider, cli: Cli, project: Path
) -> None:
    manifest = project / "scalable.yaml"
    text = manifest.read_text()
    manifest.write_text(text.replace("components:", "  other: {provider: batch}\ncomponents:"))
    note = "note: this was target 'demo'; --target checks another: other\n"
    assert cli("check").stderr == note
    assert cli("check", "--target", "demo").stderr == ""


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
