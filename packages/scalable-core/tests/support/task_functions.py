"""Functions and classes that tests submit as tasks, to workers of this process and to others."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

from distributed import Event, WorkerPlugin, get_worker


def identity(x: Any) -> Any:
    return x


def wait_at_gate(x: Any = None) -> Any:
    """Return `x` once the event ``gate`` is set."""
    Event("gate").wait()
    return x


def add(a: int, b: int = 0) -> int:
    return a + b


def fail(message: str = "it failed") -> None:
    raise ArithmeticError(message)


def wait_for_file(path: Path, *_: Any) -> str:
    """Return the file's name once it exists."""
    deadline = time.monotonic() + 120
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.01)
    return path.name


class Flaky:
    """Fails some times, then returns its count of calls, which it keeps in a file."""

    def __init__(self, directory: Path, failures: int = 0) -> None:
        self.path, self.failures = directory / uuid.uuid4().hex, failures

    def __call__(self, *_: Any) -> int:
        with self.path.open("a") as file:
            file.write("x")
            count = file.tell()
        if count <= self.failures:
            raise ArithmeticError(count)
        return count

    @property
    def calls(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0


class Account:
    total = 0

    def deposit(self, amount: int) -> int:
        if amount < 0:
            raise ValueError(amount)
        self.total += amount
        return self.total


def name_of_worker(*_: Any) -> str:
    return str(get_worker().name)


class OddError(Exception):
    """An error that pickle cannot make again, since its arguments are not those of `__init__`."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def raise_odd_error() -> None:
    raise OddError(1, 2)


def name_of(dask_worker: Any) -> str:
    return str(dask_worker.name)


class Remember(WorkerPlugin):
    def __init__(self, name: str) -> None:
        self.name = name

    def setup(self, worker: Any) -> None:
        worker.remembered = self.name

    def teardown(self, worker: Any) -> None:
        worker.remembered = None


def remembered(dask_worker: Any) -> object:
    return dask_worker.remembered


def count_executing(dask_worker: Any) -> int:
    return int(dask_worker.state.executing_count)
