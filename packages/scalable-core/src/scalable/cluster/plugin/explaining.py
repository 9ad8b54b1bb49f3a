"""Why a task does not run yet, as far as the scheduler knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

__all__ = ["TaskFacts"]

MOST_NAMES = 3
"""How many other tasks are named."""


class TaskFacts:
    """What the scheduler knows of single tasks.

    Parameters
    ----------
    scheduler : Scheduler
        The scheduler.
    status : callable
        Returns the status of a worker, unresponsive ones included.
    blocked : callable
        Returns how a task blocks one that it waits for, or is blocked, in one line.
    cancelled : mapping of str to sequence
        The keys of tasks that are no longer wanted and still run, by the address of their worker.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        status: Callable[[WorkerState], str],
        blocked: Callable[[TaskState], str],
        cancelled: Mapping[str, Sequence[Any]],
    ) -> None:
        self.scheduler = scheduler
        self._status = status
        self._blocked = blocked
        self._cancelled = cancelled

    def find(self, key: Any) -> dict[str, Any]:
        """Return the state of a task and what it waits for, in plain values.

        A task that waits for others is described by one of those that wait for none.
        """
        ts = self.scheduler.tasks.get(key)
        if ts is None:
            return {"state": "unknown"}
        unfinished = len(ts.waiting_on or ())
        while ts.state == "waiting" and ts.waiting_on:
            ts = min(ts.waiting_on, key=lambda dependency: str(dependency.key))
        own = {"key": str(ts.key), "dependencies": unfinished, "blocked": self._blocked(ts)}
        return self._facts(ts) | own

    def _facts(self, ts: TaskState) -> dict[str, Any]:
        ws = ts.processing_on
        if ws is None:
            restrictions = {*(ts.worker_restrictions or ()), *(ts.host_restrictions or ())}
            return {
                "state": ts.state,
                "resources": dict(ts.resource_restrictions or {}),
                "workers": sorted(map(str, restrictions)),
            }
        facts = {"worker": str(ws.name), "status": self._status(ws)}
        if ts in ws.executing:
            return facts | {"state": "running", "seconds": ws.executing[ts]}
        running = sorted(ws.executing.items(), key=lambda item: -item[1])
        return facts | {
            "state": "assigned",
            "ahead": [(str(other.key), seconds) for other, seconds in running[:MOST_NAMES]],
            "more": max(0, len(running) - MOST_NAMES),
            "cancelled": [*map(str, self._cancelled.get(ws.address, ())[:MOST_NAMES])],
        }
