"""What scripts for earlier versions say; docs/migration.md has it row by row."""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from scalable.cli import main
from scalable.errors import SessionError, UnknownTagError
from scalable.manifest import parse_manifest, validate_manifest
from scalable.manifest.validate import ValidationReport
from scalable.planning import build_plan
from scalable.session import ScalableSession


@pytest.fixture
def cli(project: Path) -> Callable[..., Result]:
    def cli(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, prog_name="scalable")

    return cli


pytestmark = pytest.mark.usefixtures("demo")


def test_a_plan_may_be_asked_for_as_a_dry_run(project: Path) -> None:
    session = ScalableSession.from_yaml()
    assert (
        session.plan(dry_run=True) == session.plan() == build_plan(session.spec, session.provider)
    )
    with pytest.raises(ValueError, match="never starts anything"):
        session.plan(dry_run=False)
    assert session.target_name == session.target == "demo"


def test_a_plan_may_be_started(project: Path) -> None:
    session = ScalableSession.from_yaml()
    client = session.start(session.plan())
    try:
        assert client.submit(abs, -1, tag="fair", n=1).result(timeout=60) == 1
        with pytest.raises(UnknownTagError):
            client.submit(abs, -1, tag="fare")
    finally:
        session.close()


def test_a_plan_that_has_changed_is_refused(project: Path) -> None:
    plan = ScalableSession.from_yaml().plan()
    path = project / "scalable.yaml"
    text = path.read_text()
    assert "components:" in text
    path.write_text(text.replace("components:", "x-changed: 1\ncomponents:"))
    session = ScalableSession.from_yaml()
    with pytest.raises(SessionError, match="manifest_lock differ"):
        session.start(plan)
    assert not session.closed
    not_a_plan: Any = "plan.json"
    with pytest.raises(TypeError, match="takes a plan"):
        session.start(not_a_plan)


def test_values_of_a_manifest_have_types() -> None:
    manifest = parse_manifest(
        "version: 1\nproject: {name: x}\ntargets: {l: {provider: demo}}\n"
        "components: {a: {memory: 8G, tags: [x]}}\n",
        env={},
        source="m",
    )
    assert (manifest.components["a"].memory, manifest.components["a"].tags) == (
        8 * 10**9,
        {"x": ""},
    )
    assert (manifest.source, manifest.raw["version"]) == ("m", 1)
    assert validate_manifest(manifest).ok
    assert ValidationReport.of([]).errors == ()
    assert importlib.metadata.version("scalable-core")


def test_plan_and_run_as_a_dry_run(cli: Callable[..., Result], project: Path) -> None:
    (project / "workflow.py").write_text("raise SystemExit(1)")
    done = cli("plan", "--dry-run", "--output", "plan.json")
    assert done.exit_code == 0
    assert '"manifest_lock"' in (project / "plan.json").read_text()
    shown = cli("run", "--dry-run", "--workflow", "workflow.py")
    assert (shown.exit_code, "target demo (demo)" in shown.stdout) == (0, True)
    assert not (project / ".scalable").exists()


@pytest.mark.parametrize(
    ("command", "instead"),
    [
        ("advise", "adaptive"),
        ("diagnose", "scalable check"),
        ("explain", "session.explain()"),
        ("compose", "scalable init"),
        ("init-component", "scalable schema"),
        ("migrate", "scalable validate"),
    ],
)
def test_commands_that_are_gone_name_what_takes_their_place(
    command: str, instead: str, cli: Callable[..., Result]
) -> None:
    done = cli(command, "--latest")
    assert done.exit_code == 2
    assert instead in done.stderr
