"""Which workers take part in an all-to-all shuffle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distributed.core import Status

from scalable.cluster.plugin.dask_internals import barrier_of_shuffle

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState

__all__ = ["Shuffles"]


class Shuffles:
    """Has a shuffle use the workers that can run its tasks.

    Dask assigns the output partitions of a shuffle to workers when its first task runs, to all workers unless the
    barrier task is restricted to some. It looks at no resources: a partition that is assigned to a worker of another
    group, or to one that is draining, would wait for ever.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._dask_get_or_create = scheduler.handlers["shuffle_get_or_create"]

    def get_or_create(self, shuffle_id: Any, key: Any, worker: str) -> Any:
        """Return a shuffle for one of its workers, and create it if this is the first."""
        barrier = barrier_of_shuffle(self.scheduler, shuffle_id)
        if barrier is None or barrier.worker_restrictions:
            return self._dask_get_or_create(shuffle_id, key, worker)
        # Without any, Dask's own choice says most about what is wrong.
        barrier.worker_restrictions = self._fitting_workers(barrier) or None
        try:
            return self._dask_get_or_create(shuffle_id, key, worker)
        finally:
            barrier.worker_restrictions = None

    def _fitting_workers(self, barrier: TaskState) -> set[str]:
        """Return the workers that can run both the barrier and the tasks that follow it."""
        needs = [ts.resource_restrictions or {} for ts in (barrier, *barrier.dependents)]
        return {
            ws.address
            for ws in self.scheduler.workers.values()
            if ws.status == Status.running
            and all(ws.resources.get(name, -1) >= n for need in needs for name, n in need.items())
        }
