"""State of one worker group: its units and launches, as observations and reports change it. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from scalable.cluster.link import Report, Stage
from scalable.cluster.member import Member, Observation, UnitEnd, classify_end, drain_order
from scalable.cluster.port import Explanation, GroupSpec, LaunchResult, Phase, Unit
from scalable.cluster.retry import FailureHistory, RetryPolicy

__all__ = ["Group", "Request"]


@dataclass
class Request:
    """A launch: the number of units it asked for, the time of the answer, and the units known so far.

    Once it is answered, the number is that of the units that exist. Before, all of them may.
    """

    asked: int
    answered_at: float | None = None
    named: set[str] = field(default_factory=set)
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
    members : dict of str to Member
        Its units by id.
    requests : dict of str to Request
        Launches of which units are still expected, by request id.
    failure : Explanation or None
        Why the controller has given up on it.
    low_since, blocked_since : float or None
        Since when it has had more workers than it needs; since when it has had none, because the cap left no room.

    Attributes
    ----------
    failures : FailureHistory
        Failed starts and lost workers, and when to launch again.
    """

    spec: GroupSpec
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    wanted: int = 0
    range: tuple[int, int] | None = None
    members: dict[str, Member] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    failure: Explanation | None = None
    low_since: float | None = None
    blocked_since: float | None = None
    failures: FailureHistory = field(init=False)

    def __post_init__(self) -> None:
        self.failures = FailureHistory(self.retry)

    # -- Its units

    @property
    def alive(self) -> list[Member]:
        """Members that count towards the wanted count."""
        return [member for member in self.members.values() if member.alive]

    @property
    def draining(self) -> list[Member]:
        """Members that drain and are not being stopped yet."""
        return [m for m in self.members.values() if m.draining and not m.stopped]

    @property
    def unnamed(self) -> int:
        """Units that a launch was granted, or may have been, but whose names are not known yet."""
        return sum(request.unnamed for request in self.requests.values())

    @property
    def lacking(self) -> int:
        """Units to launch or resume, to have the wanted count; negative where there are too many."""
        return self.wanted - len(self.alive) - self.unnamed

    def has_healthy(self, now: float) -> bool:
        """Return whether one of its workers has lived for long enough to show that they can."""
        return any(m.is_healthy(self.retry.healthy_after, now) for m in self.members.values())

    # -- Launches

    def record_request(self, request_id: str, n: int) -> None:
        """Record that a launch of `n` units was requested."""
        self.requests[request_id] = Request(n)

    def record_answer(self, request_id: str, result: LaunchResult, now: float) -> None:
        """Record what a launch has created: units with names, and some that may be observed later."""
        self._add_units(result.units, now)
        request = self.requests.get(request_id)
        if request is not None:
            request.asked = max(len(result.units) + result.unnamed, len(request.named))
            request.answered_at = now
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

    def forget_request(self, request_id: str) -> None:
        """Expect no more units of a launch."""
        self.requests.pop(request_id, None)

    def forget_overdue_requests(self, now: float) -> dict[str, int]:
        """Expect no more units of launches that were answered too long ago; return how many units each lacks."""
        overdue = {
            request_id: request.unnamed
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
                self.members[unit.id] = Member(unit, now)

    def _forget_complete_requests(self) -> None:
        complete = [
            request_id
            for request_id, request in self.requests.items()
            if (request.answered_at is not None or request.lost_answers) and not request.unnamed
        ]
        for request_id in complete:
            self.forget_request(request_id)

    # -- Observations and reports

    def update(self, seen: Observation | None, report: Report, now: float) -> list[UnitEnd]:
        """Bring the members up to date; return those that ended or must be ended.

        Parameters
        ----------
        seen : Observation or None
            The backend's observation; None where it was not called or did not answer.
        report : Report
            The scheduler's report.
        now : float
            Seconds on the controller's clock.
        """
        if seen is not None:
            self._add_observed(seen, now)
        ends = []
        for member in list(self.members.values()):
            self._update_worker(member, report, now)
            if seen is not None and member.update_state(seen, self.retry.absence_timeout, now):
                self._mark_left(member, now)
            end = classify_end(member, report, self.spec, self.retry, now)
            if end is not None:
                ends.append(end)
                if end.reason.is_over:
                    del self.members[member.unit.id]
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
        member.worker = report.workers.get(member.unit.id)
        if member.joined_at is None and (member.worker or member.unit.id in report.removed):
            member.joined_at = now
            self.failures.record_joined()
        if member.worker is None:
            member.had_tasks |= member.unit.id in report.deaths
            self._mark_left(member, now, had_finished=report.deaths.get(member.unit.id, False))
            return
        member.left_at = None
        if member.joined_at is not None and now - member.joined_at >= self.retry.healthy_after:
            self.failures.record_healthy(member.launched)

    def _mark_left(self, member: Member, now: float, *, had_finished: bool = False) -> None:
        """Record that a worker has left: it is replaced at once, unless workers keep leaving early."""
        if member.joined_at is None or member.left_at is not None:
            return
        member.left_at = now
        if member.draining or member.stopped:
            return
        if now - member.joined_at >= self.retry.healthy_after:
            return
        if member.had_tasks:
            self.failures.record_death(now, had_finished=had_finished)
        else:
            self.failures.record_early_loss(member.unit.request_id, now)

    # -- Failure

    def reset_failures(self) -> None:
        """Forget all failures, because the group was scaled again."""
        self.failure = None
        self.blocked_since = None
        self.failures.reset()

    def update_blocked(self, no_room: bool, now: float) -> None:
        """Record whether it lacks workers because the cap leaves no room for them."""
        if not no_room or self.alive:
            self.blocked_since = None
        elif self.blocked_since is None:
            self.blocked_since = now

    # -- Scale-in

    def surplus(self) -> list[Member]:
        """Return the members above the wanted count, the least useful first."""
        excess = len(self.alive) - self.wanted
        return sorted(self.alive, key=drain_order)[: max(0, excess)]

    def unresponsive_to_stop(self, now: float, interval: float) -> list[Member]:
        """Return the members that still exist `interval` seconds after the backend was asked to stop them."""
        return [
            member
            for member in self.members.values()
            if member.stopped_at is not None and now - member.stopped_at > interval
        ]

    def take_expiring(self, now: float) -> list[Member]:
        """Return the members whose walltime is nearly up, each of them once."""
        due = [
            member
            for member in self.members.values()
            if not member.expires
            and not member.stopped
            and member.is_expiring(self.spec.handover, now)
        ]
        for member in due:
            member.expires = True
        return due

    def resumable(self, now: float) -> list[Member]:
        """Return the draining members that could be taken back, the most useful first."""
        candidates = [
            member
            for member in self.draining
            if member.worker is not None
            and member.leaving
            and member.leaving.stage is not Stage.GONE
            and not member.is_expiring(self.spec.handover, now)
        ]
        return sorted(candidates, key=drain_order, reverse=True)
