"""How units leave: workers drain, and the units of those that have left are stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf

from scalable.cluster import explanations
from scalable.cluster.events import EventLog
from scalable.cluster.group import Group
from scalable.cluster.link import DrainProgress, Report, Stage
from scalable.cluster.member import Member, UnitEnd
from scalable.cluster.native import NativeCalls
from scalable.cluster.pace import Pace
from scalable.cluster.scheduler import SchedulerCalls
from scalable.errors import WalltimeError, describe_error

__all__ = ["Drainer"]


class Drainer:
    """Drains workers that are not needed, of no use or near their end, takes them back, and stops their units.

    Parameters
    ----------
    scheduler : SchedulerCalls
        The scheduler, where workers drain.
    native : NativeCalls
        The native system, where units are stopped.
    events : EventLog
        The log for it.
    pace : Pace
        How long results are held, and how often a stop is repeated.
    on_stopped : callable
        Called when the native system has accepted to stop units.
    """

    def __init__(
        self,
        scheduler: SchedulerCalls,
        native: NativeCalls,
        events: EventLog,
        pace: Pace,
        on_stopped: Callable[[], object],
    ) -> None:
        self._scheduler = scheduler
        self._native = native
        self._events = events
        self._pace = pace
        self._on_stopped = on_stopped
        self._refused_stops, self._stop_at = 0, -inf
        self._left_behind: dict[str, float] = {}

    async def drain_expiring(self, groups: Mapping[str, Group], now: float) -> None:
        """Drain workers that are near their end, so that they hand over before the native system ends them."""
        expiring = [member for group in groups.values() for member in group.take_expiring(now)]
        if not expiring:
            return
        deadlines: dict[str, tuple[float, WalltimeError | None]] = {}
        for member in expiring:
            tag, name = member.unit.tag, member.unit.id
            left = member.state.seconds_left if member.state is not None else None
            if member.preempted:
                deadlines[name] = float("inf") if left is None else left, None
                when = "" if left is None else f" in {left:.0f} s"
                self._events.record(tag, f"{name} is about to be preempted{when}; draining")
            elif member.expires_at is not None:
                error = WalltimeError(tag, name, member.lifetime)
                deadlines[name] = member.expires_at - now, error
                if member.alive:
                    self._events.record(tag, f"draining {name}, whose walltime is nearly up")
            if member.alive:
                member.leaving = DrainProgress(Stage.BUSY)
        await self._scheduler.expire(deadlines)

    def drain_replaceable(self, groups: Mapping[str, Group], now: float) -> None:
        """Begin to drain the workers that take no tasks, although they have free slots."""
        for group in groups.values():
            for member in group.take_replaceable(now):
                member.leaving = DrainProgress(Stage.BUSY)
                why = explanations.describe_unavailable(member)
                self._events.record(group.spec.tag, f"draining {member.unit.id}, which {why}")

    def note_ends(self, ends: Iterable[tuple[Group, UnitEnd]], now: float) -> None:
        """Note which units have ended, because their Dask workers may still be connected."""
        for _, end in ends:
            if end.reason.is_over and end.member.worker is not None:
                self._left_behind.setdefault(end.member.unit.id, now)

    async def remove_left_behind(self, report: Report, now: float) -> None:
        """Remove the Dask workers that are still connected some time after their units have ended.

        A machine that is gone closes no connections. A process that has ended does, and the scheduler takes note
        within moments, which tells more about it.
        """
        self._left_behind = {
            name: since for name, since in self._left_behind.items() if name in report.workers
        }
        overdue = [
            name
            for name, since in self._left_behind.items()
            if now - since >= self._pace.left_behind_timeout
        ]
        if overdue:
            await self._scheduler.drain(overdue, force=True)

    def drain_surplus(self, groups: Mapping[str, Group]) -> None:
        """Begin to drain the workers above each group's wanted count."""
        for group in groups.values():
            for member in group.surplus():
                member.leaving = DrainProgress(Stage.BUSY)
                self._events.record(group.spec.tag, f"draining {member.unit.id}")

    async def advance(self, groups: Mapping[str, Group], now: float) -> None:
        """Continue every drain."""
        draining = {m.unit.id: m for group in groups.values() for m in group.draining}
        stages = dict(await self._scheduler.drain(list(draining))) if draining else {}
        expired = [
            name
            for name, leaving in stages.items()
            if self._hold_expired(groups, draining[name], leaving, now)
            or self._is_given_up(groups, draining[name], leaving)
        ]
        if expired:
            stages |= await self._scheduler.drain(expired, force=True)
        for name, leaving in stages.items():
            draining[name].leaving = leaving

    async def stop_left(self, groups: Mapping[str, Group], now: float) -> None:
        """Stop the units of workers that have left, and those again that still exist long after a stop."""
        gone = DrainProgress(Stage.GONE)
        left = [m for group in groups.values() for m in group.draining if m.leaving == gone]
        being_stopped = self._native.stopping
        for group in groups.values():
            unresponsive = group.unresponsive_to_stop(now, self._pace.stop_retry_interval)
            left += [m for m in unresponsive if m.unit.id not in being_stopped]
        await self._stop(groups, left, now)

    async def stop_all(self, groups: Mapping[str, Group], now: float) -> None:
        """Stop every unit at once, without a drain."""
        for group in groups.values():
            for member in group.members.values():
                member.leaving = DrainProgress(Stage.GONE)
        await self.stop_left(groups, now)

    async def remove_all(self, groups: Mapping[str, Group]) -> None:
        """Remove every worker, with its tasks and its results, so that its unit is stopped in this turn or the next."""
        staying = {
            member.unit.id: member
            for group in groups.values()
            for member in group.members.values()
            if not member.stopped
        }
        for name, leaving in (await self._scheduler.drain(list(staying), force=True)).items():
            staying[name].leaving = leaving

    def _hold_expired(
        self, groups: Mapping[str, Group], member: Member, leaving: DrainProgress, now: float
    ) -> bool:
        """Return whether a worker has held its results for too long."""
        if leaving.stage is not Stage.HOLDING:
            member.holding_since = None
            return False
        tag, name = member.unit.tag, member.unit.id
        if member.holding_since is None:
            member.holding_since = now
            self._events.record(tag, f"{name} is holding {leaving.remaining} results")
        # A paused worker is of no use otherwise, and in the way of others if the cap leaves no room for them.
        adapts = groups[tag].range is not None and not member.dismissed
        if adapts or now - member.holding_since < self._pace.hold_timeout:
            return False
        self._events.record(
            tag,
            f"{name} held {leaving.remaining} results for {self._pace.hold_timeout:g} s; they are lost now",
        )
        return True

    def _is_given_up(
        self, groups: Mapping[str, Group], member: Member, leaving: DrainProgress
    ) -> bool:
        """Return whether a worker that does not answer is to be removed all the same."""
        tag, name = member.unit.tag, member.unit.id
        if leaving.stage is Stage.GONE or member.worker is None:
            return False
        if not member.is_given_up(groups[tag].spec.unresponsive_timeout):
            return False
        tasks = "; its tasks run again on others" if member.worker.tasks else ""
        self._events.record(
            tag, f"{name} has not answered for {member.worker.silence:.0f} s and is removed{tasks}"
        )
        return True

    async def _stop(
        self, groups: Mapping[str, Group], members: Sequence[Member], now: float
    ) -> None:
        """Stop units, in one native call for all of them."""
        if members and now >= self._stop_at:
            for member in members:
                member.stopped_at = now
            self._native.stop(members)
        for stopped, error in await self._native.finished_stops():
            if error is None:
                self._refused_stops, self._stop_at = 0, now
                if any(group.lacking > 0 for group in groups.values()):
                    # These may be waiting for their room.
                    self._native.observe_soon()
                self._on_stopped()
                continue
            names = ", ".join(member.unit.id for member in stopped)
            text = f"cannot stop {names}, will try again: {describe_error(error)}"
            # They may cost money, and in a script without the CLI nothing else shows it.
            tell = self._events.record if self._refused_stops else self._events.warn
            tell("", text)
            wait = min(2.0 ** min(self._refused_stops, 60), self._pace.stop_retry_interval)
            self._refused_stops, self._stop_at = self._refused_stops + 1, now + wait
            for member in stopped:
                member.stopped_at = None

    async def resume(self, groups: Mapping[str, Group], now: float) -> None:
        """Take draining workers back where a group lacks some, rather than launch new ones."""
        for group in groups.values():
            candidates = group.resumable(now)[: max(0, group.lacking)]
            if not candidates:
                continue
            names = await self._scheduler.resume([member.unit.id for member in candidates])
            for name in names:
                group.members[name].leaving = None
                group.members[name].resuming = True
                self._events.record(group.spec.tag, f"{name} is back in service")
