"""Commands that ask a target's site: check, plan --render, ps, reap."""

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


class Yard(BaseProvider[TargetOptions]):
    """A provider with a site: machines in a yard."""

    name = "yard"
    options_model = TargetOptions

    def __init__(self) -> None:
        self.findings: list[CheckResult] = [CheckResult("gate", True, "is open")]
        self.parked = [
            Owned("van", "van-1", run_id="r1", owner="ann", detail="gcam running"),
            Owned("van", "van-2", run_id="r2", owner="ann"),
        ]
        self.stuck: set[str] = set()
        self.closed = False

    def preflight(self, spec: DeploymentSpec) -> Sequence[CheckResult]:
        return self.findings

    def render(self, spec: DeploymentSpec, plan: ScalePlan) -> Sequence[Artifact]:
        return [Artifact(f"{tag}.note", "text/plain", f"park {tag}\n") for tag in spec.components]

    def list_owned(self) -> Sequence[Owned]:
        if self.closed:
            raise ClusterError("the yard is closed; come back tomorrow")
        return self.parked

    def reap(self, owned: Sequence[Owned]) -> Sequence[Leftover]:
        left = [thing for thing in owned if thing.name in self.stuck]
        self.parked = [thing for thing in self.parked if thing not in owned or thing in left]
        return [Leftover(thing.kind, thing.name, "its wheels are flat") for thing in left]

    def _build(self, spec: DeploymentSpec, options: TargetOptions) -> ClusterHandle:
        raise AssertionError("nothing here builds")


@pytest.fixture
def yard(project: Path) -> Iterator[Yard]:
    manifest = project / "scalable.yaml"
    manifest.write_text(manifest.read_text().replace("provider: desk", "provider: yard"))
    clear_registry()
    made = Yard()
    register_provider("yard", lambda: made)
    yield made
    clear_registry()


Cli = Callable[..., Result]


@pytest.fixture
def cli(project: Path) -> Cli:
    def cli(*arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(main, arguments, prog_name="scalable", input=stdin)

    return cli


def test_check_shows_each_finding(yard: Yard, cli: Cli) -> None:
    yard.findings.append(CheckResult("van", None, "cannot be seen", "look behind the shed"))
    result = cli("check")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1:] == [
        "ok       gate   is open",
        "unsure   van    cannot be seen",
    ]
    assert result.stderr == "warning: van: look behind the shed\n"


def test_a_check_that_fails_tells_what_to_do(yard: Yard, cli: Cli) -> None:
    yard.findings.append(CheckResult("key", False, "does not fit", "ask Bob"))
    result = cli("check")
    assert result.exit_code == 1
    assert "error: key: ask Bob" in result.stderr
    assert json.loads(cli("check", "--json").stdout)[1]["ok"] is False


def test_a_wrong_manifest_is_not_worth_asking_about(yard: Yard, cli: Cli, project: Path) -> None:
    manifest = project / "scalable.yaml"
    manifest.write_text(manifest.read_text().replace("n_workers: 1", "n_wrokers: 1"))
    result = cli("check")
    assert result.exit_code == 2
    assert "did you mean 'n_workers'?" in result.stderr


def test_a_provider_without_a_site_says_so(desk: None, cli: Cli) -> None:
    result = cli("check")
    assert result.exit_code == 0
    assert "has nothing to ask" in result.stderr


def test_a_target_that_cannot_run_in_this_version_fails_its_check(
    desk: None, cli: Cli, project: Path
) -> None:
    class Drawn(PlansOnly[TargetOptions]):
        name = "drawn"
        options_model = TargetOptions

    register_provider("drawn", Drawn)
    manifest = project / "scalable.yaml"
    manifest.write_text(manifest.read_text().replace("provider: desk", "provider: drawn"))

    result = cli("check")

    assert result.exit_code == 1
    assert "provider 'drawn' cannot build clusters in this version" in result.output


def test_a_plan_shows_what_would_be_sent(yard: Yard, cli: Cli) -> None:
    assert "--- gcam.note\npark gcam\n" in cli("plan", "--render").stdout
    document = json.loads(cli("plan", "--render", "--json").stdout)
    assert [artifact["name"] for artifact in document["artifacts"]] == ["fair.note", "gcam.note"]


def test_ps_lists_what_runs_have(yard: Yard, cli: Cli) -> None:
    result = cli("ps", "--provider", "yard")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split() == [
        "yard",
        "r1",
        "van",
        "van-1",
        "ann",
        "gcam",
        "running",
    ]
    assert {thing["run_id"] for thing in json.loads(cli("ps", "--json").stdout)} >= {"r1", "r2"}


def test_ps_says_who_cannot_be_asked(yard: Yard, cli: Cli) -> None:
    yard.closed = True
    result = cli("ps", "--provider", "yard")
    assert result.exit_code == 1
    assert result.stderr == (
        "error: provider 'yard' cannot be asked: the yard is closed; come back tomorrow\n"
    )


def test_reap_removes_the_runs_that_are_named_and_no_other(yard: Yard, cli: Cli) -> None:
    result = cli("reap", "r1", "--yes", "--provider", "yard")
    assert result.exit_code == 0
    assert [thing.name for thing in yard.parked] == ["van-2"]


@pytest.mark.parametrize("arguments", [[], ["r1", "--all"]])
def test_reap_must_be_told_what(yard: Yard, cli: Cli, arguments: list[str]) -> None:
    result = cli("reap", *arguments)
    assert result.exit_code == 2
    assert len(yard.parked) == 2


def test_reap_asks_before_it_removes(yard: Yard, cli: Cli) -> None:
    assert cli("reap", "--all", "--provider", "yard", stdin="n\n").exit_code == 1
    assert len(yard.parked) == 2
    assert cli("reap", "--all", "--provider", "yard", stdin="y\n").exit_code == 0
    assert yard.parked == []


def test_reap_names_what_could_not_be_removed(yard: Yard, cli: Cli) -> None:
    yard.stuck = {"van-1"}
    result = cli("reap", "--all", "--yes", "--provider", "yard")
    assert result.exit_code == 1
    assert "error: could not remove van van-1 (its wheels are flat)" in result.stderr
    assert [thing.name for thing in yard.parked] == ["van-1"]


def test_what_was_reaped_as_json(yard: Yard, cli: Cli) -> None:
    yard.stuck = {"van-1"}
    result = cli("reap", "--all", "--yes", "--json", "--provider", "yard")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert [each["name"] for each in document["removed"]] == ["van-2"]
    assert document["left"] == [
        {"provider": "yard", "kind": "van", "name": "van-1", "error": "its wheels are flat"}
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["r3", "r4"], "nothing in a queue or a cloud is of r3 or r4; see `scalable ps`"),
        (["--all"], "no run has anything in a queue or a cloud"),
    ],
)
def test_reap_says_when_there_is_nothing(
    yard: Yard, cli: Cli, arguments: list[str], says: str
) -> None:
    if arguments == ["--all"]:
        yard.parked = []
    result = cli("reap", *arguments, "--yes", "--provider", "yard")
    assert (result.exit_code, result.stderr) == (0, f"scalable: {says}\n")
    assert json.loads(cli("reap", *arguments, "--json", "--provider", "yard").stdout) == {
        "removed": [],
        "left": [],
    }


def test_a_provider_that_leaves_nothing_cannot_be_asked(desk: None, cli: Cli) -> None:
    result = cli("ps", "--provider", "desk")
    assert result.exit_code == 2
    assert "leaves nothing that could be listed" in result.stderr
