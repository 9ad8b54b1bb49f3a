from __future__ import annotations

import pytest
from distributed.comm.core import CommClosedError

from scalable.cluster.health import REFUSED_TIMEOUT, LinkState, SchedulerHealth
from scalable.cluster.port import Explanation, Reason


def health() -> SchedulerHealth:
    return SchedulerHealth(late_after=15, timeout=300, updated_at=0)


def refused() -> OSError:
    try:
        raise CommClosedError("in <TCP>") from ConnectionRefusedError(111, "Connection refused")
    except CommClosedError as closed:
        error = OSError("Timed out trying to connect to tcp://10.0.0.1:8786 after 10 s")
        error.__cause__ = closed
        return error


def test_silence_makes_it_late_and_then_lost() -> None:
    scheduler = health()
    states = {now: scheduler.update(now) for now in range(1, 400)}
    assert states[15] is LinkState.UP
    assert states[16] is LinkState.LATE
    assert states[300] is LinkState.LATE
    assert states[301] is LinkState.LOST
    assert scheduler.explanation == Explanation(
        Reason.NETWORK, "the scheduler has not answered for 301 s"
    )


def test_an_answer_ends_lateness_and_not_loss() -> None:
    scheduler = health()
    for now in (10, 20):
        scheduler.update(now)
    assert scheduler.state is LinkState.LATE
    scheduler.record_answer()
    assert scheduler.update(21) is LinkState.UP
    scheduler.record_replaced()
    scheduler.record_answer()
    assert scheduler.update(22) is LinkState.LOST
    assert "another scheduler" in scheduler.explanation.summary


def test_time_in_which_this_process_did_not_run_proves_nothing() -> None:
    scheduler = health()
    assert scheduler.update(8 * 3600) is LinkState.UP
    assert scheduler.update(16 * 3600) is LinkState.LATE


def test_a_port_that_refuses_connections_for_long_has_no_scheduler() -> None:
    scheduler = health()
    scheduler.record_error(refused(), 0, 10)
    scheduler.record_error(refused(), 11, REFUSED_TIMEOUT - 1)
    assert scheduler.update(9) is LinkState.UP
    scheduler.record_error(refused(), 11, REFUSED_TIMEOUT)
    assert scheduler.update(REFUSED_TIMEOUT) is LinkState.LOST
    assert scheduler.explanation.reason is Reason.EXITED
    assert "nothing listens" in scheduler.explanation.summary


@pytest.mark.parametrize("other", [OSError("no route to host"), TimeoutError(), None])
def test_refusals_with_something_else_between_prove_nothing(other: OSError | None) -> None:
    scheduler = health()
    scheduler.record_error(refused(), 0, 0)
    if other is None:
        scheduler.record_answer()
    else:
        scheduler.record_error(other, 10, 10)
    scheduler.record_error(refused(), REFUSED_TIMEOUT + 5, REFUSED_TIMEOUT + 5)
    assert scheduler.update(1) is LinkState.UP


def test_what_the_host_says_explains_the_silence_and_may_end_it() -> None:
    scheduler = health()
    scheduler.update(10)
    pulling = Explanation(Reason.IMAGE, "its image is being pulled", log_tail="layer 3 of 7")
    scheduler.record_host(pulling, gone=False)
    assert scheduler.update(20) is LinkState.LATE
    assert scheduler.explanation == Explanation(
        Reason.NETWORK,
        "the scheduler has not answered for 20 s; its host says: its image is being pulled",
        log_tail="layer 3 of 7",
    )
    gone = Explanation(Reason.PREEMPTED, "its machine was reclaimed")
    scheduler.record_host(gone, gone=True)
    assert scheduler.update(21) is LinkState.LOST
    assert scheduler.explanation == gone
