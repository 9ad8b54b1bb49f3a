"""`GroupedCluster`: one Dask scheduler, and a worker group per component."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import html
import inspect
import os
import pkgutil
import sys
import threading
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from distributed.core import Status

from scalable.cluster.calls import LoopCalls
from scalable.cluster.controller import GroupController
from scalable.cluster.dashboard import INSTALL, has_dashboard, link_that_opens
from scalable.cluster.events import Event
from scalable.cluster.host import WatchedHost
from scalable.cluster.link import RpcLink
from scalable.cluster.notebook import groups_table, show_live
from scalable.cluster.pace import Pace
from scalable.cluster.port import Explanation, GroupSpec, GroupStatus, Leftover
from scalable.errors import (
    AmbiguousScaleError,
    ClusterClosedError,
    LeftoverError,
    SchedulerLostError,
    describe_error,
)

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security
    from tornado.ioloop import IOLoop

    from scalable.cluster.adaptive import AdaptivePolicy
    from scalable.cluster.budget import Budget
    from scalable.cluster.history import WorkerSpan
    from scalable.cluster.host import Host
    from scalable.cluster.port import Backend
    from scalable.cluster.retry import RetryPolicy

__all__ = ["GroupedCluster"]


class GroupedCluster:
    """A Dask cluster whose workers come in groups, each made for one component.

    Joins a host (which has the scheduler), a backend (which starts units) and a controller (which keeps the groups at
    their wanted counts). Pass it to ``distributed.Client`` or `scalable.client.ScalableClient` like any cluster.

    Each method works from any thread except the event loop's own, and has a twin named ``…_async`` that works from any
    coroutine.

    Parameters
    ----------
    host : Host
        The scheduler, without workers. The cluster owns it, and closes it at the end, or if this raises (on the host's
        own event loop, which cannot wait for it, soon after).
    backend : Backend
        Starts and stops units.
    groups : iterable of GroupSpec
        The groups. Tasks without a tag count for the first.
    name : str, optional
        The cluster's name in messages.
    max_workers : int, optional
        Cap on the units of all groups together.
    policy, retry, pace : optional
        How the controller adapts, how it retries, and its intervals and timeouts.
    orphan_timeout : float
        Seconds after which the scheduler closes itself, if neither this process nor any client is connected to it any
        more; 0 for never.
    on_closed : iterable of callable, optional
        Called once workers and scheduler have ended, for instance to remove keys.

    Examples
    --------
    Providers build it; users have it as ``session.cluster``::

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
        orphan_timeout: float = 900.0,
        on_closed: Iterable[Callable[[], object]] = (),
    ) -> None:
        self.name = name or f"scalable-{uuid.uuid4().hex[:8]}"
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
        try:
            self._on_closed += on_closed
            self._controller = GroupController(
                backend,
                RpcLink(host, orphan_timeout),
                groups,
                name=self.name,
                max_workers=max_workers,
                policy=policy,
                retry=retry,
                pace=pace,
            )
            self._close_timeout = self._controller.pace.close_timeout
        except BaseException as error:
            with _noting_leftovers(error):
                self._close_without_controller()
            raise
        try:
            self._calls.wait(self._start())
        except BaseException as error:
            with _noting_leftovers(error):
                self.close()
            raise
        self.status = Status.running
        _open_clusters.add(self)

    async def _start(self) -> None:
        if (3, 12) <= sys.version_info < (3, 12, 3):
            # These start no thread once the main thread has ended (https://github.com/python/cpython/issues/113964),
            # when clusters that were left open are closed: backends find some in `asyncio.to_thread`.
            both = threading.Barrier(2)
            await asyncio.gather(*(asyncio.to_thread(both.wait, 60) for _ in range(2)))
        await self._controller.start()

    # -- The interface that Dask's client expects of a cluster

    @property
    def scheduler_address(self) -> str:
        """The scheduler's address for clients and workers."""
        return self._host.scheduler_address

    @property
    def security(self) -> Security:
        """TLS configuration for connections to the scheduler."""
        return self._host.security

    @property
    def dashboard_link(self) -> str:
        """The URL of the dashboard; empty where there is none, which `dashboard_problem` explains."""
        link = self._host.dashboard_link
        if isinstance(self._host, WatchedHost):
            return link
        return link_that_opens(link, self.scheduler_address) if has_dashboard() else ""

    @property
    def dashboard_problem(self) -> str:
        """Why there is no dashboard, and what to do; empty where there is one."""
        link = self._host.dashboard_link
        if not link:
            return "it is switched off, or this provider has none"
        if isinstance(self._host, WatchedHost) or self.dashboard_link:
            return ""
        return f"nothing listens at {link}" if has_dashboard() else INSTALL

    @property
    def scheduler_comm(self) -> Any:
        """RPC to the scheduler, to be used on `loop`."""
        return self._host.scheduler_comm

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

    @property
    def asynchronous(self) -> bool:
        """Whether this is the event loop's own thread, on which methods cannot wait."""
        return self._calls.on_loop()

    def sync(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a coroutine function on `loop`, and return its result; on the loop's own thread, return the coroutine."""
        coro = func(*args, **kwargs)
        return coro if self.asynchronous else self._calls.wait(coro)

    @property
    def scheduler_info(self) -> dict[str, Any]:
        """What the scheduler says of itself and of its workers, by address: now, not as of some earlier message.

        Not to be used on the event loop's own thread.
        """
        info: dict[str, Any] = self._calls.wait(self._identity())
        return info

    async def _identity(self) -> Any:
        return await self.scheduler_comm.identity(n_workers=-1)

    def get_client(self) -> Client:
        """Return the current client, if it is one of this cluster, else a new `ScalableClient`."""
        from distributed import Client

        try:
            current: Client | None = Client.current()
        except ValueError:
            current = None
        if current is not None and current.cluster is self:
            return current
        # By its name, because it is made for clusters, and not the other way around.
        made: Client = pkgutil.resolve_name("scalable.client:ScalableClient")(self)
        return made

    def wait_for_workers(self, n_workers: int, timeout: float | None = None) -> None:
        """Return when all groups together have `n_workers` that take tasks; `wait_for_group` waits for one group.

        Parameters
        ----------
        n_workers : int
            Workers.
        timeout : float, optional
            Seconds; None waits until the workers are there, or cannot be any more.

        Raises
        ------
        TimeoutError
            It took longer. The error says what the groups wait for.
        GroupFailedError
            A group has failed, without which there are fewer.
        SchedulerLostError
            The scheduler is gone.
        ClusterClosedError
            The cluster was closed meanwhile.
        ValueError
            The number is not positive.
        """
        self._calls.wait(self._controller.wait_for_workers(n_workers, timeout))

    async def wait_for_workers_async(self, n_workers: int, timeout: float | None = None) -> None:
        """Do the same as `wait_for_workers`, for coroutines."""
        await self._calls.wait_async(self._controller.wait_for_workers(n_workers, timeout))

    def get_logs(
        self, cluster: bool = True, scheduler: bool = True, workers: bool = True
    ) -> dict[str, str]:
        """Return logs by name, as Dask's clusters do: ``Cluster``, ``Scheduler``, and each worker's.

        Parameters
        ----------
        cluster, scheduler, workers : bool
            Which ones. Those of workers are the tails of their logs, as `logs` returns them.
        """
        found: dict[str, str] = {}
        if cluster:
            found["Cluster"] = "\n".join(f"{e.tag or 'cluster'}: {e.text}" for e in self.events)
        if scheduler:
            found["Scheduler"] = self._calls.wait(self._scheduler_log())
        return {**found, **self.logs()} if workers else found

    async def _scheduler_log(self) -> str:
        return "\n".join(line for _, line in await self.scheduler_comm.get_logs())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close_async()

    def __await__(self) -> Generator[Any, Any, Self]:
        # distributed.Client awaits its cluster before it connects.
        return self
        yield

    # -- Groups

    @property
    def groups(self) -> Mapping[str, GroupStatus]:
        """The counts of each group by tag, as of the last turn."""
        return self._controller.statuses

    @property
    def events(self) -> tuple[Event, ...]:
        """The most recent events, oldest first."""
        return tuple(self._controller.events)

    @property
    def max_workers(self) -> int | None:
        """Cap on the units of all groups together."""
        return self._controller.max_workers

    def add_group(self, spec: GroupSpec) -> None:
        """Add a group, which the backend must know. It has no workers yet.

        Raises
        ------
        ValueError
            There is already a group with that tag.
        """
        self._calls.wait(self._controller.add_group(spec))

    def scale_groups(self, counts: Mapping[str, int]) -> None:
        """Record how many workers some groups should have, and return.

        Missing workers are launched. Surplus ones are drained: running tasks finish, results move, then the worker is
        retired. A group that was adaptive keeps this count; one that had failed is tried again.

        Parameters
        ----------
        counts : mapping of str to int
            Workers by tag.

        Raises
        ------
        UnknownTagError
            There is no such group.
        ValueError
            A count is negative, or all together exceed `max_workers`.
        """
        self._calls.wait(self._controller.scale_groups(counts))

    async def scale_groups_async(self, counts: Mapping[str, int]) -> None:
        """Do the same as `scale_groups`, for coroutines."""
        await self._calls.wait_async(self._controller.scale_groups(counts))

    def adapt_groups(
        self,
        ranges: Mapping[str, tuple[int, int]],
        policies: Mapping[str, AdaptivePolicy] | None = None,
    ) -> None:
        """Record ranges within which some groups follow their own demand, and return.

        Parameters
        ----------
        ranges : mapping of str to (int, int)
            Minimum and maximum by tag.
        policies : mapping of str to AdaptivePolicy, optional
            How quickly each of these groups follows demand; one that is left out has the cluster's policy. By default,
            each keeps the one that it has.

        Raises
        ------
        UnknownTagError
            There is no such group.
        ValueError
            A range is empty, or the minima together exceed `max_workers`.
        """
        self._calls.wait(self._controller.adapt_groups(ranges, policies))

    async def adapt_groups_async(
        self,
        ranges: Mapping[str, tuple[int, int]],
        policies: Mapping[str, AdaptivePolicy] | None = None,
    ) -> None:
        """Do the same as `adapt_groups`, for coroutines."""
        await self._calls.wait_async(self._controller.adapt_groups(ranges, policies))

    def set_max_workers(self, cap: int | None) -> None:
        """Cap the units of all groups together, draining ones included; None removes the cap."""
        self._calls.wait(self._controller.set_max_workers(cap))

    async def set_max_workers_async(self, cap: int | None) -> None:
        """Do the same as `set_max_workers`, for coroutines."""
        await self._calls.wait_async(self._controller.set_max_workers(cap))

    def wait_for_group(self, tag: str, n: int = 1, timeout: float | None = None) -> None:
        """Return when a group has `n` workers.

        Parameters
        ----------
        tag : str
            The group.
        n : int
            Workers that take tasks.
        timeout : float, optional
            Seconds; None waits until the workers are there, or the group has failed.

        Raises
        ------
        GroupFailedError
            The group has failed, and has fewer.
        GroupTimeoutError
            It took longer than `timeout`.
        UnknownTagError
            There is no such group.
        ValueError
            The group is not to have as many workers.
        SchedulerLostError
            The scheduler is gone, or has not answered for too long.
        ClusterClosedError
            The cluster was closed meanwhile.
        """
        self._calls.wait(self._controller.wait_for_group(tag, n, timeout))

    async def wait_for_group_async(
        self, tag: str, n: int = 1, timeout: float | None = None
    ) -> None:
        """Do the same as `wait_for_group`, for coroutines."""
        await self._calls.wait_async(self._controller.wait_for_group(tag, n, timeout))

    async def wait_for_scheduler_async(self) -> None:
        """Return once the scheduler has answered anew.

        Raises
        ------
        SchedulerLostError
            It is lost.
        ClusterClosedError
            The cluster was closed meanwhile.
        """
        await self._calls.wait_async(self._controller.wait_for_scheduler())

    def check_scheduler(self) -> None:
        """Raise SchedulerLostError if the scheduler is known to be lost."""
        self._controller.check_scheduler()

    def on_scheduler_lost(self, callback: Callable[[SchedulerLostError], object]) -> None:
        """Call this once, on the event loop, if the scheduler is lost."""
        self.loop.add_callback(self._controller.on_scheduler_lost, callback)

    def before_close(self, callback: Callable[[], object]) -> None:
        """Call this once before `close` stops anything, also at the end of the interpreter; not on the event loop."""
        self._before_close.append(callback)

    def explain(self, tag: str | None = None) -> dict[str, Explanation]:
        """Return why workers are missing: an explanation for each group (or for `tag`) that lacks some."""
        return self._calls.wait(self._controller.explain(tag))

    async def explain_async(self, tag: str | None = None) -> dict[str, Explanation]:
        """Do the same as `explain`, for coroutines."""
        return await self._calls.wait_async(self._controller.explain(tag))

    def logs(self, tag: str | None = None) -> dict[str, str]:
        """Return the tail of each unit's log, by unit id, for all groups or one."""
        return self._calls.wait(self._controller.logs(tag))

    async def logs_async(self, tag: str | None = None) -> dict[str, str]:
        """Do the same as `logs`, for coroutines."""
        return await self._calls.wait_async(self._controller.logs(tag))

    def take_worker_changes(self) -> list[WorkerSpan]:
        """Return the workers that have changed since the last call, also after `close`: for the record of a run."""
        return self._controller.history.take()

    def keep_logs(self) -> None:
        """Keep what the logs of all workers have now, where the cluster was built to keep logs."""
        self._calls.wait(self._controller.keep_logs())

    async def keep_logs_async(self) -> None:
        """Do the same as `keep_logs`, for coroutines."""
        await self._calls.wait_async(self._controller.keep_logs())

    def scale(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise AmbiguousScaleError, because it does not specify a group."""
        raise AmbiguousScaleError("scale(n)", self._example("scale_groups", "2"))

    def adapt(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise AmbiguousScaleError, because it does not specify a group."""
        raise AmbiguousScaleError("adapt()", self._example("adapt_groups", "(0, 4)"))

    def _example(self, method: str, value: str) -> str:
        tag = next(iter(self.groups), "tag")
        return f"{method}({{{tag!r}: {value}}})"

    # -- Closing

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

    def set_budget(self, budget: Budget, spent_seconds: float = 0.0) -> None:
        """Limit what the cluster may use; what exceeds a limit is refused from then on, or ends as the budget says.

        Parameters
        ----------
        budget : Budget
            The limits, and the prices for those on cost.
        spent_seconds : float
            Since when the scheduler costs money.

        Raises
        ------
        ValueError
            There are limits already: nothing raises them.
        """
        self._calls.wait(self._controller.set_budget(budget, spent_seconds))

    @property
    def usage(self) -> dict[str, Any]:
        """What was used so far, as of the last turn: the cost, the limits, the one reached, and what followed.

        With it, how long workers usually took to start.
        """
        groups = self._controller.groups
        starts = {tag: g.starts.usual for tag, g in groups.items() if g.starts.has_measured}
        seconds = {
            tag: {"queue": round(each.queue, 3), "boot": round(each.boot or 0.0, 3)}
            for tag, each in starts.items()
        }
        return {**self._controller.meter.to_dict(), "starts": seconds}

    @property
    def worker_hours(self) -> dict[str, float]:
        """How many hours the workers of each group have had machines, together; what is not known counts."""
        now = self._controller.clock()
        groups = self._controller.groups
        return {tag: group.worker_seconds(now) / 3600 for tag, group in groups.items()}

    def hurry(self) -> None:
        """Let a close that is under way take little time for each of its steps; returns at once."""
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
        leftovers = await self._controller.close()
        if not self._controller.scheduler.is_up or not await self._does_scheduler_answer():
            # The host would try to reach the scheduler for as long as Dask's configuration says.
            await self._host.scheduler_comm.close_rpc()
        return leftovers

    async def _does_scheduler_answer(self) -> bool:
        """Return whether the scheduler answers now: it may have ended after its last answer."""
        try:
            await asyncio.wait_for(self._host.scheduler_comm.echo(data=0), _MAX_ECHO)
        except (OSError, TimeoutError):
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

    def __repr__(self) -> str:
        groups = ", ".join(f"{tag} {s.running}/{s.wanted}" for tag, s in self.groups.items())
        return f"<GroupedCluster {self.name!r} {self.status.name}: {groups}>"

    def _repr_html_(self) -> str:
        # Dask's client includes this in its own representation in a notebook.
        link = self.dashboard_link
        shown = html.escape(link)
        facts = [
            ("Status", html.escape(self.status.name)),
            ("Scheduler", html.escape(self.scheduler_address)),
            (
                "Dashboard",
                f'<a href="{shown}" target="_blank">{shown}</a>'
                if link
                else f"none: {html.escape(self.dashboard_problem)}",
            ),
        ]
        head = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in facts)
        return (
            f"<div><h3>GroupedCluster {html.escape(self.name)}</h3><table>{head}</table>"
            f"{groups_table(self.groups)}</div>"
        )

    def _live_html(self) -> tuple[str, bool]:
        return self._repr_html_(), self.status.name == "closed"

    def _ipython_display_(self) -> None:
        show_live(self)


def _leftovers(closed: Any) -> list[Leftover]:
    """Return what a host says that closing it has left; Dask's own clusters say nothing, or some other object."""
    return [left for left in closed if isinstance(left, Leftover)] if closed else []


_MAX_ECHO = 5.0
"""Seconds that a scheduler may take to answer when its cluster is closed."""

_closing_hosts: set[asyncio.Future[Any]] = set()


@contextlib.contextmanager
def _noting_leftovers(error: BaseException) -> Iterator[None]:
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


_open_clusters: set[GroupedCluster] = set()


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
