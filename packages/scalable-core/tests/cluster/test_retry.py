"""Limits and back-off of failed starts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalable.cluster.port import Explanation, Reason
from scalable.cluster.retry import FailureHistory, RetryPolicy

PROBLEM = Explanation(Reason.EXITED, "it ended")


def test_all_units_of_one_launch_are_one_failed_start() -> None:
    failures = FailureHistory(RetryPolicy())
    for _ in range(5):
        assert not failures.record_start_failure("r1", PROBLEM, 0.0)
    assert not failures.record_start_failure("r2", PROBLEM, 30.0)
    assert failures.record_start_failure("r3", PROBLEM, 30.0)


def test_failures_must_have_lasted() -> None:
    failures = FailureHistory(RetryPolicy(max_start_failures=3, fail_after=30))
    for n in range(9):
        assert not failures.record_start_failure(f"r{n}", PROBLEM, 3.0 * n)
    assert failures.record_start_failure("r9", PROBLEM, 30.0)


@pytest.mark.parametrize("reason", [Reason.IMAGE, Reason.REFUSED, Reason.CREDENTIALS])
def test_what_trying_again_does_not_mend_fails_at_once(reason: Reason) -> None:
    problem = Explanation(reason, "no such image")
    assert FailureHistory(RetryPolicy()).record_start_failure("r1", problem, 0.0)
    healthy = FailureHistory(RetryPolicy())
    assert not healthy.record_start_failure("r1", problem, 0.0, has_healthy=True)
    assert healthy.retry_at > 0.0


@pytest.mark.parametrize("reason", [Reason.CAPACITY, Reason.QUOTA, Reason.PREEMPTED])
def test_what_the_group_cannot_help_is_no_failure(reason: Reason) -> None:
    failures = FailureHistory(RetryPolicy())
    for n in range(99):
        problem = Explanation(reason, "no machines")
        assert not failures.record_start_failure(f"r{n}", problem, 60.0 * n)
    assert failures.is_postponed
    assert failures.retry_at <= 60.0 * 98 + RetryPolicy().max_delay


def test_only_a_worker_that_was_launched_after_a_loss_shows_that_workers_can_live() -> None:
    failures = FailureHistory(RetryPolicy(max_early_losses=2))
    failures.record_early_loss("r1", 10.0)
    failures.record_healthy(launched=5.0)
    failures.record_early_loss("r2", 20.0)
    assert failures.record_loss(PROBLEM, 60.0)
    assert not failures.record_loss(PROBLEM, 60.0, has_healthy=True)

    failures.record_healthy(launched=25.0)
    assert not failures.record_loss(PROBLEM, 90.0)


def test_a_failed_group_is_tried_again_ever_more_rarely() -> None:
    failures = FailureHistory(RetryPolicy(retry_failed_after=600))
    waits = []
    for _ in range(5):
        now = failures.retry_at
        failures.record_failed_group(now)
        failures.record_failed_group(now + 1)
        waits.append(failures.retry_at - now)
    assert waits == [600, 1200, 2400, 3600, 3600]


@given(st.lists(st.integers(0, 200), max_size=20))
def test_back_off_grows_up_to_its_maximum(failures: list[int]) -> None:
    policy = RetryPolicy(delay=0.5, max_delay=60)
    waits = [policy.back_off(n) for n in sorted(failures)]

    assert waits == sorted(waits)
    assert all(0 <= wait <= 60 for wait in waits)


def test_workers_that_die_with_tasks_back_off_and_fail_no_group() -> None:
    policy = RetryPolicy(max_early_losses=2, delay=1.0, max_task_delay=4.0)
    failures = FailureHistory(policy)
    waits = []
    for n in range(6):
        failures.record_death(100.0 * n, had_finished=False)
        assert not failures.record_loss(PROBLEM, 100.0 * n)
        waits.append(failures.retry_at - 100.0 * n)
    assert waits[1:] == [1.0, 2.0, 4.0, 4.0, 4.0]
    failures.record_death(1000.0, had_finished=True)
    assert failures.retry_at <= 1000.0
