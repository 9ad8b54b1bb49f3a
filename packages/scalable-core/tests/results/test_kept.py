"""Calls whose results are kept: the next run uses them."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dask.delayed import delayed
from distributed import LocalCluster, as_completed, get_worker, secede, wait
from results_user import User

from scalable.client import ScalableClient
from scalable.errors import NotSupportedError, ResultStoreError
from scalable.results import cached
from scalable.results.naming import TaskRule

Connect = Callable[..., ScalableClient]

TASKS = {"simulate": "gcam", "total": "gcam"}
RULES = {"simulate": TaskRule(ignore=("verbose",)), "total": TaskRule()}


@pytest.fixture
def run(user: User, connect: Connect) -> Connect:
    """Return a function that returns the client of a run of the manifest whose tasks are kept."""

    def run(**options: Any) -> ScalableClient:
        results = user.results(tasks=RULES, **options)
        return connect(results, tasks=TASKS)

    return run


def simulated(*members: int) -> list[str]:
    return sorted(f"simulate {member}" for member in members)


def test_a_second_run_computes_nothing(user: User, run: Connect) -> None:
    for expected in (simulated(*range(5)), []):
        client = run()
        futures = client.map(user.module.simulate, range(5), task="simulate")
        assert client.gather(futures) == [0, 2, 4, 6, 8]
        assert client.submit(user.module.simulate, 3, task="simulate").result() == 6
        assert user.starts() == expected
    assert user.messages == ["simulate: 0 kept, 5 to do", "simulate: 5 kept, 0 to do"]


def test_only_what_is_missing_is_computed(user: User, run: Connect) -> None:
    client = run()
    client.gather(client.map(user.module.simulate, range(30), task="simulate"))
    user.starts()
    client = run()
    futures = client.map(user.module.simulate, range(40), task="simulate")
    assert client.gather(futures) == [2 * member for member in range(40)]
    assert user.starts() == simulated(*range(30, 40))
    assert user.messages[-1] == "simulate: 30 kept, 10 to do"


def test_large_keyword_arguments_arrive(user: User, run: Connect) -> None:
    weight = np.arange(30_000)
    for expected in (["total"] * 3, []):
        client = run()
        one = client.submit(user.module.total, [1, 2], weight=weight, task="total")
        many = client.map(user.module.total, [[1, 3], [1, 4]], weight=weight, task="total")
        for future, factor in zip((one, *many), (3, 4, 5), strict=True):
            assert np.array_equal(future.result(timeout=30), weight * factor)
        assert user.starts() == expected


def test_kept_results_need_no_worker(user: User, run: Connect, cluster: LocalCluster) -> None:
    client = run()
    client.gather(client.map(user.module.simulate, range(5), task="simulate"))
    total = client.submit(
        user.module.total, client.map(user.module.simulate, range(5), task="simulate"), task="total"
    )
    assert total.result() == 20
    client = run()
    cluster.scale(0)
    client.retire_workers([*client.scheduler_info()["workers"]])
    assert not client.scheduler_info()["workers"]
    futures = client.map(user.module.simulate, range(5), task="simulate")
    assert client.gather(futures) == [0, 2, 4, 6, 8]
    assert [future.status for future in futures] == ["finished"] * 5
    assert client.submit(user.module.total, futures, task="total").result() == 20


def test_results_are_stored_before_a_task_counts_as_done(user: User, run: Connect) -> None:
    client = run()
    futures = client.map(user.module.simulate, range(20), task="simulate")
    for number, _ in enumerate(as_completed(futures), 1):
        assert len(user.objects()) >= number


def test_an_edit_of_one_function_computes_its_members_alone(user: User, run: Connect) -> None:
    def both(client: ScalableClient) -> tuple[int, list[str]]:
        futures = client.map(user.module.simulate, range(3), task="simulate")
        total = client.submit(user.module.total, futures, task="total").result()
        return total, user.starts()

    assert both(run()) == (6, [*simulated(0, 1, 2), "total"])
    user.write("# a comment\n" + user.text.replace("(values, weight=1)", "(values,   weight=1)"))
    assert both(run()) == (6, [])
    user.write(user.text.replace("sum(values) * weight", "sum(values) * weight + 1"))
    assert both(run()) == (7, ["total"])
    user.write(user.text.replace("SCALE = 2", "SCALE = 3"))
    assert both(run()) == (9, [*simulated(0, 1, 2), "total"])


def test_kept_futures_are_arguments_of_other_calls(user: User, run: Connect) -> None:
    client = run()
    client.gather(client.map(user.module.simulate, range(3), task="simulate"))
    user.starts()
    client = run()
    one, two, three = client.map(user.module.simulate, range(3), task="simulate")
    add = operator.add
    assert client.submit(add, two, three).result() == 6
    assert client.submit(add, two, three, tag="gcam").result() == 6
    assert client.submit(sum, [one, two, three]).result() == 6
    assert client.gather(client.map(add, [one, two], [two, three])) == [2, 6]
    assert client.compute(delayed(add)(two, three)).result() == 6
    assert client.get({"x": (add, two, three)}, "x") == 6
    assert client.submit(user.module.total, [one, two], weight=two, task="total").result() == 4
    assert user.starts() == ["total"]
    wait([one, two, three])
    assert client.gather({"a": one}) == {"a": 0}


def test_each_gather_returns_its_own_object(user: User, connect: Connect) -> None:
    array = cached(user.module.array)
    client = connect(user.results())
    client.submit(array, 7).result()
    client = connect(user.results())
    future = client.submit(array, 7)
    one, other = future.result(), client.gather(future)
    one["values"][0, 0] = 0  # writable, as it was
    assert (other["values"] == np.full((100, 100), 7)).all()
    assert user.starts() == ["array 7"]


def test_marked_functions_are_kept_without_a_task(user: User, connect: Connect) -> None:
    simulate = cached(user.module.simulate)
    for expected in (simulated(1), []):
        client = connect(user.results())
        assert client.submit(simulate, 1, tag=None).result() == 2
        assert client.submit(simulate, 1, resources={"gcam": 1}).result() == 2
        assert user.starts() == expected
    user.write(user.text)
    simulate = cached(version=2)(user.module.simulate)
    assert connect(user.results()).submit(simulate, 1).result() == 2
    assert user.starts() == simulated(1)


def test_a_marked_function_is_kept_with_arguments_bound_to_it(user: User, connect: Connect) -> None:
    marked = cached(ignore=["verbose"])(user.module.simulate)

    def simulate(**bound: Any) -> list[int]:
        client = connect(user.results())
        return [*client.gather(client.map(partial(partial(marked), **bound), range(2)))]

    assert simulate(verbose=True) == [0, 2]
    assert user.starts() == simulated(0, 1)
    assert simulate(verbose=True) == [0, 2]
    assert user.starts() == []


def test_a_marked_function_without_a_store_is_an_error(user: User, connect: Connect) -> None:
    simulate = cached(user.module.simulate)
    with pytest.raises(
        ResultStoreError, match="results of simulate are to be kept, and there is no"
    ):
        connect().submit(simulate, 1)


def test_calls_inside_of_tasks_are_computed(user: User, connect: Connect) -> None:
    simulate = cached(user.module.simulate)

    def nested(x: int) -> Any:
        secede()
        address = get_worker().scheduler.address  # a client of its own, as in another process
        with ScalableClient(address, set_as_default=False) as client:
            return client.submit(simulate, x).result()

    assert connect(user.results()).submit(nested, 1).result() == 2
    assert not user.objects()


def test_calls_that_are_not_kept_are_dasks(user: User, run: Connect) -> None:
    client = run()
    simulate = user.module.simulate
    client.submit(simulate, 1, tag="gcam").result()
    client.submit(simulate, 1, task="simulate", pure=False).result()
    assert not user.objects()
    # A future that is not kept has no name, nor has what is computed from it.
    plain = client.submit(operator.add, 1, 2, tag="gcam")
    assert client.submit(simulate, plain, task="simulate").result() == 6
    assert not user.objects()
    (message,) = user.messages
    assert message.startswith(
        "simulate: results are not kept: argument 'member' is the future of a call whose result is not kept"
    )


def test_ignored_arguments_do_not_count(user: User, run: Connect) -> None:
    client = run()
    assert client.submit(user.module.simulate, 1, task="simulate").result() == 2
    assert client.submit(user.module.simulate, 1, verbose=True, task="simulate").result() == 2
    assert user.starts() == simulated(1)


def test_own_keys_are_kept_too(user: User, run: Connect) -> None:
    for expected in (simulated(1, 2, 3), []):
        client = run()
        one = client.submit(user.module.simulate, 1, task="simulate", key="mine")
        more = client.map(user.module.simulate, [2, 3], task="simulate", key=["a", "b"])
        assert [future.key for future in (one, *more)] == ["mine", "a", "b"]
        assert client.gather([one, *more]) == [2, 4, 6]
        assert user.starts() == expected


def test_a_call_that_occurs_twice_is_one_task(user: User, run: Connect) -> None:
    for expected in (simulated(1, 2), []):
        client = run()
        futures = client.map(user.module.simulate, [1, 2, 1], task="simulate")
        assert client.gather(futures) == [2, 4, 2]
        assert futures[0].key == futures[2].key
        assert user.starts() == expected


def test_failures_are_not_kept(user: User, connect: Connect) -> None:
    fail = cached(user.module.fail)
    client = connect(user.results())
    with pytest.raises(ArithmeticError):
        client.submit(fail, 1).result()
    assert not user.objects()


def test_a_result_that_cannot_be_pickled_is_named(user: User, connect: Connect) -> None:
    client = connect(user.results())
    with pytest.raises(
        TypeError, match=r"the result of lock, of type lock, cannot be kept.*return data"
    ):
        client.submit(cached(user.module.lock), 1).result()
    assert not user.objects()


async def coroutine(x: int) -> int:
    return x


def test_what_cannot_be_kept_is_refused(user: User, connect: Connect) -> None:
    client = connect(user.results())
    with pytest.raises(NotSupportedError, match="coroutine"):
        client.submit(cached(coroutine), 1)


def test_many_are_found_in_few_requests(user: User, run: Connect) -> None:
    client = run()
    client.gather(client.map(user.module.simulate, range(200), task="simulate"))
    client = run()
    listings: list[Any] = []
    assert client._kept is not None
    store: Any = client._kept.results.store

    def count(method: Any) -> Any:
        def counted(*args: Any) -> Any:
            listings.append(args)
            return method(*args)

        return counted

    store._scan, store._ask = count(store._scan), count(store._ask)
    client.map(user.module.simulate, range(200), task="simulate")
    assert len(listings) == 1


def test_a_released_future_is_forgotten(user: User, run: Connect) -> None:
    client = run()
    assert client._kept is not None
    for _ in range(2):
        future = client.submit(user.module.simulate, 1, task="simulate")
        assert future.result() == 2
        client = run()
    assert client._kept is not None
    future = client.submit(user.module.simulate, 1, task="simulate")
    key = future.key
    assert key in client._kept._found
    del future
    again = client.submit(operator.add, 1, 1)
    assert again.result() == 2  # after the release, in the order of messages
    assert key not in client._kept._found


def test_workers_copy_what_they_write_and_what_they_read(
    user: User, connect: Connect, tmp_path: Path
) -> None:
    array, copies = cached(user.module.array), tmp_path / "copies"
    client = connect(user.results(copies=str(copies)))
    client.submit(array, 7).result()
    (written,) = copies.rglob("*.result")
    written.unlink()
    client = connect(user.results(copies=str(copies)))
    future = client.submit(array, 7)
    assert client.submit(operator.getitem, future, "text").result() == "x"
    assert [*copies.rglob("*.result")] == [written]
    assert user.starts() == ["array 7"]


def test_copies_that_cannot_be_written_are_said(
    user: User, connect: Connect, tmp_path: Path
) -> None:
    (tmp_path / "copies").write_text("")
    client = connect(user.results(copies=str(tmp_path / "copies")))
    client.gather(client.map(cached(user.module.array), range(3)))
    told: list[str] = []
    while not told:  # the event comes beside the results
        told = [text for text in user.messages if "local_cache" in text]
    assert told == [
        f"copies of results (local_cache): cannot write to {tmp_path / 'copies'}: Not a directory; "
        "the run goes on without"
    ]
    assert len(user.objects()) == 3


# -- Damage


def damage(user: User, how: str) -> None:
    for path in user.files():
        content = path.read_bytes()
        changed = {
            "half": content[: len(content) // 2],
            "empty": b"",
            "other": b"something else\n" * 10,
            "bit": content[:-2] + bytes([content[-2] ^ 1]) + content[-1:],
            "header": content[:150] + b"X" + content[151:],
            "longer": content + b"x",
        }[how]
        path.write_bytes(changed)


HOWS = ["half", "empty", "other", "bit", "header", "longer"]


@pytest.mark.parametrize("how", HOWS)
def test_damaged_results_are_computed_again(user: User, run: Connect, how: str) -> None:
    client = run(alone=True)
    client.gather(client.map(user.module.simulate, range(3), task="simulate"))
    user.starts()
    damage(user, how)
    client = run(alone=True)
    futures = client.map(user.module.simulate, range(3), task="simulate")
    assert client.gather(futures) == [0, 2, 4]
    assert user.starts() == simulated(0, 1, 2)
    damaged = [text for text in user.messages if "damaged" in text]
    assert len(damaged) == 3
    assert all(text.endswith("it is computed again") for text in damaged)
    client = run(alone=True)
    assert client.gather(client.map(user.module.simulate, range(3), task="simulate")) == [0, 2, 4]
    assert user.starts() == []


@pytest.mark.parametrize("how", HOWS)
def test_damaged_arguments_are_computed_again(user: User, run: Connect, how: str) -> None:
    client = run(alone=True)
    client.gather(client.map(user.module.simulate, range(3), task="simulate"))
    user.starts()
    damage(user, how)
    client = run(alone=True)
    futures = client.map(user.module.simulate, range(3), task="simulate")
    assert client.submit(user.module.total, futures, task="total").result() == 6
    assert user.starts() == [*simulated(0, 1, 2), "total"]
    assert client.gather(futures) == [0, 2, 4]


def test_a_result_that_vanishes_is_computed_again(user: User, run: Connect) -> None:
    client = run(alone=True)
    client.submit(user.module.simulate, 1, task="simulate").result()
    client = run(alone=True)
    future = client.submit(user.module.simulate, 1, task="simulate")
    for path in user.files():
        path.unlink()
    assert future.result() == 2
    assert user.starts() == simulated(1, 1)


def test_a_result_whose_class_is_gone_is_computed_again(user: User, run: Connect) -> None:
    client = run(alone=True)
    client.submit(user.module.simulate, 1, task="simulate").result()
    store = user.results().store
    ((name, _),) = store.results()

    class Gone:
        def __reduce__(self) -> Any:
            return (pickle.loads, (b"cno_such_module\nGone\n.",))

    store.write_result(name, {}, Gone(), alone=True)
    client = run(alone=True)
    assert client.submit(user.module.simulate, 1, task="simulate").result() == 2
    assert "no_such_module" in user.messages[-1]


# -- The store fails


def break_store(user: User) -> None:
    """Put a file in the place of the directory, as an unmounted or a broken disk does, for root too."""
    user.store.rename(user.store.with_name("moved"))
    user.store.write_text("")


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_run_goes_on_without_its_store(user: User, run: Connect, has_begun: bool) -> None:
    client = run()
    if has_begun:  # the worker has seen the store
        assert client.submit(user.module.simulate, 0, task="simulate").result() == 0
    break_store(user)
    futures = client.map(user.module.simulate, range(1, 12), task="simulate")
    assert client.gather(futures) == [2 * member for member in range(1, 12)]
    client.submit(operator.add, 1, 2).result()
    messages = [text for text in user.messages if "store" in text]
    for message in messages:
        assert f"{user.store}: Not a directory; " in message
        assert "the run goes on" in message
    assert len(messages) <= 4  # one for each kind of request, whatever the number of tasks


def test_workers_tell_once_that_a_result_is_not_kept(user: User, run: Connect) -> None:
    client = run()
    assert client.submit(user.module.simulate, 0, task="simulate").result() == 0
    version = user.version()
    version.rename(version.with_name("moved"))
    version.write_text("")
    futures = client.map(user.module.simulate, range(3, 6), task="simulate")
    assert client.gather(futures) == [6, 8, 10]
    told: list[str] = []
    while not told:  # the event comes beside the results
        told = [text for text in user.messages if "could not be kept" in text]
    assert told == [
        f"a result of simulate could not be kept: cannot write to {user.store}: Not a directory; "
        "the run goes on with it, and the next one computes it again"
    ]


def test_a_run_ends_with_its_store_if_it_is_told_to(user: User, run: Connect) -> None:
    client = run(on_store_error="fail")
    assert client.submit(user.module.simulate, 0, task="simulate").result() == 0
    version = user.version()
    version.rename(version.with_name("moved"))
    version.write_text("")
    future = client.submit(user.module.simulate, 1, task="simulate")
    with pytest.raises(OSError, match=r"could not be kept.*mend the store, or set on_store_error"):
        future.result()
    break_store(user)
    with pytest.raises(ResultStoreError, match="cannot list results at"):
        client.map(user.module.simulate, range(20, 40), task="simulate")


def test_a_store_that_workers_do_not_share_is_said(user: User, connect: Connect) -> None:
    results = user.results(on_store_error="fail")
    results.store.store_id = (
        "another"  # what the worker finds under this path is not what the client has
    )
    client = connect(results)
    with pytest.raises(
        OSError, match=r"is not the directory that the client uses; set project.results"
    ):
        client.submit(cached(user.module.simulate), 1).result()
