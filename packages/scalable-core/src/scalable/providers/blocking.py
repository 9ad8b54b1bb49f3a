"""Blocking calls of an SDK, in threads of their own, for the coroutines of a backend.

Cancelling a coroutine does not end the thread below it: a request that was sent creates its machine, whether or not
anybody still waits for the answer. `BlockingCalls` knows which calls are under way, so that a backend's ``sweep`` can
wait for them before it looks for what is to be removed.

Examples
--------
Two of them, one for what creates and one for everything else, because ``sweep`` still has to list and to delete::

    class CloudBackend:
        def __init__(self, cluster, api):
            self._api = api
            self._creating = BlockingCalls(cluster, deadline=110)
            self._calls = BlockingCalls(cluster, deadline=60)

        async def launch(self, group, n, request_id):
            names = await self._creating.run(self._api.create, group.tag, n, token=request_id)
            return [Unit(name, group.tag, request_id) for name in names]

        async def sweep(self):
            unanswered = await self._creating.settle(20)
            for name in await self._calls.run(self._api.list):
                await self._calls.run(self._api.delete, name)
            return [call.leftover for call in unanswered]
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache, partial
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from scalable.cluster.port import Leftover
from scalable.errors import ClusterClosedError, NativeTimeoutError

__all__ = ["BlockingCalls", "CallUnderWay"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

REFUSES_THREADS_AT_EXIT = (3, 12) <= sys.version_info < (3, 12, 3)
"""Whether Python starts no thread once its main thread has ended, when clusters that were left open are closed.

