"""How groups get the units that they lack, within the cap."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping

from scalable.cluster import explanations
from scalable.cluster.budget import Meter
from scalable.cluster.ends import GroupFailures
from scalable.cluster.events import EventLog
from scalable.cluster.group import Group
from scalable.cluster.native import Launch, NativeCalls
from scalable.cluster.pace import Pace
from scalable.cluster.port import Explanation
from scalable.errors import LaunchError, LaunchRefusedError

__all__ = ["Launcher"]

logger = logging.getLogger("scalable.cluster")


class Launcher:
    """Launches what groups lack, one launch at a time for each.

    Parameters
    ----------
    native : NativeCalls
        The native system.
    failures : GroupFailures
        For groups whose launches fail.
    events : EventLog
        The log for launches.
    pace : Pace
        How long a call may take, and how long a group may have no room.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(
        self,
        native: NativeCalls,
        failures: GroupFailures,
        events: EventLog,
        pace: Pace,
        clock: Callable[[], float],
    ) -> None:
        self._native = native
        self._failures = failures
        self._events = events
        self._pace = pace
        self._clock = clock

    def launch_missing(
        self, groups: Mapping[str, Group], cap: int | None, meter: Meter, now: float
    ) -> None:
        """Begin to launch what each group lacks: one native call a group, all groups at once.

        While a launch of a group is under way, what else it lacks is gathered for the next. Once a limit of the run is
        reached, nothing new is launched.
        """
        room = float("inf") if cap is None else cap
        exist = {tag: len(group.members) + group.unnamed for tag, group in groups.items()}
        room -= sum(exist.values())
        for tag, group in groups.items():
            lacking = group.lacking
            group.update_room(lacking > 0 and room <= 0, now)
            if self._native.is_launching(tag):
                continue
            if meter.exceeded:
                # Repeating a launch of which the outcome is not known may create what the limit forbids.
                group.wait_for_unclear(now)
                continue
            if now < group.failures.retry_at:
                continue
            if group.unclear_request is not None:
                request_id, n = group.unclear_request
                self._native.launch(group.spec, n, request_id)
                continue
            affordable = meter.budget.affordable(tag, exist)
            n = int(min(lacking, room, affordable, group.spec.max_launch or lacking))
            if group.failure is not None:
                # One, to see whether it could have workers now.
                n = 0 if group.alive or group.unnamed else min(n, 1)
            if n > 0:
                room -= n
                request_id = uuid.uuid4().hex
                group.record_request(request_id, n, now)
                exist[tag] += n
                self._native.launch(group.spec, n, request_id)

    async def record_launches(self, groups: Mapping[str, Group]) -> None:
        """Record the units, or the errors, of launches that were answered."""
        for launch in await self._native.finished_launches():
            await self._record_launch(groups[launch.tag], launch)

    async def _record_launch(self, group: Group, launch: Launch) -> None:
        tag, n, now = group.spec.tag, launch.n, self._clock()
        try:
            result = launch.call.result()
        except LaunchError as error:  # which creates nothing
            group.forget_request(launch.request_id)
            problem = explanations.explain_launch_error(error)
            self._events.record(tag, problem.summary)
            if isinstance(error, LaunchRefusedError) and not group.has_healthy(now):
                await self._failures.fail(group, problem)
            else:
                self._postpone(group, problem, now)
        except Exception as error:  # noqa: BLE001 - shown as the group's reason, and to all who wait for it
            # It is not known what exists: the same request is made again, which creates nothing twice.
            group.created = True
            problem = explanations.explain_launch_error(error)
            self._events.record(tag, problem.summary)
            attempt = group.record_lost_answer(launch.request_id)
            await self._failures.record_start_failure(group, attempt, problem, now)
        else:
            group.created = True
            group.record_answer(launch.request_id, result, now)
            created = len(result.units) + result.unnamed
            if created >= n:
                group.failures.record_accepted_launch()
                self._events.record(tag, f"launched {n}")
            else:
                problem = explanations.explain_shortfall(n, created, result.shortfall)
                self._events.record(tag, problem.summary)
                self._postpone(group, problem, now)

    def _postpone(self, group: Group, problem: Explanation, now: float) -> None:
        if group.failures.record_postponed_launch(problem, now):
            # In a script without the CLI, nothing else shows it.
            logger.warning(
                "%s: cannot launch yet, will try again: %s", group.spec.tag, problem.summary
            )

    async def fail_groups_without_room(
        self, groups: Mapping[str, Group], cap: int | None, now: float
    ) -> None:
        """Fail the groups for which there is no room as long as clients keep results that draining workers hold."""
        holders = [
            member
            for group in groups.values()
            for member in group.members.values()
            if member.holding and not member.dismissed
        ]
        for group in groups.values():
            since = group.without_room_since
            if holders and since is not None and now - since > self._pace.hold_timeout:
                problem = explanations.explain_blocked_by_cap(cap, holders)
                await self._failures.fail(group, problem)
