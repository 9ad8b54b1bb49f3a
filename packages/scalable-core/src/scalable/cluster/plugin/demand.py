"""How much work there is for each tag."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed.scheduler import TaskPrefix, TaskState, WorkerState

__all__ = ["Backlog", "proven_duration", "requirements"]

Requirements = tuple[tuple[str | None, float], ...]
"""The amount that a task needs of each resource; None stands for one slot of any worker."""


def requirements(ts: TaskState) -> Requirements:
    """Return what a task needs."""
    return (*ts.resource_restrictions.items(),) if ts.resource_restrictions else ((None, 1),)


def proven_duration(elapsed: Collection[float], *, some_ended: bool) -> float:
    """Return how long tasks of one kind take, as far as those that are running show.

    Parameters
    ----------
    elapsed : collection of float
        Seconds for which tasks of the kind have been running.
    some_ended : bool
        Whether others have ended. Then it takes three that run for long to show that more will do so.

    Returns
    -------
    float
        Seconds, rounded down to one of two values for each power of two, so that a group that grows with it does so in
        few launches.

    Examples
    --------
    >>> [round(proven_duration([0.5, most], some_ended=False), 1) for most in (0.9, 10.0, 15.0, 16.0)]
    [0.7, 8.0, 11.3, 16.0]
    >>> proven_duration([1000.0, 20.0, 16.0, 0.5], some_ended=True)
    16.0
    >>> proven_duration([], some_ended=True)
    0.0
    """
    longest = sorted(elapsed, reverse=True)[: _NEEDED_AS_PROOF if some_ended else 1]
    if not longest or longest[-1] <= 0:
        return 0.0
    return float(2.0 ** (math.floor(2 * math.log2(longest[-1])) / 2))


_NEEDED_AS_PROOF = 3
"""Tasks that must have run for long where others have ended sooner: one may be an exception."""


class Backlog:
    """Counts of unfinished tasks by prefix, requirements, and whether they wait for dependencies.

    The counts are updated as tasks change state, so that reading them costs the same for any number of tasks.
    """

    STATES = frozenset({"waiting", "no-worker", "queued", "processing"})

    def __init__(self) -> None:
        self.tasks: dict[tuple[TaskPrefix, Requirements, bool], int] = {}
        # As it was counted, because a task's requirements can change later.
        self._counted: dict[Any, tuple[TaskPrefix, Requirements, bool]] = {}
        # Dask forgets the mean duration of a prefix when one of its tasks takes twice as long.
        self._learned: set[str] = set()

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
    ) -> dict[str, tuple[float, float, float, int, float]]:
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
        proven: defaultdict[str, float] = defaultdict(float)
        running: defaultdict[TaskPrefix, list[float]] = defaultdict(list)
        for ws in workers:
            for ts, elapsed in ws.executing.items():
                if ts.processing_on is not ws:
                    continue
                if ts.prefix.duration_average < 0:
                    running[ts.prefix].append(elapsed)
                    continue
                done = min(elapsed, ts.prefix.duration_average)
                for resource, need in requirements(ts):
                    seconds[resource or first] -= need * done
        shown = {
            prefix: proven_duration(elapsed, some_ended=prefix.name in self._learned)
            for prefix, elapsed in running.items()
        }
        for (prefix, taken, waits), tasks in self.tasks.items():
            for resource, need in taken:
                tag = resource or first
                if waits:
                    waiting[tag] += tasks
                    continue
                slots[tag] += tasks * need
                if prefix.duration_average < 0:
                    unknown[tag] += tasks * need
                    proven[tag] += tasks * need * shown.get(prefix, 0.0)
                else:
                    self._learned.add(prefix.name)
                    seconds[tag] += tasks * need * prefix.duration_average
        return {
            tag: (slots[tag], seconds[tag], unknown[tag], waiting[tag], proven[tag]) for tag in tags
        }