Source: https://github.com/python/cpython/issues/113964
"""

_RESERVE_THREADS = 4
"""So many calls may hang while others are still made."""


@dataclass(frozen=True)
class CallUnderWay:
    """A call that has not returned.

    Parameters
    ----------
    name : str
        The function that is called.
    seconds : float
        For how long it has been called.
    """

    name: str
    seconds: float

    @property
    def leftover(self) -> Leftover:
        """The call as what is left when a cluster is closed: it may still make something."""
        return Leftover("call", self.name, f"has not returned for {self.seconds:.0f} s")


@dataclass(frozen=True)
class _Outcome:
    # Not the exception of a future, because asyncio replaces some of those by others, and refuses StopIteration.
    result: object = None
    error: BaseException | None = None


class BlockingCalls:
    """Runs functions that block, each in a thread of its own, until it is closed.

    The threads are daemons and none of asyncio's: a call that hangs delays no other call, and not the end of Python.
    Coroutines of any event loop may use one object at the same time.

    Parameters
    ----------
    name : str
        The cluster's name, for errors and as the name of threads.
    deadline : float, optional
        Seconds that `run` waits for a call unless it is told otherwise; by default, as long as it takes.
    """

    def __init__(self, name: str, *, deadline: float | None = None) -> None:
        self._name = name
        self._deadline = deadline
        self._lock = threading.Lock()
        self._closed = False
        self._calls: dict[Future[_Outcome], tuple[str, float]] = {}
        """Each call that has not returned: the function's name, and when it was called."""
        if REFUSES_THREADS_AT_EXIT:
            _reserve()

    @property
    def under_way(self) -> list[CallUnderWay]:
        """The calls that have not returned, those included that nobody waits for any more."""
        now = time.monotonic()
        with self._lock:
            return [
                CallUnderWay(name, now - since)
                for call, (name, since) in self._calls.items()
                if not call.cancelled()
            ]

    async def run(
        self, func: Callable[..., T], /, *args: Any, deadline: float | None = None, **kwargs: Any
    ) -> T:
        """Call a function in a thread, with the context variables of this coroutine, and return its result.

        If this coroutine is cancelled, a call that has begun goes on, and counts as under way until it returns; one
        that has not begun never begins. In which order calls begin is not specified.

        Parameters
        ----------
        func : callable
            The function. `args` and `kwargs` are its arguments.
        deadline : float, optional
            Seconds to wait for this call.

        Raises
        ------
        ClusterClosedError
            No calls are accepted any more; this one has not begun.
        NativeTimeoutError
            The call has not returned before the deadline. It goes on.
        Exception
            Whatever the function raises.
        """
        call = self._start(partial(contextvars.copy_context().run, func, *args, **kwargs), func)
        limit = self._deadline if deadline is None else deadline
        try:
            async with asyncio.timeout(limit):
                outcome = await asyncio.wrap_future(call)
        except TimeoutError:
            call.add_done_callback(_log_late_error)
            assert limit is not None  # noqa: S101 - it has passed
            raise NativeTimeoutError(limit) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if call.cancelled() and (task is None or not task.cancelling()):
                raise ClusterClosedError(self._name) from None
            call.add_done_callback(_log_late_error)
            raise
        if outcome.error is not None:
            raise outcome.error
        return cast("T", outcome.result)

    def _start(self, work: Callable[[], object], func: Callable[..., object]) -> Future[_Outcome]:
        call: Future[_Outcome] = Future()
        name = _name_of(func)
        thread = threading.Thread(
            target=self._work, args=(call, work), name=f"{self._name}/{name}", daemon=True
        )
        with self._lock:
            if self._closed:
                raise ClusterClosedError(self._name)
            self._calls[call] = (name, time.monotonic())
        try:
            thread.start()
        except BaseException as error:
            if not (REFUSES_THREADS_AT_EXIT and "interpreter shutdown" in str(error)):
                self._forget(call)  # such as at the system's limit of threads
                raise
            _reserve().put(partial(self._work, call, work))
        return call

    def _work(self, call: Future[_Outcome], work: Callable[[], object]) -> None:
        # From here on, cancelling has no effect; before, it prevents the call.
        if not call.set_running_or_notify_cancel():
            self._forget(call)
            return
        try:
            outcome = _Outcome(work())
        except BaseException as error:  # noqa: BLE001 - raised where the call is awaited
            outcome = _Outcome(error=error)
        self._forget(call)
        call.set_result(outcome)

    def _forget(self, call: Future[_Outcome]) -> None:
        with self._lock:
            self._calls.pop(call, None)

    def close(self) -> None:
        """Accept no more calls. Those that have not begun never begin, and those that have begun go on."""
        with self._lock:
            self._closed = True
            calls = list(self._calls)
        for call in calls:
            call.cancel()

    async def settle(self, limit: float) -> list[CallUnderWay]:
        """Close, wait until no call is under way, and return those that still are after `limit` seconds.

        If it returns none, nothing runs any more and nothing will.

        Parameters
        ----------
        limit : float
            Seconds.
        """
        self.close()
        with self._lock:
            waiting = [asyncio.wrap_future(call) for call in self._calls]
        try:
            if waiting:
                await asyncio.wait(waiting, timeout=limit)
        finally:
            for call in waiting:
                # A call goes on even so, but its end must not call a loop that may be closed by then.
                call.cancel()
        return self.under_way


@lru_cache
def _reserve() -> SimpleQueue[Callable[[], object]]:
    """Return the queue of threads that exist already, for calls of all clusters for which none can be started."""
    queue: SimpleQueue[Callable[[], object]] = SimpleQueue()
    for _ in range(_RESERVE_THREADS):
        args = (queue,)
        threading.Thread(
            target=_work_in_reserve, args=args, name="scalable-reserve", daemon=True
        ).start()
    return queue


def _work_in_reserve(queue: SimpleQueue[Callable[[], object]]) -> None:
    while True:
        queue.get()()


def _name_of(func: Callable[..., object]) -> str:
    """Return a function's name, without arguments that are bound to it: they may be secrets."""
    while isinstance(func, partial):
        func = func.func
    return getattr(func, "__qualname__", type(func).__qualname__)


def _log_late_error(call: Future[_Outcome]) -> None:
    """Log the error of a call that nobody waited for any more."""
    if not call.cancelled() and (error := call.result().error) is not None:
        logger.info("A call that was given up has failed: %r", error)
