"""A host whose scheduler a native system runs elsewhere: `RemoteHost`, and what a provider writes for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from distributed import rpc
from distributed.security import Security
from distributed.utils import LoopRunner

from scalable.cluster.events import EventLog, current_log
from scalable.cluster.grouped import GroupedCluster
from scalable.cluster.host import SchedulerState
from scalable.cluster.port import Backend, Explanation, GroupSpec, Leftover, Phase, Reason
from scalable.errors import LeftoverError, SchedulerStartError, describe_error

if TYPE_CHECKING:
    from tornado.ioloop import IOLoop

__all__ = ["RemoteHost", "RemoteScheduler", "build_remote_cluster"]

T = TypeVar("T")

QUEUE_REASONS = frozenset({Reason.PRIORITY, Reason.RESOURCES, Reason.QUOTA, Reason.CAPACITY})
"""Reasons to be pending that are no part of a start, which has a limit."""

CALL_TIMEOUT = 60.0
"""Seconds for one question to the native system."""

CONNECT_TIMEOUT = 10.0
"""Seconds in which a scheduler that runs must answer, before it is asked again."""


class RemoteScheduler(Protocol):
    """A scheduler in a native system, as a provider implements it: coroutines on the host's event loop.

    Blocking work belongs in a thread, and what is said of `Backend.launch` holds here, too: a call that is given up may
    not create anything later that `stop` and `remove` do not find.
    """

    async def start(self) -> None:
        """Request the scheduler, and what it needs, from the native system; return when that has accepted it."""
        ...

    async def state(self) -> SchedulerState:
        """Return its state. An exception means that it is not known now."""
        ...

    async def connect(self) -> str:
        """Return the address at which this process reaches it, once it runs; perhaps through a forwarded port.

        Raises
        ------
        OSError
            Not yet; it is called again.
        """
        ...

    async def stop(self) -> Sequence[Leftover]:
        """Remove the scheduler, also one whose start was given up; return what could not be removed."""
        ...

    async def remove(self) -> Sequence[Leftover]:
        """Remove what scheduler and workers stood on, such as networks, roles and secrets. Called last."""
        ...


class RemoteHost:
    """The engine's host for a scheduler elsewhere: its event loop, the way to it, its state and its end.

    Nothing exists before `start`. Whoever calls it must call `close` after any exception, as `build_remote_cluster`
    does.

    Parameters
    ----------
    scheduler : RemoteScheduler
        The scheduler.
    name : str
        The cluster's name, for errors.
    security : Security, optional
        TLS configuration of the client. Without it, anyone who can reach the scheduler can run code there.
    dashboard_link : str
        The URL of the dashboard; empty where there is none.
    start_timeout : float
        Seconds for the start. Time in a queue, or without capacity, is not counted.
    close_timeout : float
        Seconds for each of the two steps of closing.
    poll : float
        Seconds between two questions for its state during the start.
    """

    def __init__(
        self,
        scheduler: RemoteScheduler,
        *,
        name: str,
        security: Security | None = None,
        dashboard_link: str = "",
        start_timeout: float = 600.0,
        close_timeout: float = 120.0,
        poll: float = 1.0,
    ) -> None:
        self.name = name
        self.security = security or Security()
        self.scheduler_address = ""
        self.scheduler_comm: Any = None
        self.dashboard_link = dashboard_link
        self.loop: IOLoop | None = None
        self._scheduler = scheduler
        self._start_timeout, self._close_timeout, self._poll = start_timeout, close_timeout, poll
        self._runner = LoopRunner(asynchronous=False)
        self._events: EventLog = current_log()
        self._starting: asyncio.Task[Any] | None = None
        self._closing: Future[list[Leftover]] | None = None

    # -- Start

    def start(self) -> None:
        """Start the scheduler, and return when it answers. Its progress is recorded as events.

        Raises
        ------
        SchedulerStartError
            It has ended, or does not answer in time; the error has the native reason.
        """
        self._runner.start()
        self.loop = self._runner.loop
        call = self._send(self._start())
        try:
            call.result()
        except BaseException:
            call.cancel()  # after Ctrl-C, which ends only the wait
            raise

    async def _start(self) -> None:
        self._starting = asyncio.current_task()
        try:
            await asyncio.wait_for(self._scheduler.start(), self._start_timeout)
        except TimeoutError as error:
            problem = Explanation(Reason.NETWORK, "the native system does not answer")
            raise SchedulerStartError(self.name, problem) from error
        # Once, because Dask writes the keys to a directory each time.
        connection_args = self.security.get_connection_args("client")
        waited = 0.0
        while True:
            asked_at = asyncio.get_running_loop().time()
            state = await self._start_state()
            if state.phase is Phase.GONE:
                raise SchedulerStartError(self.name, state.explanation)
            if state.phase is Phase.RUNNING:
                no_answer = await self._try_to_connect(connection_args)
                if no_answer is None:
                    self._events.record("", "the scheduler answers")
                    return
                summary = f"it runs, but does not answer yet: {describe_error(no_answer)}"
                why = replace(state.explanation, reason=Reason.NETWORK, summary=summary)
                state = replace(state, explanation=why)
            self._events.record("", f"scheduler: {state.explanation.summary}")
            await asyncio.sleep(self._poll)
            if state.explanation.reason not in QUEUE_REASONS:
                waited += asyncio.get_running_loop().time() - asked_at
            if waited > self._start_timeout:
                summary = f"not within {self._start_timeout:g} s; {state.explanation.summary}"
                problem = replace(state.explanation, summary=summary)
                raise SchedulerStartError(self.name, problem)

    async def _start_state(self) -> SchedulerState:
        try:
            return await self.scheduler_state()
        except Exception as error:  # noqa: BLE001 - not known now; the time for the start is limited
            summary = f"its state is not known: {describe_error(error)}"
            return SchedulerState(Phase.PENDING, Explanation(Reason.NETWORK, summary))

    async def _try_to_connect(self, connection_args: dict[str, Any]) -> Exception | None:
        """Connect to the scheduler; return the error where it does not answer yet."""
        try:
            await asyncio.wait_for(self._connect(connection_args), CONNECT_TIMEOUT)
        # Tornado raises ValueError where whoever has accepted a connection breaks it before TLS begins, as a forwarder
        # does whose other end does not answer yet.
        except (OSError, ValueError) as error:
            return error
        return None

    async def _connect(self, connection_args: dict[str, Any]) -> None:
        address = await self._scheduler.connect()
        async with rpc(address, timeout=CONNECT_TIMEOUT, connection_args=connection_args) as way:
            await way.identity(n_workers=0)
        self.scheduler_address = address
        self.scheduler_comm = rpc(address, connection_args=connection_args)

    async def scheduler_state(self) -> SchedulerState:
        """Return the state of the scheduler in the native system."""
        return await asyncio.wait_for(self._scheduler.state(), CALL_TIMEOUT)

    # -- End

    def close(self, timeout: float | None = None) -> Any:
        """Remove the scheduler, then what it stood on; return what could not be removed, as a list of `Leftover`.

        Idempotent. On the event loop's own thread, it returns an awaitable of that list.

        Parameters
        ----------
        timeout : float, optional
            Not used: each step has `close_timeout` seconds.
        """
        if self.loop is None:
            return []
        if self._is_on_loop():
            return self._close_on_loop()
        if self._closing is None:
            self._closing = self._send(self._close())
        # Not cancelled after Ctrl-C: a second call waits for the same end.
        leftovers = self._closing.result()
        self._runner.stop()
        return leftovers

    async def _close_on_loop(self) -> list[Leftover]:
        leftovers = await self._close()
        # The loop cannot wait for the end of its own thread.
        threading.Thread(target=self._runner.stop, daemon=True).start()
        return leftovers

    async def _close(self) -> list[Leftover]:
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.wait([self._starting], timeout=self._close_timeout)
        if self.scheduler_comm is not None:
            await self.scheduler_comm.close_rpc()
        stopped = await self._step("scheduler", self._scheduler.stop())
        removed = await self._step("what the cluster stood on", self._scheduler.remove())
        return [*stopped, *removed]

    async def _step(self, what: str, step: Awaitable[Sequence[Leftover]]) -> Sequence[Leftover]:
        try:
            return await asyncio.wait_for(step, self._close_timeout)
        except Exception as error:  # noqa: BLE001 - reported as a leftover, and the next step must be taken
            return [Leftover(what, self.name, describe_error(error))]

    # -- Its event loop

    def _send(self, coro: Any) -> Future[Any]:
        loop: asyncio.AbstractEventLoop = self.loop.asyncio_loop  # type: ignore[union-attr] # of IOLoop's subclass
        return asyncio.run_coroutine_threadsafe(coro, loop)

    def _is_on_loop(self) -> bool:
        try:
            return asyncio.get_running_loop() is self.loop.asyncio_loop  # type: ignore[union-attr]
        except RuntimeError:
            return False


def build_remote_cluster(
    host: RemoteHost,
    make_backend: Callable[[str], Backend],
    groups: Iterable[GroupSpec],
    **options: Any,
) -> GroupedCluster:
    """Start a host and build its cluster; whatever interrupts that, everything is removed again.

    Parameters
    ----------
    host : RemoteHost
        The host, not started yet.
    make_backend : callable
        Returns the backend, from the scheduler's address.
    groups : iterable of GroupSpec
        The groups.
    **options
        As for `GroupedCluster`.

    Returns
    -------
    GroupedCluster
        The cluster, which owns the host.

    Raises
    ------
    SchedulerStartError
        The scheduler did not start.
    VersionMismatchError
        It has other versions than this process.
    """
    try:
        host.start()
        return GroupedCluster(
            host, make_backend(host.scheduler_address), groups, name=host.name, **options
        )
    except BaseException as error:
        _close_after(error, host)
        raise


def _close_after(error: BaseException, host: RemoteHost) -> None:
    """Close a host because of an error, and note there what could not be removed."""
    leftovers = list(host.close())
    if leftovers:
        error.add_note(str(LeftoverError(host.name, leftovers)))
