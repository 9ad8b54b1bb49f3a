"""The file names of functions that are pickled by value."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from types import CodeType
from typing import Any

import cloudpickle
import pytest
from cloudpickle import CloudPickler

from scalable.client import ScalableClient
from scalable.cluster import GroupedCluster
from scalable.cluster.plugin import FileNames, kept_file_names

Start = Callable[..., GroupedCluster]


def shown(error: BaseException) -> list[str]:
    """List the lines of the cell in a traceback, as Python would show them."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame.line or "" for frame in frames if "ipykernel" in frame.filename]


@pytest.mark.parametrize("call", ["fail()", "Model().run()"])
def test_a_pickled_function_keeps_its_file(cell: dict[str, Any], call: str) -> None:
    function = eval(f"lambda: {call}", cell)  # what it calls is pickled with it
    with kept_file_names():
        copy = pickle.loads(cloudpickle.dumps(function))

    with pytest.raises(ZeroDivisionError) as caught:
        copy()
    assert shown(caught.value)[-2:] == ["return (lambda: x / y)()"] * 2


@pytest.fixture(autouse=True)
def no_other_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set aside what other clusters of this process have changed, such as one that several tests share."""
    reduce_code = CloudPickler.dispatch_table[CodeType]
    original = getattr(reduce_code, "original", reduce_code)
    monkeypatch.setitem(CloudPickler.dispatch_table, CodeType, original)


def test_cloudpickle_is_left_as_it_was() -> None:
    before = CloudPickler.dispatch_table[CodeType]
    with kept_file_names(), kept_file_names():
        assert CloudPickler.dispatch_table[CodeType] is not before
    assert CloudPickler.dispatch_table[CodeType] is before


def test_a_cluster_in_this_process_leaves_cloudpickle_as_it_was(start: Start) -> None:
    before = CloudPickler.dispatch_table[CodeType]
    cluster = start("a")
    cluster.scale_groups({"a": 1})
    cluster.wait_for_group("a", timeout=60)
    with ScalableClient(cluster):
        assert CloudPickler.dispatch_table[CodeType] is not before
    cluster.close()
    assert CloudPickler.dispatch_table[CodeType] is before


def test_the_last_reason_to_keep_them_decides() -> None:
    before = CloudPickler.dispatch_table[CodeType]
    first, second = FileNames(), FileNames()
    first.keep()
    first.keep()
    second.keep()
    kept = CloudPickler.dispatch_table[CodeType]
    first.release()
    first.release()
    assert CloudPickler.dispatch_table[CodeType] is kept
    second.release()
    assert CloudPickler.dispatch_table[CodeType] is before
