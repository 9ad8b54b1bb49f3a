"""Tasks that end in an error because of their group, their worker or the cluster."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from time import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

__all__ = ["FailedGroups", "Walltimes", "cancel_all", "clear_suspicion", "fail_task"]

END_TOLERANCE = 3.0
"""Seconds by which a native system may end a worker before the walltime that is known for it."""

TOO_LONG_SHARE = 0.8
"""Share of its worker's life from which a task counts as too long for any worker."""


def fail_task(scheduler: Scheduler, ts: TaskState, error: bytes) -> None:
    """Fail a task, wherever it waits to run.

    Parameters
    ----------
    scheduler : Scheduler
        The scheduler that has the task.
    ts : TaskState
        The task.
    error : bytes
        The exception, pickled. The scheduler cannot unpickle it and need not.
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
    """Undo Dask's suspicion of tasks that were not running when their worker died.

    distributed suspects every task that was assigned to a dead worker, and fails it with `KilledWorker` after some
    deaths. Tagged tasks are all assigned to workers at once, so that a few deaths would fail tasks that never ran.
    """
    queue = sorted(assigned, key=operator.attrgetter("priority"))
    # Those that may have been running: as of the last heartbeat, and the first in the worker's queue.
    suspects = {*queue[: ws.nthreads], *ws.executing}
    for ts in assigned:
        if ts not in suspects and ts.suspicious:
            ts.suspicious -= 1
            ts.prefix.suspicious -= 1


def cancel_all(scheduler: Scheduler, reason: str) -> None:
    """Cancel the futures of all clients, so that they raise instead of hanging, and nothing is recomputed.

    `Scheduler.stimulus_cancel` fails on graphs in which no client has a future of an intermediate task.
    """
    for name, client in list(scheduler.clients.items()):
        keys = [ts.key for ts in client.wants_what]
        # A task that has failed already keeps its own error.
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
    """Fails the tasks that only failed groups could run."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._errors: dict[str, bytes] = {}

    def fail(self, tag: str, error: bytes | None) -> None:
        """Fail the tasks that only this group could run, now and from now on; None ends that.

        Parameters
        ----------
        tag : str
            The group.
        error : bytes or None
            The exception of these tasks, pickled.
        """
        if error is None:
            self._errors.pop(tag, None)
        else:
            self._errors[tag] = error

    def has_failed(self, tag: str) -> bool:
        """Return whether a group has failed."""
        return tag in self._errors

    def fail_tasks(self, tags: Collection[str]) -> None:
        """Fail those that no worker can run now.

        Parameters
        ----------
        tags : collection of str
            All groups. Any of them can run a task without a tag, so it fails when all groups have failed.
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
    """Fails the tasks that take longer than any worker lives.

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
        self._interrupted: set[Any] = set()

    def expire(self, workers: dict[str, tuple[float, bytes]]) -> None:
        """Record when the walltime of workers ends.

        Parameters
        ----------
        workers : dict of str to (float, bytes)
            Seconds from now, and the pickled exception of tasks that are still running then.
        """
        for name, (seconds, error) in workers.items():
            self._deadlines[name] = time() + seconds, error

    def fail_tasks(self) -> None:
        """Fail tasks that no worker lives long enough for, before their worker ends and the next one starts them."""
        for name, (deadline, error) in self._deadlines.items():
            member = self.members.get(self.scheduler.aliases.get(name, ""))
            if member is not None and time() >= deadline - END_TOLERANCE:
                ws, joined = member
                for ts in [ts for ts in ws.processing if self._is_too_long(ts, ws, joined)]:
                    fail_task(self.scheduler, ts, error)

    def on_worker_removed(self, ws: WorkerState, joined: float, assigned: list[TaskState]) -> None:
        """Forget a worker. If its walltime has interrupted tasks, record or fail them."""
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
        """Forget a task that has finished."""
        self._interrupted.discard(key)

    def _is_too_long(self, ts: TaskState, ws: WorkerState, joined: float) -> bool:
        """Return whether a task that its worker has no time left for would not finish on another one either.

        A task that started late in its worker's life gets one more attempt.
        """
        elapsed = ws.executing.get(ts, 0.0)
        return ts.key in self._interrupted or elapsed >= TOO_LONG_SHARE * (time() - joined)
