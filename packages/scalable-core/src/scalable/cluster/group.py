"""The books of one worker group: which units it has, and how each is doing. No I/O, no clock of its own."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from scalable.cluster.link import DrainProgress, Report, Stage, WorkerInfo
from scalable.cluster.port import (
    Explanation,
    GroupSpec,
    GroupStatus,
    Phase,
    Reason,
    Unit,
    UnitState,
)

__all__ = ["Ended", "Fate", "Group", "Member", "Observation", "RetryPolicy"]

_NOBODYS_FAULT = frozenset({Reason.CANCELLED, Reason.PREEMPTED, Reason.NODE_FAILURE})
"""What says nothing of a group: its next worker may live."""


@dataclass(frozen=True)
class RetryPolicy:
    """How stubbornly a group replaces what it lost. Times are in seconds.

    Parameters
    ----------
    tries : int
        Failed starts in a row after which the group has failed.
    young_deaths : int
        Launches in a row that lost workers before those were healthy, after which the group has failed. More than the
        workers that one task can kill before Dask gives it up, which is 4.
    delay, longest_delay : float
        Back-off after the first failure, doubled with each further one, up to the longest.
    healthy_after : float
        A worker that lived so long is healthy: its loss is made good at once.
    linger : float
        How long a unit may go on after its Dask worker has left, before it is ended.
    """

    tries: int = 3
    young_deaths: int = 10
    delay: float = 0.5
    longest_delay: float = 60.0
    healthy_after: float = 10.0
    linger: float = 10.0

    def back_off(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row.

        Examples
        --------
        >>> [RetryPolicy().back_off(n) for n in (0, 1, 2, 3, 99)]
        [0.0, 0.5, 1.0, 2.0, 60.0]
        """
        if failures == 0:
            return 0.0
        return min(self.delay * 2.0 ** min(failures - 1, 60), self.longest_delay)


@dataclass
class Member:
    """One unit of a group, from its launch to its end. Times are seconds on the controller's clock.

    Parameters
    ----------
    unit : Unit
        Which one.
    launched : float
        When it was entered.
    state : UnitState or None
        How the native system showed it last.
    running_since : float or None
        Since when it has its machine.
    joined_at, left_at : float or None
        When its Dask worker came, and when it left.
    expires_at : float or None
        When its own time will be up.
    worker : WorkerInfo or None
        Its Dask worker, as the scheduler showed it last; None while there is none.
    leaving : DrainProgress or None
        How near to its end it is, once it drains.
    holding_since : float or None
        Since when it stays for its results alone.
    stopped_at : float or None
        When its unit was told to end.
    expires : bool
        Whether its own time is nearly up, and that has been dealt with.
    """

    unit: Unit
    launched: float
    state: UnitState | None = None
    running_since: float | None = None
    joined_at: float | None = None
    left_at: float | None = None
    expires_at: float | None = None
    worker: WorkerInfo | None = None
    leaving: DrainProgress | None = None
    holding_since: float | None = None
    stopped_at: float | None = None
    expires: bool = False

    @property
    def draining(self) -> bool:
        """Whether it is on its way out by our will."""
        return self.leaving is not None

    @property
    def stopped(self) -> bool:
        """Whether its unit was told to end."""
        return self.stopped_at is not None

    @property
    def alive(self) -> bool:
        """Whether it counts towards what its group wants."""
        # Asked for every unit many times a turn.
        return self.leaving is None and self.stopped_at is None and self.left_at is None

    @property
    def idle(self) -> bool:
        """Whether nothing is assigned to it."""
        return self.worker is None or self.worker.tasks == 0

    @property
    def holding(self) -> int:
        """Results that keep it, because no other worker can take them."""
        if self.leaving is None or self.leaving.stage is not Stage.HOLDING:
            return 0
        return self.leaving.remaining

    @property
    def lifetime(self) -> float:
        """Seconds that its unit may run; without end where its native system sets none."""
        if self.expires_at is None or self.running_since is None:
            return float("inf")
        return self.expires_at - self.running_since

    @property
    def starting(self) -> bool:
        """Whether it has its machine, but no Dask worker yet."""
        return (
            self.joined_at is None and self.state is not None and self.state.phase is Phase.RUNNING
        )


