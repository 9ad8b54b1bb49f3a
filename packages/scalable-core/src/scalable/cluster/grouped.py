"""`GroupedCluster`: one Dask scheduler, and a worker group per component."""

from __future__ import annotations

import asyncio
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from scalable.cluster.controller import GroupController
from scalable.cluster.dask_names import DaskNames
from scalable.cluster.link import RpcLink
from scalable.cluster.port import Explanation, GroupSpec
from scalable.cluster.teardown import noting_leftovers
from scalable.errors import SchedulerLostError

if TYPE_CHECKING:
    from scalable.cluster.adaptive import AdaptivePolicy
    from scalable.cluster.budget import Budget
    from scalable.cluster.history import WorkerSpan
    from scalable.cluster.host import Host
    from scalable.cluster.pace import Pace
    from scalable.cluster.port import Backend
    from scalable.cluster.retry import RetryPolicy

__all__ = ["GroupedCluster"]


class GroupedCluster(DaskNames):
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
        super().__init__(host, name or f"scalable-{uuid.uuid4().hex[:8]}")
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
            with noting_leftovers(error):
                self._close_without_controller()
            raise
        try:
            self._calls.wait(self._start())
        except BaseException as error:
            with noting_leftovers(error):
                self.close()
            raise
        self._mark_running()

    async def _start(self) -> None:
        if (3, 12) <= sys.version_info < (3, 12, 3):
            # These start no thread once the main thread has ended (https://github.com/python/cpython/issues/113964),
            # when clusters that were left open are closed: backends find some in `asyncio.to_thread`.
            both = threading.Barrier(2)
            await asyncio.gather(*(asyncio.to_thread(both.wait, 60) for _ in range(2)))
        await self._controller.start()

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

    def explain(self, tag: str | None = None) -> dict[str, Explanation]:
        """Return why workers are missing: an explanation for each group (or for `tag`) that lacks some."""
        return self._calls.wait(self._controller.explain(tag))

    async def explain_async(self, tag: str | None = None) -> dict[str, Explanation]:
        """Do the same as `explain`, for coroutines."""
        return await self._calls.wait_async(self._controller.explain(tag))

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
