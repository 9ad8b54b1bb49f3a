from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from scalable.manifest.document.data import read_data
from scalable.manifest.document.nodes import MappingNode, to_data
from scalable.manifest.document.place import Place, Source
from scalable.manifest.document.reader import read_text
from scalable.manifest.overlays import merge

keys = st.sampled_from("abc")
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2),
    lambda inner: st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
mappings = st.dictionaries(keys, values, max_size=3)


def tree(data: dict[str, Any]) -> MappingNode:
    root = read_data(data).root
    assert root is not None
    return root


def merged(base: dict[str, Any], overlay: dict[str, Any]) -> Any:
    return to_data(merge(tree(base), tree(overlay)))


def expected(base: Any, overlay: Any) -> Any:
    """Merge as the documentation words it."""
    if not (isinstance(base, dict) and isinstance(overlay, dict)):
        return overlay
    return {
        key: (
            expected(base[key], overlay[key])
            if key in base and key in overlay
            else overlay.get(key, base.get(key))
        )
        for key in [*base, *(key for key in overlay if key not in base)]
    }


@given(mappings, mappings)
def test_mappings_merge_and_all_else_is_replaced(
    base: dict[str, Any], overlay: dict[str, Any]
) -> None:
    assert merged(base, overlay) == expected(base, overlay)


@given(mappings)
def test_nothing_is_neutral_on_either_side(data: dict[str, Any]) -> None:
    assert merged(data, {}) == merged({}, data) == merged(data, data) == data


@given(mappings, mappings)
def test_merging_twice_is_merging_once(base: dict[str, Any], overlay: dict[str, Any]) -> None:
    once = merged(base, overlay)
    assert merged(once, overlay) == once


@given(mappings, mappings)
def test_neither_side_is_changed(base: dict[str, Any], overlay: dict[str, Any]) -> None:
    below, above = tree(base), tree(overlay)
    merge(below, above)
    assert (to_data(below), to_data(above)) == (base, overlay)


def test_null_replaces() -> None:
    assert merged({"a": {"b": 1}}, {"a": None}) == {"a": None}


def test_the_order_of_the_base_stays() -> None:
    assert [*merged({"b": 1, "a": 2}, {"c": 3, "a": 4})] == ["b", "a", "c"]


def test_a_value_keeps_the_position_where_it_was_written() -> None:
    document = read_text("base: {x: {p: 1, q: 2}}\nover: {x: {q: 3}, y: 4}\n", "m").root
    assert document is not None
    base, over = document.entries["base"].node, document.entries["over"].node
    assert isinstance(base, MappingNode)
    assert isinstance(over, MappingNode)
    result = Place.of_document(merge(base, over), Source("m"))
    assert result.at("x.p").position == ("m", 1, 12)
    assert result.at("x.q").position == ("m", 2, 12)
    assert result.at("x").position == ("m", 1, 8)
    assert result.at("y").position == ("m", 2, 19)
