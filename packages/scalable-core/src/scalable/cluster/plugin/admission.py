"""Which workers may register."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import time
from typing import TYPE_CHECKING, Any

from distributed.versions import get_versions

from scalable.cluster.plugin.dask_internals import lift_send_timeout

if TYPE_CHECKING:
    from distributed.comm.core import Comm
    from distributed.scheduler import Scheduler, WorkerState

__all__ = ["Admission", "describe_version_mismatch"]


def describe_version_mismatch(environments: dict[str, dict[str, Any]]) -> str:
    """Return how two environments differ; an empty string if they do not.

    Tasks are pickled code, which another Python minor version cannot run; another dask or distributed version
    uses another protocol.

    Parameters
    ----------
    environments : dict
        Two environments as `distributed.versions.get_versions` returns them, each by a name for it.
    """

    def facts(versions: dict[str, Any]) -> dict[str, str]:
        python = ".".join(str(versions["host"]["python"]).split(".")[:2])
        packages = versions["packages"]
        return {"Python": python, "dask": packages["dask"], "distributed": packages["distributed"]}

    (ours, our_facts), (theirs, their_facts) = [
        (name, facts(versions)) for name, versions in environments.items()
    ]
    return "; ".join(
        f"{theirs} has {package} {their_facts[package]}, {ours} {our_facts[package]}"
        for package in our_facts
        if our_facts[package] != their_facts[package]
    )


IDLE_INTERVAL = 5.0
"""Seconds between two heartbeats of an idle worker, which are most of what an idle scheduler has to do."""


class Admission:
    """Wraps the scheduler's handlers for registrations and heartbeats of workers.

    Attributes
    ----------
    refused : dict of str to str
        The reason by name of worker, for workers of another environment.
    blocked : set of str
        Workers that drain or were cancelled before they joined; they may not register.
    unknown : dict of str to list
        The keys of tasks that workers run and nobody wants any longer, by address: they were cancelled.
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
        self.unknown: dict[str, list[Any]] = {}
        self._removed: set[str] = set()

    async def register_worker(self, comm: Comm, **registration: Any) -> None:
        """Register a worker, unless it is blocked or has another environment."""
        name = str(registration["name"])
        problem = describe_version_mismatch(
            {"the scheduler": self.versions, "the worker": registration["versions"]}
        )
        if problem:
            self.refused[name] = problem
        elif name in self.blocked:
            problem = "it is no longer wanted"
        if problem:
            await comm.write({"status": "error", "message": problem, "time": time()})
            return
        lift_send_timeout(comm)
        await self._dask_register_worker(comm, **registration)

    def heartbeat_worker(self, address: str, **heartbeat: Any) -> dict[str, Any]:
        """Handle a heartbeat: that of an idle worker may come less often.

        The last one of a worker that was removed on purpose causes no warning.
        """
        ws = self.scheduler.workers.get(address)
        if address in self._removed and ws is None:
            return {"status": "missing"}
        answer = self._dask_heartbeat_worker(address=address, **heartbeat)
        executing = heartbeat.get("executing") or {}
        self.unknown[address] = [key for key in executing if key not in self.scheduler.tasks]
        if ws is not None and not ws.processing and not executing:
            answer["heartbeat-interval"] = max(answer["heartbeat-interval"], IDLE_INTERVAL)
        return answer

    def on_worker_removed(self, ws: WorkerState) -> None:
        """Record that a worker has left."""
        self.unknown.pop(ws.address, None)
        if str(ws.name) in self.blocked:
            self._removed.add(ws.address)
