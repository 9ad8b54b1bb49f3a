"""State of one worker group: its units and launches, as observations and reports change it. No I/O, no clock."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from scalable.cluster.adaptive import AdaptivePolicy, Peaks
from scalable.cluster.link import Report, Stage
from scalable.cluster.member import (
    KNOWN_FOR,
    Member,
    Observation,
    UnitEnd,
    classify_end,
    drain_order,
)
from scalable.cluster.port import Explanation, GroupSpec, LaunchResult, Phase, Unit
from scalable.cluster.retry import FailureHistory, RetryPolicy
from scalable.cluster.starts import StartTime, StartTimes

__all__ = ["Group", "Request"]


_DISMISSALS_SPAN = 3600.0
"""Seconds for which a worker that was drained because it was paused counts towards the patience with the next one."""


MAX_ENDED = 20
"""Units of a group that are remembered after their end, for their logs."""


@dataclass
class Request:
    """A launch: the number of units it asked for, when it was asked and answered, and the units known so far.

    Once it is answered, the number is that of the units that exist. Before, all of them may.
    """

    asked: int
    asked_at: float = 0.0
    answered_at: float | None = None
    named: set[str] = field(default_factory=set)
    awaited: Explanation | None = None
    """Why the others have no names yet, where the native system tells."""
    lost_answers: int = 0
    """Calls whose outcome is not known, so that another one with the same request id is to tell it."""

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
        Limits and back-off for failed starts and lost workers.
    wanted : int
        Workers that it should have now.
    range : (int, int) or None
        Minimum and maximum of an adaptive group; None where the count is fixed.
    policy : AdaptivePolicy or None
        How quickly it follows demand; None where it has no policy of its own.
    members : dict of str to Member
        Its units by id.
    requests : dict of str to Request
        Launches of which units are still expected, by request id.
    failure : Explanation or None
        Why the controller has given up on it.
    without_room_since : float or None
        Since when it has had no worker, because the cap left no room.
    no_room : bool
        Whether it lacks workers, and the cap leaves no room.
    needed, used : Peaks
        How many workers demand has called for since it adapts; and how many demand has called for or were busy.
    start_when_needed : StartTime
        How long a start took when demand last called for all of its workers.
    deferred : str
        Why it has fewer workers than its tasks could use at once, if that is for the time that a start takes.
    ended : deque of Member
        The latest of its units that have ended.
    created : bool
        Whether the native system may ever have had a unit of it.
    ended_seconds : float
        The time for which its units that have ended had machines, together.
    unclaimed : float
        Slots of work for which it has no worker and is to have none.
    unclaimed_since : float or None
        Since when there is such work.
    blocked : str
        Which task keeps a slot that another one needs which it has submitted.
    blocked_tasks_since : float or None
        Since when there are such tasks.
    dismissals : deque of float
        When workers were drained because they were paused.

    Attributes
    ----------
    failures : FailureHistory
        Failed starts and lost workers, and when to launch again.
    starts : StartTimes
        How long its workers take to start.
    """

    spec: GroupSpec
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    wanted: int = 0
    range: tuple[int, int] | None = None
    policy: AdaptivePolicy | None = None
    members: dict[str, Member] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    failure: Explanation | None = None
    without_room_since: float | None = None
    no_room: bool = False
    needed: Peaks = field(default_factory=Peaks)
    used: Peaks = field(default_factory=Peaks)
    start_when_needed: StartTime = field(default_factory=StartTime)
    deferred: str = ""
    created: bool = False
    ended_seconds: float = 0.0
    ended: deque[Member] = field(default_factory=lambda: deque(maxlen=MAX_ENDED))
    unclaimed: float = 0.0
    unclaimed_since: float | None = None
    blocked: str = ""
    blocked_tasks_since: float | None = None
    dismissals: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    failures: FailureHistory = field(init=False)
    starts: StartTimes = field(init=False)

    def __post_init__(self) -> None:
        self.failures = FailureHistory(self.retry)
        self.starts = StartTimes(self.spec)

    # -- Its units

    @property
    def alive(self) -> list[Member]:
        """Members that count towards the wanted count."""
        # Many times a turn for every unit: `Member.alive`, without the call.
        return [
            m
            for m in self.members.values()
            if m.leaving is None and m.stopped_at is None and m.left_at is None
        ]

    @property
    def draining(self) -> list[Member]:
        """Members that drain and are not being stopped yet."""
        return [m for m in self.members.values() if m.draining and not m.stopped]

    @property
    def staying(self) -> int:
        """Units that take up room and will not make it soon by themselves."""
        leaving = (Stage.MOVING, Stage.GONE)
        return self.unnamed + sum(
            not m.stopped and (m.leaving is None or m.leaving.stage not in leaving)
            for m in self.members.values()
        )

    @property
    def unnamed(self) -> int:
        """Units that a launch was granted, or may have been, but whose names are not known yet."""
        return sum(request.unnamed for request in self.requests.values())

    @property
    def most(self) -> int:
        """The most workers that it is to have: the wanted count, or the maximum of an adaptive group."""
        return self.wanted if self.range is None else self.range[1]

    @property
    def lacking(self) -> int:
        """Units to launch or resume, to have the wanted count; negative where there are too many."""
        return self.wanted - len(self.alive) - self.unnamed

    def is_steady(self, now: float) -> bool:
        """Return whether none of its units is to change, and no more are expected."""
        return not self.requests and all(m.is_steady(now) for m in self.members.values())

    def start_time(self, now: float) -> StartTime:
        """Return how long the next start will probably take."""
        starting = (m for m in self.members.values() if m.joined_at is None and m.alive)
        return self.starts.estimate(starting, now)

    def has_healthy(self, now: float) -> bool:
        """Return whether one of its workers has lived for long enough to show that they can."""
        return any(m.is_healthy(self.retry.healthy_after, now) for m in self.members.values())

    # -- Launches

    def record_request(self, request_id: str, n: int, now: float) -> None:
        """Record that a launch of `n` units was requested."""
        self.requests[request_id] = Request(n, now)

    def record_answer(self, request_id: str, result: LaunchResult, now: float) -> None:
        """Record what a launch has created: units with names, and some that may be observed later."""
        self._add_units(result.units, now)
        request = self.requests.get(request_id)
        if request is not None:
            request.asked = max(len(result.units) + result.unnamed, len(request.named))
            request.answered_at = now
            request.awaited = result.awaited
        self._forget_complete_requests()

    def record_lost_answer(self, request_id: str) -> str:
        """Record that it is not known what a launch has created; return a name for this attempt."""
        request = self.requests.get(request_id)
        if request is None:
            return request_id
        request.lost_answers += 1
        self._forget_complete_requests()
        return f"{request_id}/{request.lost_answers}"

    @property
    def unclear_request(self) -> tuple[str, int] | None:
        """A launch to repeat, to learn what it has created, and the units it asked for; None where all is known."""
        for request_id, request in self.requests.items():
            if request.answered_at is None and request.lost_answers:
                return request_id, request.asked
        return None

    def wait_for_unclear(self, now: float) -> None:
        """Expect what launches have created of which that is not known, as if they had been answered now."""
        for request in self.requests.values():
            if request.answered_at is None and request.lost_answers:
                request.answered_at = now

    def forget_request(self, request_id: str) -> None:
        """Expect no more units of a launch."""
        self.requests.pop(request_id, None)

    @property
    def awaited(self) -> Explanation | None:
        """Why units that were launched have no names yet, where the native system tells."""
        return next(
            (request.awaited for request in self.requests.values() if request.awaited), None
        )

    def forget_overdue_requests(self, now: float) -> dict[str, Request]:
        """Expect no more units of launches that were answered too long ago; return those, by request id."""
        overdue = {
            request_id: request
            for request_id, request in self.requests.items()
            if request.answered_at is not None
            and now - request.answered_at > self.spec.startup_timeout
        }
        for request_id in overdue:
            self.forget_request(request_id)
        return overdue

    def _add_units(self, units: Iterable[Unit], now: float) -> None:
        """Add units, each once, although both the answer to a launch and an observation may name it."""
        for unit in units:
            request = self.requests.get(unit.request_id)
            if request is None:
                self.members.setdefault(unit.id, Member(unit, now))
            elif unit.id not in request.named:
                request.named.add(unit.id)
                # It may have had its machine before its name was known.
                self.members[unit.id] = Member(unit, now, waited_until=request.asked_at)

    def _forget_complete_requests(self) -> None:
        complete = [
            request_id
            for request_id, request in self.requests.items()
            if (request.answered_at is not None or request.lost_answers) and not request.unnamed
        ]
        for request_id in complete:
            self.forget_request(request_id)

    def worker_seconds(self, now: float) -> float:
        """Return the time for which its units have had machines so far, together, or may have had."""
        unnamed = sum(
            request.unnamed * (now - request.asked_at)
            for request in self.requests.values()
            if now - request.asked_at > KNOWN_FOR
        )
        named = sum(member.seconds(now) for member in self.members.values())
        return self.ended_seconds + named + unnamed

    def allow_for_sleep(self, seconds: float) -> None:
        """Count no time to any timeout for which this process has not run."""
        for member in self.members.values():
            member.allow_for_sleep(seconds)
        for request in self.requests.values():
            if request.answered_at is not None:
                request.answered_at += seconds
        if self.without_room_since is not None:
            self.without_room_since += seconds

    # -- Observations and reports

    def update(self, seen: Observation | None, report: Report | None, now: float) -> list[UnitEnd]:
        """Bring the members up to date; return those that ended or must be ended.

        Without a report, only the ends of units that were to end are returned: whether the worker of another one had
        joined, and what its end means, is judged with the next report.

        Parameters
        ----------
        seen : Observation or None
            The backend's observation; None where it was not called or did not answer.
        report : Report or None
            The scheduler's report; None where it has not answered.
        now : float
            Seconds on the controller's clock.
        """
        if seen is not None:
            self._add_observed(seen, now)
        self.created |= bool(self.members)
        ends = []
        for member in list(self.members.values()):
            if report is not None:
                self._update_worker(member, report, now)
            if seen is not None:
                member.update_state(seen, self.retry.absence_timeout, now)
            if report is not None and member.gone:
                # Its scheduler may notice later that it has died.
                member.had_tasks |= member.worker is not None and member.worker.tasks > 0
                self._mark_left(member, now)
            end = classify_end(member, report, self.spec, self.retry, now)
            if end is not None:
                ends.append(end)
                if end.reason.is_over:
                    self.ended.append(self.members.pop(member.unit.id))
                    self.ended_seconds += member.seconds(now)
        return ends

    def _add_observed(self, seen: Observation, now: float) -> None:
        """Add units that the native system named after their launch, or after they were given up."""
        self._add_units(
            (
                state.unit
                for state in seen.by_tag.get(self.spec.tag, ())
                # A unit that is gone and not expected has ended before: ignore a second report of the same end.
                if state.phase is not Phase.GONE or state.unit.request_id in self.requests
            ),
            now,
        )
        self._forget_complete_requests()

    def _update_worker(self, member: Member, report: Report, now: float) -> None:
        member.update_worker(report.workers.get(member.unit.id), now)
        has_joined = member.worker is not None and not member.worker.is_registering
        if member.joined_at is None and (has_joined or member.unit.id in report.removed):
            member.joined_at = now
            self.failures.record_joined()
            self.starts.record_joined(member, now)
        if member.worker is None:
            member.had_tasks |= member.unit.id in report.deaths
            self._mark_left(member, now, had_finished=report.deaths.get(member.unit.id, False))
            return
        member.left_at = None
        if member.joined_at is not None and now - member.joined_at >= self.retry.healthy_after:
            self.failures.record_healthy(member.launched)
            if member.worker.tasks or now - member.joined_at >= self.retry.lasting_after:
                self.failures.record_use(member.launched)

    def _mark_left(self, member: Member, now: float, *, had_finished: bool = False) -> None:
        """Record that a worker has left: it is replaced at once, unless workers keep leaving early."""
        if member.joined_at is None or member.left_at is not None:
            return
        member.left_at = now
        if member.draining or member.stopped:
            return
        lived = now - member.joined_at
        if lived >= self.retry.healthy_after:
            if lived < self.retry.lasting_after and not member.had_tasks:
                self.failures.record_short_life(member.unit.request_id, now)
            return
        if member.had_tasks:
            self.failures.record_death(now, had_finished=had_finished)
        else:
            self.failures.record_early_loss(member.unit.request_id, now)

    # -- Failure

    def reset_failures(self) -> None:
        """Forget all failures, because the group was scaled again."""
        self.failure = None
        self.without_room_since = None
        self.failures.reset()

    def update_room(self, no_room: bool, now: float) -> None:
        """Record whether it lacks workers because the cap leaves no room for them."""
        self.no_room = no_room
        if not no_room or self.alive:
            self.without_room_since = None
        elif self.without_room_since is None:
            self.without_room_since = now

    # -- Scale-in

    def adapt(self, bounds: tuple[int, int]) -> None:
        """Make it follow demand within these bounds, from its present wanted count."""
        low, high = self.range = bounds
        self.wanted = min(max(self.wanted, low), high)
        self.needed, self.used = Peaks(), Peaks()

    def pin(self, count: int) -> None:
        """Give it a fixed wanted count."""
        self.range, self.wanted = None, count
        self.deferred = ""

    def surplus(self) -> list[Member]:
        """Return the members above the wanted count, the least useful first."""
        alive = self.alive
        excess = len(alive) - self.wanted
        return sorted(alive, key=_emptying_order(alive))[:excess] if excess > 0 else []

    def unresponsive_to_stop(self, now: float, interval: float) -> list[Member]:
        """Return the members that still exist `interval` seconds after the backend was asked to stop them."""
        return [
            member
            for member in self.members.values()
            if member.stopped_at is not None and now - member.stopped_at > interval
        ]

    def take_expiring(self, now: float) -> list[Member]:
        """Return the members whose end is near, by walltime or preemption, each of them once for either."""
        due = [
            member
            for member in self.members.values()
            if not member.stopped
            and (member.preempted > member.noticed or not member.expires)
            and member.is_expiring(self.spec.handover, now)
        ]
        for member in due:
            member.expires, member.noticed = True, member.preempted
            if not member.alive:
                continue
            if member.joined_at is None:
                self.failures.record_taken(member.unit.request_id, now)
            elif member.idle and now - member.joined_at < self.retry.lasting_after:
                self.failures.record_short_life(member.unit.request_id, now)
        return due

    def take_replaceable(self, now: float) -> list[Member]:
        """Return the members whose places others should take, each of them once."""
        recent = sum(now - at < _DISMISSALS_SPAN for at in self.dismissals)
        pause_timeout = min(
            self.retry.pause_timeout * 2.0 ** min(recent // max(1, self.wanted), 60),
            max(self.retry.pause_timeout, self.retry.max_failure_delay),
        )
        found = [
            member
            for member in self.members.values()
            if member.is_replaceable(self.spec, pause_timeout, now)
        ]
        for member in found:
            if member.paused:
                member.dismissed = True
                self.dismissals.append(now)
        return found

    def resumable(self, now: float) -> list[Member]:
        """Return the draining members that could be taken back, the most useful first."""
        candidates = [
            member
            for member in self.draining
            if member.worker is not None
            and member.leaving
            and member.leaving.stage is not Stage.GONE
            and not member.is_expiring(self.spec.handover, now)
            and not member.dismissed
            and not member.unresponsive
        ]
        return sorted(candidates, key=drain_order, reverse=True)


def _emptying_order(members: Iterable[Member]) -> Callable[[Member], tuple[object, ...]]:
    """Return a sort key as `drain_order` that, of equally busy members, empties native things that several share.

    First come those with the fewest busy members, and then those with the fewest.
    """
    busy: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for member in members:
        native = member.unit.native
        size[native] += 1
        busy[native] += not member.idle

    def key(member: Member) -> tuple[object, ...]:
        arrived, starting, tasks, *rest = drain_order(member)
        native = member.unit.native
        # One that shares nothing differs from others by nothing.
        shared = (busy[native], size[native], native) if size[native] > 1 else (0, 0, "")
        return (arrived, starting, tasks, shared, *rest)

    return key
