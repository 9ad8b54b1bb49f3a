"""Brings every group to what is wanted of it, and keeps it there.

One turn of the controller looks at the native system and at the scheduler, then launches what is missing, drains what
is too much and ends what has left. It is the same for every backend, knows no Dask beyond `SchedulerLink`, and takes
its time from a clock that tests can turn.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from scalable.cluster import troubles
from scalable.cluster.adaptive import AdaptivePolicy
from scalable.cluster.closing import Steps
from scalable.cluster.group import Ended, Fate, Group, Member, Observation, RetryPolicy
from scalable.cluster.link import DrainProgress, SchedulerLink, Stage
from scalable.cluster.native import Launch, NativeCalls
from scalable.cluster.port import Backend, Explanation, GroupSpec, GroupStatus, Leftover
from scalable.cluster.targets import check_cap, floors, retarget
from scalable.errors import (
    ClusterClosedError,
    GroupFailedError,
    GroupTimeoutError,
    LaunchError,
    LaunchRefusedError,
    UnknownTagError,
    WalltimeError,
    what_it_says,
)

__all__ = ["Event", "GroupController", "Pace"]

logger = logging.getLogger("scalable.cluster")

Causes = Mapping[tuple[str, Fate], tuple[Member, Explanation]]
"""Why units ended, by launch and fate, and of which unit it is known."""


@dataclass(frozen=True)
class Pace:
    """How often the controller looks, and how long it waits for others. All in seconds.

    Parameters
    ----------
    tick : float
        Between two looks at the scheduler, which cost nothing.
    poll : float
        Between two looks at the native system, which may cost or be throttled.
    native_timeout : float
        For one call to the native system. No turn waits for it: a call that takes longer than `tick` goes on beside.
    describe_timeout : float
        For the reason why a unit ended, the one answer that a turn does wait for.
    insist : float
        Between two orders to stop the same unit, should it go on.
    hold_timeout : float
        For a draining worker of a group of fixed size whose results nobody can take. After it, the worker goes and
        they are lost. That of a group that adapts stays: what is lost would be computed again, by a worker launched
        for that. After this time, groups for which it leaves no room have failed.
    close_timeout : float
        For each step of closing.
    """

    tick: float = 0.5
    poll: float = 1.0
    native_timeout: float = 120.0
    describe_timeout: float = 10.0
    insist: float = 60.0
    hold_timeout: float = 600.0
    close_timeout: float = 20.0


@dataclass(frozen=True)
class Event:
    """Something that happened, for people and records.

    Parameters
    ----------
    time : float
        Seconds since the epoch.
    tag : str
        The group; empty for the cluster as a whole.
    text : str
        What happened, in one line.
    """

    time: float
    tag: str
    text: str


class GroupController:
    """Keeps worker groups as they are wanted.

    Parameters
    ----------
    backend : Backend
        Who starts and ends units.
    link : SchedulerLink
        Who knows workers and demand.
    groups : iterable of GroupSpec
        The groups, in the manifest's order.
    name : str, optional
        How people call the cluster.
    max_workers : int, optional
        Cap on the units of all groups together, those on their way out included.
    policy : AdaptivePolicy, optional
        How eagerly adaptive groups follow demand.
    retry : RetryPolicy, optional
        How stubbornly lost workers are replaced.
    pace : Pace, optional
        How often to look.
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
        self.events: deque[Event] = deque(maxlen=10_000)
        self.closed = False
        self.statuses: Mapping[str, GroupStatus] = {}
        self._native = NativeCalls(
            backend,
            moment=self.pace.tick,
            poll=self.pace.poll,
            timeout=self.pace.native_timeout,
            clock=clock,
        )
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self._changed = asyncio.Condition()
        self._loop_task: asyncio.Task[None] | None = None
        self._refresh()

    # -- What people ask for

    async def start(self) -> None:
        """Install our part on the scheduler and begin to take turns."""
        await self.link.start({tag: group.spec.slots for tag, group in self.groups.items()})
        self._loop_task = asyncio.create_task(self._run())

    async def add_group(self, spec: GroupSpec) -> None:
        """Make room for one more group, without workers as yet."""
        if spec.tag in self.groups:
            raise ValueError(f"there is a worker group {spec.tag!r} already; choose another tag")
        # In another mapping: somebody may be going through this one, and be waiting for an answer meanwhile.
        self.groups = {**self.groups, spec.tag: Group(spec, self.retry)}
        self._nudge()
        await self.link.publish({tag: group.spec.slots for tag, group in self.groups.items()})

    async def scale_groups(self, counts: Mapping[str, int]) -> None:
        """Record fixed counts for some groups, and return. A failed group gets another try."""
        for tag, count in counts.items():
            if count < 0:
                raise ValueError(
                    f"worker group {tag!r} cannot have {count} workers; ask for 0 or more"
                )
            self._group(tag)
        check_cap({**floors(self.groups), **counts}, self.max_workers)
        for tag, count in counts.items():
            group = self._group(tag)
            group.range, group.wanted = None, count
            await self._pardon(group)
        self._nudge()

    async def adapt_groups(self, ranges: Mapping[str, tuple[int, int]]) -> None:
        """Let some groups follow their demand between a minimum and a maximum, and return."""
        for tag, (minimum, maximum) in ranges.items():
            if not 0 <= minimum <= maximum:
                raise ValueError(
                    f"worker group {tag!r} cannot adapt between {minimum} and {maximum}; "
                    "give 0 <= minimum <= maximum"
                )
            self._group(tag)
        minima = {tag: low for tag, (low, _) in ranges.items()}
        check_cap({**floors(self.groups), **minima}, self.max_workers)
        for tag, (minimum, maximum) in ranges.items():
            group = self._group(tag)
            group.range = (minimum, maximum)
            group.wanted = min(max(group.wanted, minimum), maximum)
            group.low_since = None
            await self._pardon(group)
        self._nudge()

    async def set_max_workers(self, cap: int | None) -> None:
        """Cap the units of all groups together."""
        check_cap(floors(self.groups), cap)
        self.max_workers = cap
        self._nudge()

    async def wait_for_group(self, tag: str, n: int = 1, timeout: float | None = None) -> None:
        """Return when a group has `n` workers.

        Raises
        ------
        GroupFailedError
            The group has failed, and has fewer.
        GroupTimeoutError
            It took longer than `timeout` seconds.
        ValueError
            So many workers are not wanted, or are no longer.
        ClusterClosedError
            The cluster was closed meanwhile.
        """
        group = self._group(tag)
        try:
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: self._arrived(group, n))
        except TimeoutError:
            status = self.statuses[tag]
            why = status.detail or "no reason known"
            raise GroupTimeoutError(tag, n, status.running, timeout or 0.0, why) from None

    def _arrived(self, group: Group, n: int) -> bool:
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
        """Say why workers are missing, for each group that lacks some."""
        groups = self.groups if tag is None else {tag: self._group(tag)}
        found = await asyncio.gather(*map(self._explain, groups.values()))
        return {tag: why for tag, why in zip(groups, found, strict=True) if why is not None}

    async def _explain(self, group: Group) -> Explanation | None:
        if group.failure is not None:
            return group.failure
        status = group.status()
        if status.reason is None:
            return None
        absent = [m for m in group.alive if m.joined_at is None and m.state is not None]
        if absent:
            detail = await self._describe(absent[0])
            return replace(
                detail,
                reason=status.reason,
                summary=f"{status.running} of {status.wanted} workers run; the others: {status.detail}",
            )
        return group.last_trouble or Explanation(status.reason, status.detail)

    async def logs(self, tag: str | None = None) -> dict[str, str]:
        """Return the tail of each unit's log, by unit id."""
        groups = self.groups.values() if tag is None else [self._group(tag)]
        members = [member for group in groups for member in group.members.values()]
        described = await asyncio.gather(*map(self._describe, members))
        return {m.unit.id: text.log_tail for m, text in zip(members, described, strict=True)}

    # -- Turns

    async def _run(self) -> None:
        while not self.closed:
            try:
                await self.step()
            except Exception as error:
                self._note("", f"a turn of the controller failed: {error!r}")
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
            ends = [(g, end) for g in self.groups.values() for end in g.look(seen, report, now)]
            causes = await self._find_out(end for _, end in ends)
            for group, end in ends:
                await self._settle(group, end, causes)
            if seen is not None:
                for group in self.groups.values():
                    await self._give_up(group)
            retarget(self.groups, report.demand, self.policy, self.max_workers, now)
            await self._expire(now)
            for group in self.groups.values():
                self._shed(group, now)
            await self._drain(now)
            await self._recall(now)
            await self._launch(now)
            await self._starve(now)
            await self._publish()

    async def _observe(self) -> Observation | None:
        """Look at the native system, if it is time to and there is anything to see."""
        busy = any(group.members or group.requests for group in self.groups.values())
        try:
            return await self._native.look(busy)
        except Exception as error:  # noqa: BLE001 - what was known stays true until the next look
            self._note(
                "", f"cannot look at the native system, will try again: {what_it_says(error)}"
            )
            return None

    # -- Ends

    async def _find_out(self, ends: Iterable[Ended]) -> Causes:
        """Ask why units ended, all at once; of those that one launch lost alike, one: each may cost a native call."""
        witnesses: dict[tuple[str, Fate], Member] = {}
        for end in ends:
            if end.fate not in (Fate.DISMISSED, Fate.REFUSED):
                witnesses.setdefault((end.member.unit.request_id, end.fate), end.member)
        wait = self.pace.describe_timeout
        found = await asyncio.gather(*(self._describe(one, wait) for one in witnesses.values()))
        return {
            key: (member, cause)
            for (key, member), cause in zip(witnesses.items(), found, strict=True)
        }

    async def _settle(self, group: Group, end: Ended, causes: Causes) -> None:
        """Draw the consequences of a unit's end."""
        member, unit, tag = end.member, end.member.unit, group.spec.tag
        if end.fate is Fate.DISMISSED:
            self._note(tag, f"{unit.id} has left")
            return
        if end.fate is Fate.REFUSED:
            await self._fail(group, troubles.refused(end))
        else:
            witness, native = causes[unit.request_id, end.fate]
            trouble = troubles.of_end(end, group.spec, native)
            why = trouble.summary if member is witness else "as did others of its launch"
            if end.fate in (Fate.LOST, Fate.STRAY):
                self._note(tag, f"lost {unit.id}: {why}")
                if group.lose(trouble):
                    await self._fail(group, trouble)
            else:
                self._note(tag, f"{unit.id} did not start: {why}")
                await self._strike(group, unit.request_id, trouble)
        if end.fate in (Fate.REFUSED, Fate.LATE, Fate.STRAY):
            # Drained like others: its worker may have come in this very moment.
            member.leaving = DrainProgress(Stage.BUSY)

    async def _give_up(self, group: Group) -> None:
        """Wait no longer for units that were launched and never seen."""
        for request_id, missing in group.give_up(self.clock()).items():
            trouble = troubles.never_seen(missing, group.spec)
            self._note(group.spec.tag, trouble.summary)
            await self._strike(group, request_id, trouble)

    async def _strike(self, group: Group, request_id: str, trouble: Explanation) -> None:
        if group.strike(request_id, trouble, self.clock()):
            await self._fail(group, trouble)

    async def _describe(self, member: Member, timeout: float | None = None) -> Explanation:
        try:
            return await self._native.describe(member.unit, timeout)
        except Exception as error:  # noqa: BLE001 - the explanation says what was raised
            return troubles.unexplained(member, error)

    async def _fail(self, group: Group, why: Explanation) -> None:
        if group.failure is None:
            await self.link.fail(group.spec.tag, GroupFailedError(group.spec.tag, why))
            group.failure = why
            self._note(group.spec.tag, f"failed: {why.summary}")

    async def _pardon(self, group: Group) -> None:
        if group.failure is not None:
            await self.link.fail(group.spec.tag, None)
        group.forgive()

    # -- Too many

    async def _expire(self, now: float) -> None:
        """Have workers end, hand over and be replaced before the native system ends them."""
        expiring = [member for group in self.groups.values() for member in group.expiring(now)]
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
                self._note(tag, f"draining {name}, whose time is nearly up")
        await self.link.expire(deadlines)

    def _shed(self, group: Group, now: float) -> None:
        for member in group.surplus():
            member.leaving = DrainProgress(Stage.BUSY)
            self._note(group.spec.tag, f"draining {member.unit.id}")

    async def _drain(self, now: float) -> None:
        """Bring draining workers nearer to their end; stop the units of those that have left."""
        draining = {m.unit.id: m for g in self.groups.values() for m in g.draining}
        stages = dict(await self.link.drain(list(draining))) if draining else {}
        expired = [
            name
            for name, leaving in stages.items()
            if self._held_too_long(draining[name], leaving, now)
        ]
        if expired:
            stages |= await self.link.drain(expired, force=True)
        for name, leaving in stages.items():
            draining[name].leaving = leaving
        left = [m for m in draining.values() if m.leaving == DrainProgress(Stage.GONE)]
        being_told = self._native.stopping
        for group in self.groups.values():
            defiant = group.defiant(now, self.pace.insist)
            left += [m for m in defiant if m.unit.id not in being_told]
        await self._stop(left, now)

    def _held_too_long(self, member: Member, leaving: DrainProgress, now: float) -> bool:
        if leaving.stage is not Stage.HOLDING:
            member.holding_since = None
            return False
        if member.holding_since is None:
            member.holding_since = now
            self._note(member.unit.tag, f"{member.unit.id} is holding {leaving.remaining} results")
        adapts = self.groups[member.unit.tag].range is not None
        if adapts or now - member.holding_since < self.pace.hold_timeout:
            return False
        self._note(
            member.unit.tag,
            f"{member.unit.id} held {leaving.remaining} results for {self.pace.hold_timeout:g} s; they are lost now",
        )
        return True

    async def _stop(self, members: Sequence[Member], now: float) -> None:
        """Tell units to end: one native call for all of them."""
        if members:
            for member in members:
                member.stopped_at = now
            self._native.stop(members)
        for told, error in await self._native.stopped():
            if error is None:
                # What they leave may be waited for.
                self._native.look_soon()
                self._wake.set()
                continue
            names = ", ".join(member.unit.id for member in told)
            self._note("", f"cannot stop {names}, will try again: {what_it_says(error)}")
            for member in told:
                member.stopped_at = None

    # -- Too few

    async def _recall(self, now: float) -> None:
        """Rather than launch new workers, take back those that are still draining."""
        for group in self.groups.values():
            lack = group.wanted - len(group.alive) - group.unnamed
            candidates = group.recallable(now)[: max(0, lack)]
            if not candidates:
                continue
            names = await self.link.resume([member.unit.id for member in candidates])
            for name in names:
                group.members[name].leaving = None
                self._note(group.spec.tag, f"{name} is back in service")

    async def _launch(self, now: float) -> None:
        """Launch what each group lacks: one native call a group, all groups at once.

        While a launch of a group is under way, what else it lacks is gathered for the next.
        """
        room = float("inf") if self.max_workers is None else self.max_workers
        room -= sum(len(group.members) + group.unnamed for group in self.groups.values())
        for tag, group in self.groups.items():
            lack = group.wanted - len(group.alive) - group.unnamed
            n = int(min(lack, room))
            group.crowd_out(lack > 0 and room <= 0, now)
            ready = group.failure is None and now >= group.retry_at
            if n > 0 and ready and not self._native.launching(tag) and not self.closed:
                room -= n
                request_id = uuid.uuid4().hex
                group.expect(request_id, n)
                self._native.launch(group.spec, n, request_id)
        for launch in await self._native.launched():
            await self._enter(self.groups[launch.tag], launch)

    async def _enter(self, group: Group, launch: Launch) -> None:
        """Enter what a launch brought into the books."""
        tag, n, now = group.spec.tag, launch.n, self.clock()
        try:
            units = launch.call.result()
        except TimeoutError:
            # What it made, if anything, will be observed under this request.
            group.answer(launch.request_id, (), now)
            self._note(
                tag, f"launching {n} workers took longer than {self.pace.native_timeout:g} s"
            )
        except Exception as error:  # noqa: BLE001 - becomes the group's trouble, which everybody is told
            group.settle(launch.request_id)
            trouble = troubles.not_launched(error)
            self._note(tag, trouble.summary)
            if isinstance(error, LaunchRefusedError):
                await self._fail(group, trouble)
            elif isinstance(error, LaunchError):
                if group.put_off(trouble, now):
                    # Nothing else may tell it, in a script by itself.
                    logger.warning(
                        "%s: cannot launch yet, will try again: %s", tag, trouble.summary
                    )
            else:
                await self._strike(group, launch.request_id, trouble)
        else:
            group.answer(launch.request_id, units, now)
            self._note(tag, f"launched {n}")

    async def _starve(self, now: float) -> None:
        """Fail the groups for which there will be no room as long as a client holds on to its results."""
        holders = [m for group in self.groups.values() for m in group.members.values() if m.holding]
        for group in self.groups.values():
            since = group.crowded_since
            if holders and since is not None and now - since > self.pace.hold_timeout:
                await self._fail(group, troubles.crowded_out(self.max_workers, holders))

    # -- Telling people

    def _group(self, tag: str) -> Group:
        try:
            return self.groups[tag]
        except KeyError:
            raise UnknownTagError(tag, self.groups) from None

    def _note(self, tag: str, text: str) -> None:
        if self.events and (self.events[-1].tag, self.events[-1].text) == (tag, text):
            return  # the same trouble, turn after turn
        logger.info("%s: %s", tag or "cluster", text)
        self.events.append(Event(time.time(), tag, text))

    def _refresh(self) -> None:
        self.statuses = {tag: group.status() for tag, group in self.groups.items()}

    def _nudge(self) -> None:
        self._refresh()
        self._wake.set()

    async def _publish(self) -> None:
        self._refresh()
        async with self._changed:
            self._changed.notify_all()

    # -- The end

    async def close(self) -> list[Leftover]:
        """Stop taking turns, end every unit, sweep, and say what could not be removed. Goes on past errors."""
        self.closed = True
        self._wake.set()
        steps = Steps(self.pace.close_timeout)
        if self._loop_task is not None:
            await steps.take("the turn under way", self._loop_task)
        # The units of a launch that is still under way must not be missed.
        launched = await steps.take("native calls under way", *self._native.end())
        await steps.take("cancelling tasks", self.link.cancel_all("the cluster was closed"))
        units = {unit.id: unit for units in launched if units is not None for unit in units} | {
            m.unit.id: m.unit for group in self.groups.values() for m in group.members.values()
        }
        if units:
            await steps.take("stopping workers", self.backend.stop(list(units.values())))
        swept = await steps.take("sweeping", self.backend.sweep())
        for group in self.groups.values():
            group.members.clear()
            group.requests.clear()
            group.wanted, group.range = 0, None
        await self._publish()
        # What a step reported matters only if something is still there; sweep is the one that knows.
        if swept:
            for trouble in steps.troubles:
                self._note("", f"{trouble.kind}: {trouble.name}: {trouble.error}")
            return list(swept[0])
        return [
            *steps.troubles,
            *(Leftover("worker", name, "nobody could tell whether it ended") for name in units),
        ]
