"""Settings of all tests here, and commands that repeat what Slurm's were heard to say."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no failure.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


class FakeCommand(Protocol):
    def __call__(
        self, name: str, *, stdout: str = "", stderr: str = "", status: int = 0, then: str = ":"
    ) -> None: ...


class Calls(Protocol):
    def __call__(self, name: str) -> list[str]: ...


@pytest.fixture
def fake_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCommand:
    """Put a command on PATH that says, does and returns what it is told."""

    def command(
        name: str, *, stdout: str = "", stderr: str = "", status: int = 0, then: str = ":"
    ) -> None:
        for stream, text in (("out", stdout), ("err", stderr)):
            (tmp_path / f"{name}.{stream}").write_text(text)
        script = tmp_path / name
        lines = [
            "#!/bin/sh",
            f'echo "$*" >> {tmp_path}/{name}.calls',
            f"cat {tmp_path}/{name}.out; cat {tmp_path}/{name}.err >&2; {then}; exit {status}",
        ]
        script.write_text("\n".join(lines) + "\n")
        script.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return command


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    """Tell what a command of `fake_command` was called with so far, a line each."""

    def called(name: str) -> list[str]:
        log = tmp_path / f"{name}.calls"
        return log.read_text().splitlines() if log.exists() else []

    return called
