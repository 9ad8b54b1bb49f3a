"""How much work there is for each tag."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed.scheduler import TaskPrefix, TaskState, WorkerState

__all__ = ["Backlog", "requirements"]

Requirements = tuple[tuple[str | None, float], ...]
"""The amount that a task needs of each resource; None stands for one slot of any worker."""


def requirements(ts: TaskState) -> Requirements:
    """Return what a task needs."""
    return (*ts.resource_restrictions.items(),) if ts.resource_restrictions else ((None, 1),)


class Backlog:
    """Counts of unfinished tasks by prefix, requirements, and whether they wait for dependencies.

    The counts are updated as tasks change state, so that reading them costs the same for any number of tasks.
    """

    STATES = frozenset({"waiting", "no-worker", "queued", "processing"})

    def __init__(self) -> None:
        self.tasks: dict[tuple[TaskPrefix, Requirements, bool], int] = {}
        # As it was counted, because a task's requirements can change later.
        self._counted: dict[Any, tuple[TaskPrefix, Requirements, bool]] = {}

    def add(self, ts: TaskState) -> None:
        """Count a task in its present state."""
        waits = ts.state == "waiting"
        if waits and not ts.waiting_on:
            return  # it leaves this state at once
        shape = (ts.prefix, requirements(ts), waits)
        self._counted[ts.key] = shape
        self.tasks[shape] = self.tasks.get(shape, 0) + 1

    def discard(self, key: Any) -> None:
        """Stop counting a task."""
        shape = self._counted.pop(key, None)
        if shape is None:
            return
        self.tasks[shape] -= 1
        if not self.tasks[shape]:
            del self.tasks[shape]

    def demand(
        self, tags: Collection[str], workers: Iterable[WorkerState]
    ) -> dict[str, tuple[float, float, float, int]]:
        """Return the work for each tag, less what running tasks have done already.

        Parameters
        ----------
        tags : collection of str
            The groups. Tasks without a tag count for the first.
        workers : iterable of WorkerState
            The workers that run tasks.

        Returns
        -------
        dict of str to tuple
            The fields of `scalable.cluster.link.Demand`, by tag.
        """
        first = next(iter(tags), "")
        slots: defaultdict[str, float] = defaultdict(float)
        seconds: defaultdict[str, float] = defaultdict(float)
        unknown: defaultdict[str, float] = defaultdict(float)
        waiting: defaultdict[str, int] = defaultdict(int)
        for (prefix, taken, waits), tasks in self.tasks.items():
            for resource, need in taken:
                tag = resource or first
                if waits:
                    waiting[tag] += tasks
                    continue
                slots[tag] += tasks * need
                if prefix.duration_average < 0:
                    unknown[tag] += tasks * need
                else:
                    seconds[tag] += tasks * need * prefix.duration_average
        for ws in workers:
            for ts, elapsed in ws.executing.items():
                done = min(elapsed, ts.prefix.duration_average)
                if ts.processing_on is ws and done > 0:
                    for resource, need in requirements(ts):
                        seconds[resource or first] -= need * done
        return {tag: (slots[tag], seconds[tag], unknown[tag], waiting[tag]) for tag in tags}
