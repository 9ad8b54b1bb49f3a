"""Brings every group to its wanted count, and keeps it there.

One turn of the controller observes the native system and the scheduler, then launches what is missing, drains what is
surplus and stops what has left. It is the same for every backend, uses Dask only through `SchedulerLink`, and takes its
time from a clock that tests can control.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from scalable.cluster import explanations
from scalable.cluster.adaptive import AdaptivePolicy
from scalable.cluster.closing import ClosingSteps
from scalable.cluster.draining import Drainer
from scalable.cluster.ends import EndHandler, GroupFailures
from scalable.cluster.events import EventLog
from scalable.cluster.group import Group
from scalable.cluster.launching import Launcher
from scalable.cluster.link import SchedulerLink
from scalable.cluster.member import Observation
from scalable.cluster.native import NativeCalls
from scalable.cluster.pace import Pace
from scalable.cluster.port import Backend, Explanation, GroupSpec, GroupStatus, Leftover
from scalable.cluster.retry import RetryPolicy
from scalable.cluster.status import group_status
from scalable.cluster.targets import check_cap, minimum_counts, update_targets
from scalable.errors import (
    ClusterClosedError,
    GroupFailedError,
    GroupTimeoutError,
    UnknownTagError,
)

__all__ = ["GroupController"]

logger = logging.getLogger("scalable.cluster")


class GroupController:
    """Keeps worker groups at their wanted counts.

    Parameters
    ----------
    backend : Backend
        Starts and stops units.
    link : SchedulerLink
        The scheduler, for workers and demand.
    groups : iterable of GroupSpec
        The groups, in the manifest's order.
    name : str, optional
        The cluster's name in messages.
    max_workers : int, optional
        Cap on the units of all groups together, draining ones included.
    policy : AdaptivePolicy, optional
        How quickly adaptive groups follow demand.
    retry : RetryPolicy, optional
        Retry policy for failed starts and lost workers.
    pace : Pace, optional
        Intervals and timeouts.
    clock : callable, optional
        Seconds, monotonic.
    """

    def __init__(
        self,
        backend: Backend,
        link: SchedulerLink,
        groups: Iterable[GroupSpec],
        *,
        name: str = "cluster",
        max_workers: int | None = None,
        policy: AdaptivePolicy | None = None,
        retry: RetryPolicy | None = None,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.backend = backend
        self.link = link
        self.retry = retry or RetryPolicy()
        self.groups: Mapping[str, Group] = {spec.tag: Group(spec, self.retry) for spec in groups}
        self.max_workers = max_workers
        self.policy = policy or AdaptivePolicy()
        self.pace = pace or Pace()
        self.clock = clock
        self.events = EventLog()
        self.closed = False
        self.statuses: Mapping[str, GroupStatus] = {}
        self._native = NativeCalls(
            backend,
            max_wait=self.pace.tick,
            poll=self.pace.poll,
            max_poll=self.pace.max_poll,
            timeout=self.pace.native_timeout,
            clock=clock,
        )
        self._native_problem: Explanation | None = None
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self._failures = GroupFailures(link, self.events, clock)
        self._ends = EndHandler(
            self._native,
            link,
            self._failures,
            self.events,
            describe_timeout=self.pace.describe_timeout,
            clock=clock,
        )
        self._drainer = Drainer(link, self._native, self.events, self.pace, self._wake.set)
        self._launcher = Launcher(self._native, self._failures, self.events, self.pace, clock)
        self._changed = asyncio.Condition()
        self._loop_task: asyncio.Task[None] | None = None
        self._update_statuses()

    # -- Requests

    async def start(self) -> None:
        """Install the plugin on the scheduler, and begin to take turns."""
        await self.link.start({tag: group.spec.slots for tag, group in self.groups.items()})
        self._loop_task = asyncio.create_task(self._run())

    async def add_group(self, spec: GroupSpec) -> None:
        """Add a group, which has no workers yet."""
        if spec.tag in self.groups:
            raise ValueError(f"there is a worker group {spec.tag!r} already; choose another tag")
        # In a new mapping, because a turn or an `explain` may be iterating over this one, suspended at an await.
        self.groups = {**self.groups, spec.tag: Group(spec, self.retry)}
        self._request_turn()
        await self.link.publish({tag: group.spec.slots for tag, group in self.groups.items()})

    async def scale_groups(self, counts: Mapping[str, int]) -> None:
        """Record fixed counts for some groups, and return. A failed group is tried again."""
        for tag, count in counts.items():
            if count < 0:
                raise ValueError(
                    f"worker group {tag!r} cannot have {count} workers; ask for 0 or more"
                )
            self._group(tag)
        check_cap({**minimum_counts(self.groups), **counts}, self.max_workers)
        for tag, count in counts.items():
            group = self._group(tag)
            group.range, group.wanted = None, count
            await self._failures.clear(group)
        self._request_turn()

    async def adapt_groups(self, ranges: Mapping[str, tuple[int, int]]) -> None:
        """Record ranges within which some groups follow their demand, and return."""
        for tag, (minimum, maximum) in ranges.items():
            if not 0 <= minimum <= maximum:
                raise ValueError(
                    f"worker group {tag!r} cannot adapt between {minimum} and {maximum}; "
                    "give 0 <= minimum <= maximum"
                )
            self._group(tag)
        minima = {tag: low for tag, (low, _) in ranges.items()}
        check_cap({**minimum_counts(self.groups), **minima}, self.max_workers)
        for tag, (minimum, maximum) in ranges.items():
            group = self._group(tag)
            group.range = (minimum, maximum)
            group.wanted = min(max(group.wanted, minimum), maximum)
            group.low_since = None
            await self._failures.clear(group)
        self._request_turn()

    async def set_max_workers(self, cap: int | None) -> None:
        """Cap the units of all groups together."""
        check_cap(minimum_counts(self.groups), cap)
        self.max_workers = cap
        self._request_turn()

    async def wait_for_group(self, tag: str, n: int = 1, timeout: float | None = None) -> None:
        """Return when a group has `n` workers.

        Raises
        ------
        GroupFailedError
            The group has failed, and has fewer.
        GroupTimeoutError
            It took longer than `timeout` seconds.
        ValueError
            The group is not to have as many workers, or no longer.
        ClusterClosedError
            The cluster was closed meanwhile.
        """
        group = self._group(tag)
        try:
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: self._has_workers(group, n))
        except TimeoutError:
            status = self.statuses[tag]
            why = status.detail or "no reason known"
            raise GroupTimeoutError(tag, n, status.running, timeout or 0.0, why) from None

    def _has_workers(self, group: Group, n: int) -> bool:
        if self.statuses[group.spec.tag].running >= n:
            return True
        if group.failure is not None:
            raise GroupFailedError(group.spec.tag, group.failure)
        if self.closed:
            raise ClusterClosedError(self.name)
        most = group.wanted if group.range is None else group.range[1]
        if n > most:
            raise ValueError(
                f"worker group {group.spec.tag!r} is to have {most} workers; scale it before waiting for {n}"
            )
        return False

    async def explain(self, tag: str | None = None) -> dict[str, Explanation]:
        """Return why workers are missing, for each group that lacks some."""
        groups = self.groups if tag is None else {tag: self._group(tag)}
        found = await asyncio.gather(*map(self._explain, groups.values()))
        return {tag: why for tag, why in zip(groups, found, strict=True) if why is not None}

    async def _explain(self, group: Group) -> Explanation | None:
        if group.failure is not None:
            return group.failure
        status = group_status(group, self._native_problem)
        if status.reason is None:
            return None
        if self._native_problem is not None:
            return self._native_problem
        absent = [m for m in group.alive if m.joined_at is None and m.state is not None]
        if absent:
            detail = await self._native.describe_member(absent[0])
            return replace(
                detail,
                reason=status.reason,
                summary=f"{status.running} of {status.wanted} workers run; the others: {status.detail}",
            )
        return group.failures.last_problem or Explanation(status.reason, status.detail)

    async def logs(self, tag: str | None = None) -> dict[str, str]:
        """Return the tail of each unit's log, by unit id."""
        groups = self.groups.values() if tag is None else [self._group(tag)]
        members = [member for group in groups for member in group.members.values()]
        described = await asyncio.gather(*map(self._native.describe_member, members))
        return {m.unit.id: text.log_tail for m, text in zip(members, described, strict=True)}

    # -- Turns

    async def _run(self) -> None:
        while not self.closed:
            try:
                await self.step()
            except Exception as error:
                self.events.record("", f"a turn of the controller failed: {error!r}")
                logger.warning(
                    "a turn of the controller failed; the next one tries again", exc_info=True
                )
            try:
                async with asyncio.timeout(self.pace.tick):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def step(self) -> None:
        """Take one turn."""
        async with self._turn:
            if self.closed:
                return
            seen = await self._observe()
            report = await self.link.report()
            now = self.clock()
            ends = [(g, end) for g in self.groups.values() for end in g.update(seen, report, now)]
            causes = await self._ends.describe_ends(end for _, end in ends)
            for group, end in ends:
                await self._ends.handle_end(group, end, causes)
            await self._ends.explain_deaths(report)
            for group in self.groups.values():
                if seen is not None:
                    await self._ends.handle_overdue_requests(group)
                if group.failure is not None and group.has_healthy(now):
                    await self._failures.clear(group)
            update_targets(self.groups, report.demand, self.policy, self.max_workers, now)
            await self._drainer.drain_expiring(self.groups, now)
            self._drainer.drain_surplus(self.groups)
            await self._drainer.advance(self.groups, now)
            await self._drainer.resume(self.groups, now)
            if not self.closed:
                self._launcher.launch_missing(self.groups, self.max_workers, now)
            await self._launcher.record_launches(self.groups)
            await self._launcher.fail_blocked_groups(self.groups, self.max_workers, now)
            await self._publish()

    async def _observe(self) -> Observation | None:
        """Return an observation of the native system; None where none is due, or it did not answer."""
        busy = any(group.members or group.requests for group in self.groups.values())
        try:
            seen = await self._native.observe(busy)
        except Exception as error:  # noqa: BLE001 - what was known stays true until the next observation
            problem = explanations.explain_failed_observation(error)
            self.events.record("", problem.summary)
            if self._native_problem is None:
                logger.warning("%s", problem.summary)
            self._native_problem = problem
            return None
        if seen is not None:
            self._native_problem = None
        return seen

    # -- Statuses

    def _group(self, tag: str) -> Group:
        try:
            return self.groups[tag]
        except KeyError:
            raise UnknownTagError(tag, self.groups) from None

    def _update_statuses(self) -> None:
        problem = self._native_problem
        self.statuses = {tag: group_status(group, problem) for tag, group in self.groups.items()}

    def _request_turn(self) -> None:
        self._update_statuses()
        self._wake.set()

    async def _publish(self) -> None:
        self._update_statuses()
        async with self._changed:
            self._changed.notify_all()

    # -- The end

    async def close(self) -> list[Leftover]:
        """Take no more turns, stop every unit, sweep, and return what could not be removed.

        Continues past errors. They are recorded as events; if the sweep fails, they are returned.
        """
        self.closed = True
        self._wake.set()
        steps = ClosingSteps(self.pace.close_timeout)
        if self._loop_task is not None:
            await steps.run("the turn under way", self._loop_task)
        # The units of a launch that is still under way must not be missed.
        launched = await steps.run("native calls under way", *self._native.shut_down())
        await steps.run("cancelling tasks", self.link.cancel_all("the cluster was closed"))
        units = {unit.id: unit for made in launched if made is not None for unit in made.units} | {
            m.unit.id: m.unit for group in self.groups.values() for m in group.members.values()
        }
        if units:
            await steps.run("stopping workers", self.backend.stop(list(units.values())))
        swept = await steps.run("sweeping", self.backend.sweep())
        unknown = [
            Leftover(
                "launch",
                f"of {launch.n} {launch.tag} workers",
                "the native system has not answered it; workers that it creates now end by themselves",
            )
            for launch in self._native.unfinished_launches()
        ]
        for group in self.groups.values():
            group.members.clear()
            group.requests.clear()
            group.wanted, group.range = 0, None
        await self._publish()
        # Where sweep has answered, it knows what is left, and the failures of other steps are events only.
        if swept:
            for problem in steps.failures:
                self.events.record("", f"{problem.kind}: {problem.name}: {problem.error}")
            return [*swept[0], *unknown]
        return [
            *steps.failures,
            *unknown,
            *(Leftover("worker", name, "it is not known whether it ended") for name in units),
        ]
