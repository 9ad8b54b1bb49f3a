"""Settings of all tests here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no failure.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a command on PATH that says and returns what it is told."""

    def command(
        name: str, *, stdout: str = "", stderr: str = "", status: int = 0, then: str = ":"
    ) -> None:
        for stream, text in (("out", stdout), ("err", stderr)):
            (tmp_path / f"{name}.{stream}").write_text(text)
        script = tmp_path / name
        script.write_text(
            f"#!/bin/sh\ncat {tmp_path}/{name}.out; cat {tmp_path}/{name}.err >&2; {then}; exit {status}\n"
        )
        script.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return command
