"""The tasks that only failed groups could run."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from scalable.cluster.plugin.dask_internals import fail_task

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

__all__ = ["FailedGroups"]


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
                fail_task(scheduler, ts, error, "its worker group failed")
