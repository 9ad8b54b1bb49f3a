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
from copy import copy
from dataclasses import replace

from scalable.cluster import explanations
from scalable.cluster.adaptive import AdaptivePolicy
from scalable.cluster.budget import Budget, Meter, OnExceed
from scalable.cluster.closing import ClosingSteps
from scalable.cluster.draining import Drainer
from scalable.cluster.ends import EndHandler, GroupFailures
from scalable.cluster.events import current_log
from scalable.cluster.group import Group
from scalable.cluster.history import WorkerHistory
from scalable.cluster.launching import Launcher
from scalable.cluster.ledger import current_ledger
from scalable.cluster.limits import contained
from scalable.cluster.link import Report, SchedulerLink
from scalable.cluster.logs import LogKeeper
from scalable.cluster.member import EndReason, Observation, UnitEnd
from scalable.cluster.native import NativeCalls
from scalable.cluster.pace import Pace
from scalable.cluster.port import (
    Backend,
    Explanation,
    GroupSpec,
    GroupStatus,
    Leftover,
    NotesLateStarts,
    Reason,
)
from scalable.cluster.retry import RetryPolicy
from scalable.cluster.scheduler import SchedulerCalls
from scalable.cluster.status import group_status
from scalable.cluster.targets import (
    check_cap,
    checked_count,
    checked_counts,
    checked_ranges,
    minimum_counts,
    update_targets,
)
from scalable.errors import (
    ClusterClosedError,
    GroupFailedError,
    GroupTimeoutError,
    LimitExceededError,
    SchedulerLostError,
    UnknownTagError,
    describe_error,
)

__all__ = ["GroupController"]

logger = logging.getLogger("scalable.cluster")

