"""Real Dask workers for simulated units: a `scalable.testing.simulation.WorkerPool` inside this process."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from distributed import LocalCluster, Worker

from scalable.cluster.port import Unit
from scalable.providers.servers import stop_http_server

__all__ = ["InProcessWorkerPool"]


class InProcessWorkerPool:
    """Dask workers on the event loop of their scheduler, with a thread for each slot.

    Parameters
    ----------
    host : LocalCluster
        The scheduler, in this process.
    preload : mapping of str to str
        The preload script of each group's workers, by tag.
    closing : callable
        Returns whether the engine is closing.
    """

    def __init__(
        self, host: LocalCluster, preload: Mapping[str, str], closing: Callable[[], bool]
    ) -> None:
        self._host = host
        self._preload = preload
        self._closing = closing
        self._turns = itertools.count()
        self._workers: dict[str, Worker] = {}
        self._ending: set[asyncio.Future[Any]] = set()
        self._directory = tempfile.TemporaryDirectory(prefix="scalable-fake-")

    @property
    def turns(self) -> int:
        """A new number each time, because turns are not counted here."""
        return next(self._turns)

    @property
    def closing(self) -> bool:
        """Whether the engine is closing."""
        return self._closing()

    async def add_worker(self, unit: Unit, slots: int, mismatch: str) -> bool:
        """Start a unit's worker."""
        if mismatch:
            raise ValueError("a worker of this process cannot have another environment")
        preload = self._preload.get(unit.tag)
        worker = Worker(
            self._host.scheduler_address,
            protocol="inproc",
            name=unit.id,
            nthreads=slots,
            resources={unit.tag: slots},
            executor=ThreadPoolExecutor(slots, thread_name_prefix=unit.id),
            preload=[preload] if preload else [],
            memory_limit=0,
            local_directory=self._directory.name,
            dashboard=False,
            dashboard_address="127.0.0.1:0",
        )
        self._workers[unit.id] = worker
        try:
            await worker
            stop_http_server(worker)
        except BaseException:
            self.remove_worker(unit.id)
            raise
        return True

    def remove_worker(self, name: str) -> None:
        """Close a worker at once; its tasks are lost, but their threads run to their end."""
        worker = self._workers.pop(name, None)
        if worker is not None:
            end = asyncio.ensure_future(worker.close(executor_wait=False, reason="scalable-fake"))
            self._ending.add(end)
            end.add_done_callback(self._ending.discard)

    def unsaved_work(self, name: str) -> str:
        """Return what would be lost with a worker; an empty string if it is not registered."""
        scheduler: Any = self._host.scheduler
        address = scheduler.aliases.get(name)
        if address is None:
            return ""
        worker = scheduler.workers[address]
        return f"{len(worker.processing)} tasks and {len(worker.has_what)} results"

    def freeze(self, name: str) -> None:
        """Raise, because a worker of this process freezes only with all of it."""
        raise NotImplementedError(
            f"{name} is a worker of this process, which cannot be frozen alone"
        )

    async def wait_closed(self) -> None:
        """Wait until all removed workers have ended, and remove their files."""
        await asyncio.gather(*self._ending, return_exceptions=True)
        self._directory.cleanup()
