"""Limits and back-off of failed starts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scalable.cluster.port import Explanation, Reason
from scalable.cluster.retry import FailureHistory, RetryPolicy

PROBLEM = Explanation(Reason.EXITED, "it ended")


def test_all_units_of_one_launch_are_one_failed_start() -> None:
    failures = FailureHistory(RetryPolicy())
    for _ in range(5):
        assert not failures.record_start_failure("r1", PROBLEM, 0.0)
    assert not failures.record_start_failure("r2", PROBLEM, 0.0)
    assert failures.record_start_failure("r3", PROBLEM, 0.0)


@given(st.lists(st.integers(0, 200), max_size=20))
def test_back_off_grows_up_to_its_maximum(failures: list[int]) -> None:
    policy = RetryPolicy(delay=0.5, max_delay=60)
    waits = [policy.back_off(n) for n in sorted(failures)]

    assert waits == sorted(waits)
    assert all(0 <= wait <= 60 for wait in waits)