class Fate(StrEnum):
    """How a unit ended."""

    DISMISSED = "dismissed"
    """We ended it."""
    LOST = "lost"
    """Its worker had joined; then something else ended it."""
    STILLBORN = "stillborn"
    """No worker of it ever joined."""
    LATE = "late"
    """It runs, but no worker of it joined in time. It must leave."""
    REFUSED = "refused"
    """Its worker came, and was refused for good. It must leave."""
    STRAY = "stray"
    """Its worker has left, but the unit goes on. It must leave."""


@dataclass(frozen=True)
class Ended:
    """A unit that ended, or must be ended, and how."""

    member: Member
    fate: Fate
    detail: str = ""


@dataclass(frozen=True)
class Observation:
    """One look at the native system: the units it showed, and when it was asked for them."""

    units: Mapping[str, UnitState]
    asked_at: float

    @cached_property
    def by_tag(self) -> Mapping[str, Sequence[UnitState]]:
        """The units of each group."""
        groups: defaultdict[str, list[UnitState]] = defaultdict(list)
        for state in self.units.values():
            groups[state.unit.tag].append(state)
        return groups


@dataclass
class Request:
    """A launch: how many units were asked for, when the answer came, and which units became known."""

    asked: int
    answered_at: float | None = None
    named: set[str] = field(default_factory=set)

    @property
    def unnamed(self) -> int:
        """Units whose names are not known yet."""
        return max(0, self.asked - len(self.named))


