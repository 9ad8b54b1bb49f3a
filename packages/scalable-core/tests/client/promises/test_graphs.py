"""What Dask's client promises of collections, graphs and executors."""

from __future__ import annotations

import concurrent.futures
import operator
from typing import Any

import dask.array as da
import dask.bag as db
import numpy
import pytest
from dask.base import compute
from dask.delayed import delayed
from distributed import futures_of, wait
from promised_session import Session
from task_functions import add, fail


def test_delayed_objects_are_computed(session: Session) -> None:
    total: Any = delayed(sum)([delayed(add)(n) for n in range(3)])
    assert session.compute(total).result(timeout=60) == 3
    assert session.compute(total, sync=True) == 3


def test_many_collections_are_computed_together(session: Session) -> None:
    total: Any = delayed(sum)([delayed(add)(n) for n in range(3)])
    assert [future.result(timeout=60) for future in session.compute([total, total])] == [3, 3]
    assert session.compute([total, 5])[1] == 5


def test_a_collection_computes_itself_on_the_current_client(session: Session) -> None:
    total: Any = delayed(sum)([delayed(add)(n) for n in range(3)])
    assert total.compute(**session.options) == 3
    assert compute(total, total, **session.options) == (3, 3)


def test_persisted_collections_are_kept(session: Session) -> None:
    flaky = session.flaky()
    kept = session.persist(delayed(flaky, pure=True)(1))
    assert [session.compute(kept).result(timeout=60) for _ in range(2)] == [1, 1]
    wait(futures_of(kept), timeout=60)
    assert flaky.calls == 1


def test_options_of_a_computation_hold_for_its_tasks(session: Session) -> None:
    flaky = session.flaky(failures=1)
    assert session.compute(delayed(flaky)(), retries=1).result(timeout=60) == 2


def test_the_error_of_a_collection_is_that_of_its_task(session: Session) -> None:
    with pytest.raises(ArithmeticError, match="inside"):
        session.compute(delayed(fail)("inside"), sync=True)


def test_arrays_are_computed(session: Session) -> None:
    x = da.ones((40, 40), chunks=(10, 10))
    assert session.compute((x + x.T).sum()).result(timeout=60) == 3200
    numpy.testing.assert_array_equal(session.compute(x[:2, 0]).result(timeout=60), [1, 1])


def test_bags_are_computed(session: Session) -> None:
    bag = db.from_sequence(range(10), npartitions=3)
    assert session.compute(bag.map(add).filter(lambda x: x % 2).sum()).result(timeout=60) == 25


def test_a_graph_is_computed_by_its_keys(session: Session) -> None:
    graph = {"x": (add, 1), "y": (add, "x", 2)}
    assert session.client.get(graph, ["y", ["x"]], **session.options) == [3, [1]]


def test_a_graph_can_be_left_as_futures(session: Session) -> None:
    graph = {"x": (add, 1), "y": (add, "x", 2)}
    future = session.client.get(graph, "y", sync=False, **session.options)
    assert future.result(timeout=60) == 3


def test_an_executor_is_one_of_the_standard_library(session: Session) -> None:
    with session.client.get_executor(**session.options) as executor:
        assert isinstance(executor, concurrent.futures.Executor)
        future = executor.submit(add, 1, b=2)
        assert isinstance(future, concurrent.futures.Future)
        assert future.result(timeout=60) == 3
        assert [*executor.map(operator.neg, [1, 2])] == [-1, -2]
        assert isinstance(executor.submit(fail).exception(timeout=60), ArithmeticError)
