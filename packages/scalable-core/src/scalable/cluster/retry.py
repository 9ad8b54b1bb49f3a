"""When a group launches again after a failure, and when it has failed. No I/O, no clock of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

from scalable.cluster.port import Explanation, Reason

__all__ = ["FailureHistory", "RetryPolicy"]

_EXTERNAL_REASONS = frozenset({Reason.CANCELLED, Reason.PREEMPTED, Reason.NODE_FAILURE})
"""Reasons that do not lie in the group: its next worker may well live."""


@dataclass(frozen=True)
class RetryPolicy:
    """Limits and back-off for failed starts and lost workers. Times are in seconds.

    Parameters
    ----------
    max_start_failures : int
        Failed launches in a row after which the group has failed.
    max_early_losses : int
        Launches in a row that lost workers before these were healthy, after which the group has failed. Should exceed
        the workers that one task can kill before Dask gives it up, which is 4.
    delay, max_delay : float
        Back-off after the first failure, doubled with each further one, up to the maximum.
    healthy_after : float
        A worker that lived this long is healthy, and is replaced at once when it is lost.
    orphan_timeout : float
        How long a unit may run on after its Dask worker has left, before it is stopped.
    """

    max_start_failures: int = 3
    max_early_losses: int = 10
    delay: float = 0.5
    max_delay: float = 60.0
    healthy_after: float = 10.0
    orphan_timeout: float = 10.0

    def back_off(self, failures: int) -> float:
        """Return the seconds to wait after a number of failures in a row.

        Examples
        --------
        >>> [RetryPolicy().back_off(n) for n in (0, 1, 2, 3, 99)]
        [0.0, 0.5, 1.0, 2.0, 60.0]
        """
        if failures == 0:
            return 0.0
        return min(self.delay * 2.0 ** min(failures - 1, 60), self.max_delay)


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
    _failed_launches: set[str] = field(default_factory=set)
    _early_losses: set[str] = field(default_factory=set)
    _postponed_launches: int = 0

    def record_start_failure(self, request_id: str, problem: Explanation, now: float) -> bool:
        """Count a failed start; return whether the limit is reached.

        All units of one launch count once, because many of them may fail for one reason.
        """
        self.last_problem = problem
        self._failed_launches.add(request_id)
        self._back_off(len(self._failed_launches), now)
        return len(self._failed_launches) >= self.policy.max_start_failures

    def record_postponed_launch(self, problem: Explanation, now: float) -> bool:
        """Record that the native system accepts no launch for now; return whether it is the first in a row.

        The reason does not lie in the group's workers, and may last: a Slurm controller that is being restarted, a
        limit on queued jobs. So the group waits, as in a queue, and does not fail for it.
        """
        is_first = not self._postponed_launches
        self.last_problem = problem
        self._postponed_launches += 1
        self._back_off(self._postponed_launches, now)
        return is_first

    def record_accepted_launch(self) -> None:
        """Record that the native system accepts launches."""
        self._postponed_launches = 0

    def record_early_loss(self, request_id: str, now: float) -> None:
        """Record that a worker left before it was healthy. A first one may be an accident, and costs no delay."""
        self._early_losses.add(request_id)
        self._back_off(len(self._early_losses) - 1, now)

    def record_loss(self, problem: Explanation) -> bool:
        """Record why a worker was lost; return whether the limit of early losses is reached."""
        self.last_problem = problem
        if problem.reason in _EXTERNAL_REASONS:
            return False
        return len(self._early_losses) >= self.policy.max_early_losses

    def record_joined(self) -> None:
        """Record that a worker has joined: the group can start workers."""
        self._failed_launches.clear()

    def record_healthy(self) -> None:
        """Record that a worker is healthy: the group's workers can live."""
        self._early_losses.clear()

    def reset(self) -> None:
        """Forget all failures, because the group was scaled again."""
        self.last_problem = None
        self.retry_at = 0.0
        self._failed_launches.clear()
        self._early_losses.clear()
        self._postponed_launches = 0

    def _back_off(self, failures: int, now: float) -> None:
        self.retry_at = max(self.retry_at, now + self.policy.back_off(failures))
