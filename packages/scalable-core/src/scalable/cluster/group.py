"""The books of one worker group: which units it has, and how each is doing. No I/O, no clock of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from scalable.cluster.link import Leaving, Report, Stage, WorkerInfo
from scalable.cluster.port import (
    Explanation,
    GroupSpec,
    GroupStatus,
    Phase,
    Reason,
    Unit,
    UnitState,
)

__all__ = ["Ended", "Fate", "Group", "Member", "RetryPolicy"]


@dataclass(frozen=True)
class RetryPolicy:
    """How stubbornly a group replaces what it lost. Times are in seconds.

    Parameters
    ----------
    tries : int
        Failed starts in a row after which the group has failed.
    delay, longest_delay : float
        Back-off after the first failure, doubled with each further one, up to the longest.
    healthy_after : float
        A worker that lived so long was healthy: its loss is made good at once.
    linger : float
        How long a unit may go on after its Dask worker has left, before it is ended.
    """

    tries: int = 3
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
    """One unit of a group, from its launch to its end."""

    unit: Unit
    launched: float
    state: UnitState | None = None
    running_since: float | None = None
    joined_at: float | None = None
    left_at: float | None = None
    expires_at: float | None = None
    worker: WorkerInfo | None = None
    leaving: Leaving | None = None
    holding_since: float | None = None
    stopped: bool = False

    @property
    def draining(self) -> bool:
        """Whether it is on its way out by our will."""
        return self.leaving is not None

    @property
    def alive(self) -> bool:
        """Whether it counts towards what its group wants."""
        return not (self.draining or self.stopped or self.left_at is not None)

    @property
    def idle(self) -> bool:
        """Whether nothing is assigned to it."""
        return self.worker is None or self.worker.tasks == 0

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
    """It runs, but no worker of it joined in time. It must be stopped."""
    REFUSED = "refused"
    """Its worker came, and was refused for good. It must be stopped."""
    STRAY = "stray"
    """Its worker has left, but the unit goes on. It must be stopped."""


@dataclass(frozen=True)
class Ended:
    """A unit that ended, or must be ended, and how."""

    member: Member
    fate: Fate
    detail: str = ""


@dataclass(frozen=True)
class Request:
    """A launch of which some units may still be unnamed: how many were asked for, and when."""

    asked: int
    since: float


@dataclass
class Group:
    """One worker group: what it should have, and what it has.

    Parameters
    ----------
    spec : GroupSpec
        Tag, slots and startup timeout.
    retry : RetryPolicy
        How stubbornly it replaces what it lost.
    """

    spec: GroupSpec
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    wanted: int = 0
    range: tuple[int, int] | None = None
    members: dict[str, Member] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    """Launches that are not settled yet, by request id."""
    failure: Explanation | None = None
    last_trouble: Explanation | None = None
    retry_at: float = 0.0
    low_since: float | None = None
    _strikes: set[str] = field(default_factory=set)
    _early_losses: int = 0

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
        known = Counter(member.unit.request_id for member in self.members.values())
        return sum(max(0, r.asked - known[request_id]) for request_id, r in self.requests.items())

    # -- Launches

    def expect(self, request_id: str, n: int, now: float) -> None:
        """Note that `n` units are being asked for."""
        self.requests[request_id] = Request(n, now)

    def welcome(self, units: Iterable[Unit], now: float) -> None:
        """Enter units that a launch returned or a look discovered."""
        for unit in units:
            self.members.setdefault(unit.id, Member(unit, now))

    def settle(self, request_id: str) -> None:
        """Forget a launch, of which nothing more will come."""
        self.requests.pop(request_id, None)

    # -- What a look says

    def look(
        self, native: Mapping[str, UnitState] | None, report: Report, now: float
    ) -> list[Ended]:
        """Bring the books up to date, and say what ended.

        Parameters
        ----------
        native : mapping of str to UnitState, or None
            What the backend observed; None where it was not asked or did not answer.
        report : Report
            What the scheduler says.
        now : float
            Seconds on the controller's clock.
        """
        if native is not None:
            self._adopt(native, now)
        ended = []
        for member in list(self.members.values()):
            self._meet(member, report.workers.get(member.unit.id), now)
            if native is not None:
                self._observe(member, native.get(member.unit.id), now)
            end = self._judge(member, report, now)
            if end is not None:
                ended.append(end)
                if end.fate in (Fate.DISMISSED, Fate.LOST, Fate.STILLBORN):
                    del self.members[member.unit.id]
        return ended

    def _adopt(self, native: Mapping[str, UnitState], now: float) -> None:
        """Enter units that the native system named after their launch."""
        self.welcome(
            (
                state.unit
                for state in native.values()
                if state.unit.request_id in self.requests and state.phase is not Phase.GONE
            ),
            now,
        )
        for request_id, request in list(self.requests.items()):
            overdue = now - request.since > self.spec.startup_timeout
            if overdue or self._known(request_id) >= request.asked:
                self.settle(request_id)

    def _known(self, request_id: str) -> int:
        return sum(member.unit.request_id == request_id for member in self.members.values())

    def _meet(self, member: Member, worker: WorkerInfo | None, now: float) -> None:
        member.worker = worker
        if worker is not None and member.joined_at is None:
            member.joined_at = now
            # This group can start workers.
            self._strikes.clear()
        if worker is None and member.joined_at is not None and member.left_at is None:
            member.left_at = now

    def _observe(self, member: Member, state: UnitState | None, now: float) -> None:
        member.state = state or UnitState(member.unit, Phase.GONE)
        if member.state.phase is Phase.RUNNING and member.running_since is None:
            member.running_since = now
        if member.state.seconds_left is not None:
            member.expires_at = now + member.state.seconds_left

    def _judge(self, member: Member, report: Report, now: float) -> Ended | None:
        if member.state is not None and member.state.phase is Phase.GONE:
            if member.draining or member.stopped:
                return Ended(member, Fate.DISMISSED)
            return Ended(member, Fate.STILLBORN if member.joined_at is None else Fate.LOST)
        if member.stopped:
            return None
        if member.unit.id in report.refused:
            return Ended(member, Fate.REFUSED, report.refused[member.unit.id])
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
        self.retry_at = now + self.retry.back_off(len(self._strikes))
        return len(self._strikes) >= self.retry.tries

    def lose(self, member: Member, trouble: Explanation, now: float) -> None:
        """Count the loss of a worker: it is made good at once, unless workers keep dying young."""
        self.last_trouble = trouble
        joined = now if member.joined_at is None else member.joined_at
        young = now - joined < self.retry.healthy_after
        self._early_losses = self._early_losses + 1 if young else 0
        # One young death is an accident.
        self.retry_at = now + self.retry.back_off(max(0, self._early_losses - 1))

    def forgive(self) -> None:
        """Start afresh: somebody asked for this group again."""
        self.failure = self.last_trouble = None
        self.retry_at, self._early_losses = 0.0, 0
        self._strikes.clear()

    # -- Too many

    def surplus(self) -> list[Member]:
        """Members to let go, the least useful first: never arrived, then idle, then the least busy."""
        excess = len(self.alive) - self.wanted
        return sorted(self.alive, key=_usefulness)[: max(0, excess)]

    def expiring(self, now: float) -> list[Member]:
        """Members whose own time is nearly up."""
        return [member for member in self.alive if self._nearly_up(member, now)]

    def _nearly_up(self, member: Member, now: float) -> bool:
        if member.expires_at is None or member.running_since is None:
            return False
        lifetime = member.expires_at - member.running_since
        return member.expires_at - now <= min(self.spec.handover, lifetime / 4)

    def recallable(self, now: float) -> list[Member]:
        """Draining members that could be taken back into service, the most useful first."""
        candidates = [
            member
            for member in self.draining
            if member.worker is not None
            and member.leaving
            and member.leaving.stage is not Stage.GONE
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
            holding=sum(
                m.leaving.left
                for m in members
                if m.leaving is not None and m.leaving.stage is Stage.HOLDING
            ),
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
        if self.last_trouble is not None:
            return Reason.BACKOFF, f"to be tried again: {self.last_trouble.summary}"
        return Reason.STARTING, "about to be launched"


def _usefulness(member: Member) -> tuple[bool, bool, int, int, float]:
    tasks = member.worker.tasks if member.worker else 0
    results = member.worker.results if member.worker else 0
    return member.joined_at is not None, member.starting, tasks, results, -member.launched
