"""What Dask's client promises holds for ours, with and without a tag.

Each test is one promise, in our own words, and runs with Dask's client, with ours, and with ours with a tag on every
call: where the first fails, Dask has changed, and where only the others do, we have broken it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import operator
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dask.delayed import delayed
from distributed import (
    Client,
    Event,
    Future,
    LocalCluster,
    Lock,
    Queue,
    Variable,
    as_completed,
    fire_and_forget,
    get_worker,
    wait,
)
from distributed.client import FutureCancelledError

from scalable.client import ScalableClient

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dask": (Client, {}),
    "untagged": (ScalableClient, {}),
    "tagged": (ScalableClient, {"tag": "stitches"}),
}

gates: dict[str, threading.Event] = {}


class Session:
    """A client, and the options of every call."""

    def __init__(self, client: Any, options: dict[str, Any]) -> None:
        self.client, self.options = client, options

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.submit(*args, **self.options, **kwargs)

    def map(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.map(*args, **self.options, **kwargs)

    def compute(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.compute(*args, **self.options, **kwargs)

    def persist(self, *args: Any, **kwargs: Any) -> Any:
        return self.client.persist(*args, **self.options, **kwargs)

    @property
    def scheduler(self) -> Any:
        cluster: Any = self.client.cluster
        return cluster.scheduler


@pytest.fixture(params=[*KINDS])
def session(cluster: LocalCluster, request: pytest.FixtureRequest) -> Iterator[Session]:
    made, options = KINDS[request.param]
    with made(cluster) as client:
        yield Session(client, options)


@pytest.fixture
def gate() -> Iterator[str]:
    name = uuid.uuid4().hex
    gates[name] = threading.Event()
    yield name
    gates[name].set()


def wait_for_gate(name: str, *_: Any) -> str:
    gates[name].wait(60)
    return name


def fail(message: str = "it failed") -> None:
    raise ArithmeticError(message)


def add(a: int, b: int = 0) -> int:
    return a + b


class Flaky:
    """Fails some times, then returns its count of calls."""

    counts: dict[str, int] = {}  # noqa: RUF012 - of all tasks in this process

    def __init__(self, failures: int) -> None:
        self.name, self.failures = uuid.uuid4().hex, failures

    def __call__(self, *_: Any) -> int:
        count = Flaky.counts[self.name] = Flaky.counts.get(self.name, 0) + 1
        if count <= self.failures:
            raise ArithmeticError(count)
        return count


class Account:
    total = 0

    def deposit(self, amount: int) -> int:
        self.total += amount
        return self.total


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# -- Calls and their results


def test_a_call_returns_a_future_at_once(session: Session, gate: str) -> None:
    future = session.submit(wait_for_gate, gate)
    assert isinstance(future, Future)
    assert (future.status, future.done()) == ("pending", False)
    gates[gate].set()
    assert future.result(timeout=30) == gate
    assert (future.status, future.done()) == ("finished", True)


def test_positional_and_keyword_arguments_arrive(session: Session) -> None:
    assert session.submit(add, 1, b=2).result(timeout=30) == 3


def test_a_map_keeps_the_order(session: Session) -> None:
    futures = session.map(add, range(20), range(20))
    assert session.client.gather(futures) == [2 * n for n in range(20)]


def test_a_map_ends_with_its_shortest_argument(session: Session) -> None:
    assert len(session.map(add, [1, 2, 3], [1, 2])) == 2


def test_a_map_passes_keyword_arguments_to_each_call(session: Session) -> None:
    assert session.client.gather(session.map(add, [1, 2], b=3)) == [4, 5]


def test_a_map_over_nothing_is_nothing(session: Session) -> None:
    assert session.map(add, []) == []


def test_futures_are_resolved_where_they_are_arguments(session: Session) -> None:
    one, two = session.map(add, [1, 2])
    assert session.submit(add, one, b=two).result(timeout=30) == 3
    assert session.submit(sum, [one, two]).result(timeout=30) == 3
    assert session.submit(dict, {"a": one}).result(timeout=30) == {"a": 1}


def test_a_future_is_known_by_its_key(session: Session) -> None:
    future = session.submit(add, 1, key="mine")
    assert future.key == "mine"
    assert Future("mine", session.client).result(timeout=30) == 1


def test_the_name_of_the_function_is_in_the_key(session: Session) -> None:
    assert "add" in session.submit(add, 1).key
    assert "add" in session.map(add, [1])[0].key


def test_a_result_has_a_type_before_it_is_fetched(session: Session) -> None:
    future = session.submit(add, 1)
    wait(future, timeout=30)
    assert future.type is int


def test_waiting_for_a_result_can_time_out(session: Session, gate: str) -> None:
    future = session.submit(wait_for_gate, gate)
    with pytest.raises(TimeoutError):
        future.result(timeout=0.05)
    assert future.status == "pending"


def test_closures_and_lambdas_are_functions(session: Session) -> None:
    two = 2
    assert session.submit(lambda x: x + two, 1).result(timeout=30) == 3


def test_a_coroutine_function_is_awaited(session: Session) -> None:
    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    assert session.submit(later, 1).result(timeout=30) == 2
    assert session.client.gather(session.map(later, [1, 2])) == [2, 3]


def test_what_cannot_be_called_is_refused(session: Session) -> None:
    with pytest.raises(TypeError, match="callable"):
        session.submit("add", 1)
    with pytest.raises(TypeError, match="callable"):
        session.map("add", [1])


# -- Pure and impure calls


def test_the_same_pure_call_runs_once(session: Session) -> None:
    flaky = Flaky(0)
    first, second = session.submit(flaky, 1), session.submit(flaky, 1)
    assert first.key == second.key
    assert session.client.gather([first, second]) == [1, 1]


def test_an_impure_call_runs_each_time(session: Session) -> None:
    flaky = Flaky(0)
    futures = [session.submit(flaky, 1, pure=False) for _ in range(2)]
    futures += session.map(flaky, [1, 1], pure=False)
    assert sorted(session.client.gather(futures)) == [1, 2, 3, 4]


def test_other_arguments_are_another_call(session: Session) -> None:
    keys = {session.submit(add, a, b=b).key for a in (1, 2) for b in (1, 2)}
    assert len(keys) == 4


# -- Errors


def test_the_error_of_a_task_is_raised_where_its_result_is_asked_for(session: Session) -> None:
    future = session.submit(fail, "of this")
    with pytest.raises(ArithmeticError, match="of this"):
        future.result(timeout=30)
    assert future.status == "error"
    assert isinstance(future.exception(timeout=30), ArithmeticError)
    assert future.traceback(timeout=30) is not None


def test_a_task_that_depends_on_a_failed_one_has_its_error(session: Session) -> None:
    future = session.submit(add, session.submit(fail, "first"), b=1)
    with pytest.raises(ArithmeticError, match="first"):
        future.result(timeout=30)


def test_gathering_raises_or_skips_errors(session: Session) -> None:
    futures = [session.submit(add, 1), session.submit(fail)]
    with pytest.raises(ArithmeticError):
        session.client.gather(futures)
    assert session.client.gather(futures, errors="skip") == [1]


def test_a_task_is_tried_again_as_often_as_asked(session: Session) -> None:
    assert session.submit(Flaky(2), retries=2).result(timeout=30) == 3
    with pytest.raises(ArithmeticError):
        session.submit(Flaky(2), retries=1).result(timeout=30)
    assert session.client.gather(session.map(Flaky(1), [1], retries=1)) == [2]


def test_a_failed_task_can_be_retried(session: Session) -> None:
    future = session.submit(Flaky(1))
    assert isinstance(future.exception(timeout=30), ArithmeticError)
    future.retry()
    assert future.result(timeout=30) == 2


# -- Cancelling and releasing


def test_a_cancelled_task_does_not_run(session: Session, gate: str) -> None:
    blocking = session.map(wait_for_gate, [gate] * 8, range(8))
    flaky = Flaky(0)
    future = session.submit(flaky, session.submit(wait_for_gate, gate, 9))
    future.cancel()
    assert future.cancelled()
    with pytest.raises((FutureCancelledError, concurrent.futures.CancelledError)):
        future.result(timeout=30)
    gates[gate].set()
    session.client.gather(blocking)
    assert flaky.name not in Flaky.counts


def test_a_result_is_kept_for_as_long_as_there_is_a_future(session: Session) -> None:
    future = session.submit(add, 1, b=1)
    wait(future, timeout=30)
    key = future.key
    assert key in session.scheduler.tasks
    del future
    until(lambda: key not in session.scheduler.tasks)


def test_fire_and_forget_runs_without_a_future(session: Session) -> None:
    flaky = Flaky(0)
    fire_and_forget(session.submit(flaky))
    until(lambda: flaky.name in Flaky.counts)


# -- Many results


def test_results_come_as_they_complete(session: Session) -> None:
    futures = session.map(add, range(10))
    assert sorted(future.result() for future in as_completed(futures, timeout=30)) == [*range(10)]
    pairs = as_completed(futures, with_results=True, timeout=30)
    assert sorted(result for _, result in pairs) == [*range(10)]


def test_waiting_tells_what_is_done(session: Session, gate: str) -> None:
    quick, slow = session.submit(add, 1), session.submit(wait_for_gate, gate)
    done, not_done = wait([quick, slow], timeout=30, return_when="FIRST_COMPLETED")
    assert (done, not_done) == ({quick}, {slow})


def test_gathering_keeps_the_structure(session: Session) -> None:
    one, two = session.map(add, [1, 2])
    assert session.client.gather({"a": [one, (two,)]}) == {"a": [1, (2,)]}


def test_a_callback_is_called_once_it_is_done(session: Session) -> None:
    called = threading.Event()
    session.submit(add, 1).add_done_callback(lambda future: called.set())
    assert called.wait(30)


def test_priorities_decide_what_runs_first(session: Session, gate: str) -> None:
    order: list[int] = []
    blocking = session.map(wait_for_gate, [gate] * 4, range(4), workers=["stitches"])
    until(lambda: sum(ts.state == "processing" for ts in session.scheduler.tasks.values()) == 4)
    futures = [
        session.submit(order.append, number, priority=number, workers=["stitches"], pure=False)
        for number in (1, 3, 2)
    ]
    assert session.client.gather(blocking[:0]) == []
    tasks = [session.scheduler.tasks.get(future.key) for future in futures]
    until(lambda: all(session.scheduler.tasks.get(future.key) for future in futures))
    tasks = [session.scheduler.tasks[future.key] for future in futures]
    assert [task.priority[0] for task in tasks] == [-1, -3, -2]


def test_workers_can_be_named(session: Session) -> None:
    def name(*_: Any) -> str:
        return str(get_worker().name)

    assert session.submit(name, workers=["stitches"]).result(timeout=30) == "stitches"
    assert {*session.client.gather(session.map(name, range(4), workers="stitches"))} == {"stitches"}


# -- Data


def test_scattered_data_is_an_argument(session: Session) -> None:
    numbers = session.client.scatter([1, 2, 3])
    assert session.client.gather(session.map(add, numbers)) == [1, 2, 3]
    (everywhere,) = session.client.scatter([{"a": 1}], broadcast=True)
    assert session.submit(len, everywhere).result(timeout=30) == 1


def test_a_published_dataset_is_found_by_name(session: Session) -> None:
    future = session.submit(add, 1)
    session.client.publish_dataset(mine=future)
    assert session.client.get_dataset("mine").result(timeout=30) == 1
    session.client.unpublish_dataset("mine")


def test_variables_queues_locks_and_events(session: Session) -> None:
    name = uuid.uuid4().hex
    Variable(name).set(session.submit(add, 1))
    assert Variable(name).get(timeout=30).result(timeout=30) == 1
    Queue(name).put(session.submit(add, 2))
    assert Queue(name).get(timeout=30).result(timeout=30) == 2

    def use() -> bool:
        with Lock(name):
            Event(name).set()
        return True

    assert session.submit(use).result(timeout=30)
    assert Event(name).wait(timeout=30)


def test_who_has_what(session: Session) -> None:
    future = session.submit(add, 1)
    wait(future, timeout=30)
    (holders,) = session.client.who_has([future]).values()
    assert len(holders) == 1


# -- Actors


def test_an_actor_keeps_its_state(session: Session) -> None:
    actor: Any = session.submit(Account, actor=True).result(timeout=30)
    assert [actor.deposit(5).result(), actor.deposit(5).result()] == [5, 10]
    assert actor.total == 10


def test_actors_are_never_shared(session: Session) -> None:
    actors: list[Any] = [session.submit(Account, actor=True).result(timeout=30) for _ in range(2)]
    assert [actor.deposit(1).result() for actor in actors] == [1, 1]


# -- Collections and executors


def test_delayed_objects_are_computed(session: Session) -> None:
    total: Any = delayed(sum)([delayed(add)(n) for n in range(3)])
    assert session.compute(total).result(timeout=30) == 3
    assert session.compute(total, sync=True) == 3
    assert [future.result(timeout=30) for future in session.compute([total, total])] == [3, 3]
    assert session.compute([total, 5])[1] == 5
    assert total.compute(**session.options) == 3


def test_persisted_collections_are_kept(session: Session) -> None:
    flaky = Flaky(0)
    kept = session.persist(delayed(flaky, pure=True)(1))
    assert [session.compute(kept).result(timeout=30) for _ in range(2)] == [1, 1]


def test_a_graph_is_computed_by_its_keys(session: Session) -> None:
    graph = {"x": (add, 1), "y": (add, "x", 2)}
    assert session.client.get(graph, ["y", ["x"]], **session.options) == [3, [1]]


def test_an_executor_is_one_of_the_standard_library(session: Session) -> None:
    with session.client.get_executor(**session.options) as executor:
        assert isinstance(executor, concurrent.futures.Executor)
        future = executor.submit(add, 1, b=2)
        assert isinstance(future, concurrent.futures.Future)
        assert future.result(timeout=30) == 3
        assert [*executor.map(operator.neg, [1, 2])] == [-1, -2]
        assert isinstance(executor.submit(fail).exception(timeout=30), ArithmeticError)


# -- Asynchronous clients


@pytest.mark.parametrize("kind", KINDS)
def test_an_asynchronous_client_is_awaited(cluster: LocalCluster, kind: str) -> None:
    made, options = KINDS[kind]

    async def use() -> None:
        async with made(cluster.scheduler_address, asynchronous=True) as client:
            future = client.submit(add, 1, **options)
            assert await future == 1
            assert await future.result() == 1
            assert await client.gather(client.map(add, [1, 2], **options)) == [1, 2]
            assert await asyncio.create_task(client.gather([future])) == [1]
            assert await client.compute(delayed(add)(3), **options) == 3
            with pytest.raises(ArithmeticError):
                await client.submit(fail, **options)
            found = [await each async for each in as_completed(client.map(add, [1, 2], **options))]
            assert sorted(found) == [1, 2]

    asyncio.run(use())
