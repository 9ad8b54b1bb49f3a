"""Fixtures for the tests of sessions and commands: a provider, a manifest, and the real command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, settings

from scalable.providers.registry import clear_registry, register_provider

# Tests must not fail on a busy machine.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

PLUGINS = Path(__file__).parent / "plugins"

MANIFEST = """\
version: 1
project: {name: test}
targets:
  demo: {provider: demo, n_workers: 1}
components:
  fair: {slots: 2}
  gcam: {}
tasks:
  simulate: {component: fair}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a directory with a manifest whose one target is of the demo provider, without outside settings."""
    for name in ("SCALABLE_MANIFEST", "SCALABLE_TARGET", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "scalable.yaml").write_text(MANIFEST)
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register the demo provider in this process."""
    monkeypatch.syspath_prepend(PLUGINS)
    clear_registry()
    register_provider("demo", lambda: __import__("demo_provider").DemoProvider())
    yield
    clear_registry()


class Install(Protocol):
    def __call__(self, name: str, entry_point: str, *, distribution: str | None = None) -> None: ...


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory of installed distributions."""
    return tmp_path / "site"


@pytest.fixture
def install(site: Path) -> Install:
    """Write the metadata of an installed distribution with a provider, by default ``scalable-<name>`` 1.0."""

    def install(name: str, entry_point: str, *, distribution: str | None = None) -> None:
        distribution = distribution or f"scalable-{name}"
        info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(f"[scalable.providers]\n{name} = {entry_point}\n")

    return install


@pytest.fixture
def environment(site: Path, install: Install) -> dict[str, str]:
    """The environment of a process that has the demo provider installed."""
    install("demo", "demo_provider:DemoProvider")
    path = os.pathsep.join(filter(None, (str(site), str(PLUGINS), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "NO_COLOR": "1"}


Scalable = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def scalable(project: Path, environment: dict[str, str]) -> Scalable:
    """Run the real command in the project's directory, without a terminal."""

    def scalable(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "scalable.cli", *arguments],
            cwd=project,
            env={**environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return scalable


Eventually = Callable[[Callable[[], bool]], bool]


@pytest.fixture
def eventually() -> Eventually:
    """Return whether a condition becomes true within a minute."""

    def eventually(condition: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + 60
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    return eventually


@pytest.fixture
def gone(eventually: Eventually) -> Callable[[Iterable[int]], bool]:
    """Return whether processes have ended, or end within a minute."""

    def alive(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    return lambda pids: eventually(lambda: not any(map(alive, pids)))
