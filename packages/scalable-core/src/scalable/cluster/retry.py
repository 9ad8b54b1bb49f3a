"""When a group launches again after a failure, and when it has failed. No I/O, no clock of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

from scalable.cluster.port import Explanation, Reason

__all__ = ["FailureHistory", "RetryPolicy"]

_EXTERNAL_REASONS = frozenset(
    {
        Reason.CANCELLED,
        Reason.PREEMPTED,
        Reason.NODE_FAILURE,
        Reason.CAPACITY,
        Reason.QUOTA,
        Reason.RESOURCES,
        Reason.PRIORITY,
    }
)
"""Reasons that do not lie in the group: its next worker may well live."""

_LASTING_REASONS = frozenset({Reason.IMAGE, Reason.REFUSED, Reason.CREDENTIALS, Reason.MISMATCH})
"""Reasons that another attempt does not change."""


@dataclass(frozen=True)
class RetryPolicy:
    """Limits and back-off for failed starts and lost workers. Times are in seconds.

    Parameters
    ----------
    max_start_failures : int
        Failed launches in a row after which the group has failed, if it has no healthy worker.
    max_early_losses : int
        Launches in a row that lost workers before these were healthy, after which the group has failed, if it has no
        healthy worker. Workers that died with tasks do not count, because these may have killed them.
    fail_after : float
        How long failures must have lasted before the group has failed, so that a short disturbance fails none.
    retry_failed_after : float
        After this time, a failed group that should have workers tries one, which clears the failure if it joins.
        Doubled with each further try, up to six times as long.
    delay : float
        Back-off after the first failure, doubled with each further one.
    max_delay, max_failure_delay : float
        The longest back-off while the native system accepts no launch, and after workers that failed or were lost.
    max_task_delay : float
        The longest back-off after workers that died with tasks, one after another, without having finished any.
    healthy_after : float
        A worker that lived this long is healthy, and is replaced at once when it is lost.
    lasting_after : float
        A worker that ends earlier, and without a task, had a short life.
    free_short_lives : int
        Launches in a row with such workers that cost no delay. Further ones are followed by a growing back-off.
    orphan_timeout : float
        How long a unit may run on after its Dask worker has left, before it is stopped.
    absence_timeout : float
        How long no observation may show a unit, before it counts as gone.
    pause_timeout : float
        How long a worker may be paused with a free slot, before it is drained and replaced. Doubled with each further
        one, up to `max_failure_delay`, so that a group whose tasks fill every worker does not start new ones for ever.
    """

    max_start_failures: int = 3
    max_early_losses: int = 10
    fail_after: float = 30.0
    retry_failed_after: float = 600.0
    delay: float = 0.5
    max_delay: float = 60.0
    max_failure_delay: float = 300.0
    max_task_delay: float = 5.0
    healthy_after: float = 10.0
    lasting_after: float = 300.0
    free_short_lives: int = 5
    orphan_timeout: float = 10.0
    absence_timeout: float = 30.0
    pause_timeout: float = 15.0

    def back_off(self, failures: int, longest: float | None = None) -> float:
        """Return the seconds to wait after a number of failures in a row.

        Examples
        --------
        >>> [RetryPolicy().back_off(n) for n in (0, 1, 2, 3, 99)]
        [0.0, 0.5, 1.0, 2.0, 60.0]
        """
        if failures == 0:
            return 0.0
        longest = self.max_delay if longest is None else longest
        return min(self.delay * 2.0 ** min(failures - 1, 60), longest)


@dataclass
class FailureHistory:
    """The failures of one group since it was last scaled or had a healthy worker.

    Parameters
    ----------
    policy : RetryPolicy
        Limits and back-off.
    last_problem : Explanation or None
        The most recent failure.
    retry_at : float
        The earliest time of the next launch, in seconds on the controller's clock.
    """

    policy: RetryPolicy
    last_problem: Explanation | None = None
    retry_at: float = 0.0
    _failing_since: float | None = None
    _failed_launches: set[str] = field(default_factory=set)
    _taken_launches: set[str] = field(default_factory=set)
    _early_losses: set[str] = field(default_factory=set)
    _short_lives: set[str] = field(default_factory=set)
    _last_short_life_at: float = 0.0
    _deaths: int = 0
    _last_loss_at: float = 0.0
    _postponed_launches: int = 0
    _probes: int = 0
    _probe_at: float = 0.0

    @property
    def is_postponed(self) -> bool:
        """Whether the native system did not accept the most recent launch, or only a part of it."""
        return self._postponed_launches > 0

    def record_start_failure(
        self, request_id: str, problem: Explanation, now: float, *, has_healthy: bool = False
    ) -> bool:
        """Count a failed start; return whether the group has failed.

        All units of one launch count once, because many of them may fail for one reason. A start that failed for a
        reason outside of the group is postponed instead.
        """
        if problem.reason in _EXTERNAL_REASONS:
            self.record_postponed_launch(problem, now)
            self.record_taken(request_id, now)
            return False
        self.last_problem = problem
        self._failed_launches.add(request_id)
        self._record_failure(len(self._failed_launches), now)
        if has_healthy:
            return False
        if problem.reason in _LASTING_REASONS:
            return True
        return self._has_lasted(len(self._failed_launches), self.policy.max_start_failures, now)

    def record_taken(self, request_id: str, now: float) -> None:
        """Record that a unit was taken away, or is about to be, before its worker joined.

        Launches that are accepted, and whose units are taken away every time, become fewer and fewer.
        """
        self._taken_launches.add(request_id)
        self._back_off(self.policy.back_off(len(self._taken_launches)), now)

    def record_postponed_launch(self, problem: Explanation, now: float) -> bool:
        """Record that the native system accepts no launch for now, or no more; return whether it is the first in a row.

        This says nothing about the group's workers, and may last: a Slurm controller that is being restarted, a limit
        on queued jobs, a zone without machines. So the group waits, as in a queue, and never fails for it.
        """
        is_first = not self._postponed_launches
        self.last_problem = problem
        self._postponed_launches += 1
        self._back_off(self.policy.back_off(self._postponed_launches), now)
        return is_first

    def record_accepted_launch(self) -> None:
        """Record that the native system accepts launches."""
        self._postponed_launches = 0

    def record_early_loss(self, request_id: str, now: float) -> None:
        """Record that a worker left before it was healthy. A first one may be an accident, and costs no delay."""
        self._early_losses.add(request_id)
        self._last_loss_at = now
        self._record_failure(len(self._early_losses) - 1, now)

    def record_death(self, now: float, *, had_finished: bool) -> None:
        """Record that a worker died early with tasks, which may have killed it: each may do so a few times.

        Where workers die that have finished other tasks, there is no reason to wait.
        """
        self._deaths = 0 if had_finished else self._deaths + 1
        self._back_off(
            self.policy.back_off(max(0, self._deaths - 1), self.policy.max_task_delay), now
        )

    def record_loss(self, problem: Explanation, now: float, *, has_healthy: bool = False) -> bool:
        """Record why a worker was lost; return whether the group has failed."""
        self.last_problem = problem
        if problem.reason in _EXTERNAL_REASONS or has_healthy:
            return False
        return self._has_lasted(len(self._early_losses), self.policy.max_early_losses, now)

    def record_short_life(self, request_id: str, now: float) -> None:
        """Record that a worker ended without a task that was healthy, but not for long: a few may be accidents."""
        self._short_lives.add(request_id)
        self._last_short_life_at = now
        failures = max(0, len(self._short_lives) - self.policy.free_short_lives)
        self._back_off(self.policy.back_off(failures, self.policy.max_failure_delay), now)

    def record_use(self, launched: float) -> None:
        """Record that a worker has tasks, or has lived for long; launched after the last short life, it ends these."""
        if launched >= self._last_short_life_at:
            self._short_lives.clear()

    def record_joined(self) -> None:
        """Record that a worker has joined: the group can start workers."""
        self._failed_launches.clear()
        self._taken_launches.clear()
        if not self._early_losses:
            self._failing_since = None

    def record_healthy(self, launched: float) -> None:
        """Record that a worker is healthy. Launched after the last loss, it shows that the group's workers can live."""
        if launched >= self._last_loss_at:
            self._early_losses.clear()
            self._failing_since = None
            self._deaths = self._probes = 0

    def record_failed_group(self, now: float) -> None:
        """Set when a group that has failed tries one worker again."""
        if self._probes and now < self._probe_at:
            return  # the same failure, of another unit
        longest = 6 * self.policy.retry_failed_after
        self._probe_at = now + min(self.policy.retry_failed_after * 2.0**self._probes, longest)
        self._back_off(self._probe_at - now, now)
        self._probes += 1

    def reset(self) -> None:
        """Forget all failures, because the group was scaled again."""
        self.last_problem = None
        self.retry_at = 0.0
        self._failing_since = None
        self._failed_launches.clear()
        self._taken_launches.clear()
        self._early_losses.clear()
        self._short_lives.clear()
        self._postponed_launches = self._deaths = self._probes = 0

    def _record_failure(self, failures: int, now: float) -> None:
        if self._failing_since is None:
            self._failing_since = now
        self._back_off(self.policy.back_off(failures, self.policy.max_failure_delay), now)

    def _has_lasted(self, failures: int, limit: int, now: float) -> bool:
        since = now if self._failing_since is None else self._failing_since
        return failures >= limit and now - since >= self.policy.fail_after

    def _back_off(self, delay: float, now: float) -> None:
        self.retry_at = max(self.retry_at, now + delay)
