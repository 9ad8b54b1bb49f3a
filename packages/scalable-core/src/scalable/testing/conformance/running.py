"""A cluster under test, and the functions that tests run on its workers and its scheduler."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

from scalable.providers.base import DeploymentProvider, ScalePlan

if TYPE_CHECKING:
    from scalable.client import ScalableClient
    from scalable.cluster import GroupedCluster
    from scalable.providers.base import ClusterHandle

__all__ = [
    "Running",
    "by_value",
    "count_starts",
    "die",
    "logged_nap",
    "nap",
    "pause",
    "square",
    "starts",
    "unpause",
    "variable",
    "worker_infos",
    "worker_name",
]


class Running:
    """A cluster under test."""

    def __init__(self, provider: DeploymentProvider, handle: ClusterHandle, timeout: float) -> None:
        self.provider = provider
        self.handle = handle
        self.timeout = timeout

    @property
    def backend(self) -> GroupedCluster:
        return self.handle.backend

    def client(self) -> closing[ScalableClient]:
        return closing(self.handle.client_factory())

    def scale(self, **counts: int) -> None:
        """Scale through the provider, and wait until the groups have these counts."""
        fixed = {tag: group.wanted for tag, group in self.backend.groups.items()}
        self.provider.scale(self.handle, ScalePlan({**fixed, **counts}))
        for tag, count in counts.items():
            if count:
                self.backend.wait_for_group(tag, count, timeout=self.timeout)
            self.until(partial(self._is, tag, count), f"{tag} has {count} workers")

    def _is(self, tag: str, count: int) -> bool:
        group = self.backend.groups[tag]
        return (group.running, group.pending, group.starting, group.draining) == (count, 0, 0, 0)

    def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + self.timeout
        while not condition():
            assert time.monotonic() < deadline, (
                f"not within {self.timeout:g} s: {what}; {self.backend}, {self.backend.explain()}"
            )
            time.sleep(0.1)


def worker_infos(client: ScalableClient) -> Mapping[str, Any]:
    """Return what the scheduler knows about each worker, by address."""
    workers: Mapping[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    return workers


def by_value(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a copy of a function that is pickled by value: a worker's image need not have this module."""
    assert isinstance(function, FunctionType)
    # Without this module's globals, and in a module that no worker can import, so that it is pickled by value.
    copy = FunctionType(function.__code__, {"__builtins__": __builtins__}, function.__name__)
    copy.__module__ = "__main__"
    return copy


def die() -> None:
    """End this process, as a crash would."""
    import os

    os._exit(3)


def worker_name(_: int) -> str:
    """Return the name of the worker that this runs on."""
    from distributed import get_worker

    return str(get_worker().name)


def square(n: int) -> int:
    """Return the square of a number."""
    return n * n


def variable(name: str) -> str | None:
    """Return an environment variable of the worker."""
    import os

    return os.environ.get(name)


def logged_nap(seconds: float, number: int) -> float:
    """Sleep, after noting that it starts; `starts` returns the notes."""
    import time

    from distributed import get_worker

    get_worker().log_event("scalable-conformance", number)
    time.sleep(seconds)
    return seconds


def starts(client: ScalableClient) -> list[int]:
    """Return the number of each nap, once per start."""
    return [number for _, number in client.get_events("scalable-conformance")]


def nap(seconds: float) -> float:
    """Sleep."""
    import time

    time.sleep(seconds)
    return seconds


def pause(dask_worker: Any) -> None:
    """Pause a worker until `unpause`, whatever memory it uses."""
    from distributed import Status

    memory = dask_worker.memory_manager
    memory.scalable_pause_fraction = memory.memory_pause_fraction
    memory.memory_pause_fraction = False  # else it is resumed as soon as it uses less
    dask_worker.status = Status.paused


def unpause(dask_worker: Any) -> None:
    """End a `pause`."""
    from distributed import Status

    memory = dask_worker.memory_manager
    memory.memory_pause_fraction = memory.scalable_pause_fraction
    dask_worker.status = Status.running


def count_starts(dask_scheduler: Any) -> int:
    """Return how often tasks have been sent to workers so far."""
    return sum(1 for entry in dask_scheduler.transition_log if entry[2] == "processing")
