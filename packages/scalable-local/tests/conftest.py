"""A real scheduler, backends that are swept whatever a test does, and waiting without guessing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import pytest
from distributed import Client, LocalCluster

T = TypeVar("T")


class Eventually(Protocol):
    def __call__(self, condition: Callable[[], T], *, timeout: float = 60.0) -> T: ...


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


@pytest.fixture
def host() -> Iterator[LocalCluster]:
    """A scheduler without workers."""
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


@pytest.fixture
def client(host: LocalCluster) -> Iterator[Client]:
    with Client(host) as client:
        yield client
