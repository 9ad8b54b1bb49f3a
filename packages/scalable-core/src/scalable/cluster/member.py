"""One unit of a group: what is known about it, and how it ended. No I/O, no clock of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from scalable.cluster.link import DrainProgress, Report, Stage, WorkerInfo
from scalable.cluster.port import GroupSpec, Phase, Reason, Unit, UnitState
from scalable.cluster.retry import RetryPolicy

__all__ = [
    "KNOWN_FOR",
    "EndReason",
    "Member",
    "Observation",
    "UnitEnd",
    "classify_end",
    "drain_order",
]

KNOWN_FOR = 30.0
"""Seconds for which a unit that was seen to wait for a machine counts as waiting, without a newer observation."""


STEADY_AFTER = 120.0
"""Seconds after which a unit that waits for a machine is taken to wait for longer."""

_ANSWERING = frozenset({"running", "paused", "closing_gracefully"})


@dataclass(frozen=True)
class Observation:
    """An answer of the backend to `observe`: the units it showed, and the time of the call."""

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
class Member:
    """One unit of a group, from its launch to its end. Times are seconds on the controller's clock.

    Parameters
    ----------
    unit : Unit
        The unit.
    launched : float
        When it became known.
    state : UnitState or None
        Its most recent state in the native system.
    running_since : float or None
        Since when it has its machine.
    waited_until : float or None
        Until when it is known to have had no machine; by default, until it was launched.
    ran_before, had_machine : float, bool
        Seconds for which it had a machine before it was back in the queue, and whether it has had one since.
    joined_at, left_at : float or None
        When its Dask worker joined, and when it left.
    expires_at : float or None
        When its walltime will be up.
    worker : WorkerInfo or None
        Its Dask worker, as in the scheduler's most recent report; None while there is none.
    leaving : DrainProgress or None
        How far its drain is, once it drains.
    holding_since : float or None
        Since when it is kept only for its results.
    stopped_at : float or None
        When the backend was asked to stop it.
    expires : bool
        Whether its walltime is nearly up or it is about to be preempted, and its drain has begun for that.
    preempted, noticed : bool
        Whether its native system shows that it will take its machine, and whether its drain has begun for that.
    paused_since : float or None
        Since when its Dask worker is paused.
    dismissed : bool
        Whether it drains because it was paused, so that it is not resumed.
    resuming : bool
        Whether it was resumed, and its Dask worker has not confirmed that yet.
    had_tasks : bool
        Whether its worker died with tasks, so that the scheduler needs the reason.
    absent_since : float or None
        Since when observations do not show it.
    absences : int
        Observations in a row that did not show it.
    """

    unit: Unit
    launched: float
    state: UnitState | None = None
    running_since: float | None = None
    waited_until: float | None = None
    ran_before: float = 0.0
    had_machine: bool = False
    joined_at: float | None = None
    left_at: float | None = None
    expires_at: float | None = None
    worker: WorkerInfo | None = None
    leaving: DrainProgress | None = None
    holding_since: float | None = None
    stopped_at: float | None = None
    expires: bool = False
    preempted: bool = False
    noticed: bool = False
    paused_since: float | None = None
    dismissed: bool = False
    resuming: bool = False
    had_tasks: bool = False
    absent_since: float | None = None
    absences: int = 0

    @property
    def draining(self) -> bool:
        """Whether the controller drains it, or has drained it."""
        return self.leaving is not None

    @property
    def stopped(self) -> bool:
        """Whether the backend was asked to stop it."""
        return self.stopped_at is not None

    @property
    def alive(self) -> bool:
        """Whether it counts towards its group's wanted count."""
        return self.leaving is None and self.stopped_at is None and self.left_at is None

    def seconds(self, now: float) -> float:
        """Return for how long it has had a machine, or may have had one: what is not known counts."""
        since = self.launched if self.waited_until is None else self.waited_until
        waits = self.state is not None and self.state.phase is Phase.PENDING and not self.worker
        if waits and now - since <= KNOWN_FOR:
            return self.ran_before
        return self.ran_before + max(0.0, now - since)

    @property
    def running(self) -> bool:
        """Whether it counts towards its group's wanted count, and its Dask worker takes tasks."""
        if self.worker is None or not self.alive:
            return False
        return self.worker.status == "running" or self.resuming

    @property
    def unavailable(self) -> bool:
        """Whether it counts towards its group's wanted count, but its Dask worker takes no tasks at present."""
        return self.joined_at is not None and self.alive and not self.running

    @property
    def paused(self) -> bool:
        """Whether its Dask worker is paused."""
        return self.worker is not None and self.worker.status == "paused"

    @property
    def unresponsive(self) -> bool:
        """Whether its Dask worker is connected, but has not answered for too long."""
        return self.worker is not None and self.worker.status == "unresponsive"

    @property
    def starting(self) -> bool:
        """Whether it has its machine, but no Dask worker yet."""
        return (
            self.joined_at is None and self.state is not None and self.state.phase is Phase.RUNNING
        )

    @property
    def gone(self) -> bool:
        """Whether the native system showed it as gone, or no longer."""
        return self.state is not None and self.state.phase is Phase.GONE

    @property
    def idle(self) -> bool:
        """Whether no task is assigned to it."""
        return self.worker is None or self.worker.tasks == 0

    @property
    def holding(self) -> int:
        """Results that keep it, because no other worker can take them."""
        if self.leaving is None or self.leaving.stage is not Stage.HOLDING:
            return 0
        return self.leaving.remaining

    @property
    def lifetime(self) -> float:
        """Seconds that its unit may run; infinite where its native system sets no limit."""
        if self.expires_at is None or self.running_since is None:
            return float("inf")
        return self.expires_at - self.running_since

    def is_steady(self, now: float) -> bool:
        """Return whether it is not to change: its worker is there and answers, or it has waited for long."""
        if self.state is None or self.stopped_at is not None:
            return False
        if self.worker is None:
            return self.state.phase is Phase.PENDING and now - self.launched > STEADY_AFTER
        return self.state.phase is Phase.RUNNING and self.worker.status in _ANSWERING

    def is_expiring(self, handover: float, now: float) -> bool:
        """Return whether its end is near: by preemption, or in `handover` seconds or a quarter of its walltime."""
        if self.preempted:
            return True
        if self.expires_at is None:
            return False
        return self.expires_at - now <= min(handover, self.lifetime / 4)

    def is_replaceable(self, spec: GroupSpec, pause_timeout: float, now: float) -> bool:
        """Return whether another worker should take its place, because it does not use its slots.

        A worker whose slots are all taken does what it is for, also if it takes no tasks beyond: many models use most
        of their memory, or hold the GIL, for as long as they run.
        """
        if self.worker is None or self.worker.status == "running" or not self.alive:
            return False
        if self.paused_since is not None:
            return now - self.paused_since >= pause_timeout and self.worker.executing < spec.slots
        if self.is_given_up(spec.unresponsive_timeout):
            return True
        # What it started after its last heartbeat is not known, but is among what is assigned to it.
        return self.unresponsive and self.worker.tasks < spec.slots

    def is_given_up(self, unresponsive_timeout: float) -> bool:
        """Return whether its Dask worker, which does not answer, is to be removed: it has nothing, or no time left."""
        if self.worker is None or not self.unresponsive:
            return False
        return (
            not (self.worker.tasks or self.worker.results)
            or self.worker.silence >= unresponsive_timeout
        )

    def update_worker(self, worker: WorkerInfo | None, now: float) -> None:
        """Record what the scheduler reports of its Dask worker."""
        self.worker = worker
        if worker is None or worker.status != "closing_gracefully":
            self.resuming = False
        if not self.paused:
            self.paused_since = None
        elif self.paused_since is None:
            self.paused_since = now

    def allow_for_sleep(self, seconds: float) -> None:
        """Count no time to any timeout for which this process has not run."""
        if self.holding_since is not None:
            self.holding_since += seconds
        if self.paused_since is not None:
            self.paused_since += seconds
        if self.absent_since is not None:
            self.absent_since += seconds

    def is_healthy(self, healthy_after: float, now: float) -> bool:
        """Return whether its worker has been there for `healthy_after` seconds."""
        return self.alive and self.joined_at is not None and now - self.joined_at >= healthy_after

    def update_state(self, seen: Observation, absence_timeout: float, now: float) -> None:
        """Record what an observation shows of it.

        Absence means its end, too, once it lasts: a listing may be cached, or not show a new unit yet.
        """
        state = seen.units.get(self.unit.id)
        if state is None:
            if not self._is_vanished(seen, absence_timeout, now):
                return
            state = UnitState(self.unit, Phase.GONE)
        else:
            self.absent_since, self.absences = None, 0
        if state.phase is Phase.PENDING and self.worker is None:
            if self.had_machine:  # it is back in the queue
                self.ran_before, self.had_machine = self.seconds(seen.asked_at), False
            self.waited_until = max(seen.asked_at, self.waited_until or self.launched)
        else:
            self.had_machine = True
        self.state = state
        if self.state.phase is Phase.PENDING:
            self.running_since = None
        elif self.running_since is None:
            self.running_since = now
        self.preempted = self.state.phase is Phase.RUNNING and self.state.reason is Reason.PREEMPTED
        left = self.state.seconds_left
        # A unit that runs with no time left shows that clocks differ, or that the limit is not enforced.
        if left is not None and left > 0 and not self.preempted:
            self.expires_at = now + left

    def _is_vanished(self, seen: Observation, absence_timeout: float, now: float) -> bool:
        """Record one more absence; return whether it has been absent for long enough to count as gone."""
        if self.launched >= seen.asked_at:
            return False
        self.absences += 1
        if self.absent_since is None:
            self.absent_since = now
        if self.worker is not None or self.absences < _MIN_ABSENCES:
            return False
        if self.stopped and self.state is not None:
            return True  # no surprise, while one that was never shown may yet appear
        return now - self.absent_since >= absence_timeout


