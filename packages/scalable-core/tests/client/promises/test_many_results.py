"""What Dask's client promises of many results: gathering, waiting, and taking what is done."""

from __future__ import annotations

import pytest
from distributed import as_completed, wait
from promised_session import Session
from task_functions import add, fail


def test_gathering_keeps_the_structure(session: Session) -> None:
    one, two = session.map(add, [1, 2])
    assert session.client.gather({"a": [one, (two,)]}) == {"a": [1, (2,)]}


def test_gathering_raises_or_skips_errors(session: Session) -> None:
    futures = [session.submit(add, 1), session.submit(fail)]
    with pytest.raises(ArithmeticError):
        session.client.gather(futures)
    assert session.client.gather(futures, errors="skip") == [1]


def test_results_can_come_from_the_workers_themselves(session: Session) -> None:
    futures = session.map(add, range(5))
    assert session.client.gather(futures, direct=True) == [*range(5)]


def test_each_gathered_result_is_an_object_of_its_own(session: Session) -> None:
    future = session.submit(list, (1, 2))
    first = future.result(timeout=60)
    first.append(3)
    assert future.result(timeout=60) == [1, 2]


def test_results_come_as_they_complete(session: Session) -> None:
    futures = session.map(add, range(10))
    assert sorted(future.result() for future in as_completed(futures, timeout=60)) == [*range(10)]
    pairs = as_completed(futures, with_results=True, timeout=60)
    assert sorted(result for _, result in pairs) == [*range(10)]


def test_more_futures_can_be_waited_for_while_others_complete(session: Session) -> None:
    completed = as_completed(session.map(add, [1]), timeout=60)
    first = next(completed)
    completed.add(session.submit(add, first, b=1))
    completed.update(session.map(add, [3]))
    assert sorted(future.result() for future in completed) == [2, 3]


def test_what_completes_comes_in_batches(session: Session) -> None:
    batches = as_completed(session.map(add, range(10)), timeout=60).batches()
    assert sorted(future.result() for batch in batches for future in batch) == [*range(10)]


def test_errors_complete_like_results(session: Session) -> None:
    futures = [session.submit(add, 1), session.submit(fail)]
    states = {future.status for future in as_completed(futures, timeout=60)}
    assert states == {"finished", "error"}


def test_waiting_tells_what_is_done(session: Session) -> None:
    quick, slow = session.submit(add, 1), session.blocked()
    done, not_done = wait([quick, slow], timeout=60, return_when="FIRST_COMPLETED")
    assert (done, not_done) == ({quick}, {slow})


def test_waiting_for_many_can_time_out(session: Session) -> None:
    with pytest.raises(TimeoutError):
        wait([session.blocked()], timeout=0.05)