_CANCEL_TIMEOUT = 5.0
"""Seconds that closing waits for the scheduler, which may be gone."""


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
        How quickly adaptive groups follow demand that have no policy of their own.
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
        self.retry = retry or RetryPolicy()
        specs = list(groups)
        self.groups: Mapping[str, Group] = {spec.tag: Group(spec, self.retry) for spec in specs}
        if len(self.groups) < len(specs):
            raise ValueError(f"two groups of cluster {name!r} have the same tag")
        if max_workers is not None and checked_count(max_workers, f"cluster {name!r}") < 0:
            raise ValueError(f"max_workers is {max_workers}; it must not be negative")
        self.max_workers = max_workers
        self.policy = policy or AdaptivePolicy()
        self.pace = pace or Pace()
        self.clock = clock
        self.meter = Meter(Budget(), clock())
        self.events = current_log()
        self.closed = False
        self.closing = ClosingSteps(self.pace.close_timeout)
        self.statuses: Mapping[str, GroupStatus] = {}
        self.ledger = current_ledger()
        self._logs = LogKeeper(backend, self.events)
        self.history = WorkerHistory(clock)
        self._native = NativeCalls(
            backend,
            max_wait=self.pace.tick,
            poll=self.pace.poll,
            steady_poll=self.pace.steady_poll,
            max_poll=self.pace.max_poll,
            timeout=self.pace.native_timeout,
            clock=clock,
            logs=self._logs,
            before_launch=self._record_intent,
        )
        self._recorded: set[str] = set()
        self._native_problem: Explanation | None = None
        self._failed_turn = ""
        self._reports = 0
        self._warned: set[str] = set()
        self._lost_callbacks: list[Callable[[SchedulerLostError], object]] = []
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self.scheduler = SchedulerCalls(link, name, self.events, self.pace, clock)
        self._failures = GroupFailures(self.scheduler, self.events, clock)
        self._ends = EndHandler(
            self._native,
            self.scheduler,
            self._failures,
            self.events,
            self._logs,
            describe_timeout=self.pace.describe_timeout,
            clock=clock,
        )
        self._drainer = Drainer(
            self.scheduler, self._native, self.events, self.pace, self._wake.set
        )
        self._launcher = Launcher(self._native, self._failures, self.events, self.pace, clock)
        self._changed = asyncio.Condition()
        self._loop_task: asyncio.Task[None] | None = None
        self._update_statuses()

    # -- Requests

    async def start(self) -> None:
        """Install the plugin on the scheduler, and begin to take turns.

        Raises
        ------
        VersionMismatchError
            The scheduler has another Python, dask or distributed.
        SchedulerStartError
            It does not answer.
        """
        await self.scheduler.start({tag: group.spec.slots for tag, group in self.groups.items()})
        self._loop_task = asyncio.create_task(self._run())

    async def add_group(self, spec: GroupSpec) -> None:
        """Add a group, which has no workers yet."""
        if spec.tag in self.groups:
            raise ValueError(f"there is a worker group {spec.tag!r} already; choose another tag")
        # In a new mapping, because a turn or an `explain` may be iterating over this one, suspended at an await.
        self.groups = {**self.groups, spec.tag: Group(spec, self.retry)}
        self._request_turn()
        await self.scheduler.publish({tag: group.spec.slots for tag, group in self.groups.items()})

    async def set_budget(self, budget: Budget, spent_seconds: float = 0.0) -> None:
        """Limit what the cluster may use, once and for all; `spent_seconds` is since when it costs money."""
        if self.meter.budget.is_limited:
            raise ValueError("the cluster has limits already, which stay as they are")
        self.meter = Meter(budget, self.clock() - spent_seconds)
        self.max_workers = budget.cap(self.max_workers)
        self._request_turn()

    def _check_budget(self, wanted: Mapping[str, tuple[int, int]]) -> None:
        """Raise LimitExceededError if groups of these sizes exceed a limit, or one is reached and they would grow."""
        maxima = {tag: group.most for tag, group in self.groups.items()}
        if self.meter.exceeded:
            for tag, (_, most) in wanted.items():
                group = self._group(tag)
                if most > len(group.alive) + group.unnamed:
                    raise LimitExceededError(f"{self.meter.exceeded}; raise it, and run again")
        self.meter.budget.check(
            minimum_counts(self.groups) | {tag: low for tag, (low, _) in wanted.items()},
            maxima | {tag: high for tag, (_, high) in wanted.items()},
            self.max_workers,
        )

    async def scale_groups(self, counts: Mapping[str, int]) -> None:
        """Record fixed counts for some groups, and return. A failed group is tried again."""
        self.check_scheduler()
        counts = checked_counts(counts)
        for tag, count in counts.items():
            if count < 0:
                raise ValueError(
                    f"worker group {tag!r} cannot have {count} workers; ask for 0 or more"
                )
            self._group(tag)
        self._check_budget({tag: (count, count) for tag, count in counts.items()})
        check_cap({**minimum_counts(self.groups), **counts}, self.max_workers)
        for tag, count in counts.items():
            group = self._group(tag)
            group.pin(count)
            await self._failures.clear(group)
        self._request_turn()

    async def adapt_groups(
        self,
        ranges: Mapping[str, tuple[int, int]],
        policies: Mapping[str, AdaptivePolicy] | None = None,
    ) -> None:
        """Record ranges within which some groups follow their demand, and how quickly, and return.

        Without `policies`, each group keeps the one that it has; a group that they leave out has none of its own.
        """
        self.check_scheduler()
        ranges = checked_ranges(ranges)
        for tag, (minimum, maximum) in ranges.items():
            if not 0 <= minimum <= maximum:
                raise ValueError(
                    f"worker group {tag!r} cannot adapt between {minimum} and {maximum}; "
                    "give 0 <= minimum <= maximum"
                )
            self._group(tag)
        self._check_budget(ranges)
        minima = {tag: low for tag, (low, _) in ranges.items()}
        check_cap({**minimum_counts(self.groups), **minima}, self.max_workers)
        for tag, (minimum, maximum) in ranges.items():
            group = self._group(tag)
            group.adapt((minimum, maximum))
            if policies is not None:
                group.policy = policies.get(tag)
            await self._failures.clear(group)
        self._request_turn()

    async def set_max_workers(self, cap: int | None) -> None:
        """Cap the units of all groups together, never above the limit of the budget."""
        if cap is not None:
            cap = checked_count(cap, f"cluster {self.name!r}")
        cap = self.meter.budget.cap(cap)
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
        SchedulerLostError
            The scheduler is gone.
        ClusterClosedError
            The cluster was closed meanwhile.
        """
        group, n = self._group(tag), checked_count(n, f"worker group {tag!r}")
        try:
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: self._has_workers(group, n))
        except TimeoutError:
            status = self.statuses[tag]
            why = status.detail or "no reason known"
            raise GroupTimeoutError(tag, n, status.running, timeout or 0.0, why) from None

    async def wait_for_workers(self, n: int, timeout: float | None = None) -> None:
        """Return when all groups together have `n` workers.

        Raises
        ------
        TimeoutError
            It took longer than `timeout` seconds. The error says what the groups wait for.
        GroupFailedError, LimitExceededError
            The others do not have as many workers, and are not to have them.
        SchedulerLostError
            The scheduler is gone.
        ClusterClosedError
            The cluster was closed meanwhile.
        ValueError
            The number is not positive.
        """
        n = checked_count(n, f"cluster {self.name!r}")
        if n < 1:
            raise ValueError(f"n_workers is a positive number, not {n}")
        try:
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: self._has_workers_in_all(n))
        except TimeoutError:
            missing = [f"{tag}: {why.summary}" for tag, why in (await self.explain()).items()]
            why = "; ".join(missing) or "no group is to have more: scale one with scale_groups()"
            raise TimeoutError(f"{n} workers are not there after {timeout:g} s; {why}") from None

    async def wait_for_scheduler(self) -> None:
        """Return once the scheduler has answered a new question; raise SchedulerLostError if it is lost instead."""
        reports = self._reports  # one more may have been asked for before

        def is_known() -> bool:
            self.check_scheduler()
            return self.closed or self._reports > reports + 1

        async with self._changed:
            await self._changed.wait_for(is_known)

    def check_scheduler(self) -> None:
        """Raise SchedulerLostError if the scheduler is known to be lost."""
        if self.scheduler.lost is not None:
            raise copy(self.scheduler.lost)

    def _has_workers(self, group: Group, n: int) -> bool:
        self.check_scheduler()
        if self.statuses[group.spec.tag].running >= n:
            return True
        if group.failure is not None:
            raise GroupFailedError(group.spec.tag, group.failure)
        if self.meter.exceeded and n > len(group.alive) + group.unnamed:
            raise LimitExceededError(
                f"worker group {group.spec.tag!r} gets no more workers: {self.meter.exceeded}"
            )
        if self.closed:
            raise ClusterClosedError(self.name)
        if n > group.most:
            raise ValueError(
                f"worker group {group.spec.tag!r} is to have {group.most} workers; scale it before waiting for {n}"
            )
        return False

    def _has_workers_in_all(self, n: int) -> bool:
        self.check_scheduler()
        running = {tag: status.running for tag, status in self.statuses.items()}
        if sum(running.values()) >= n:
            return True
        if self.closed:
            raise ClusterClosedError(self.name)
        if self.meter.exceeded and n > sum(len(g.alive) + g.unnamed for g in self.groups.values()):
            raise LimitExceededError(
                f"cluster {self.name!r} gets no more workers: {self.meter.exceeded}"
            )
        most = {tag: running[tag] if g.failure else g.most for tag, g in self.groups.items()}
        for tag, group in self.groups.items():
            if group.failure is not None and sum(most.values()) < n:
                raise GroupFailedError(tag, group.failure)
        return False

    async def explain(self, tag: str | None = None) -> dict[str, Explanation]:
        """Return why workers are missing, for each group that lacks some."""
        groups = self.groups if tag is None else {tag: self._group(tag)}
        found = await asyncio.gather(*map(self._explain, groups.values()))
        return {tag: why for tag, why in zip(groups, found, strict=True) if why is not None}

    async def _explain(self, group: Group) -> Explanation | None:
        if self.scheduler.problem is not None:
            return self.scheduler.problem
        if group.failure is not None:
            return group.failure
        status = group_status(group, self._native_problem)
        if status.reason is None:
            return None
        if self._native_problem is not None:
            return self._native_problem
        if status.reason is Reason.UNWANTED:
            remedy = _remedy_for_unclaimed_work(group)
            return Explanation(status.reason, status.detail, remedy=remedy)
        if status.reason is Reason.BLOCKED:
            return Explanation(status.reason, status.detail, remedy=explanations.SECEDE)
        if status.reason is Reason.DEMAND:
            remedy = "set target_duration of `adaptive` to have more workers sooner"
            return Explanation(status.reason, status.detail, remedy=remedy)
        if group.awaited is not None and status.detail == group.awaited.summary:
            return group.awaited
        absent = [m for m in group.alive if m.joined_at is None and m.state is not None]
        if absent:
            detail = await self._native.describe_member(absent[0])
            return replace(
                detail,
                reason=status.reason,
                summary=f"{status.running} of {status.wanted} workers run; the others: {status.detail}",
            )
        unavailable = [m for m in group.members.values() if m.unavailable]
        if unavailable and group.lacking <= 0:
            detail = await self._native.describe_member(unavailable[0])
            return explanations.explain_unavailable(unavailable, group.spec, detail)
        return group.failures.last_problem or Explanation(status.reason, status.detail)

    async def logs(self, tag: str | None = None) -> dict[str, str]:
        """Return the tail of each unit's log, by unit id; of units that have ended, of the latest that have one."""
        groups = self.groups.values() if tag is None else [self._group(tag)]
        ended = [member for group in groups for member in group.ended]
        living = [member for group in groups for member in group.members.values()]
        described = await asyncio.gather(*map(self._native.describe_member, [*ended, *living]))
        tails = [each.log_tail for each in described]
        found = {m.unit.id: text for m, text in zip(ended, tails, strict=False) if text}
        return found | {
            m.unit.id: text for m, text in zip(living, tails[len(ended) :], strict=True)
        }

    def names(self, *, leaving: bool = True) -> set[str]:
        """Return the names of the units that exist, with those that are to leave or without."""
        return {
            member.unit.id
            for group in self.groups.values()
            for member in [*group.members.values()]
            if leaving or member.alive
        }

    async def keep_logs(self) -> None:
        """Keep what the logs of all units have now, where the run keeps logs."""
        await self._logs.keep(
            member.unit for group in self.groups.values() for member in group.members.values()
        )

    # -- Turns

    async def _run(self) -> None:
        while not self.closed:
            try:
                await contained(self.step())  # whatever ends a turn, ends no other
            except Exception as error:  # noqa: BLE001 - logged, and the next turn may do better
                self._record_failed_turn(error)
            else:
                self._failed_turn = ""
            try:
                async with asyncio.timeout(self.pace.tick):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    def _record_failed_turn(self, error: Exception) -> None:
        what = f"a turn of the controller failed, the next one tries again: {error!r}"
        if what != self._failed_turn:  # once, not every turn
            self.events.record("", what)
            logger.warning("%s", what, exc_info=True)
        self._failed_turn = what

    async def step(self) -> None:
        """Take one turn."""
        async with self._turn:
            if self.closed:
                return
            seen = await self._observe()
            report = await self.scheduler.report()
            now = self.clock()
            if self.scheduler.slept:
                for group in self.groups.values():
                    group.allow_for_sleep(self.scheduler.slept)
            await self._handle_ends(seen, report, now)
            await self._keep_limits(now)
            if self.scheduler.lost is not None:
                await self._stop_all(self.scheduler.lost, now)
            else:
                await self._reconcile(report, now)
            await self._publish()

    async def _handle_ends(
        self, seen: Observation | None, report: Report | None, now: float
    ) -> None:
        """Bring every group up to date, and handle the units that ended."""
        ends = [(g, end) for g in self.groups.values() for end in g.update(seen, report, now)]
        self._note_late_starts(end for _, end in ends)
        causes = await self._ends.describe_ends(end for _, end in ends)
        for group, end in ends:
            await self._ends.handle_end(group, end, causes)
            if end.reason.is_over:
                self.history.end(end.member, self._ends.reason(end, causes))
        self._drainer.note_ends(ends, now)
        self._record_units(end.member.unit.id for _, end in ends if end.reason.is_over)
        if report is None:
            return
        await self._ends.explain_deaths(report)
        for group in self.groups.values():
            if seen is not None:
                await self._ends.handle_overdue_requests(group)
            if group.failure is not None and group.has_healthy(now):
                await self._failures.clear(group)

    def _note_late_starts(self, ends: Iterable[UnitEnd]) -> None:
        late = [end.member.unit for end in ends if end.reason is EndReason.JOIN_TIMEOUT]
        if late and isinstance(self.backend, NotesLateStarts):
            members = [m for group in self.groups.values() for m in group.members.values()]
            self.backend.note_late_starts(late, [m.unit for m in members if m.worker is not None])

    def _record_intent(self, tag: str, n: int, request_id: str) -> None:
        try:
            self.ledger.launch(tag, n, request_id)
        except OSError as error:  # the run's own id is in the ledger, by which everything is found
            self.events.record("", f"the ledger cannot be written: {describe_error(error)}")

    def _record_units(self, ended: Iterable[str]) -> None:
        """Record in the ledger which units there are now, and which have ended."""
        known = {m.unit.id: m.unit for g in self.groups.values() for m in g.members.values()}
        new = known.keys() - self._recorded
        try:
            self.ledger.made(known[name] for name in sorted(new))
            self.ledger.gone(ended)
        except OSError as error:
            self.events.record("", f"the ledger cannot be written: {describe_error(error)}")
        self._recorded = set(known)

    async def _reconcile(self, report: Report | None, now: float) -> None:
        """Bring what each group has nearer to what it should have, as far as it is known now."""
        if report is not None:
            self._reports += 1
            await self.scheduler.send_messages()
            update_targets(self.groups, report.demand, self.policy, self.max_workers, now)
            self._note_blocked(report, now)
            self._warn_of_waits(now)
            await self._drainer.remove_left_behind(report, now)
            await self._drainer.drain_expiring(self.groups, now)
            self._drainer.drain_replaceable(self.groups, now)
            self._drainer.drain_surplus(self.groups)
            await self._drainer.advance(self.groups, now)
            await self._drainer.resume(self.groups, now)
        await self._drainer.stop_left(self.groups, now)
        if not self.closed:
            self._launcher.launch_missing(self.groups, self.max_workers, self.meter, now)
        await self._launcher.record_launches(self.groups)
        await self._launcher.fail_groups_without_room(self.groups, self.max_workers, now)

    async def _keep_limits(self, now: float) -> None:
        """Measure what was used, warn of a limit that is near, and act on one that is reached."""
        seconds = {tag: group.worker_seconds(now) for tag, group in self.groups.items()}
        for notice in self.meter.update(seconds, now):
            self.events.warn("", notice)
        if not self.meter.exceeded:
            return
        why = explanations.explain_limit(self.meter.exceeded)
        goes_on = self.meter.budget.on_exceed is OnExceed.STOP_SCALING
        for group in self.groups.values():
            if goes_on and (group.alive or group.unnamed or group.lacking <= 0):
                continue
            if not goes_on:
                group.pin(0)
            if group.failure is None:
                await self._failures.fail(group, why)
        if self.meter.budget.on_exceed is OnExceed.ABORT:
            await self._drainer.remove_all(self.groups)

    async def _stop_all(self, lost: SchedulerLostError, now: float) -> None:
        """Stop every unit, because the scheduler is lost, and its workers with it."""
        await self._launcher.record_launches(self.groups)
        await self._drainer.stop_all(self.groups, now)
        for callback in self._lost_callbacks:
            callback(lost)
        self._lost_callbacks.clear()

    def on_scheduler_lost(self, callback: Callable[[SchedulerLostError], object]) -> None:
        """Call this once, on the event loop, if the scheduler is lost."""
        if self.scheduler.lost is not None:
            callback(self.scheduler.lost)
        else:
            self._lost_callbacks.append(callback)

    async def _observe(self) -> Observation | None:
        """Return an observation of the native system; None where none is due, or it did not answer."""
        groups, now = self.groups.values(), self.clock()
        busy = any(group.members or group.requests for group in groups)
        steady = self.scheduler.is_up and all(group.is_steady(now) for group in groups)
        try:
            seen = await self._native.observe(busy, steady=steady)
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
        self.statuses = {
            tag: group_status(
                group,
                self._native_problem,
                self.scheduler.problem,
                lost=self.scheduler.lost is not None,
            )
            for tag, group in self.groups.items()
        }

    def _note_blocked(self, report: Report, now: float) -> None:
        for tag, group in self.groups.items():
            group.blocked = report.blocked.get(tag, "")
            if not group.blocked:
                group.blocked_tasks_since = None
            elif group.blocked_tasks_since is None:
                group.blocked_tasks_since = now

    def _warn_of_waits(self, now: float) -> None:
        """Warn once of each group whose work waits for what only the user can change."""
        for tag, group in self.groups.items():
            remedies = {
                _remedy_for_unclaimed_work(group): group.unclaimed_since,
                explanations.SECEDE: group.blocked_tasks_since,
            }
            for remedy, since in remedies.items():
                if since is None or now - since < self.pace.unwanted_after or tag in self._warned:
                    continue
                self._warned.add(tag)
                self.events.warn(tag, f"{group_status(group).detail}; {remedy}")

    def _request_turn(self) -> None:
        self._update_statuses()
        self._wake.set()

    async def _publish(self) -> None:
        self._update_statuses()
        self.history.update(self.groups.values())
        async with self._changed:
            self._changed.notify_all()

    # -- The end

    async def close(self) -> list[Leftover]:
        """Take no more turns, stop every unit, sweep, and return what could not be removed.

        Continues past errors. They are recorded as events; if the sweep fails, they are returned.
        """
        self.closed = True
        self._wake.set()
        steps = self.closing
        if self._loop_task is not None:
            await steps.run("the turn under way", self._loop_task)
        # The units of a launch that is still under way must not be missed.
        launched = await steps.run("native calls under way", *self._native.shut_down())
        # After a start that failed, the scheduler may not have the plugin, and no client has a future.
        has_started = self._loop_task is not None or self._reports > 0
        if has_started and self.scheduler.is_up:
            cancelled = self.scheduler.link.cancel_all("the cluster was closed")
            await steps.run("cancelling tasks", cancelled, timeout=_CANCEL_TIMEOUT)
        await steps.run("closing the link", self.scheduler.close(), timeout=_CANCEL_TIMEOUT)
        units = {unit.id: unit for made in launched if made is not None for unit in made.units} | {
            m.unit.id: m.unit for group in self.groups.values() for m in group.members.values()
        }
        if not self._logs.after_stop:
            await steps.run("keeping logs", self._logs.keep(units.values()))
        if units:
            await steps.run("stopping workers", self._native.stop_now(list(units.values())))
        swept = await steps.run("sweeping", self._native.sweep())
        if self._logs.after_stop:
            await steps.run("keeping logs", self._logs.keep(units.values()))
        await steps.run("keeping logs", self._logs.settle())
        unknown = [
            Leftover(
                "launch",
                f"of {launch.n} {launch.tag} workers",
                "the native system has not answered it; workers that it creates now end by themselves",
                is_certain=False,
            )
            for launch in self._native.unfinished_launches()
        ]
        self._end_groups()
        await self._publish()
        has_launched = bool(
            units or unknown or launched or any(group.created for group in self.groups.values())
        )
        left, passed = steps.leftovers(swept, unknown, units, has_launched=has_launched)
        for problem in passed:
            self.events.record("", f"{problem.kind}: {problem.name}: {problem.error}")
        return left

    def _end_groups(self) -> None:
        """Take note that no group has members any more, and of what they have used."""
        for group in self.groups.values():
            for member in group.members.values():
                self.history.end(member)
        now = self.clock()
        used = {tag: group.worker_seconds(now) for tag, group in self.groups.items()}
        self.meter.update(used, now)
        for tag, group in self.groups.items():
            group.ended_seconds = used[tag]
            group.members.clear()
            group.requests.clear()
            group.wanted, group.range = 0, None


def _remedy_for_unclaimed_work(group: Group) -> str:
    count = f"{{{group.spec.tag!r}: 1}}"
    return f"scale the group: session.scale({count}), or scale_groups({count}) of a cluster without a session"
