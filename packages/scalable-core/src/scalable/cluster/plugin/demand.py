"""How much work there is for each tag."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import astuple, dataclass
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


@dataclass
class _Work:
    """The work for one tag: the fields of `scalable.cluster.link.Demand`, in their order."""

    slots: float = 0.0
    seconds: float = 0.0
    unknown: float = 0.0
    waiting: int = 0
    proven: float = 0.0
    tagged: float = 0.0


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
    ) -> dict[str, tuple[float, float, float, int, float, float]]:
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
        work: defaultdict[str, _Work] = defaultdict(_Work)
        running = [
            (ts, elapsed)
            for ws in workers
            for ts, elapsed in ws.executing.items()
            if ts.processing_on is ws
        ]
        proven = self._proven_durations(running)
        for ts, elapsed in running:
            if ts.prefix.duration_average >= 0:
                done = min(elapsed, ts.prefix.duration_average)
                for resource, need in requirements(ts):
                    work[resource or first].seconds -= need * done
        for (prefix, taken, waits), tasks in self.tasks.items():
            for resource, need in taken:
                each = work[resource or first]
                if waits:
                    each.waiting += tasks
                    continue
                each.slots += tasks * need
                if resource is not None:
                    each.tagged += tasks * need
                if prefix.duration_average < 0:
                    each.unknown += tasks * need
                    each.proven += tasks * need * proven.get(prefix, 0.0)
                else:
                    self._learned.add(prefix.name)
                    each.seconds += tasks * need * prefix.duration_average
        return {tag: astuple(work[tag]) for tag in tags}

    def _proven_durations(
        self, running: Iterable[tuple[TaskState, float]]
    ) -> dict[TaskPrefix, float]:
        """Return how long tasks take whose mean duration is not known, as far as those that are running show."""
        elapsed: defaultdict[TaskPrefix, list[float]] = defaultdict(list)
        for ts, seconds in running:
            if ts.prefix.duration_average < 0:
                elapsed[ts.prefix].append(seconds)
        return {
            prefix: proven_duration(times, some_ended=prefix.name in self._learned)
            for prefix, times in elapsed.items()
        }
