"""How a cluster ends: its units, then its scheduler, then what both stood on; also where the program ends first."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from distributed import Scheduler, SpecCluster
from distributed.core import Status

from scalable.cluster.calls import LoopCalls
from scalable.cluster.host import WatchedHost
from scalable.cluster.limits import contained
from scalable.cluster.pace import Pace
from scalable.cluster.plugin.dask_internals import leave_directory
from scalable.cluster.port import Leftover
from scalable.errors import ClusterClosedError, LeftoverError, describe_error

if TYPE_CHECKING:
    from tornado.ioloop import IOLoop

    from scalable.cluster.controller import GroupController
    from scalable.cluster.host import Host

__all__ = ["ClosingCluster", "noting_leftovers"]


class ClosingCluster:
    """A host and a controller that are closed together, once.

    Parameters
    ----------
    host : Host
        The scheduler. It is closed at the end, and soon if this is called on its event loop, which cannot wait.
    name : str
        The cluster's name in messages.

    Attributes
    ----------
    name : str
        The cluster's name in messages.
    status : Status
        Whether it is running, closing or closed.
    """

    _controller: GroupController

    def __init__(self, host: Host, name: str) -> None:
        self.name = name
        self.status = Status.created
        self._host = host
        self._calls = LoopCalls(self.name, self._asyncio_loop)
        self._on_closed: list[Callable[[], object]] = []
        self._before_close: list[Callable[[], object]] = []
        if self._calls.on_loop():
            _close_later(host)
        self._calls.refuse_on_loop()
        self._close_lock = threading.Lock()
        self._close_task: asyncio.Task[list[Leftover]] | None = None
        self._close_timeout = Pace().close_timeout

    def _mark_running(self) -> None:
        """Record that there is something to close when the program ends."""
        self.status = Status.running
        _open_clusters.add(self)

    @property
    def loop(self) -> IOLoop:
        """The event loop of the scheduler connection and the controller."""
        loop = self._host.loop
        if loop is None:
            raise ClusterClosedError(self.name)
        return loop

    def _asyncio_loop(self) -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = self.loop.asyncio_loop  # type: ignore[attr-defined] # IOLoop's subclass has it
        return loop

    def before_close(self, callback: Callable[[], object]) -> None:
        """Call this once before `close` stops anything, also at the end of the interpreter; not on the event loop."""
        self._before_close.append(callback)

    def close(self, timeout: float | None = None) -> Any:
        """Stop every worker and the scheduler, and remove everything that belongs to the cluster.

        Idempotent, bounded in time, and continues past errors. On the event loop's own thread, from which
        ``distributed.Client.shutdown`` calls it, it returns an awaitable.

        Parameters
        ----------
        timeout : float, optional
            Seconds for closing the scheduler.

        Raises
        ------
        LeftoverError
            Something could not be removed; the error names it.
        """
        if self._calls.on_loop():
            return self.close_async()
        with self._close_lock:
            if self.status is Status.closed:
                return None
            failed = self._call_before_close()
            self._reject_new_calls()
            try:
                leftovers = self._calls.send(self._stop_units()).result()
            except RuntimeError as error:
                # The loop is closed already, and the scheduler with it.
                leftovers = [Leftover("cluster", self.name, describe_error(error))]
            leftovers += failed
            leftovers += self._close_host(timeout or self._close_timeout)
            self._finish_close(leftovers)
        return None

    def _close_without_controller(self) -> None:
        """Close what was handed over, before any unit can have been started."""
        self._reject_new_calls()
        self._finish_close(self._close_host(self._close_timeout))

    def _close_host(self, timeout: float) -> list[Leftover]:
        try:
            return _leftovers(self._host.close(timeout))
        except Exception as error:  # noqa: BLE001 - reported as a leftover
            return [Leftover("scheduler", self.name, describe_error(error))]

    def _call_before_close(self) -> list[Leftover]:
        failed = []
        while self._before_close:
            try:
                self._before_close.pop()()
            except Exception as error:  # noqa: BLE001 - reported as a leftover
                failed.append(Leftover("step of closing", self.name, describe_error(error)))
        return failed

    def hurry(self) -> None:
        """Shorten what is left of a close that is under way: little time for each step. Returns at once."""
        self.loop.add_callback(self._controller.closing.hurry)

    async def close_async(self) -> None:
        """Do the same as `close`, for coroutines."""
        if not self._calls.on_loop():
            await asyncio.to_thread(self.close)
            return
        if self.status is Status.closed:
            return
        self._reject_new_calls()
        leftovers = await self._stop_units()
        try:
            closed = self._host.close()
            if inspect.isawaitable(closed):
                # A watched host limits each of its steps itself.
                limit = None if isinstance(self._host, WatchedHost) else self._close_timeout
                closed = await asyncio.wait_for(closed, limit)
            leftovers += _leftovers(closed)
        except Exception as error:  # noqa: BLE001 - reported as a leftover
            leftovers.append(Leftover("scheduler", self.name, describe_error(error)))
        self._finish_close(leftovers)

    def _mark_closed_in_fork(self) -> None:
        """Count as closed, in a fork of the process that owns this cluster."""
        self.status = Status.closed
        if isinstance(self._host, SpecCluster):
            # Dask would wait for its event loop at the end of the fork, for ten seconds.
            self._host.shutdown_on_close = False
            if isinstance(self._host.scheduler, Scheduler):
                leave_directory(self._host.scheduler)
        # A thread that does not exist in the fork may hold the lock.
        self._close_lock = threading.Lock()
        self._calls.mark_closed_in_fork()

    def _reject_new_calls(self) -> None:
        self.status = Status.closing
        self._calls.close()

    async def _stop_units(self) -> list[Leftover]:
        """Stop every unit. Concurrent calls, and repeated ones after Ctrl-C, wait for the first."""
        if self._close_task is None:
            self._close_task = asyncio.ensure_future(self._close_controller())
        return list(await asyncio.shield(self._close_task))

    async def _close_controller(self) -> list[Leftover]:
        try:
            leftovers = await contained(self._controller.close())
        except Exception as error:  # noqa: BLE001 - reported as a leftover; the scheduler must be closed, too
            leftovers = [Leftover("step of closing", self.name, describe_error(error))]
        if not self._controller.scheduler.is_up or not await self._does_scheduler_answer():
            # The host would try to reach the scheduler for as long as Dask's configuration says.
            await self._host.scheduler_comm.close_rpc()
        return leftovers

    async def _does_scheduler_answer(self) -> bool:
        """Return whether the scheduler answers now: it may have ended after its last answer."""
        try:
            await asyncio.wait_for(contained(self._host.scheduler_comm.echo(data=0)), _MAX_ECHO)
        except Exception:  # noqa: BLE001 - whatever keeps it from answering
            return False
        return True

    def _finish_close(self, leftovers: list[Leftover]) -> None:
        if self.status is Status.closed:
            return
        for callback in self._on_closed:
            try:
                callback()
            except Exception as error:  # noqa: BLE001 - reported as a leftover
                leftovers.append(Leftover("step of closing", self.name, describe_error(error)))
        self.status = Status.closed
        _open_clusters.discard(self)
        if leftovers:
            raise LeftoverError(self.name, leftovers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close_async()


def _leftovers(closed: Any) -> list[Leftover]:
    """Return what a host says that closing it has left; Dask's own clusters say nothing, or some other object."""
    return [left for left in closed if isinstance(left, Leftover)] if closed else []


