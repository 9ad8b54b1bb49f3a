"""Backend whose units are workers in the client's process, for tests and debugging."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distributed.core import Status
from distributed.threadpoolexecutor import ThreadPoolExecutor
from distributed.worker import Worker

from scalable.cluster.port import (
    Explanation,
    GroupSpec,
    Leftover,
    Phase,
    Reason,
    Unit,
    UnitState,
)
from scalable.errors import LaunchRefusedError
from scalable.providers.local.exits import launch_error
from scalable.providers.servers import stop_http_server

__all__ = ["InProcessBackend"]

_CLOSE_TIMEOUT = 10.0
"""Seconds in which a worker must close, not counting running tasks."""


@dataclass(eq=False)
class _Worker:
    """One worker, from its start until the cluster is gone."""

    unit: Unit
    dask: Worker
    start: asyncio.Task[None] | None = None
    stopped: bool = False
    error: Exception | None = None
    reported_gone: bool = False

    @property
    def gone(self) -> bool:
        return self.dask.status in (Status.closed, Status.failed)


class InProcessBackend:
    """Backend that runs each unit as one Dask worker on the controller's event loop, with a thread for each slot.

    Parameters
    ----------
    scheduler_address : str
        Address of the scheduler.
    name : str
        Name of the cluster, for display.
    parent : Path, optional
        Where the directory for the workers' files is created; by default where the system keeps temporary files.
    grace_period : float
        Seconds that running tasks have to end when the cluster is swept. A thread cannot be ended from outside.
    """

    def __init__(
        self,
        *,
        scheduler_address: str,
        name: str,
        parent: Path | None = None,
        grace_period: float = 3.0,
    ) -> None:
        self._scheduler_address = scheduler_address
        self._name = name
        self._parent = parent
        self._grace_period = grace_period
        self._closed = False
        self._directory: Path | None = None
        self._counts: Counter[str] = Counter()
        self._requests: dict[str, tuple[Unit, ...]] = {}
        self._workers: dict[str, _Worker] = {}

    async def launch(self, group: GroupSpec, n: int, request_id: str) -> Sequence[Unit]:
        """Start `n` workers; see `scalable.cluster.port.Backend`."""
        if request_id in self._requests:
            return self._requests[request_id]
        if self._closed:
            raise LaunchRefusedError(f"cluster {self._name!r} is closed; build a new one")
        try:
            if self._directory is None:
                self._directory = Path(tempfile.mkdtemp(prefix="scalable-", dir=self._parent))
            workers = [self._create_worker(group, request_id, self._directory) for _ in range(n)]
        except OSError as error:
            raise launch_error(group.tag, error) from error
        for worker in workers:
            self._workers[worker.unit.id] = worker
            worker.start = asyncio.create_task(_start_worker(worker))
        units = self._requests[request_id] = tuple(worker.unit for worker in workers)
        return units

    async def observe(self) -> Mapping[str, UnitState]:
        """Return the state of all workers; one that is gone is reported once."""
        shown = {name: worker for name, worker in self._workers.items() if not worker.reported_gone}
        for worker in shown.values():
            if worker.gone:
                worker.reported_gone = True
                # distributed keeps the worker in its own caches, and its results with it.
                worker.dask.data.clear()
        return {name: _state(worker) for name, worker in shown.items()}

    async def stop(self, units: Sequence[Unit]) -> None:
        """Close these workers."""
        await self._close([self._workers[unit.id] for unit in units if unit.id in self._workers])

    async def describe(self, unit: Unit) -> Explanation:
        """Return the state of a worker, or why it ended; its output is part of this process's output."""
        worker = self._workers.get(unit.id)
        if worker is None:
            return Explanation(
                Reason.UNKNOWN, f"cluster {self._name!r} never had a worker {unit.id}"
            )
        state = _state(worker)
        return Explanation(state.reason, state.detail, native=f"status {worker.dask.status.name}")

    async def sweep(self) -> Sequence[Leftover]:
        """Close all workers, remove their files, and return the threads whose tasks still run."""
        self._closed = True
        await self._close(list(self._workers.values()))
        leftovers = [
            Leftover("worker", worker.unit.id, f"its status is {worker.dask.status.name}")
            for worker in self._workers.values()
            if not worker.gone
        ]
        leftovers += [
            Leftover("thread", thread.name, "it runs a task, which cannot be interrupted")
            for thread in await asyncio.to_thread(self._join_threads)
        ]
        # A worker that has not closed still holds a lock in the directory, and removes its part of it when it closes.
        if self._directory is not None and all(worker.gone for worker in self._workers.values()):
            try:
                await asyncio.to_thread(shutil.rmtree, self._directory)
            except FileNotFoundError:  # it was removed before
                pass
            except OSError as error:
                leftovers.append(Leftover("directory", str(self._directory), str(error)))
        return leftovers

    def _create_worker(self, group: GroupSpec, request_id: str, directory: Path) -> _Worker:
        self._counts[group.tag] += 1
        name = f"{group.tag}-{self._counts[group.tag]}"
        protocol, _, _ = self._scheduler_address.partition("://")
        dask = Worker(
            self._scheduler_address,
            protocol=protocol,
            host=None if protocol == "inproc" else "127.0.0.1",
            name=name,
            nthreads=group.slots,
            resources={group.tag: group.slots},
            executor=ThreadPoolExecutor(group.slots, thread_name_prefix=self._thread_prefix + name),
            memory_limit=0,
            local_directory=str(directory),
            dashboard=False,
            dashboard_address="127.0.0.1:0",
        )
        return _Worker(Unit(name, group.tag, request_id, "worker of this process"), dask)

    async def _close(self, workers: Sequence[_Worker]) -> None:
        await asyncio.gather(*(_stop_worker(worker) for worker in workers if not worker.gone))

    @property
    def _thread_prefix(self) -> str:
        return f"{self._name}/{id(self)}/"

    def _join_threads(self) -> list[threading.Thread]:
        """Wait for the threads of all workers; return those that still run."""
        threads = [t for t in threading.enumerate() if t.name.startswith(self._thread_prefix)]
        deadline = time.monotonic() + self._grace_period
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return [thread for thread in threads if thread.is_alive()]


async def _start_worker(worker: _Worker) -> None:
    try:
        await worker.dask.start()
        stop_http_server(worker.dask)
    except Exception as error:  # noqa: BLE001 - observe and describe report it
        worker.error = error


async def _stop_worker(worker: _Worker) -> None:
    worker.stopped = True
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            if worker.start is not None:
                # A worker that is interrupted while it starts may not close; without a scheduler, it never starts.
                await asyncio.wait([worker.start], timeout=_CLOSE_TIMEOUT / 2)
                worker.start.cancel()
            # With executor_wait, distributed would wait for one worker after the other, under a global lock.
            await worker.dask.close(
                timeout=_CLOSE_TIMEOUT, executor_wait=False, reason="stopped by Scalable"
            )
    except Exception as error:  # noqa: BLE001 - sweep reports the worker, if it is still there
        worker.error = error


def _state(worker: _Worker) -> UnitState:
    if not worker.gone:
        return UnitState(worker.unit, Phase.RUNNING, Reason.STARTING, "its worker runs")
    if worker.stopped:
        return UnitState(worker.unit, Phase.GONE, Reason.STOPPED, "its worker was stopped")
    if worker.error is not None:
        cause = worker.error.__cause__ or worker.error
        return UnitState(worker.unit, Phase.GONE, Reason.EXITED, f"its worker failed: {cause!r}")
    return UnitState(worker.unit, Phase.GONE, Reason.EXITED, "its worker was closed")