_MIN_ABSENCES = 2
"""Observations that must not show a unit before it counts as gone."""


class EndReason(StrEnum):
    """How a unit ended, or why it must be ended."""

    STOPPED = "stopped"
    """The controller stopped it."""
    LOST = "lost"
    """It ended by itself or from outside, after its worker had joined."""
    NEVER_JOINED = "never_joined"
    """It ended by itself or from outside, before its worker joined."""
    JOIN_TIMEOUT = "join_timeout"
    """It runs, but its worker did not join in time. It must be stopped."""
    REFUSED = "refused"
    """The scheduler refused its worker for good. It must be stopped."""
    ORPHANED = "orphaned"
    """It runs, but its worker has left. It must be stopped."""

    @property
    def is_over(self) -> bool:
        """Whether the unit itself is gone."""
        return self in (EndReason.STOPPED, EndReason.LOST, EndReason.NEVER_JOINED)


@dataclass(frozen=True)
class UnitEnd:
    """A unit that ended, or must be ended, and why."""

    member: Member
    reason: EndReason
    detail: str = ""


def classify_end(
    member: Member, report: Report | None, spec: GroupSpec, retry: RetryPolicy, now: float
) -> UnitEnd | None:
    """Return how a unit ended, or why it must be ended; None where neither is so.

    Parameters
    ----------
    member : Member
        The unit, up to date.
    report : Report or None
        The scheduler's report; None where it has not answered, so that only the end of a unit that was to end is clear.
    spec, retry : GroupSpec, RetryPolicy
        The startup timeout, and the time that a unit may run without its worker.
    now : float
        Seconds on the controller's clock.
    """
    if member.leaving is not None or member.stopped_at is not None:
        return UnitEnd(member, EndReason.STOPPED) if member.gone else None
    if report is None:
        return None
    if member.unit.id in report.refused:
        # Even if it is gone: a refused worker ends by itself, often before the next turn.
        return UnitEnd(member, EndReason.REFUSED, report.refused[member.unit.id])
    if member.gone:
        return UnitEnd(
            member, EndReason.NEVER_JOINED if member.joined_at is None else EndReason.LOST
        )
    if (
        member.joined_at is None
        and member.running_since is not None
        and now - max(member.running_since, report.since) > spec.startup_timeout
    ):
        return UnitEnd(member, EndReason.JOIN_TIMEOUT)
    orphaned_since = max(member.left_at or now, report.since)
    if member.left_at is not None and now - orphaned_since > retry.orphan_timeout:
        return UnitEnd(member, EndReason.ORPHANED)
    return None


def drain_order(member: Member) -> tuple[bool, bool, int, bool, int, float]:
    """Return a sort key that puts first what is drained first: not joined, then idle, then the least busy.

    Among workers that are equally busy, those that take no tasks come first.

    Examples
    --------
    >>> busy = Member(Unit("a-1", "a", "r"), 0.0, joined_at=1.0, worker=WorkerInfo("running", tasks=2))
    >>> idle = Member(Unit("a-2", "a", "r"), 0.0, joined_at=1.0, worker=WorkerInfo("running"))
    >>> queued = Member(Unit("a-3", "a", "r"), 0.0)
    >>> [member.unit.id for member in sorted([busy, idle, queued], key=drain_order)]
    ['a-3', 'a-2', 'a-1']
    """
    tasks = member.worker.tasks if member.worker else 0
    results = member.worker.results if member.worker else 0
    has_joined = member.joined_at is not None
    return has_joined, member.starting, tasks, member.running, results, -member.launched
