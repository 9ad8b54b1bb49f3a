"""Fixtures: a real scheduler, waiting for conditions, and programs that print recorded output."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import pytest
from distributed import Client, LocalCluster

T = TypeVar("T")


class Eventually(Protocol):
    def __call__(self, condition: Callable[[], T], *, timeout: float = 60.0) -> T: ...


class Install(Protocol):
    def __call__(
        self, name: str, argument: str = "", *, stdout: str = "", status: int = 0, stderr: str = ""
    ) -> None: ...


@pytest.fixture(scope="session")
def eventually() -> Eventually:
    """Wait until a condition holds, and return what it returned."""

    def wait(condition: Callable[[], T], *, timeout: float = 60.0) -> T:
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"still {value!r} after {timeout:g} s")
            time.sleep(0.02)
        return value

    return wait


@pytest.fixture(autouse=True)
def _functions_of_tests_can_be_imported(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let workers import the tests' modules by the names that pytest gives them, which begin with ``packages``."""
    monkeypatch.setenv("PYTHONPATH", str(request.config.rootpath))


@pytest.fixture
def host() -> Iterator[LocalCluster]:
    """A scheduler without workers."""
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


@pytest.fixture
def client(host: LocalCluster) -> Iterator[Client]:
    with Client(host) as client:
        yield client


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install programs on an otherwise empty PATH. Each prints the given output if its first argument is `argument`.

    An empty `argument` stands for all others.
    """
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    monkeypatch.setenv("PATH", str(bin_))

    def install(
        name: str, argument: str = "", *, stdout: str = "", status: int = 0, stderr: str = ""
    ) -> None:
        program = bin_ / name
        program.write_text(
            f"""#!/bin/sh
            answer={bin_}/{name}.answers/$1
            [ -e "$answer.status" ] || answer={bin_}/{name}.answers/
            while IFS= read -r line; do printf '%s\\n' "$line"; done < "$answer.out"
            while IFS= read -r line; do printf '%s\\n' "$line" >&2; done < "$answer.err"
            read -r status < "$answer.status"
            exit "$status"
            """
        )
        program.chmod(0o755)
        answers = bin_ / f"{name}.answers"
        answers.mkdir(exist_ok=True)
        for kind, text in (("out", stdout), ("err", stderr), ("status", str(status))):
            (answers / f"{argument}.{kind}").write_text(f"{text}\n" if text else "")

    return install
