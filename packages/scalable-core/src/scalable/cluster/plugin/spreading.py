"""How waiting tasks spread over workers that join later."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from heapq import heapify, heappop, heapreplace
from itertools import islice
from typing import TYPE_CHECKING

from distributed.core import Status

from scalable.cluster.plugin.dask_internals import Stealing

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

__all__ = ["spread_waiting_tasks"]

MOVES_PER_TICK = 200
"""Limit of steal requests in one tick, so that a tick stays short however many tasks wait."""

SAMPLE = 1000
"""Limit of tasks that a tick reads of one worker's queue; in a longer queue they stand for all."""


def spread_waiting_tasks(
    scheduler: Scheduler,
    slots: Mapping[str, int],
    is_silent: Callable[[WorkerState], bool] = lambda ws: False,
) -> None:
    """Move waiting tasks from the fullest worker of a group to the emptiest while that evens their load.

    distributed assigns every tagged task at once, all of them to the first worker that joins. Its own stealing counts
    threads and durations over all tags; this counts slots, per tag.

    Parameters
    ----------
    scheduler : Scheduler
        The scheduler that has the tasks.
    slots : mapping of str to int
        Slots per worker, by tag.
    is_silent : callable
        Returns whether a worker would not answer a request to give up a task.
    """
    stealing = Stealing.of(scheduler)
    if stealing is None:
        return
    members: dict[str, list[WorkerState]] = {tag: [] for tag in slots}
    for ws in scheduler.workers.values():
        # A paused worker gives tasks, and takes none.
        if ws.status in (Status.running, Status.paused) and not is_silent(ws):
            for tag in ws.resources:
                if tag in members:
                    members[tag].append(ws)
    for tag, workers in members.items():
        thieves = [ws for ws in workers if ws in scheduler.running]
        if len(workers) > 1 and thieves and any(ws.processing for ws in workers):
            load = _load(tag, workers, slots[tag], stealing)
            _spread(tag, workers, thieves, load, stealing)


def _spread(
    tag: str,
    workers: list[WorkerState],
    thieves: list[WorkerState],
    load: dict[WorkerState, float],
    stealing: Stealing,
) -> None:
    slots = {ws: float(ws.resources[tag]) for ws in workers}

    def improves(need: float) -> bool:
        less = (load[victim] - need) / slots[victim]
        more = (load[thief] + need) / slots[thief]
        # Long queues need not be equal to a task: they are compared again before they are empty.
        return more <= 1 or less >= max(more, 1.1 * more - 1)

    # A worker may be on both heaps. Its other entry is out of date once tasks move, which only costs it some moves.
    fullest = [(-load[ws] / slots[ws], n, ws) for n, ws in enumerate(workers)]
    emptiest = [(load[ws] / slots[ws], n, ws) for n, ws in enumerate(thieves)]
    heapify(fullest)
    heapify(emptiest)
    movable: dict[WorkerState, list[TaskState]] = {}
    moves = 0
    while fullest and moves < MOVES_PER_TICK:
        (_, v, victim), (_, t, thief) = fullest[0], emptiest[0]
        if load[victim] <= slots[victim] or not improves(1):
            break
        if victim not in movable:
            movable[victim] = _movable(victim, tag, stealing)
        if not movable[victim]:
            heappop(fullest)
            continue
        ts = movable[victim].pop()
        need = _need(ts, tag)
        if not improves(need):
            break
        # The victim confirms that it has not started the task, or keeps it.
        stealing.move(ts, victim, thief)
        moves += 1
        load[victim] -= need
        load[thief] += need
        heapreplace(fullest, (-load[victim] / slots[victim], v, victim))
        heapreplace(emptiest, (load[thief] / slots[thief], t, thief))


def _load(
    tag: str, workers: list[WorkerState], slots: int, stealing: Stealing
) -> dict[WorkerState, float]:
    """Return the slots that all tasks of each worker would take at once, moves in progress included."""
    load: dict[WorkerState, float] = {}
    for ws in workers:
        load[ws] = len(ws.processing)
        if slots > 1 and ws.processing:
            sample = [_need(ts, tag) for ts in islice(ws.processing, SAMPLE // 10)]
            load[ws] *= sum(sample) / len(sample)
        if ws.status is Status.paused:
            # What does not run on it yet has no slot there.
            load[ws] += max(0.0, slots - sum(_need(ts, tag) for ts in ws.executing))
    for ts, info in stealing.moves.items():
        if info["victim"] not in load:
            continue  # it does not answer, so this may take long
        need = _need(ts, tag)
        load[info["victim"]] -= need
        if info["thief"] in load:
            load[info["thief"]] += need
    return load


def _need(ts: TaskState, tag: str) -> float:
    return float((ts.resource_restrictions or {}).get(tag, 1))


def _movable(ws: WorkerState, tag: str, stealing: Stealing) -> list[TaskState]:
    """Return tasks of `tag` that may be waiting on a worker, some of many; the one it would start last is last."""
    candidates: Iterable[TaskState] = (
        ts
        for ts in islice(ws.processing, SAMPLE)
        if tag in (ts.resource_restrictions or ())
        and not ts.worker_restrictions
        and not ts.host_restrictions
        and ts not in ws.executing
        and ts not in stealing.moves
    )
    return sorted(candidates, key=operator.attrgetter("priority"))
