"""How units leave: workers drain, and the units of those that have left are stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from scalable.cluster.events import EventLog
from scalable.cluster.group import Group
from scalable.cluster.link import DrainProgress, Stage
from scalable.cluster.member import Member
from scalable.cluster.native import NativeCalls
from scalable.cluster.pace import Pace
from scalable.cluster.scheduler import SchedulerCalls
from scalable.errors import WalltimeError, describe_error

__all__ = ["Drainer"]


class Drainer:
    """Drains workers that are not needed or whose walltime is nearly up, takes them back, and stops their units.

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

    async def drain_expiring(self, groups: Mapping[str, Group], now: float) -> None:
        """Drain workers whose walltime is nearly up, so that they hand over before the native system ends them."""
        expiring = [member for group in groups.values() for member in group.take_expiring(now)]
        if not expiring:
            return
        deadlines = {}
        for member in expiring:
            tag, name = member.unit.tag, member.unit.id
            if member.expires_at is not None:
                error = WalltimeError(tag, name, member.lifetime)
                deadlines[name] = member.expires_at - now, error
            if member.alive:
                member.leaving = DrainProgress(Stage.BUSY)
                self._events.record(tag, f"draining {name}, whose walltime is nearly up")
        await self._scheduler.expire(deadlines)

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
        await self._stop(left, now)

    async def stop_all(self, groups: Mapping[str, Group], now: float) -> None:
        """Stop every unit at once, without a drain."""
        for group in groups.values():
            for member in group.members.values():
                member.leaving = DrainProgress(Stage.GONE)
        await self.stop_left(groups, now)

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
        adapts = groups[tag].range is not None
        if adapts or now - member.holding_since < self._pace.hold_timeout:
            return False
        self._events.record(
            tag,
            f"{name} held {leaving.remaining} results for {self._pace.hold_timeout:g} s; they are lost now",
        )
        return True

    async def _stop(self, members: Sequence[Member], now: float) -> None:
        """Stop units, in one native call for all of them."""
        if members:
            for member in members:
                member.stopped_at = now
            self._native.stop(members)
        for stopped, error in await self._native.finished_stops():
            if error is None:
                # Other groups may be waiting for their room.
                self._native.observe_soon()
                self._on_stopped()
                continue
            names = ", ".join(member.unit.id for member in stopped)
            self._events.record("", f"cannot stop {names}, will try again: {describe_error(error)}")
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
                self._events.record(group.spec.tag, f"{name} is back in service")