_MAX_ECHO = 5.0
"""Seconds that a scheduler may take to answer when its cluster is closed."""

_closing_hosts: set[asyncio.Future[Any]] = set()


@contextlib.contextmanager
def noting_leftovers(error: BaseException) -> Iterator[None]:
    """Note with an error what closing because of it leaves behind; the error itself matters more."""
    try:
        yield
    except LeftoverError as left:
        error.add_note(str(left))


def _close_later(host: Host) -> None:
    """Close a host on its own event loop, where nothing can wait for it."""
    closing = host.close()
    if inspect.isawaitable(closing):
        task = asyncio.ensure_future(closing)
        _closing_hosts.add(task)
        task.add_done_callback(_closing_hosts.discard)


_open_clusters: set[ClosingCluster] = set()


def _close_all() -> None:
    """Close what a program left open. The program ends, so errors can only be printed."""
    for cluster in list(_open_clusters):
        try:
            cluster.close()
        except Exception as error:  # noqa: BLE001 - printed; the next cluster must be closed, too
            if sys.stderr is not None:  # print() would write to stdout
                print(f"scalable: {error}", file=sys.stderr)  # logging may be shut down by now


def _forget_all_in_fork() -> None:
    """Leave clusters to the process that this one is a fork of, because their loops do not run here."""
    while _open_clusters:
        _open_clusters.pop()._mark_closed_in_fork()


os.register_at_fork(after_in_child=_forget_all_in_fork)

# Run before the interpreter refuses new threads, which backends need to stop their units: atexit handlers run after
# that (Lib/threading.py, _shutdown). There is no public name for it; where it is missing, atexit is the next best.
getattr(threading, "_register_atexit", atexit.register)(_close_all)
