"""The announced ends of workers, and the tasks that take longer than any worker lives."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from time import time
from typing import TYPE_CHECKING, Any

from scalable.cluster.plugin.dask_internals import fail_task

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

__all__ = ["Walltimes"]

END_TOLERANCE = 3.0
"""Seconds by which a native system may end a worker before the walltime that is known for it."""

TOO_LONG_SHARE = 0.8
"""Share of its worker's life from which a task counts as too long for any worker."""

NO_DEADLINE = (float("inf"), b"")

_TEXT = "it was still running when its worker reached its walltime"


class Walltimes:
    """Knows when workers will be ended, and fails the tasks that take longer than any worker lives.

    Parameters
    ----------
    scheduler : Scheduler
        The scheduler that has the tasks.
    members : mapping of str to (WorkerState, float)
        Its workers by address, and the time at which they joined.
    """

    def __init__(
        self, scheduler: Scheduler, members: Mapping[str, tuple[WorkerState, float]]
    ) -> None:
        self.scheduler = scheduler
        self.members = members
        self._deadlines: dict[str, tuple[float, bytes]] = {}
        self._preempted: set[str] = set()
        self._interrupted: set[Any] = set()

    def expire(self, name: str, seconds: float, error: bytes | None) -> None:
        """Record when a worker will be ended.

        Parameters
        ----------
        name : str
            The worker.
        seconds : float
            Seconds from now.
        error : bytes or None
            The pickled exception of tasks that are too long for their walltime; None if the worker is preempted, which
            may happen at any time and to any task.
        """
        if error is None:
            self._preempted.add(name)
            self._deadlines.pop(name, None)
        elif name not in self._preempted:
            self._deadlines[name] = time() + seconds, error

    def is_preempted(self, ws: WorkerState) -> bool:
        """Return whether it was announced that a worker is preempted."""
        return str(ws.name) in self._preempted

    def fail_tasks(self) -> None:
        """Fail tasks that no worker lives long enough for, before their worker ends and the next one starts them."""
        for ws, joined in self.members.values():
            deadline, error = self._deadlines.get(str(ws.name), NO_DEADLINE)
            if time() >= deadline - END_TOLERANCE:
                for ts in [ts for ts in ws.processing if self._is_too_long(ts, ws, joined)]:
                    fail_task(self.scheduler, ts, error, _TEXT)

    def on_worker_removed(
        self, ws: WorkerState, joined: float, assigned: Collection[TaskState]
    ) -> None:
        """Forget a worker. If its walltime has interrupted tasks, record or fail them."""
        self._preempted.discard(str(ws.name))
        deadline, error = self._deadlines.pop(str(ws.name), NO_DEADLINE)
        if time() < deadline - END_TOLERANCE:
            return
        for ts in assigned:
            if ts not in ws.executing:
                continue
            if self._is_too_long(ts, ws, joined) and ts.state in ("no-worker", "processing"):
                fail_task(self.scheduler, ts, error, _TEXT)
            else:
                self._interrupted.add(ts.key)

    def forget_task(self, key: Any) -> None:
        """Forget a task that has finished."""
        self._interrupted.discard(key)

    def _is_too_long(self, ts: TaskState, ws: WorkerState, joined: float) -> bool:
        """Return whether a task that its worker has no time left for would not finish on another one either.

        A task that started late in its worker's life gets one more attempt.
        """
        elapsed = ws.executing.get(ts, 0.0)
        return ts.key in self._interrupted or elapsed >= TOO_LONG_SHARE * (time() - joined)
