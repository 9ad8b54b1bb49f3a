"""Which results cannot be sent to which workers, and what becomes of the tasks that need them there."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING, Any

from scalable.cluster.plugin.ending import end_task

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

__all__ = ["Moving", "kind_of"]


def kind_of(ws: WorkerState) -> frozenset[str]:
    """Say of which kind a worker is: those of one group have one environment, and read the same results."""
    return frozenset(ws.resources)


class Moving:
    """Finds out which results do not reach workers that ask for them.

    A worker asks another for several results at once. If one of them cannot be pickled, or not be unpickled where
    it arrives, the worker takes all of them for failed and the scheduler ignores that, so that whatever waits for
    them waits for ever: https://github.com/dask/distributed/issues/6705.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._hear_error: Callable[..., None] = scheduler.stream_handlers["task-erred"]
        # By key: why workers of a kind cannot receive it.
        self._refusals: dict[Any, dict[frozenset[str], str]] = {}
        self._mending: dict[tuple[Any, str], asyncio.Task[None]] = {}

    def hear_error(self, *, key: Any, worker: str, **message: Any) -> None:
        """Hear that a task has failed on a worker, or that a worker could not receive a result."""
        ts = self.scheduler.tasks.get(key)
        if ts is None or ts.state != "memory":
            self._hear_error(key=key, worker=worker, **message)
        elif (key, worker) not in self._mending:
            mending = asyncio.ensure_future(self._mend(key, worker))
            self._mending[key, worker] = mending
            mending.add_done_callback(lambda _: self._mending.pop((key, worker)))

    async def examine(self, key: Any, address: str) -> None:
        """Have a worker receive one result by itself, and remember why if it cannot."""
        ts, ws = self.scheduler.tasks.get(key), self.scheduler.workers.get(address)
        if ts is None or ws is None or self.is_refused(ts, ws):
            return
        holders = [holder.address for holder in ts.who_has or ()]
        try:
            why = await self.scheduler.rpc(address).scalable_receive(key=key, holders=holders)
        except OSError:
            return  # one of them is gone, which the scheduler knows how to deal with
        if why is not None and self.scheduler.tasks.get(key) is ts:
            self._refusals.setdefault(key, {})[kind_of(ws)] = why

    def has_been_refused(self, ts: TaskState) -> bool:
        """Say whether workers of some kind are known not to be able to receive a result."""
        return ts.key in self._refusals

    def is_refused(self, ts: TaskState, ws: WorkerState) -> bool:
        """Say whether workers of this one's kind are known not to be able to."""
        return kind_of(ws) in self._refusals.get(ts.key, ())

    def forget(self, key: Any) -> None:
        """Forget a result, which is no more."""
        self._refusals.pop(key, None)

    def close(self) -> None:
        """Stop what is under way."""
        for task in self._mending.values():
            task.cancel()

    async def _mend(self, key: Any, address: str) -> None:
        """Have those that wait for a result on a worker either try again, or end in an error."""
        await self.examine(key, address)
        ts, ws = self.scheduler.tasks.get(key), self.scheduler.workers.get(address)
        if ts is None or ws is None or ws in (ts.who_has or ()):
            return
        stimulus_id = f"scalable-mend-{time()}"
        # First of all, the worker must forget that it has failed: it would not ask again.
        message = {"op": "free-keys", "keys": [key], "stimulus_id": stimulus_id}
        self.scheduler.worker_send(address, message)
        waiting = [dependent for dependent in ts.dependents if dependent.processing_on is ws]
        if self.is_refused(ts, ws):
            error = pickle.dumps(RuntimeError(self._why_not(ts, ws)))
            for dependent in waiting:
                end_task(self.scheduler, dependent, error)
        else:
            self.scheduler.transitions(
                {dependent.key: "released" for dependent in waiting}, stimulus_id=stimulus_id
            )

    def _why_not(self, ts: TaskState, ws: WorkerState) -> str:
        return (
            f"the result of {ts.key!r} cannot be sent to worker {ws.name}: {self._refusals[ts.key][kind_of(ws)]}; "
            "return what can be pickled, and what the environment of that worker can load"
        )
