"""What Dask's client promises of data on the cluster, and of what tasks share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from distributed import Event, Lock, Queue, Semaphore, Variable, get_worker, wait
from promised_session import Session
from task_functions import add


@pytest.fixture
def kept_copies(session: Session) -> Iterator[None]:
    """For as long as a test runs, Dask's active memory manager drops no copies of results."""
    session.client.amm.stop()
    yield
    session.client.amm.start()


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


def test_scattered_data_is_an_argument(session: Session) -> None:
    numbers = session.client.scatter([1, 2, 3])
    assert session.client.gather(session.map(add, numbers)) == [1, 2, 3]
    named = session.client.scatter({"a": 1})
    assert session.submit(add, named["a"]).result(timeout=60) == 1


@pytest.mark.usefixtures("kept_copies")
def test_data_can_be_scattered_to_all_workers(session: Session) -> None:
    (everywhere,) = session.client.scatter([{"a": 1}], broadcast=True)
    assert session.submit(len, everywhere).result(timeout=60) == 1
    session.until(lambda: len(session.client.who_has([everywhere])[everywhere.key]) == 2)


def test_data_can_be_scattered_to_named_workers(session: Session) -> None:
    address = session.scheduler.aliases["gcam-7"]
    (there,) = session.client.scatter([7], workers=[address])
    assert session.client.who_has([there]) == {there.key: (address,)}
    assert session.submit(add, there).result(timeout=60) == 7


def test_it_is_known_who_has_what(session: Session) -> None:
    future = session.submit(add, 1)
    wait(future, timeout=60)
    (holders,) = session.client.who_has([future]).values()
    assert len(holders) == 1
    assert future.key in session.client.has_what()[holders[0]]


@pytest.mark.usefixtures("kept_copies")
def test_results_can_be_copied_to_more_workers(session: Session) -> None:
    future = session.submit(add, 1)
    wait(future, timeout=60)
    session.client.replicate([future], n=2)
    session.until(lambda: len(session.client.who_has([future])[future.key]) == 2)


def test_a_published_dataset_is_found_by_name(session: Session, name: str) -> None:
    future = session.submit(add, 1)
    session.client.publish_dataset(**{name: future})
    assert name in session.client.list_datasets()
    assert session.client.get_dataset(name).result(timeout=60) == 1
    session.client.unpublish_dataset(name)
    with pytest.raises(KeyError):
        session.client.get_dataset(name)


def test_a_variable_holds_a_future(session: Session, name: str) -> None:
    Variable(name).set(session.submit(add, 1))
    assert Variable(name).get(timeout=60).result(timeout=60) == 1


def test_a_queue_passes_futures_on(session: Session, name: str) -> None:
    Queue(name).put(session.submit(add, 2))
    assert Queue(name).get(timeout=60).result(timeout=60) == 2


def test_a_queue_reaches_from_a_task_to_the_client(session: Session, name: str) -> None:
    def put(value: int) -> None:
        Queue(name).put(value)

    session.submit(put, 5).result(timeout=60)
    assert Queue(name).get(timeout=60) == 5


def test_an_event_reaches_from_a_task_to_the_client(session: Session, name: str) -> None:
    def set_it() -> None:
        Event(name).set()

    session.submit(set_it).result(timeout=60)
    assert Event(name).wait(timeout=60)


def test_a_lock_is_held_by_one_task(session: Session, name: str) -> None:
    def append(number: int, path: Any) -> None:
        with Lock(name):
            before = path.read_text() if path.exists() else ""
            path.write_text(before + str(number))

    path = session.directory / "locked"
    session.client.gather(session.map(append, range(6), [path] * 6))
    assert sorted(path.read_text()) == ["0", "1", "2", "3", "4", "5"]


def test_a_semaphore_is_held_by_as_many_tasks_as_it_has_leases(session: Session, name: str) -> None:
    semaphore = Semaphore(max_leases=2, name=name)

    def use(semaphore: Any, _: int) -> int:
        with semaphore:
            return int(semaphore.get_value())

    held = session.client.gather(session.map(use, [semaphore] * 6, range(6)))
    assert all(1 <= leases <= 2 for leases in held)


def test_events_that_a_task_logs_reach_the_client(session: Session, name: str) -> None:
    def log() -> None:
        get_worker().log_event(name, {"done": 1})

    session.submit(log).result(timeout=60)
    session.until(lambda: session.client.get_events(name))
    ((_, message),) = session.client.get_events(name)
    assert message["done"] == 1
