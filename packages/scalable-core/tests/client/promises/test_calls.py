"""What Dask's client promises of calls: arguments, keys, options and purity."""

from __future__ import annotations

import asyncio

import pytest
from dask.base import annotate
from distributed import Future, get_worker, wait
from promised_session import Session
from task_functions import add, count_executing, name_of_worker, wait_for_file


def test_a_call_returns_a_future_at_once(session: Session) -> None:
    future = session.blocked()
    assert isinstance(future, Future)
    assert (future.status, future.done()) == ("pending", False)
    session.open()
    assert future.result(timeout=60) == session.gate.name
    assert (future.status, future.done()) == ("finished", True)


def test_positional_and_keyword_arguments_arrive(session: Session) -> None:
    assert session.submit(add, 1, b=2).result(timeout=60) == 3


def test_closures_and_lambdas_are_functions(session: Session) -> None:
    two = 2
    assert session.submit(lambda x: x + two, 1).result(timeout=60) == 3


def test_bound_methods_and_callable_objects_are_functions(session: Session) -> None:
    assert session.submit("a-b".split, "-").result(timeout=60) == ["a", "b"]
    assert session.submit(session.flaky()).result(timeout=60) == 1


def test_a_coroutine_function_is_awaited(session: Session) -> None:
    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    assert session.submit(later, 1).result(timeout=60) == 2
    assert session.client.gather(session.map(later, [1, 2])) == [2, 3]


def test_what_cannot_be_called_is_refused(session: Session) -> None:
    with pytest.raises(TypeError, match="callable"):
        session.submit("add", 1)
    with pytest.raises(TypeError, match="callable"):
        session.map("add", [1])


def test_an_argument_that_cannot_be_pickled_is_refused(session: Session) -> None:
    with pytest.raises(TypeError, match=r"pickle|serialize"):
        session.submit(len, (each for each in ""))


def test_large_arguments_and_results_arrive(session: Session) -> None:
    data = bytes(range(256)) * 8_000
    assert session.submit(bytes.lower, data).result(timeout=60) == data.lower()


def test_futures_are_resolved_where_they_are_arguments(session: Session) -> None:
    one, two = session.map(add, [1, 2])
    assert session.submit(add, one, b=two).result(timeout=60) == 3
    assert session.submit(sum, [one, two]).result(timeout=60) == 3
    assert session.submit(dict, {"a": one}).result(timeout=60) == {"a": 1}


def test_a_map_keeps_the_order(session: Session) -> None:
    futures = session.map(add, range(20), range(20))
    assert session.client.gather(futures) == [2 * n for n in range(20)]


def test_a_map_ends_with_its_shortest_argument(session: Session) -> None:
    assert len(session.map(add, [1, 2, 3], [1, 2])) == 2


def test_a_map_passes_keyword_arguments_to_each_call(session: Session) -> None:
    assert session.client.gather(session.map(add, [1, 2], b=3)) == [4, 5]


def test_a_map_over_nothing_is_nothing(session: Session) -> None:
    assert session.map(add, []) == []


def test_a_map_in_batches_gives_the_same(session: Session) -> None:
    futures = session.map(add, range(10), batch_size=3)
    assert session.client.gather(futures) == [*range(10)]


def test_a_future_is_known_by_its_key(session: Session) -> None:
    future = session.submit(add, 1, key="mine")
    assert future.key == "mine"
    assert Future("mine", session.client).result(timeout=60) == 1


def test_keys_of_a_map_can_be_given(session: Session) -> None:
    futures = session.map(add, [1, 2], key=["first", "second"])
    assert [future.key for future in futures] == ["first", "second"]
    assert session.client.gather(futures) == [1, 2]


def test_a_map_takes_a_prefix_of_its_keys(session: Session) -> None:
    futures = session.map(add, [1, 2], key="year")
    assert all("year" in future.key for future in futures)
    assert len({future.key for future in futures}) == 2


def test_the_name_of_the_function_is_in_the_key(session: Session) -> None:
    assert "add" in session.submit(add, 1).key
    assert "add" in session.map(add, [1])[0].key


def test_the_same_pure_call_runs_once(session: Session) -> None:
    flaky = session.flaky()
    first, second = session.submit(flaky, 1), session.submit(flaky, 1)
    assert first.key == second.key
    assert session.client.gather([first, second]) == [1, 1]


def test_an_impure_call_runs_each_time(session: Session) -> None:
    flaky = session.flaky()
    for expected in (1, 2):
        assert session.submit(flaky, 1, pure=False).result(timeout=60) == expected
    futures = session.map(flaky, [1, 1], pure=False)
    wait(futures, timeout=60)
    assert flaky.calls == 4


def test_other_arguments_are_another_call(session: Session) -> None:
    keys = {session.submit(add, a, b=b).key for a in (1, 2) for b in (1, 2)}
    assert len(keys) == 4


def test_options_of_a_call_are_not_part_of_its_key(session: Session) -> None:
    first = session.submit(add, 1)
    assert session.submit(add, 1, priority=3, retries=2).key == first.key


def test_a_higher_priority_runs_first(session: Session) -> None:
    # Not pure, because a queue or a variable of another test may hold the same call.
    futures = [session.submit(add, number, priority=number, pure=False) for number in (1, 3, 2)]
    session.until(lambda: all(future.key in session.scheduler.tasks for future in futures))
    tasks = [session.scheduler.tasks[future.key] for future in futures]
    assert [task.priority[0] for task in tasks] == [-1, -3, -2]


def test_workers_can_be_named(session: Session) -> None:
    future = session.submit(name_of_worker, workers=["stitches"])
    assert future.result(timeout=60) == "stitches"
    names = session.map(name_of_worker, range(4), workers="stitches")
    assert {*session.client.gather(names)} == {"stitches"}


def test_annotations_are_options_of_the_calls_in_their_block(session: Session) -> None:
    flaky = session.flaky(failures=1)
    with annotate(retries=1, workers=["stitches"], priority=7):
        future = session.submit(flaky)
        (name,) = session.map(name_of_worker, [1])
    assert future.result(timeout=60) == 2
    assert name.result(timeout=60) == "stitches"
    assert session.scheduler.tasks[name.key].priority[0] == -7


def test_a_task_can_be_told_about_itself(session: Session) -> None:
    def key() -> object:
        return get_worker().get_current_task()

    future = session.submit(key)
    assert future.result(timeout=60) == future.key


def test_what_waits_for_a_future_runs_after_it(session: Session) -> None:
    first = session.blocked()
    flaky = session.flaky()
    second = session.submit(flaky, first)
    session.until(lambda: second.key in session.scheduler.tasks)
    assert flaky.calls == 0
    session.open()
    assert second.result(timeout=60) == 1


def test_no_more_tasks_run_at_a_time_than_a_worker_has_threads(session: Session) -> None:
    futures = [
        session.submit(wait_for_file, session.gate, n, workers=["stitches"]) for n in range(6)
    ]
    session.until(lambda: all(future.key in session.scheduler.tasks for future in futures))
    worker = session.scheduler.aliases["stitches"]
    session.until(lambda: session.client.run(count_executing)[worker] == 4)
    session.open()
    session.client.gather(futures)