@dataclass
class Group:
    """One worker group: what it should have, and what it has.

    Parameters
    ----------
    spec : GroupSpec
        Tag, slots and startup timeout.
    retry : RetryPolicy
        How stubbornly it replaces what it lost.
    wanted : int
        Workers that it should have now.
    range : (int, int) or None
        Minimum and maximum of an adaptive group; None where the count is fixed.
    members : dict of str to Member
        Its units by id.
    requests : dict of str to Request
        Launches that are not settled yet, by request id.
    failure : Explanation or None
        Why the engine has given up on it.
    last_trouble : Explanation or None
        What went wrong last.
    retry_at : float
        When it may launch again.
    low_since, crowded_since : float or None
        Since when it has had more workers than it needs; since when it has had none, for want of room under the cap.
    """

    spec: GroupSpec
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    wanted: int = 0
    range: tuple[int, int] | None = None
    members: dict[str, Member] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    failure: Explanation | None = None
    last_trouble: Explanation | None = None
    retry_at: float = 0.0
    low_since: float | None = None
    crowded_since: float | None = None
    _strikes: set[str] = field(default_factory=set)
    _young_deaths: set[str] = field(default_factory=set)
    _put_off: int = 0

    # -- What it has

    @property
    def alive(self) -> list[Member]:
        """Members that count towards what is wanted."""
        return [member for member in self.members.values() if member.alive]

    @property
    def draining(self) -> list[Member]:
        """Members that are on their way out and not yet told to stop."""
        return [m for m in self.members.values() if m.draining and not m.stopped]

    @property
    def unnamed(self) -> int:
        """Units that a launch was granted, but whose names are not known yet."""
        return sum(request.unnamed for request in self.requests.values())

    # -- Launches

    def expect(self, request_id: str, n: int) -> None:
        """Note that `n` units are being asked for."""
        self.requests[request_id] = Request(n)

    def answer(self, request_id: str, units: Iterable[Unit], now: float) -> None:
        """Note what a launch returned; what it did not name may be observed later."""
        self._put_off = 0
        self._welcome(units, now)
        self.requests[request_id].answered_at = now
        self._settle()

    def settle(self, request_id: str) -> None:
        """Forget a launch, of which nothing more will come."""
        self.requests.pop(request_id, None)

    def give_up(self, now: float) -> dict[str, int]:
        """Forget launches whose units should have been observed long ago; say how many each lacks."""
        overdue = {
            request_id: request.unnamed
            for request_id, request in self.requests.items()
            if request.answered_at is not None
            and now - request.answered_at > self.spec.startup_timeout
        }
        for request_id in overdue:
            self.settle(request_id)
        return overdue

    def _welcome(self, units: Iterable[Unit], now: float) -> None:
        """Enter units, each once: of a launch, the answer and an observation may both name it."""
        for unit in units:
            request = self.requests.get(unit.request_id)
            if request is None:
                self.members.setdefault(unit.id, Member(unit, now))
            elif unit.id not in request.named:
                request.named.add(unit.id)
                self.members[unit.id] = Member(unit, now)

    def _settle(self) -> None:
        complete = [
            request_id
            for request_id, request in self.requests.items()
            if request.answered_at is not None and not request.unnamed
        ]
        for request_id in complete:
            self.settle(request_id)

    # -- What a look says

    def look(self, seen: Observation | None, report: Report, now: float) -> list[Ended]:
        """Bring the books up to date, and say what ended.

        Parameters
        ----------
        seen : Observation or None
            What the backend showed; None where it was not asked or did not answer.
        report : Report
            What the scheduler says.
        now : float
            Seconds on the controller's clock.
        """
        if seen is not None:
            self._adopt(seen, now)
        ended = []
        for member in list(self.members.values()):
            self._meet(member, report, now)
            if seen is not None:
                self._observe(member, seen, now)
            end = self._judge(member, report, now)
            if end is not None:
                ended.append(end)
                if end.fate in (Fate.DISMISSED, Fate.LOST, Fate.STILLBORN):
                    del self.members[member.unit.id]
        return ended

    def _adopt(self, seen: Observation, now: float) -> None:
        """Enter units that the native system named after their launch, or after we gave them up."""
        self._welcome(
            (
                state.unit
                for state in seen.by_tag.get(self.spec.tag, ())
                # Of an end that is told twice, the second time is none of our business.
                if state.phase is not Phase.GONE or state.unit.request_id in self.requests
            ),
            now,
        )
        self._settle()

    def _meet(self, member: Member, report: Report, now: float) -> None:
        member.worker = report.workers.get(member.unit.id)
        if member.joined_at is None and (member.worker or member.unit.id in report.removed):
            member.joined_at = now
            # This group can start workers.
            self._strikes.clear()
        if member.worker is None:
            self._part(member, now)
            return
        member.left_at = None
        if member.joined_at is not None and now - member.joined_at >= self.retry.healthy_after:
            # And they can live.
            self._young_deaths.clear()

    def _part(self, member: Member, now: float) -> None:
        """Note that a worker is not there any more: made good at once, unless workers keep dying young."""
        if member.joined_at is None or member.left_at is not None:
            return
        member.left_at = now
        if member.draining or member.stopped:
            return
        if now - member.joined_at < self.retry.healthy_after:
            self._young_deaths.add(member.unit.request_id)
            # One young death is an accident.
            self._hold_back(len(self._young_deaths) - 1, now)

    def _observe(self, member: Member, seen: Observation, now: float) -> None:
        state = seen.units.get(member.unit.id)
        if state is None and member.launched >= seen.asked_at:
            return
        member.state = state or UnitState(member.unit, Phase.GONE)
        if member.state.phase is Phase.PENDING:
            member.running_since = None  # it may be back in the queue
        elif member.running_since is None:
            member.running_since = now
        if member.state.phase is Phase.GONE:
            self._part(member, now)
        if member.state.seconds_left is not None:
            member.expires_at = now + member.state.seconds_left

    def _judge(self, member: Member, report: Report, now: float) -> Ended | None:
        gone = member.state is not None and member.state.phase is Phase.GONE
        if member.draining or member.stopped:
            return Ended(member, Fate.DISMISSED) if gone else None
        if member.unit.id in report.refused:
            # Even if it is gone: a refused worker ends by itself, often before anybody looks.
            return Ended(member, Fate.REFUSED, report.refused[member.unit.id])
        if gone:
            return Ended(member, Fate.STILLBORN if member.joined_at is None else Fate.LOST)
        if (
            member.joined_at is None
            and member.running_since is not None
            and now - member.running_since > self.spec.startup_timeout
        ):
            return Ended(member, Fate.LATE)
        if member.left_at is not None and now - member.left_at > self.retry.linger:
            return Ended(member, Fate.STRAY)
        return None

    # -- Trouble

    def strike(self, request_id: str, trouble: Explanation, now: float) -> bool:
        """Count a failed start; say whether it was one too many.

        All units of one launch count once: many of them may die of one cause.
        """
        self.last_trouble = trouble
        self._strikes.add(request_id)
        self._hold_back(len(self._strikes), now)
        return len(self._strikes) >= self.retry.tries

    def put_off(self, trouble: Explanation, now: float) -> bool:
        """Note that no launch can be made for now, and why; say whether that is news.

        It says nothing of what the group's workers would do, and may last: a controller that is being restarted, a
        limit on what one may have queued. So it is waited out, as a queue is.
        """
        news = not self._put_off
        self.last_trouble = trouble
        self._put_off += 1
        self._hold_back(self._put_off, now)
        return news

    def lose(self, trouble: Explanation) -> bool:
        """Note why a worker was lost; say whether too many died young."""
        self.last_trouble = trouble
        if trouble.reason in _NOBODYS_FAULT:
            return False
        return len(self._young_deaths) >= self.retry.young_deaths

    def _hold_back(self, failures: int, now: float) -> None:
        self.retry_at = max(self.retry_at, now + self.retry.back_off(failures))

    def forgive(self) -> None:
        """Start afresh: somebody asked for this group again."""
        self.failure = self.last_trouble = None
        self.retry_at = 0.0
        self.crowded_since = None
        self._strikes.clear()
        self._young_deaths.clear()
        self._put_off = 0

    def crowd_out(self, no_room: bool, now: float) -> None:
        """Note whether it lacks workers because the cap leaves no room for them."""
        if not no_room or self.alive:
            self.crowded_since = None
        elif self.crowded_since is None:
            self.crowded_since = now

    # -- Too many

    def surplus(self) -> list[Member]:
        """Members to let go, the least useful first: never arrived, then idle, then the least busy."""
        excess = len(self.alive) - self.wanted
        return sorted(self.alive, key=_usefulness)[: max(0, excess)]

    def defiant(self, now: float, patience: float) -> list[Member]:
        """Members that were told to stop `patience` seconds ago, and are still there."""
        return [
            member
            for member in self.members.values()
            if member.stopped_at is not None and now - member.stopped_at > patience
        ]

    def expiring(self, now: float) -> list[Member]:
        """Members whose own time is nearly up, each of them once."""
        due = [
            member
            for member in self.members.values()
            if not member.expires and not member.stopped and self._nearly_up(member, now)
        ]
        for member in due:
            member.expires = True
        return due

    def _nearly_up(self, member: Member, now: float) -> bool:
        if member.expires_at is None:
            return False
        return member.expires_at - now <= min(self.spec.handover, member.lifetime / 4)

    def recallable(self, now: float) -> list[Member]:
        """Draining members that could be taken back into service, the most useful first."""
        candidates = [
            member
            for member in self.draining
            if member.worker is not None
            and member.leaving
            and member.leaving.stage is not Stage.GONE
            and not self._nearly_up(member, now)
        ]
        return sorted(candidates, key=_usefulness, reverse=True)

    # -- For people

    def status(self) -> GroupStatus:
        """Sum the group up."""
        members = self.members.values()
        pending = sum(m.alive and m.joined_at is None and not m.starting for m in members)
        low, high = self.range or (None, None)
        reason, detail = self._why()
        return GroupStatus(
            tag=self.spec.tag,
            wanted=self.wanted,
            minimum=low,
            maximum=high,
            pending=pending + self.unnamed,
            starting=sum(m.alive and m.starting for m in members),
            running=sum(m.alive and m.joined_at is not None for m in members),
            draining=sum(m.draining for m in members),
            holding=sum(m.holding for m in members),
            failed=self.failure is not None,
            reason=reason,
            detail=detail,
            workers=tuple(m.unit.id for m in members if m.alive and m.joined_at is not None),
        )

    def _why(self) -> tuple[Reason | None, str]:
        """Say why workers are missing; (None, "") where none are."""
        if self.failure is not None:
            return self.failure.reason, self.failure.summary
        absent = [m for m in self.alive if m.joined_at is None]
        lacking = self.wanted - len(self.alive)
        if not absent and lacking <= 0:
            return None, ""
        waiting = Counter(
            (m.state.reason, m.state.detail)
            for m in absent
            if m.state is not None and m.state.phase is Phase.PENDING
        )
        if waiting:
            (reason, detail), _ = waiting.most_common(1)[0]
            return reason, detail or str(reason)
        if absent or self.requests:
            return Reason.STARTING, "starting"
        if self.crowded_since is not None:
            return Reason.QUOTA, "waiting for room under max_workers"
        if self.last_trouble is not None:
            return Reason.BACKOFF, f"to be tried again: {self.last_trouble.summary}"
        return Reason.STARTING, "about to be launched"


def _usefulness(member: Member) -> tuple[bool, bool, int, int, float]:
    tasks = member.worker.tasks if member.worker else 0
    results = member.worker.results if member.worker else 0
    return member.joined_at is not None, member.starting, tasks, results, -member.launched
