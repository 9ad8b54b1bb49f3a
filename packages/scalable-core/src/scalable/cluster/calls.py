"""Calls to coroutines on the cluster's event loop, from any other thread or loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from scalable.errors import ClusterClosedError

__all__ = ["LoopCalls"]

T = TypeVar("T")


class LoopCalls:
    """Runs coroutines on a cluster's event loop, until it is closed.

    Parameters
    ----------
    name : str
        The cluster's name, for errors.
    loop : callable
        Returns the event loop; may raise RuntimeError when there is none any more.
    """

    def __init__(self, name: str, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._name = name
        self._loop = loop
        self._lock = threading.Lock()
        self._closed = self._in_fork = False
        self._calls: set[Future[Any]] = set()

    def on_loop(self) -> bool:
        """Return whether this is the event loop's own thread."""
        try:
            return asyncio.get_running_loop() is self._loop()
        except RuntimeError:
            return False

    def refuse_on_loop(self) -> None:
        """Raise RuntimeError on the event loop's own thread, where waiting for it would never end."""
        if self.on_loop():
            raise RuntimeError(
                "this would wait for the event loop on its own thread; "
                "await the …_async twin, or call it from another thread"
            )

    def send(self, coro: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine, even if closed."""
        try:
            return asyncio.run_coroutine_threadsafe(coro, self._loop())
        except RuntimeError:  # the loop is closed
            coro.close()
            raise

    def wait(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine, and wait for it.

        Raises
        ------
        ClusterClosedError
            The cluster is closed, or was closed meanwhile.
        RuntimeError
            This is the event loop's own thread.
        """
        try:
            self.refuse_on_loop()
        except RuntimeError:
            coro.close()
            raise
        call = self._start(coro)
        try:
            return call.result()
        except CancelledError:
            raise ClusterClosedError(self._name) from None
        except BaseException:
            # Ctrl-C ends the wait, and must end the coroutine, too.
            call.cancel()
            raise

    async def wait_async(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine, and wait for it in a coroutine of any loop.

        Raises
        ------
        ClusterClosedError
            The cluster is closed, or was closed meanwhile.
        """
        call = self._start(coro)
        try:
            return await asyncio.wrap_future(call)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise ClusterClosedError(self._name) from None

    def _start(self, coro: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:
            if self._closed:
                coro.close()
                raise ClusterClosedError(self._name, self._in_fork)
            call = self.send(coro)
            self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return call

    def close(self) -> None:
        """Reject new calls, and cancel those that are under way."""
        with self._lock:
            self._closed = True
        for call in list(self._calls):
            call.cancel()

    def mark_closed_in_fork(self) -> None:
        """Reject new calls in a fork of the process, where the loop does not run."""
        self._closed = self._in_fork = True
        # A thread that does not exist in the fork may hold the lock.
        self._lock = threading.Lock()
