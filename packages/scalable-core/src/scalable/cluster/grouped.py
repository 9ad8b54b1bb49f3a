"""`GroupedCluster`: one Dask scheduler, and a worker group per component."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import html
import inspect
import os
import sys
import threading
import uuid
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from distributed.core import Status

from scalable.cluster.controller import GroupController
from scalable.cluster.events import Event
from scalable.cluster.link import RpcLink
from scalable.cluster.pace import Pace
from scalable.cluster.port import Explanation, GroupSpec, GroupStatus, Leftover
from scalable.errors import AmbiguousScaleError, ClusterClosedError, LeftoverError, describe_error

if TYPE_CHECKING:
    from distributed.security import Security
    from tornado.ioloop import IOLoop

    from scalable.cluster.adaptive import AdaptivePolicy
    from scalable.cluster.host import Host
    from scalable.cluster.port import Backend
    from scalable.cluster.retry import RetryPolicy

__all__ = ["GroupedCluster"]

T = TypeVar("T")


class GroupedCluster:
    """A Dask cluster whose workers come in groups, each made for one component.

    Joins a host (where the scheduler lives), a backend (who starts units) and a controller (who keeps the groups as
    they are wanted). Give it to ``distributed.Client`` or `scalable.client.ScalableClient` like any cluster.

    Each method works from any thread but the event loop's own, and has a twin named ``…_async`` that works from any
    coroutine.

    Parameters
    ----------
    host : Host
        The scheduler, without workers. The cluster owns it: it is closed with the cluster, and also if this raises.
    backend : Backend
        Who starts and ends units.
    groups : iterable of GroupSpec
        The groups. Tasks without a tag count for the first.
    name : str, optional
        How people call it.
    max_workers : int, optional
        Cap on the units of all groups together.
    policy, retry, pace : optional
        How the controller adapts, replaces and looks.
    on_closed : iterable of callable, optional
        What else there is to do once workers and scheduler have ended, such as removing keys.

    Examples
    --------
    Providers build it; users meet it as ``session.cluster``::

        cluster.scale_groups({"gcam": 4})
        cluster.wait_for_group("gcam", 2)
        cluster.groups["gcam"].running
    """

    def __init__(
        self,
        host: Host,
        backend: Backend,
        groups: Iterable[GroupSpec],
        *,
        name: str | None = None,
        max_workers: int | None = None,
        policy: AdaptivePolicy | None = None,
        retry: RetryPolicy | None = None,
        pace: Pace | None = None,
        on_closed: Iterable[Callable[[], object]] = (),
    ) -> None:
        self.name = name or f"scalable-{uuid.uuid4().hex[:8]}"
        self.status = Status.created
        self._host = host
        self._refuse_on_loop()
        self._on_closed = list(on_closed)
        self._close_timeout = (pace or Pace()).close_timeout
        self._close_lock = threading.Lock()
        self._calls_lock = threading.Lock()
        self._calls: set[Future[Any]] = set()
        self._close_task: asyncio.Task[list[Leftover]] | None = None
        self._controller = GroupController(
            backend,
            RpcLink(host),
            groups,
            name=self.name,
            max_workers=max_workers,
            policy=policy,
            retry=retry,
            pace=pace,
        )
        try:
            self._wait(self._controller.start())
        except BaseException:
            with contextlib.suppress(LeftoverError):  # the cause of the failure matters more
                self.close()
            raise
        self.status = Status.running
        _open_clusters.add(self)

    # -- What Dask's client asks of a cluster

    @property
    def scheduler_address(self) -> str:
        """Where clients and workers find the scheduler."""
        return self._host.scheduler_address

    @property
    def security(self) -> Security:
        """How to talk to the scheduler."""
        return self._host.security

    @property
    def dashboard_link(self) -> str:
        """Where people find the dashboard; empty where there is none."""
        return self._host.dashboard_link

    @property
    def scheduler_comm(self) -> Any:
        """RPC to the scheduler, to be used on `loop`."""
        return self._host.scheduler_comm

    @property
    def loop(self) -> IOLoop:
        """The event loop that everything runs on."""
        loop = self._host.loop
        if loop is None:
            raise ClusterClosedError(self.name)
        return loop

    def __await__(self) -> Generator[Any, Any, Self]:
        # distributed.Client awaits its cluster before it connects.
        return self
        yield

    # -- Groups

    @property
    def groups(self) -> Mapping[str, GroupStatus]:
        """Each group at a glance, by tag, as of the last turn."""
        return self._controller.statuses

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened to the groups so far, oldest first."""
        return tuple(self._controller.events)

    @property
    def max_workers(self) -> int | None:
        """Cap on the units of all groups together."""
        return self._controller.max_workers

    def add_group(self, spec: GroupSpec) -> None:
        """Make room for one more group, which its backend must know; it has no workers as yet.

        Raises
        ------
        ValueError
            There is a group of that tag.
        """
        self._wait(self._controller.add_group(spec))

    def scale_groups(self, counts: Mapping[str, int]) -> None:
        """Record how many workers some groups should have, and return.

        Missing workers are launched; surplus ones finish what they run, hand over their results, and go. A group
        that was adaptive keeps this count; one that had failed gets another try.

        Parameters
        ----------
        counts : mapping of str to int
            Workers by tag.

        Raises
        ------
        UnknownTagError
            There is no such group.
        ValueError
            A count is negative, or all together are above `max_workers`.
        """
        self._wait(self._controller.scale_groups(counts))

    async def scale_groups_async(self, counts: Mapping[str, int]) -> None:
        """Do the same as `scale_groups`, for coroutines."""
        await self._await(self._controller.scale_groups(counts))

    def adapt_groups(self, ranges: Mapping[str, tuple[int, int]]) -> None:
        """Let some groups follow their own demand, each between its minimum and maximum, and return.

        Parameters
        ----------
        ranges : mapping of str to (int, int)
            Minimum and maximum by tag.

        Raises
        ------
        UnknownTagError
            There is no such group.
        ValueError
            A range is empty, or the minima together are above `max_workers`.
        """
        self._wait(self._controller.adapt_groups(ranges))

    async def adapt_groups_async(self, ranges: Mapping[str, tuple[int, int]]) -> None:
        """Do the same as `adapt_groups`, for coroutines."""
        await self._await(self._controller.adapt_groups(ranges))

    def set_max_workers(self, cap: int | None) -> None:
        """Cap the units of all groups together, those on their way out included; None lifts the cap."""
        self._wait(self._controller.set_max_workers(cap))

    async def set_max_workers_async(self, cap: int | None) -> None:
        """Do the same as `set_max_workers`, for coroutines."""
        await self._await(self._controller.set_max_workers(cap))

    def wait_for_group(self, tag: str, n: int = 1, timeout: float | None = None) -> None:
        """Return when a group has `n` workers.

        Parameters
        ----------
        tag : str
            The group.
        n : int
            Workers that take tasks.
        timeout : float, optional
            Seconds; None waits as long as it takes, which a failed group ends.

        Raises
        ------
        GroupFailedError
            The group has failed, and has fewer.
        GroupTimeoutError
            It took longer than `timeout`.
        UnknownTagError
            There is no such group.
        ValueError
            The group is not to have so many.
        ClusterClosedError
            The cluster was closed meanwhile.
        """
        self._wait(self._controller.wait_for_group(tag, n, timeout))

    async def wait_for_group_async(
        self, tag: str, n: int = 1, timeout: float | None = None
    ) -> None:
        """Do the same as `wait_for_group`, for coroutines."""
        await self._await(self._controller.wait_for_group(tag, n, timeout))

    def explain(self, tag: str | None = None) -> dict[str, Explanation]:
        """Say why workers are missing: an explanation for each group (or for `tag`) that lacks some."""
        return self._wait(self._controller.explain(tag))

    async def explain_async(self, tag: str | None = None) -> dict[str, Explanation]:
        """Do the same as `explain`, for coroutines."""
        return await self._await(self._controller.explain(tag))

    def logs(self, tag: str | None = None) -> dict[str, str]:
        """Return the tail of each unit's log, by unit id, for all groups or one."""
        return self._wait(self._controller.logs(tag))

    async def logs_async(self, tag: str | None = None) -> dict[str, str]:
        """Do the same as `logs`, for coroutines."""
        return await self._await(self._controller.logs(tag))

    def scale(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse, because it does not say which group is meant."""
        raise AmbiguousScaleError("scale(n)", self._example("scale_groups", "2"))

    def adapt(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse, because it does not say which group is meant."""
        raise AmbiguousScaleError("adapt()", self._example("adapt_groups", "(0, 4)"))

    def _example(self, method: str, value: str) -> str:
        tag = next(iter(self.groups), "tag")
        return f"{method}({{{tag!r}: {value}}})"

    # -- The end

    def close(self, timeout: float | None = None) -> Any:
        """End every worker and the scheduler, and remove everything that belongs to the cluster.

        Idempotent, bounded in time, goes on past errors. Called on the event loop's own thread, as
        ``distributed.Client.shutdown`` does, it returns an awaitable.

        Parameters
        ----------
        timeout : float, optional
            Seconds for ending the scheduler.

        Raises
        ------
        LeftoverError
            Something could not be removed; it is named.
        """
        if self._on_loop():
            return self.close_async()
        with self._close_lock:
            if self.status is Status.closed:
                return None
            self._reject_new_calls()
            try:
                leftovers = self._send(self._stop_units()).result()
            except RuntimeError as error:
                # The loop is gone already, and the scheduler with it.
                leftovers = [Leftover("cluster", self.name, describe_error(error))]
            try:
                self._host.close(timeout or self._close_timeout)
            except Exception as error:  # noqa: BLE001 - reported as a leftover
                leftovers.append(Leftover("scheduler", self.name, describe_error(error)))
            self._finish_close(leftovers)
        return None

    async def close_async(self) -> None:
        """Do the same as `close`, for coroutines."""
        if not self._on_loop():
            await asyncio.to_thread(self.close)
            return
        if self.status is Status.closed:
            return
        self._reject_new_calls()
        leftovers = await self._stop_units()
        try:
            closing = self._host.close()
            if inspect.isawaitable(closing):
                await asyncio.wait_for(closing, self._close_timeout)
        except Exception as error:  # noqa: BLE001 - reported as a leftover
            leftovers.append(Leftover("scheduler", self.name, describe_error(error)))
        self._finish_close(leftovers)

    def _mark_closed_in_fork(self) -> None:
        """Count as closed, in a fork of the process that this cluster belongs to."""
        self.status = Status.closed
        # Threads that are not here may have held them.
        self._close_lock, self._calls_lock = threading.Lock(), threading.Lock()

    def _reject_new_calls(self) -> None:
        """Let no call in any more, and end those that are under way."""
        with self._calls_lock:
            self.status = Status.closing
        for call in list(self._calls):
            call.cancel()

    async def _stop_units(self) -> list[Leftover]:
        """End every unit. Who comes second, or again after Ctrl-C, waits for what the first one began."""
        if self._close_task is None:
            self._close_task = asyncio.ensure_future(self._controller.close())
        return list(await asyncio.shield(self._close_task))

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

    def __repr__(self) -> str:
        groups = ", ".join(f"{tag} {s.running}/{s.wanted}" for tag, s in self.groups.items())
        return f"<GroupedCluster {self.name!r} {self.status.name}: {groups}>"

    def _repr_html_(self) -> str:
        # Dask's client in a notebook shows its cluster by this.
        return f"<pre>{html.escape(repr(self))}</pre>"

    # -- Threads

    def _on_loop(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._asyncio_loop
        except RuntimeError:
            return False

    def _refuse_on_loop(self) -> None:
        if self._on_loop():
            raise RuntimeError(
                "this would wait for the event loop on its own thread; "
                "await the …_async twin, or call it from another thread"
            )

    @property
    def _asyncio_loop(self) -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = self.loop.asyncio_loop  # type: ignore[attr-defined] # IOLoop's subclass has it
        return loop

    def _call(self, coro: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the cluster's loop, unless it closes."""
        with self._calls_lock:
            if self.status in (Status.closing, Status.closed):
                coro.close()
                raise ClusterClosedError(self.name)
            call = self._send(coro)
            self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return call

    def _send(self, coro: Coroutine[Any, Any, T]) -> Future[T]:
        try:
            return asyncio.run_coroutine_threadsafe(coro, self._asyncio_loop)
        except RuntimeError:  # the loop is closed
            coro.close()
            raise

    def _wait(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the cluster's loop, and wait for it."""
        try:
            self._refuse_on_loop()
        except RuntimeError:
            coro.close()
            raise
        call = self._call(coro)
        try:
            return call.result()
        except CancelledError:
            raise ClusterClosedError(self.name) from None
        except BaseException:
            # Ctrl-C ends the wait; what was waited for must not go on.
            call.cancel()
            raise

    async def _await(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the cluster's loop from a coroutine of whichever loop."""
        call = self._call(coro)
        try:
            return await asyncio.wrap_future(call)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise ClusterClosedError(self.name) from None


_open_clusters: set[GroupedCluster] = set()


def _close_all() -> None:
    """Close what a program left open; it ends now, so that errors can only be told."""
    for cluster in list(_open_clusters):
        try:
            cluster.close()
        except Exception as error:  # noqa: BLE001 - told, and the next cluster is to be closed too
            print(f"scalable: {error}", file=sys.stderr)  # logging may be gone by now


def _forget_all_in_fork() -> None:
    """Leave clusters to the process that this one is a fork of: their loops do not run here, and nothing answers."""
    while _open_clusters:
        _open_clusters.pop()._mark_closed_in_fork()


os.register_at_fork(after_in_child=_forget_all_in_fork)

# Before the interpreter refuses new threads, which backends need to end their units: atexit handlers run after that
# (Lib/threading.py, _shutdown). There is no public name for it; without it, atexit is the next best.
getattr(threading, "_register_atexit", atexit.register)(_close_all)
