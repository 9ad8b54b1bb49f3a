"""How many tasks of each kind the scheduler has, counted on the scheduler itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scalable.runs.tally import TaskCount

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

    from scalable.cluster import GroupedCluster

__all__ = ["count_tasks"]

_TIMEOUT = 2.0


def count_tasks(cluster: GroupedCluster) -> dict[str, TaskCount]:
    """Return how many tasks the scheduler has, by the name of their function.

    Raises
    ------
    OSError, RuntimeError, TimeoutError
        The scheduler does not answer.
    """
    from distributed.protocol.pickle import dumps
    from distributed.utils import sync

    # A nested function, because it is pickled by value: the scheduler may have none of our packages.
    def count(dask_scheduler: Scheduler) -> dict[str, tuple[int, int, int]]:
        from collections import Counter

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

        if RecomputedTasks.name not in dask_scheduler.plugins:
            dask_scheduler.add_plugin(RecomputedTasks())
        recomputed: Any = dask_scheduler.plugins[RecomputedTasks.name]
        ended = ("memory", "erred", "released", "forgotten")
        return {
            # `state_counts` has all that were ever done: tasks whose results are no longer needed are forgotten.
            prefix.name: (
                prefix.state_counts["memory"] - recomputed.by_prefix[prefix.name],
                prefix.states["erred"],
                sum(n for state, n in prefix.states.items() if state not in ended),
            )
            for prefix in dask_scheduler.task_prefixes.values()
        }

    answer = sync(
        cluster.loop,
        cluster.scheduler_comm.run_function,
        function=dumps(count),
        callback_timeout=_TIMEOUT,
    )
    if answer["status"] != "OK":
        raise RuntimeError("the scheduler cannot count its tasks")
    counts = {name: TaskCount(*numbers) for name, numbers in answer["result"].items()}
    return {name: count for name, count in counts.items() if count.all}
