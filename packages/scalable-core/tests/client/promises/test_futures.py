"""What Dask's client promises of futures: states, errors, retries, and how long results are kept."""

from __future__ import annotations

import concurrent.futures
import threading
import traceback

import pytest
from distributed import fire_and_forget, wait
from distributed.client import FutureCancelledError
from promised_session import Session
from task_functions import add, fail, raise_odd_error


def test_a_result_has_a_type_before_it_is_fetched(session: Session) -> None:
    future = session.submit(session.flaky())
    wait(future, timeout=60)
    assert future.type is int


def test_waiting_for_a_result_can_time_out(session: Session) -> None:
    future = session.blocked()
    with pytest.raises(TimeoutError):
        future.result(timeout=0.05)
    assert future.status == "pending"


def test_a_callback_is_called_once_it_is_done(session: Session) -> None:
    called = threading.Event()
    session.submit(add, 1).add_done_callback(lambda future: called.set())
    assert called.wait(60)


def test_the_error_of_a_task_is_raised_where_its_result_is_asked_for(session: Session) -> None:
    future = session.submit(fail, "of this")
    with pytest.raises(ArithmeticError, match="of this"):
        future.result(timeout=60)
    assert future.status == "error"
    assert isinstance(future.exception(timeout=60), ArithmeticError)


def test_the_traceback_of_a_task_names_its_function(session: Session) -> None:
    future = session.submit(fail, "of this")
    lines = traceback.format_tb(future.traceback(timeout=60))
    assert "in fail" in lines[-1]


def test_an_error_that_cannot_be_pickled_is_an_error(session: Session) -> None:
    with pytest.raises(Exception, match="1 and 2"):
        session.submit(raise_odd_error).result(timeout=60)


def test_a_task_that_depends_on_a_failed_one_has_its_error(session: Session) -> None:
    future = session.submit(add, session.submit(fail, "first"), b=1)
    with pytest.raises(ArithmeticError, match="first"):
        future.result(timeout=60)


def test_a_task_is_tried_again_as_often_as_asked(session: Session) -> None:
    assert session.submit(session.flaky(2), retries=2).result(timeout=60) == 3
    with pytest.raises(ArithmeticError):
        session.submit(session.flaky(2), retries=1).result(timeout=60)
    assert session.client.gather(session.map(session.flaky(1), [1], retries=1)) == [2]


def test_a_failed_task_can_be_retried(session: Session) -> None:
    future = session.submit(session.flaky(1))
    assert isinstance(future.exception(timeout=60), ArithmeticError)
    future.retry()
    assert future.result(timeout=60) == 2


def test_failed_tasks_can_be_retried_together(session: Session) -> None:
    futures = [session.submit(session.flaky(1)) for _ in range(2)]
    wait(futures, timeout=60)
    session.client.retry(futures)
    assert session.client.gather(futures) == [2, 2]


def test_a_cancelled_task_does_not_run(session: Session) -> None:
    flaky = session.flaky()
    first = session.blocked()
    future = session.submit(flaky, first)
    future.cancel()
    assert future.cancelled()
    with pytest.raises((FutureCancelledError, concurrent.futures.CancelledError)):
        future.result(timeout=60)
    session.open()
    first.result(timeout=60)
    assert session.submit(add, first.key, b=" is done").result(timeout=60)
    assert flaky.calls == 0


def test_many_tasks_are_cancelled_at_once(session: Session) -> None:
    futures = session.map(add, range(3), [session.blocked()] * 3)
    session.client.cancel(futures)
    session.until(lambda: all(future.cancelled() for future in futures))


def test_what_depends_on_a_cancelled_task_is_cancelled(session: Session) -> None:
    first = session.blocked()
    second = session.submit(add, first)
    session.until(lambda: second.key in session.scheduler.tasks)
    first.cancel(force=True)
    session.until(second.cancelled)


def test_a_result_is_kept_for_as_long_as_there_is_a_future(session: Session) -> None:
    future = session.submit(add, 1, b=1)
    wait(future, timeout=60)
    key = future.key
    assert key in session.scheduler.tasks
    del future
    session.until(lambda: key not in session.scheduler.tasks)


def test_a_released_future_lets_its_result_go(session: Session) -> None:
    future = session.submit(add, 1, b=2)
    wait(future, timeout=60)
    future.release()
    session.until(lambda: future.key not in session.scheduler.tasks)


def test_a_result_is_kept_while_a_task_still_needs_it(session: Session) -> None:
    gate = session.blocked()
    kept = session.submit(session.flaky(), 1)
    wait(kept, timeout=60)
    later = session.map(add, [kept], [0], key="later")[0]
    both = session.submit(lambda value, _: value, kept, gate)
    del kept
    session.open()
    assert session.client.gather([later, both]) == [1, 1]


def test_closing_a_client_lets_its_results_go(session: Session) -> None:
    other = type(session.client)(session.client.cluster)
    future = other.submit(add, 5, **session.options)
    wait(future, timeout=60)
    other.close()
    session.until(lambda: future.key not in session.scheduler.tasks)


def test_two_clients_share_a_result(session: Session) -> None:
    flaky = session.flaky()
    future = session.submit(flaky, 1)
    with type(session.client)(session.client.cluster, set_as_default=False) as other:
        theirs = other.submit(flaky, 1, **session.options)
        assert theirs.result(timeout=60) == future.result(timeout=60) == 1
        future.release()
        assert other.gather(theirs) == 1


def test_fire_and_forget_runs_without_a_future(session: Session) -> None:
    flaky = session.flaky()
    fire_and_forget(session.submit(flaky))
    session.until(lambda: flaky.calls)
