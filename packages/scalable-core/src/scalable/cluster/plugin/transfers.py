"""Which results cannot be sent to which workers, and what becomes of the tasks that need them there."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING, Any

from scalable.cluster.plugin.ending import fail_task

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

__all__ = ["Transfers", "worker_tags"]


def worker_tags(ws: WorkerState) -> frozenset[str]:
    """Say of which kind a worker is: those of one group have one environment, and read the same results."""
    return frozenset(ws.resources)


class Transfers:
    """Finds out which results do not reach workers that ask for them.

    A worker asks another for several results at once. If one of them cannot be pickled, or not be unpickled where
    it arrives, the worker takes all of them for failed and the scheduler ignores that, so that whatever waits for
    them waits for ever: https://github.com/dask/distributed/issues/6705.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._dask_task_erred: Callable[..., None] = scheduler.stream_handlers["task-erred"]
        # By key: why workers of a kind cannot receive it.
        self._failures: dict[Any, dict[frozenset[str], str]] = {}
        self._resolving: dict[tuple[Any, str], asyncio.Task[None]] = {}

    def handle_task_erred(self, *, key: Any, worker: str, **message: Any) -> None:
        """Hear that a task has failed on a worker, or that a worker could not receive a result."""
        ts = self.scheduler.tasks.get(key)
        if ts is None or ts.state != "memory":
            self._dask_task_erred(key=key, worker=worker, **message)
        elif (key, worker) not in self._resolving:
            resolving = asyncio.ensure_future(self._resolve_failed_transfer(key, worker))
            self._resolving[key, worker] = resolving
            resolving.add_done_callback(lambda _: self._resolving.pop((key, worker)))

    async def check(self, key: Any, address: str) -> None:
        """Have a worker receive one result by itself, and remember why if it cannot."""
        ts, ws = self.scheduler.tasks.get(key), self.scheduler.workers.get(address)
        if ts is None or ws is None or self.is_known_to_fail(ts, ws):
            return
        holders = [holder.address for holder in ts.who_has or ()]
        try:
            failure = await self.scheduler.rpc(address).scalable_check_transfer(
                key=key, holders=holders
            )
        except OSError:
            return  # one of them is gone, which the scheduler knows how to deal with
        if failure is not None and self.scheduler.tasks.get(key) is ts:
            self._failures.setdefault(key, {})[worker_tags(ws)] = failure

    def has_failed(self, ts: TaskState) -> bool:
        """Say whether workers of some kind are known not to be able to receive a result."""
        return ts.key in self._failures

    def is_known_to_fail(self, ts: TaskState, ws: WorkerState) -> bool:
        """Say whether workers of this one's kind are known not to be able to."""
        return worker_tags(ws) in self._failures.get(ts.key, ())

    def forget_result(self, key: Any) -> None:
        """Forget a result, which is no more."""
        self._failures.pop(key, None)

    def close(self) -> None:
        """Stop what is under way."""
        for task in self._resolving.values():
            task.cancel()

    async def _resolve_failed_transfer(self, key: Any, address: str) -> None:
        """Have those that wait for a result on a worker either try again, or end in an error."""
        await self.check(key, address)
        ts, ws = self.scheduler.tasks.get(key), self.scheduler.workers.get(address)
        if ts is None or ws is None or ws in (ts.who_has or ()):
            return
        stimulus_id = f"scalable-transfer-{time()}"
        # First of all, the worker must forget that it has failed: it would not ask again.
        message = {"op": "free-keys", "keys": [key], "stimulus_id": stimulus_id}
        self.scheduler.worker_send(address, message)
        waiting = [dependent for dependent in ts.dependents if dependent.processing_on is ws]
        if self.is_known_to_fail(ts, ws):
            error = pickle.dumps(RuntimeError(self._failure_message(ts, ws)))
            for dependent in waiting:
                fail_task(self.scheduler, dependent, error)
        else:
            self.scheduler.transitions(
                {dependent.key: "released" for dependent in waiting}, stimulus_id=stimulus_id
            )

    def _failure_message(self, ts: TaskState, ws: WorkerState) -> str:
        return (
            f"the result of {ts.key!r} cannot be sent to worker {ws.name}: {self._failures[ts.key][worker_tags(ws)]}; "
            "return what can be pickled, and what the environment of that worker can load"
        )
