"""Which tasks end in an error of ours, and which in none although their worker died."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from time import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

__all__ = ["FailedGroups", "Walltimes", "cancel_all", "clear_suspicion", "fail_task"]

END_TOLERANCE = 3.0
"""Seconds by which a native system may end a worker before its time, as far as we know that."""

TOO_LONG_SHARE = 0.8
"""Share of its worker's life from which on a task counts as too long for any worker."""


def fail_task(scheduler: Scheduler, ts: TaskState, error: bytes) -> None:
    """End a task in an error, wherever it is waiting to be run.

    Parameters
    ----------
    scheduler : Scheduler
        Whose task it is.
    ts : TaskState
        The task.
    error : bytes
        The exception, pickled. The scheduler cannot unpickle it, and need not.
    """
    holder = ts.processing_on
    stimulus_id = f"scalable-fail-{time()}"
    recommendations = scheduler.transition(
        ts.key, "erred", exception=error, cause=ts.key, stimulus_id=stimulus_id
    )
    scheduler.transitions(recommendations, stimulus_id=stimulus_id)
    if holder is not None:
        message = {"op": "free-keys", "keys": [ts.key], "stimulus_id": stimulus_id}
        scheduler.worker_send(holder.address, message)


def clear_suspicion(ws: WorkerState, assigned: list[TaskState]) -> None:
    """Hold a worker's death against those tasks alone that may have caused it.

    distributed suspects every task that was assigned to a dead worker, and ends it in `KilledWorker` after
    some deaths. Tagged tasks all wait on their workers, so that a few deaths would end tasks that never ran.
    """
    queue = sorted(assigned, key=operator.attrgetter("priority"))
    # Those that may have been running: what the last heartbeat said, and the first in the worker's queue.
    suspects = {*queue[: ws.nthreads], *ws.executing}
    for ts in assigned:
        if ts not in suspects and ts.suspicious:
            ts.suspicious -= 1
            ts.prefix.suspicious -= 1


def cancel_all(scheduler: Scheduler, reason: str) -> None:
    """Cancel what clients wait for, so that they learn it instead of hanging, and nothing is recomputed.

    `Scheduler.stimulus_cancel` fails on graphs in which a task between two others is wanted by nobody.
    """
    for name, client in list(scheduler.clients.items()):
        keys = [ts.key for ts in client.wants_what]
        # What has failed already keeps its own error.
        lost = [ts.key for ts in client.wants_what if ts.state != "erred"]
        scheduler.client_releases_keys(keys, client=name)
        scheduler.report(
            {
                "op": "cancelled-keys",
                "keys": lost,
                "reason": "cluster-closed",
                "msg": reason,
            },
            client=name,
        )


class FailedGroups:
    """Ends the tasks that only failed groups could run."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._errors: dict[str, bytes] = {}

    def fail(self, tag: str, error: bytes | None) -> None:
        """End the tasks that only this group could run, now and from now on; None lifts the verdict.

        Parameters
        ----------
        tag : str
            The group.
        error : bytes or None
            The exception they end in, pickled.
        """
        if error is None:
            self._errors.pop(tag, None)
        else:
            self._errors[tag] = error

    def has_failed(self, tag: str) -> bool:
        """Say whether a group has failed."""
        return tag in self._errors

    def fail_tasks(self, tags: Collection[str]) -> None:
        """End those that no worker can run now.

        Parameters
        ----------
        tags : collection of str
            All groups. What takes no tag can be run by any of them, and ends when all have failed.
        """
        if not self._errors:
            return
        scheduler = self.scheduler
        failing = [
            (ts.key, self._errors[tag])
            for ts in scheduler.unrunnable
            for tag in ts.resource_restrictions or ()
            if tag in self._errors
        ]
        if not scheduler.workers and all(map(self.has_failed, tags)):
            error = self._errors[next(iter(tags))]
            waiting = (*scheduler.unrunnable, *scheduler.queued)
            failing += [(ts.key, error) for ts in waiting if not ts.resource_restrictions]
        for key, error in failing:
            ts = scheduler.tasks.get(key)
            if ts is not None and ts.state in ("no-worker", "queued"):
                fail_task(scheduler, ts, error)


class Walltimes:
    """Ends the tasks that no worker lives long enough for.

    Parameters
    ----------
    scheduler : Scheduler
        Whose tasks.
    members : mapping of str to (WorkerState, float)
        Its workers by address, and when they came.
    """

    def __init__(
        self, scheduler: Scheduler, members: Mapping[str, tuple[WorkerState, float]]
    ) -> None:
        self.scheduler = scheduler
        self.members = members
        self._deadlines: dict[str, tuple[float, bytes]] = {}
        self._interrupted: set[Any] = set()

    def expire(self, workers: dict[str, tuple[float, bytes]]) -> None:
        """Note when workers will be ended from outside.

        Parameters
        ----------
        workers : dict of str to (float, bytes)
            Seconds from now, and the pickled exception of tasks that still run then.
        """
        for name, (seconds, error) in workers.items():
            self._deadlines[name] = time() + seconds, error

    def fail_tasks(self) -> None:
        """End what no worker lives long enough for, before its worker dies and the next one begins with it."""
        for name, (deadline, error) in self._deadlines.items():
            member = self.members.get(self.scheduler.aliases.get(name, ""))
            if member is not None and time() >= deadline - END_TOLERANCE:
                ws, joined = member
                for ts in [ts for ts in ws.processing if self._is_too_long(ts, ws, joined)]:
                    fail_task(self.scheduler, ts, error)

    def on_worker_removed(self, ws: WorkerState, joined: float, assigned: list[TaskState]) -> None:
        """Forget a worker. Where the end of its time has interrupted tasks, remember that, or end them."""
        deadline, error = self._deadlines.pop(str(ws.name), (float("inf"), b""))
        if time() < deadline - END_TOLERANCE:
            return
        for ts in assigned:
            if ts not in ws.executing:
                continue
            if self._is_too_long(ts, ws, joined) and ts.state in ("no-worker", "processing"):
                fail_task(self.scheduler, ts, error)
            else:
                self._interrupted.add(ts.key)

    def forget_task(self, key: Any) -> None:
        """Forget a task, which is done with."""
        self._interrupted.discard(key)

    def _is_too_long(self, ts: TaskState, ws: WorkerState, joined: float) -> bool:
        """Say whether a task that its worker has no more time for would fare no better on another.

        One that began late in the life of its worker is tried once more.
        """
        elapsed = ws.executing.get(ts, 0.0)
        return ts.key in self._interrupted or elapsed >= TOO_LONG_SHARE * (time() - joined)
