"""Settings of these tests, and fakes that print what Slurm's commands have printed."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, settings
from slurm_units import make_backend

from scalable.providers.slurm.backend import SlurmBackend
from scalable.providers.slurm.commands import Slurm
from scalable.providers.slurm.request import JobRequest

# A busy machine must not fail a test.
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
    """Put a command on PATH that prints the given output, runs `then`, and exits with `status`."""

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
    """Return the arguments of each call of a fake command so far, one line per call."""

    def called(name: str) -> list[str]:
        log = tmp_path / f"{name}.calls"
        return log.read_text().splitlines() if log.exists() else []

    return called


@pytest.fixture
def backend(tmp_path: Path) -> SlurmBackend:
    return make_backend(tmp_path, sweep_timeout=30.0)


@pytest.fixture
def packed(tmp_path: Path) -> SlurmBackend:
    """A backend whose jobs have room for four workers each."""
    (tmp_path / "logs" / "jobs").mkdir(parents=True)
    request = JobRequest("gcam", str(tmp_path / "logs"), cpus=2, memory=2**30, workers_per_job=4)
    return SlurmBackend(Slurm(), "r", "tls://h:1", {"gcam": request}, sweep_timeout=30.0)
