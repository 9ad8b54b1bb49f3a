"""How many tasks of each kind the scheduler has, counted on the scheduler itself, and how long the rest will take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scalable.runs.tally import TaskCount

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

    from scalable.cluster import GroupedCluster

__all__ = ["Counted", "count_tasks"]

_TIMEOUT = 2.0


@dataclass(frozen=True)
class Counted:
    """What the scheduler has to do.

    Parameters
    ----------
    tasks : mapping of str to TaskCount
        How many tasks there are, by the name of their function.
    rest : float or None
        Seconds that what is left will take the workers of now; None while a duration is not known, or no worker is
        there for some of it.
    """

    tasks: Mapping[str, TaskCount]
    rest: float | None = None


def count_tasks(cluster: GroupedCluster) -> Counted:
    """Return how many tasks the scheduler has, and how long the rest will take.

    Raises
    ------
    OSError, RuntimeError, TimeoutError
        The scheduler does not answer.
    """
    from distributed.protocol.pickle import dumps
    from distributed.utils import sync

    # A nested function, because it is pickled by value: the scheduler may have none of our packages.
    def count(dask_scheduler: Scheduler) -> Any:
        from collections import Counter, defaultdict

        from distributed.diagnostics.plugin import SchedulerPlugin

        class RecomputedTasks(SchedulerPlugin):
            """Counts the tasks that had finished and run again, because their results were lost."""

            name = "scalable-recomputed-tasks"

            def __init__(self) -> None:
                self.by_prefix: Counter[str] = Counter()
                self.lost: set[Any] = set()

            def transition(
                self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any
            ) -> None:
                task = dask_scheduler.tasks.get(key)
                # A task that has had a result has a size.
                if finish in ("memory", "forgotten"):
                    self.lost.discard(key)
                elif (start, finish) != ("released", "waiting") or key in self.lost:
                    return  # or it has had no result since one was lost
                elif task is not None and task.nbytes >= 0:
                    self.lost.add(key)
                    self.by_prefix[task.prefix.name] += 1

        tally: Any = dask_scheduler.plugins.get("scalable-tally")
        if tally is None and RecomputedTasks.name not in dask_scheduler.plugins:
            dask_scheduler.add_plugin(RecomputedTasks())
        ended = ("memory", "erred", "released", "forgotten")
        prefixes = dask_scheduler.task_prefixes.values()
        left = {
            prefix.name: sum(n for state, n in prefix.states.items() if state not in ended)
            for prefix in prefixes
        }
        if tally is not None:
            tasks = dask_scheduler.tasks
            lost = Counter(tasks[key].prefix.name for key in tally.lost_now if key in tasks)
            loading = Counter(tasks[key].prefix.name for key in tally.loading if key in tasks)
            left = {name: number - loading[name] for name, number in left.items()}
            done = {name: tally.done.get(name, 0) - lost[name] for name in left}
        else:
            # `state_counts` has all that were ever done: tasks whose results are no longer needed are forgotten.
            recomputed: Any = dask_scheduler.plugins[RecomputedTasks.name]
            done = {
                prefix.name: prefix.state_counts["memory"] - recomputed.by_prefix[prefix.name]
                for prefix in prefixes
            }
        counts = {
            prefix.name: (done[prefix.name], prefix.states["erred"], left[prefix.name])
            for prefix in prefixes
        }
        # Seconds of work that are left, and slots for it, of each tag; of all workers, for tasks without one.
        tags: dict[str, str] = tally.tags if tally is not None else {}
        work: defaultdict[str, float] = defaultdict(float)
        slots: defaultdict[str, float] = defaultdict(float)
        for name, (_, _, number) in counts.items():
            if number:
                each = dask_scheduler.task_prefixes[name].duration_average
                work[tags.get(name, "")] += number * each if each >= 0 else float("nan")
        for ws in dask_scheduler.running:
            slots[""] += ws.nthreads
            for tag, amount in ws.resources.items():
                slots[tag] += amount
        rest = [each / slots[tag] if slots[tag] else float("nan") for tag, each in work.items()]
        return counts, rest

    answer = sync(
        cluster.loop,
        cluster.scheduler_comm.run_function,
        function=dumps(count),
        callback_timeout=_TIMEOUT,
    )
    if answer["status"] != "OK":
        raise RuntimeError("the scheduler cannot count its tasks")
    numbers, rests = answer["result"]
    counts = {name: TaskCount(*each) for name, each in numbers.items()}
    known = bool(rests) and not any(map(math.isnan, rests))
    return Counted(
        {name: count for name, count in counts.items() if count.all}, max(rests) if known else None
    )
