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

from scalable.cluster import explanations
from scalable.cluster.adaptive import AdaptivePolicy
from scalable.cluster.closing import ClosingSteps
from scalable.cluster.group import EndReason, Group, Member, Observation, RetryPolicy, UnitEnd
from scalable.cluster.link import Leaving, SchedulerLink, Stage
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
    describe_error,
)

__all__ = ["Event", "GroupController", "Pace"]

logger = logging.getLogger("scalable.cluster")

Causes = Mapping[tuple[str, EndReason], tuple[Member, Explanation]]
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
    stop_retry_interval : float
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
    stop_retry_interval: float = 60.0
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
            wait=self.pace.tick,
            poll=self.pace.poll,
            timeout=self.pace.native_timeout,
            clock=clock,
        )
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self._changed = asyncio.Condition()
        self._loop_task: asyncio.Task[None] | None = None
        self._update_statuses()

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
        self._request_turn()
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
            await self._clear_failure(group)
        self._request_turn()

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
            await self._clear_failure(group)
        self._request_turn()

    async def set_max_workers(self, cap: int | None) -> None:
        """Cap the units of all groups together."""
        check_cap(floors(self.groups), cap)
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
            So many workers are not wanted, or are no longer.
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
        return group.last_problem or Explanation(status.reason, status.detail)

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
                self._record("", f"a turn of the controller failed: {error!r}")
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
            causes = await self._describe_ends(end for _, end in ends)
            for group, end in ends:
                await self._handle_end(group, end, causes)
            if seen is not None:
                for group in self.groups.values():
                    await self._handle_overdue_requests(group)
            retarget(self.groups, report.demand, self.policy, self.max_workers, now)
            await self._drain_expiring(now)
            for group in self.groups.values():
                self._drain_surplus(group, now)
            await self._drain(now)
            await self._resume_draining(now)
            await self._launch_missing(now)
            await self._fail_blocked_groups(now)
            await self._publish()

    async def _observe(self) -> Observation | None:
        """Look at the native system, if it is time to and there is anything to see."""
        busy = any(group.members or group.requests for group in self.groups.values())
        try:
            return await self._native.observe(busy)
        except Exception as error:  # noqa: BLE001 - what was known stays true until the next look
            self._record(
                "", f"cannot look at the native system, will try again: {describe_error(error)}"
            )
            return None

    # -- Ends

    async def _describe_ends(self, ends: Iterable[UnitEnd]) -> Causes:
        """Ask why units ended, all at once; of those that one launch lost alike, one: each may cost a native call."""
        representatives: dict[tuple[str, EndReason], Member] = {}
        for end in ends:
            if end.reason not in (EndReason.STOPPED, EndReason.REFUSED):
                representatives.setdefault((end.member.unit.request_id, end.reason), end.member)
        wait = self.pace.describe_timeout
        found = await asyncio.gather(
            *(self._describe(one, wait) for one in representatives.values())
        )
        return {
            key: (member, cause)
            for (key, member), cause in zip(representatives.items(), found, strict=True)
        }

    async def _handle_end(self, group: Group, end: UnitEnd, causes: Causes) -> None:
        """Draw the consequences of a unit's end."""
        member, unit, tag = end.member, end.member.unit, group.spec.tag
        if end.reason is EndReason.STOPPED:
            self._record(tag, f"{unit.id} has left")
            return
        if end.reason is EndReason.REFUSED:
            await self._fail(group, explanations.explain_refusal(end))
        else:
            representative, native = causes[unit.request_id, end.reason]
            problem = explanations.explain_end(end, group.spec, native)
            why = problem.summary if member is representative else "as did others of its launch"
            if end.reason in (EndReason.LOST, EndReason.ORPHANED):
                self._record(tag, f"lost {unit.id}: {why}")
                if group.record_loss(problem):
                    await self._fail(group, problem)
            else:
                self._record(tag, f"{unit.id} did not start: {why}")
                await self._record_start_failure(group, unit.request_id, problem)
        if end.reason in (EndReason.REFUSED, EndReason.JOIN_TIMEOUT, EndReason.ORPHANED):
            # Drained like others: its worker may have come in this very moment.
            member.leaving = Leaving(Stage.BUSY)

    async def _handle_overdue_requests(self, group: Group) -> None:
        """Wait no longer for units that were launched and never seen."""
        for request_id, missing in group.forget_overdue_requests(self.clock()).items():
            problem = explanations.explain_never_seen(missing, group.spec)
            self._record(group.spec.tag, problem.summary)
            await self._record_start_failure(group, request_id, problem)

    async def _record_start_failure(
        self, group: Group, request_id: str, problem: Explanation
    ) -> None:
        if group.record_start_failure(request_id, problem, self.clock()):
            await self._fail(group, problem)

    async def _describe(self, member: Member, timeout: float | None = None) -> Explanation:
        try:
            return await self._native.describe(member.unit, timeout)
        except Exception as error:  # noqa: BLE001 - the explanation says what was raised
            return explanations.explain_from_state(member, error)

    async def _fail(self, group: Group, why: Explanation) -> None:
        if group.failure is None:
            await self.link.fail(group.spec.tag, GroupFailedError(group.spec.tag, why))
            group.failure = why
            self._record(group.spec.tag, f"failed: {why.summary}")

    async def _clear_failure(self, group: Group) -> None:
        if group.failure is not None:
            await self.link.fail(group.spec.tag, None)
        group.reset_failures()

    # -- Too many

    async def _drain_expiring(self, now: float) -> None:
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
                member.leaving = Leaving(Stage.BUSY)
                self._record(tag, f"draining {name}, whose time is nearly up")
        await self.link.expire(deadlines)

    def _drain_surplus(self, group: Group, now: float) -> None:
        for member in group.surplus():
            member.leaving = Leaving(Stage.BUSY)
            self._record(group.spec.tag, f"draining {member.unit.id}")

    async def _drain(self, now: float) -> None:
        """Bring draining workers nearer to their end; stop the units of those that have left."""
        draining = {m.unit.id: m for g in self.groups.values() for m in g.draining}
        stages = dict(await self.link.drain(list(draining))) if draining else {}
        expired = [
            name
            for name, leaving in stages.items()
            if self._hold_expired(draining[name], leaving, now)
        ]
        if expired:
            stages |= await self.link.drain(expired, force=True)
        for name, leaving in stages.items():
            draining[name].leaving = leaving
        left = [m for m in draining.values() if m.leaving == Leaving(Stage.GONE)]
        being_told = self._native.stopping
        for group in self.groups.values():
            unresponsive_to_stop = group.unresponsive_to_stop(now, self.pace.stop_retry_interval)
            left += [m for m in unresponsive_to_stop if m.unit.id not in being_told]
        await self._stop(left, now)

    def _hold_expired(self, member: Member, leaving: Leaving, now: float) -> bool:
        if leaving.stage is not Stage.HOLDING:
            member.holding_since = None
            return False
        if member.holding_since is None:
            member.holding_since = now
            self._record(member.unit.tag, f"{member.unit.id} is holding {leaving.left} results")
        adapts = self.groups[member.unit.tag].range is not None
        if adapts or now - member.holding_since < self.pace.hold_timeout:
            return False
        self._record(
            member.unit.tag,
            f"{member.unit.id} held {leaving.left} results for {self.pace.hold_timeout:g} s; they are lost now",
        )
        return True

    async def _stop(self, members: Sequence[Member], now: float) -> None:
        """Tell units to end: one native call for all of them."""
        if members:
            for member in members:
                member.stopped_at = now
            self._native.stop(members)
        for told, error in await self._native.finished_stops():
            if error is None:
                # What they leave may be waited for.
                self._native.observe_soon()
                self._wake.set()
                continue
            names = ", ".join(member.unit.id for member in told)
            self._record("", f"cannot stop {names}, will try again: {describe_error(error)}")
            for member in told:
                member.stopped_at = None

    # -- Too few

    async def _resume_draining(self, now: float) -> None:
        """Rather than launch new workers, take back those that are still draining."""
        for group in self.groups.values():
            lack = group.wanted - len(group.alive) - group.unnamed
            candidates = group.resumable(now)[: max(0, lack)]
            if not candidates:
                continue
            names = await self.link.resume([member.unit.id for member in candidates])
            for name in names:
                group.members[name].leaving = None
                self._record(group.spec.tag, f"{name} is back in service")

    async def _launch_missing(self, now: float) -> None:
        """Launch what each group lacks: one native call a group, all groups at once.

        While a launch of a group is under way, what else it lacks is gathered for the next.
        """
        room = float("inf") if self.max_workers is None else self.max_workers
        room -= sum(len(group.members) + group.unnamed for group in self.groups.values())
        for tag, group in self.groups.items():
            lack = group.wanted - len(group.alive) - group.unnamed
            n = int(min(lack, room))
            group.update_blocked(lack > 0 and room <= 0, now)
            ready = group.failure is None and now >= group.retry_at
            if n > 0 and ready and not self._native.is_launching(tag) and not self.closed:
                room -= n
                request_id = uuid.uuid4().hex
                group.record_request(request_id, n)
                self._native.launch(group.spec, n, request_id)
        for launch in await self._native.finished_launches():
            await self._record_launch(self.groups[launch.tag], launch)

    async def _record_launch(self, group: Group, launch: Launch) -> None:
        """Enter what a launch brought into the books."""
        tag, n, now = group.spec.tag, launch.n, self.clock()
        try:
            units = launch.call.result()
        except TimeoutError:
            # What it made, if anything, will be observed under this request.
            group.record_answer(launch.request_id, (), now)
            self._record(
                tag, f"launching {n} workers took longer than {self.pace.native_timeout:g} s"
            )
        except Exception as error:  # noqa: BLE001 - becomes the group's problem, which everybody is told
            group.forget_request(launch.request_id)
            problem = explanations.explain_launch_error(error)
            self._record(tag, problem.summary)
            if isinstance(error, LaunchRefusedError):
                await self._fail(group, problem)
            elif isinstance(error, LaunchError):
                if group.record_postponed_launch(problem, now):
                    # Nothing else may tell it, in a script by itself.
                    logger.warning(
                        "%s: cannot launch yet, will try again: %s", tag, problem.summary
                    )
            else:
                await self._record_start_failure(group, launch.request_id, problem)
        else:
            group.record_answer(launch.request_id, units, now)
            self._record(tag, f"launched {n}")

    async def _fail_blocked_groups(self, now: float) -> None:
        """Fail the groups for which there will be no room as long as a client holds on to its results."""
        holders = [m for group in self.groups.values() for m in group.members.values() if m.holding]
        for group in self.groups.values():
            since = group.blocked_since
            if holders and since is not None and now - since > self.pace.hold_timeout:
                await self._fail(
                    group, explanations.explain_blocked_by_cap(self.max_workers, holders)
                )

    # -- Telling people

    def _group(self, tag: str) -> Group:
        try:
            return self.groups[tag]
        except KeyError:
            raise UnknownTagError(tag, self.groups) from None

    def _record(self, tag: str, text: str) -> None:
        if self.events and (self.events[-1].tag, self.events[-1].text) == (tag, text):
            return  # the same problem, turn after turn
        logger.info("%s: %s", tag or "cluster", text)
        self.events.append(Event(time.time(), tag, text))

    def _update_statuses(self) -> None:
        self.statuses = {tag: group.status() for tag, group in self.groups.items()}

    def _request_turn(self) -> None:
        self._update_statuses()
        self._wake.set()

    async def _publish(self) -> None:
        self._update_statuses()
        async with self._changed:
            self._changed.notify_all()

    # -- The end

    async def close(self) -> list[Leftover]:
        """Stop taking turns, end every unit, sweep, and say what could not be removed. Goes on past errors."""
        self.closed = True
        self._wake.set()
        steps = ClosingSteps(self.pace.close_timeout)
        if self._loop_task is not None:
            await steps.run("the turn under way", self._loop_task)
        # The units of a launch that is still under way must not be missed.
        launched = await steps.run("native calls under way", *self._native.shut_down())
        await steps.run("cancelling tasks", self.link.cancel_all("the cluster was closed"))
        units = {unit.id: unit for units in launched if units is not None for unit in units} | {
            m.unit.id: m.unit for group in self.groups.values() for m in group.members.values()
        }
        if units:
            await steps.run("stopping workers", self.backend.stop(list(units.values())))
        swept = await steps.run("sweeping", self.backend.sweep())
        for group in self.groups.values():
            group.members.clear()
            group.requests.clear()
            group.wanted, group.range = 0, None
        await self._publish()
        # What a step reported matters only if something is still there; sweep is the one that knows.
        if swept:
            for problem in steps.failures:
                self._record("", f"{problem.kind}: {problem.name}: {problem.error}")
            return list(swept[0])
        return [
            *steps.failures,
            *(Leftover("worker", name, "nobody could tell whether it ended") for name in units),
        ]
