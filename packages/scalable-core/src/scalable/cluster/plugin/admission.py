"""Which workers may join."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import time
from typing import TYPE_CHECKING, Any

from distributed.versions import get_versions

if TYPE_CHECKING:
    from distributed.comm.core import Comm
    from distributed.scheduler import Scheduler, WorkerState

__all__ = ["Admission", "version_mismatch"]


def version_mismatch(scheduler: dict[str, Any], worker: dict[str, Any]) -> str:
    """Say how a worker's environment differs from the scheduler's, or nothing.

    Tasks are pickled code: another Python minor version cannot run it, another dask or distributed version
    speaks another protocol.

    Parameters
    ----------
    scheduler, worker : dict
        What `distributed.versions.get_versions` returns.
    """

    def facts(versions: dict[str, Any]) -> dict[str, str]:
        python = ".".join(str(versions["host"]["python"]).split(".")[:2])
        packages = versions["packages"]
        return {"Python": python, "dask": packages["dask"], "distributed": packages["distributed"]}

    ours, theirs = facts(scheduler), facts(worker)
    return "; ".join(
        f"the worker has {name} {theirs[name]}, the scheduler {ours[name]}"
        for name in ours
        if ours[name] != theirs[name]
    )


class Admission:
    """The scheduler's door: `register_worker` and `heartbeat_worker` stand before its handlers of the same purpose.

    Attributes
    ----------
    refused : dict of str to str
        Workers that could not run our tasks, with the reason.
    blocked : set of str
        Workers that should leave, or never come.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.versions = get_versions()
        self._dask_register_worker: Callable[..., Awaitable[None]] = scheduler.handlers[
            "register-worker"
        ]
        self._dask_heartbeat_worker: Callable[..., dict[str, Any]] = scheduler.handlers[
            "heartbeat_worker"
        ]
        self.refused: dict[str, str] = {}
        self.blocked: set[str] = set()
        self._removed: set[str] = set()

    async def register_worker(self, comm: Comm, **registration: Any) -> None:
        """Register a worker, unless it is not wanted any more or could not run our tasks."""
        name = str(registration["name"])
        problem = version_mismatch(self.versions, registration["versions"])
        if problem:
            self.refused[name] = problem
        elif name in self.blocked:
            problem = "it is not wanted any more"
        if problem:
            await comm.write({"status": "error", "message": problem, "time": time()})
            return
        await self._dask_register_worker(comm, **registration)

    def heartbeat_worker(self, address: str, **heartbeat: Any) -> dict[str, Any]:
        """Take a heartbeat; that of a worker which we have just removed is nothing to warn of."""
        if address in self._removed and address not in self.scheduler.workers:
            return {"status": "missing"}
        return self._dask_heartbeat_worker(address=address, **heartbeat)

    def on_worker_removed(self, ws: WorkerState) -> None:
        """Note that a worker has left."""
        if str(ws.name) in self.blocked:
            self._removed.add(ws.address)
