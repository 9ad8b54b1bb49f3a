"""What follows from the end of a unit: an event, a failure on the group's account, or a failed group."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from scalable.cluster import explanations
from scalable.cluster.deaths import KnownCauses
from scalable.cluster.events import EventLog
from scalable.cluster.group import Group
from scalable.cluster.link import DrainProgress, Report, Stage
from scalable.cluster.logs import LogKeeper
from scalable.cluster.member import EndReason, Member, UnitEnd
from scalable.cluster.native import NativeCalls
from scalable.cluster.port import Explanation
from scalable.cluster.scheduler import SchedulerCalls
from scalable.errors import GroupFailedError

__all__ = ["Causes", "EndHandler", "GroupFailures"]

Causes = Mapping[tuple[str, EndReason], tuple[Member, Explanation]]
"""Why units ended, by launch or unit, and reason; and the unit that was described for all of them."""

MAX_DESCRIBED = 20
"""Units of one turn that are described each by itself, because they died with tasks."""


class GroupFailures:
    """Marks groups as failed, here and on the scheduler, and clears that.

    Parameters
    ----------
    scheduler : SchedulerCalls
        The scheduler, which fails the tasks of a failed group.
    events : EventLog
        The log for it.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(
        self, scheduler: SchedulerCalls, events: EventLog, clock: Callable[[], float]
    ) -> None:
        self._scheduler = scheduler
        self._events = events
        self._clock = clock

    async def fail(self, group: Group, why: Explanation) -> None:
        """Give up on a group, and fail the tasks that only it could run."""
        if group.failure is None:
            await self._scheduler.fail(group.spec.tag, GroupFailedError(group.spec.tag, why))
            group.failure = why
            self._events.record(group.spec.tag, f"failed: {why.summary}")
        group.failures.record_failed_group(self._clock())

    async def clear(self, group: Group) -> None:
        """Forget that a group has failed, so that it launches again."""
        if group.failure is not None:
            await self._scheduler.fail(group.spec.tag, None)
        group.reset_failures()

    async def record_start_failure(
        self, group: Group, request_id: str, problem: Explanation, now: float
    ) -> None:
        """Count a failed start, and fail the group if it was one too many."""
        healthy = group.has_healthy(now)
        if group.failures.record_start_failure(request_id, problem, now, has_healthy=healthy):
            await self.fail(group, problem)


def _cause(end: UnitEnd, causes: Causes) -> tuple[Member, Explanation]:
    unit = end.member.unit
    return causes.get((unit.id, end.reason)) or causes[unit.request_id, end.reason]


class EndHandler:
    """Explains why units ended, and draws the consequences for their groups.

    Parameters
    ----------
    native : NativeCalls
        The native system, for explanations.
    scheduler : SchedulerCalls
        The scheduler, which holds deaths of workers against tasks.
    failures : GroupFailures
        For groups that fail.
    events : EventLog
        The log for ends.
    logs : LogKeeper
        Keeps the logs of units that have ended.
    describe_timeout : float
        Seconds for one explanation.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(
        self,
        native: NativeCalls,
        scheduler: SchedulerCalls,
        failures: GroupFailures,
        events: EventLog,
        logs: LogKeeper,
        *,
        describe_timeout: float,
        clock: Callable[[], float],
    ) -> None:
        self._native = native
        self._scheduler = scheduler
        self._failures = failures
        self._events = events
        self._logs = logs
        self._describe_timeout = describe_timeout
        self._clock = clock
        self._known = KnownCauses()

    async def explain_deaths(self, report: Report) -> None:
        """Report to the scheduler why workers died that had tasks, as far as that is known."""
        if known := self._known.known(report.deaths):
            await self._scheduler.explain_deaths(known)

    async def describe_ends(self, ends: Iterable[UnitEnd]) -> Causes:
        """Explain why units ended, all at once.

        Each explanation may cost a native call, so units that ended for the same reason after the same launch get
        the explanation of one of them; but workers that died with tasks may each have died of another one.
        """
        representatives: dict[tuple[str, EndReason], Member] = {}
        for end in ends:
            member = end.member
            if end.reason is EndReason.REFUSED or (
                end.reason is EndReason.STOPPED and not member.had_tasks
            ):
                continue
            by_itself = member.had_tasks and len(representatives) < MAX_DESCRIBED
            subject = member.unit.id if by_itself else member.unit.request_id
            representatives.setdefault((subject, end.reason), member)
        found = await asyncio.gather(
            *(
                self._native.describe_member(member, self._describe_timeout)
                for member in representatives.values()
            )
        )
        return {
            key: (member, self._logs.name(member.unit, cause))
            for (key, member), cause in zip(representatives.items(), found, strict=True)
        }

    async def handle_end(self, group: Group, end: UnitEnd, causes: Causes) -> None:
        """Record the end of a unit, and what it means for its group."""
        member, unit, tag = end.member, end.member.unit, group.spec.tag
        self._keep_log(end, causes)
        if end.reason is EndReason.STOPPED:
            # It may have died by its task before it was stopped.
            why = _cause(end, causes)[1] if member.had_tasks else explanations.explain_stop(unit)
            self._known.record(unit.id, why)
            self._events.record(tag, f"{unit.id} has left")
            return
        if end.reason is EndReason.REFUSED:
            problem = explanations.explain_refusal(end)
            self._events.record(tag, problem.summary)
            await self._failures.record_start_failure(
                group, unit.request_id, problem, self._clock()
            )
        else:
            representative, native = _cause(end, causes)
            problem = explanations.explain_end(end, group.spec, native)
            self._known.record(unit.id, problem)
            text = problem.summary if member is representative else "as did others of its launch"
            if end.reason in (EndReason.LOST, EndReason.ORPHANED):
                self._events.record(tag, f"lost {unit.id}: {text}")
                now = self._clock()
                if group.failures.record_loss(problem, now, has_healthy=group.has_healthy(now)):
                    await self._failures.fail(group, problem)
            else:
                self._events.record(tag, f"{unit.id} did not start: {text}")
                await self._failures.record_start_failure(
                    group, unit.request_id, problem, self._clock()
                )
        if not end.reason.is_over:
            # Drained like others, because its worker may have joined since the report.
            member.leaving = DrainProgress(Stage.BUSY)

    def reason(self, end: UnitEnd, causes: Causes) -> str:
        """Return why a unit ended, in one line; empty where it was stopped."""
        if end.reason is EndReason.STOPPED:
            return ""
        if end.reason is EndReason.REFUSED:
            return explanations.explain_refusal(end).summary
        return _cause(end, causes)[1].summary

    def _keep_log(self, end: UnitEnd, causes: Causes) -> None:
        unit = end.member.unit
        described = causes.get((unit.id, end.reason)) or causes.get((unit.request_id, end.reason))
        known = described is not None and described[0] is end.member
        self._logs.keep_soon(unit, described[1].log_tail if described and known else "")

    async def handle_overdue_requests(self, group: Group) -> None:
        """Count launches whose units never appeared as failed starts."""
        for request_id, request in group.forget_overdue_requests(self._clock()).items():
            problem = explanations.explain_never_seen(request.unnamed, group.spec, request.awaited)
            self._events.record(group.spec.tag, problem.summary)
            await self._failures.record_start_failure(group, request_id, problem, self._clock())
