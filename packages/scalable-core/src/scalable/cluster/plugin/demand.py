"""How much work there is for each tag."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed.scheduler import TaskPrefix, TaskState, WorkerState

__all__ = ["Backlog", "requirements"]

Requirements = tuple[tuple[str | None, float], ...]
"""What a task takes, by resource; None stands for a slot of whichever worker."""


def requirements(ts: TaskState) -> Requirements:
    """Say what a task takes."""
    return (*ts.resource_restrictions.items(),) if ts.resource_restrictions else ((None, 1),)


class Backlog:
    """How many tasks are to be done, by kind, what they take, and whether they wait for others.

    It is kept up to date as tasks change their state, so that a look at it costs the same however many there are.
    """

    STATES = frozenset({"waiting", "no-worker", "queued", "processing"})

    def __init__(self) -> None:
        self.tasks: dict[tuple[TaskPrefix, Requirements, bool], int] = {}
        # As it was counted: what a task takes can be changed meanwhile.
        self._counted: dict[Any, tuple[TaskPrefix, Requirements, bool]] = {}

    def add(self, ts: TaskState) -> None:
        """Count a task by its state."""
        waits = ts.state == "waiting"
        if waits and not ts.waiting_on:
            return  # for a moment only
        shape = (ts.prefix, requirements(ts), waits)
        self._counted[ts.key] = shape
        self.tasks[shape] = self.tasks.get(shape, 0) + 1

    def discard(self, key: Any) -> None:
        """Count a task no more."""
        shape = self._counted.pop(key, None)
        if shape is None:
            return
        self.tasks[shape] -= 1
        if not self.tasks[shape]:
            del self.tasks[shape]

    def demand(
        self, tags: Collection[str], workers: Iterable[WorkerState]
    ) -> dict[str, tuple[float, float, float, int]]:
        """Add up what there is to do, less what running tasks have done.

        Parameters
        ----------
        tags : collection of str
            The groups. What takes no tag counts for the first.
        workers : iterable of WorkerState
            Who runs tasks.

        Returns
        -------
        dict of str to tuple
            By tag, what `scalable.cluster.link.Demand` is made of.
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
