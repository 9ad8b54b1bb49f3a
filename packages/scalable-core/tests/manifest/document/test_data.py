from __future__ import annotations

import enum
import json
import math
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalable.manifest.document.data import read_data
from scalable.manifest.document.limits import MAX_DEPTH, MAX_NODES
from scalable.manifest.document.nodes import to_data


class Colour(enum.StrEnum):
    RED = "red"


def found(data: Any) -> list[str]:
    return [str(issue) for issue in read_data(data).issues]


values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text("abc"), values, max_size=3))
def test_what_json_can_say_is_read_as_it_is(document: dict[str, Any]) -> None:
    root, issues = read_data(document)
    assert issues == []
    assert root is not None
    assert to_data(root) == document
    assert json.dumps(to_data(root)) == json.dumps(document)  # true is not 1


def test_other_mappings_tuples_and_enumerations_are_read_too() -> None:
    root, issues = read_data(OrderedDict(a=MappingProxyType({"b": (1, 2)}), c=Colour.RED))
    assert issues == []
    assert root is not None
    assert repr(to_data(root)) == "{'a': {'b': [1, 2]}, 'c': 'red'}"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ([], "E_NOT_A_MAPPING: a manifest is a mapping, not a list"),
        (None, "E_NOT_A_MAPPING: a manifest is a mapping, not a NoneType"),
        ({"a": {1: 2}}, "E_BAD_KEY a: a key must be text of at most 1,000 characters, not 1"),
        ({"\0": 1}, "E_BAD_KEY: a key must be text of at most 1,000 characters, not '\\x00'"),
        ({"a": ["\0"]}, "E_CHARACTER a[0]: contains a NUL or an unpaired surrogate"),
        ({"a": "\udc80"}, "E_CHARACTER a: contains a NUL or an unpaired surrogate"),
        ({"a": math.inf}, "E_BAD_NUMBER a: is not finite, or too large for 64 bits"),
        ({"a": math.nan}, "E_BAD_NUMBER a: is not finite, or too large for 64 bits"),
        ({"a": 10**5000}, "E_BAD_NUMBER a: is not finite, or too large for 64 bits"),
        ({"a": b"x"}, "E_BAD_VALUE a: a manifest cannot hold a bytes; write it as text"),
        ({"a": {1, 2}}, "E_BAD_VALUE a: a manifest cannot hold a set; write it as text"),
    ],
)
def test_a_problem_is_one_line(data: Any, problem: str) -> None:
    assert found(data) == [problem]


def test_every_problem_is_found_in_one_reading() -> None:
    assert len(found({"a": b"", 1: 2, "c": [math.nan]})) == 3


def nested(depth: int) -> dict[str, Any]:
    inner: Any = 1
    for _ in range(depth - 1):
        inner = [inner]
    return {"a": inner}


def test_nesting_has_a_limit() -> None:
    assert found(nested(MAX_DEPTH)) == []
    assert found(nested(MAX_DEPTH + 1)) == [f"E_TOO_DEEP: nested more than {MAX_DEPTH} deep"]


def test_data_that_contains_itself_is_too_deep() -> None:
    data: dict[str, Any] = {}
    data["a"] = data
    assert found(data) == [f"E_TOO_DEEP: nested more than {MAX_DEPTH} deep"]


def test_data_that_shares_without_bound_is_too_large() -> None:
    data: Any = [1]
    for _ in range(20):
        data = [data] * 9
    assert found({"a": data}) == [f"E_TOO_LARGE: more than {MAX_NODES:,} values"]
