"""Which tasks a worker runs: the scheduler is told before each starts, and suspected ones run alone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from scalable.cluster.plugin.dask_internals import (
    has_seceded,
    not_executed,
    replace_execute,
    seconds_alone,
    try_to_send,
    was_taken_back,
)
from scalable.cluster.plugin.usage import TaskUsage

if TYPE_CHECKING:
    from distributed.worker import Worker

__all__ = ["RunRecord"]

POLL = 0.1
"""Seconds between two looks at whether a task has seceded, while a suspected one waits or runs."""

MAX_WAIT_FOR_OTHERS = 3600.0
"""Seconds that a suspected task waits for those that run. Some of these may wait for it."""

REPLY_TIMEOUT = 30.0
"""Seconds to wait for the scheduler's reply. A task then runs without it."""


class RunRecord:
    """Tells the scheduler which tasks this worker runs, and lets suspected tasks run alone.

    Messages are sent before a task starts, but a worker that is ended by its task within milliseconds takes its last
    ones with it. So a task that was suspected once runs alone, from when the scheduler has confirmed that it knows to
    when it has confirmed that it knows of its end. Should the worker die in between, no other task can be the cause.
    Its result is pickled in that time, too, because that is what may end its worker.

    A task that has seceded does not count as running, because it usually waits for others that must run meanwhile.

    Attributes
    ----------
    usage : TaskUsage
        What its tasks have used.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._dask_execute = replace_execute(worker, self.execute)
        self.usage = TaskUsage()
        self._running: set[Any] = set()
        # Held by a suspected task that runs, or waits for those that run; all that start meanwhile queue for it.
        self._turn = asyncio.Lock()
        worker.batched_send({"op": "scalable-recording"})

    def close(self) -> None:
        """Restore how the worker runs tasks."""
        replace_execute(self._worker, self._dask_execute)
        self.usage.close()

    def execute(self, key: Any, *, stimulus_id: str) -> Coroutine[Any, Any, Any]:
        """Run a task, after those that were suspected and came before it."""
        seconds = seconds_alone(self._worker, key)
        if seconds is not None:
            return self._run_alone(key, stimulus_id, seconds)
        if self._turn.locked():
            return self._run_in_turn(key, stimulus_id)
        return self._run(key, stimulus_id)

    async def _run_in_turn(self, key: Any, stimulus_id: str) -> Any:
        async with self._turn:
            pass
        return await self._run(key, stimulus_id)

    async def _run(self, key: Any, stimulus_id: str) -> Any:
        if was_taken_back(self._worker, key):
            # Dask would run it, and discard the result, while it may be running elsewhere already.
            return not_executed(key)
        self._running.add(key)
        self.usage.begin(key)
        self._worker.batched_send({"op": "scalable-started", "key": key})
        try:
            return await self._dask_execute(key, stimulus_id=stimulus_id)
        finally:
            self._running.discard(key)
            self.usage.end(key)

    async def _run_alone(self, key: Any, stimulus_id: str, seconds: float) -> Any:
        async with self._turn:
            is_alone = await self._wait_for_others()
            if was_taken_back(self._worker, key):
                return not_executed(key)
            is_alone = is_alone and await self._report_alone(key)
            run = asyncio.ensure_future(self._run(key, stimulus_id))
            try:
                await self._wait_for(key, run, seconds)
                if run.done() and not run.cancelled() and run.exception() is None:
                    await try_to_send(self._worker, run.result())
                if is_alone:
                    await self._report_alone(None)
            except asyncio.CancelledError:
                run.cancel()
                raise
        return await run

    async def _wait_for_others(self) -> bool:
        """Wait until no task runs that has not seceded; return whether that is so now."""
        try:
            async with asyncio.timeout(MAX_WAIT_FOR_OTHERS):
                while not all(has_seceded(self._worker, key) for key in self._running):
                    await asyncio.sleep(POLL)
        except TimeoutError:
            return False
        return True

    async def _wait_for(self, key: Any, run: asyncio.Future[Any], seconds: float) -> None:
        """Wait until a task has ended or seceded, but not for longer than `seconds`."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not run.done() and not has_seceded(self._worker, key):
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await asyncio.wait({run}, timeout=min(POLL, left))

    async def _report_alone(self, key: Any) -> bool:
        """Report to the scheduler which task runs alone, or that none does; return whether it has confirmed that."""
        call = self._worker.scheduler.scalable_alone(worker=self._worker.name, key=key)
        try:
            await asyncio.wait_for(call, REPLY_TIMEOUT)
        except (OSError, TimeoutError):
            return False  # this worker has lost its scheduler, or is about to
        return True
