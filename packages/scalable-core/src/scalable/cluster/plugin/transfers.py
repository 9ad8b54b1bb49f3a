"""Results that cannot be sent to some workers, and the tasks that need them there."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scalable.cluster.plugin.dask_internals import fail_task, free_key, release_tasks

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

__all__ = ["Transfers", "worker_tags"]


def worker_tags(ws: WorkerState) -> frozenset[str]:
    """Return a worker's tags: workers of one group have one environment and can load the same results."""
    return frozenset(ws.resources)


class Transfers:
    """Finds the results that cannot be sent to workers that need them.

    A worker requests several results from another at once. If one of them cannot be pickled, or not be unpickled by
    the recipient, the worker marks all of them as failed and the scheduler ignores that, so that tasks that depend on
    them never run: https://github.com/dask/distributed/issues/6705.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._dask_task_erred: Callable[..., None] = scheduler.stream_handlers["task-erred"]
        # By key of the result and tags of the worker: why it cannot be received.
        self._failures: dict[Any, dict[frozenset[str], str]] = {}
        self._resolving: dict[tuple[Any, str], asyncio.Task[None]] = {}

    def handle_task_erred(self, *, key: Any, worker: str, **message: Any) -> None:
        """Handle a worker's report that a task has failed, or that it could not receive a result."""
        ts = self.scheduler.tasks.get(key)
        if ts is None or ts.state != "memory":
            self._dask_task_erred(key=key, worker=worker, **message)
        elif (key, worker) not in self._resolving:
            resolving = asyncio.ensure_future(self._resolve_failed_transfer(key, worker))
            self._resolving[key, worker] = resolving
            resolving.add_done_callback(lambda _: self._resolving.pop((key, worker)))

    async def check(self, key: Any, address: str) -> None:
        """Make a worker receive one result alone; record the reason if it cannot."""
        ts, ws = self.scheduler.tasks.get(key), self.scheduler.workers.get(address)
        if ts is None or ws is None or self.is_known_to_fail(ts, ws):
            return
        holders = [holder.address for holder in ts.who_has or ()]
        try:
            failure = await self.scheduler.rpc(address).scalable_check_transfer(
                key=key, holders=holders
            )
        except OSError:
            return  # a worker is gone, which the scheduler handles
        if failure is not None and self.scheduler.tasks.get(key) is ts:
            self._failures.setdefault(key, {})[worker_tags(ws)] = failure

    def has_failed(self, ts: TaskState) -> bool:
        """Return whether a result is known not to reach workers of some group."""
        return ts.key in self._failures

    def is_known_to_fail(self, ts: TaskState, ws: WorkerState) -> bool:
        """Return whether a result is known not to reach workers of this one's group."""
        return worker_tags(ws) in self._failures.get(ts.key, ())

    def forget_result(self, key: Any) -> None:
        """Forget a result that no longer exists."""
        self._failures.pop(key, None)

    def close(self) -> None:
        """Cancel the checks in progress."""
        for task in self._resolving.values():
            task.cancel()

    async def _resolve_failed_transfer(self, key: Any, address: str) -> None:
        """Reschedule the tasks that wait for a result on a worker, or fail them if it cannot be received there."""
        await self.check(key, address)
        ts, ws = self.scheduler.tasks.get(key), self.scheduler.workers.get(address)
        if ts is None or ws is None or ws in (ts.who_has or ()):
            return
        # The worker must first forget that the result has failed, or it would never request it again.
        free_key(self.scheduler, address, key)
        waiting = [dependent for dependent in ts.dependents if dependent.processing_on is ws]
        if self.is_known_to_fail(ts, ws):
            message = self._failure_message(ts, ws)
            error = pickle.dumps(RuntimeError(message))
            for dependent in waiting:
                fail_task(self.scheduler, dependent, error, message)
        else:
            release_tasks(self.scheduler, waiting)

    def _failure_message(self, ts: TaskState, ws: WorkerState) -> str:
        return (
            f"the result of {ts.key!r} cannot be sent to worker {ws.name}: {self._failures[ts.key][worker_tags(ws)]}; "
            "return something that can be pickled and that the environment of that worker can load"
        )
