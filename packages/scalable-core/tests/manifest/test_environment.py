from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalable.manifest.document.nodes import child, to_data, to_written
from scalable.manifest.document.place import Place, Source
from scalable.manifest.document.reader import read_text
from scalable.manifest.environment import ExpansionError, expand_node, expand_text, variables_in

ENV = {"A": "1", "B": "two", "EMPTY": "", "TRICK": "${A}", "FLOAT": "1.10", "BYTES": "\udcff"}

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("${A}", "1"),
        ("${A}${B}", "1two"),
        ("x-${B}-y", "x-two-y"),
        ("${NONE:-default}", "default"),
        ("${NONE:-}", ""),
        ("${EMPTY}", ""),
        ("${EMPTY:-default}", "default"),
        ("${A:-default}", "1"),
        ("${NONE:-a:-b $C}", "a:-b $C"),
        ("${TRICK}", "${A}"),
        ("$A $$A {A} $", "$A $$A {A} $"),
        ("$${A}", "${A}"),
        ("$${A} ${A}", "${A} 1"),
    ],
)
def test_expansion(text: str, expanded: str) -> None:
    assert expand_text(text, ENV) == expanded


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("${NONE}", "E_UNSET_VARIABLE", "NONE is not set"),
        (
            "${NONE} ${A} ${ALSO} ${NONE}",
            "E_UNSET_VARIABLE",
            "NONE and ALSO are not set in the environment; set them, or write ${NONE:-default}",
        ),
        ("${", "E_BAD_VARIABLE", "'${'"),
        ("${}", "E_BAD_VARIABLE", "'${}'"),
        ("${1}", "E_BAD_VARIABLE", "'${1}'"),
        ("${A", "E_BAD_VARIABLE", "'${A'"),
        ("${A-b}", "E_BAD_VARIABLE", "'${A-b}'"),
        ("${#array[@]}", "E_BAD_VARIABLE", "$${"),
        ("${A:-${B}}", "E_BAD_VARIABLE", "'${A:-$'"),
        ("${BYTES}", "E_BAD_VARIABLE", "BYTES is not UTF-8 text"),
    ],
)
def test_an_expansion_error_names_the_variable(text: str, code: str, says: str) -> None:
    with pytest.raises(ExpansionError) as caught:
        expand_text(text, ENV)
    assert caught.value.code == code
    assert says in str(caught.value)


@given(st.text(), names, st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_text_without_variables_stays_and_values_come_through(
    text: str, name: str, value: str
) -> None:
    plain = text.replace("${", "")
    assert expand_text(plain, {}) == plain
    assert expand_text(f"<${{{name}}}>", {name: value}) == f"<{value}>"


@given(st.text(alphabet="${}:-AB"))
def test_no_text_breaks_expansion(text: str) -> None:
    assert variables_in(text) <= {*"AB"} | {a + b for a in "AB" for b in "AB"} or len(text) > 5
    try:
        expanded = expand_text(text, {"A": "1", "B": "2"})
    except ExpansionError:
        return
    if "${" not in text:
        assert expanded == text


def expanded(text: str, path: tuple[str, ...] = ()) -> Place:
    root = read_text(text, "m").root
    assert root is not None
    result = expand_node(root, ENV, path)
    return Place.of_document(result, Source("m"))  # type: ignore[arg-type]  # a mapping stays a mapping


def data(text: str) -> Any:
    root = expanded(text).node
    assert root is not None
    return to_data(root)


def test_values_are_read_by_the_rules_of_yaml_unless_they_are_in_quotes() -> None:
    text = """
a: ${A}
b: "${A}"
c: ${EMPTY}
d: ${NONE:-true}
e: ["1${A}", "${B}"]
f: |-
  ${A}
"""
    assert data(text) == {"a": 1, "b": "1", "c": None, "d": True, "e": ["11", "two"], "f": "1"}


def test_keys_stay() -> None:
    assert data('"${A}": 1') == {"${A}": 1}


def test_host_paths_of_mounts_are_expanded() -> None:
    text = 'components: {x: {mounts: {"${B}/in": /in, /tmp: /tmp}, env: {"${B}": "1"}}}'
    assert data(text)["components"]["x"] == {
        "mounts": {"two/in": "/in", "/tmp": "/tmp"},
        "env": {"${B}": "1"},
    }


@pytest.mark.parametrize("keys", ['"${B}": /a, two: /b', 'two: /a, "${B}": /b'])
def test_host_paths_that_become_the_same_are_reported(keys: str) -> None:
    source = expanded(f"components: {{x: {{mounts: {{{keys}}}}}}}")
    assert [problem.code for problem in source.unexpanded()] == ["E_DUPLICATE_KEY"]


def test_a_host_path_that_cannot_be_expanded_is_reported() -> None:
    source = expanded('components: {x: {mounts: {"${NONE}": /a}}}')
    assert [(problem.place.path[-1], problem.code) for problem in source.unexpanded()] == [
        ("${NONE}", "E_UNSET_VARIABLE")
    ]


def test_what_cannot_be_expanded_stays_with_its_problem() -> None:
    source = expanded("a: ${NONE}\nb:\n  - ${A}\n  - '${'\nc: 1e${BIG:-999}\n")
    assert source.data == {"a": "${NONE}", "b": [1, "${"], "c": "1e${BIG:-999}"}
    assert [(problem.place.path, problem.code) for problem in source.unexpanded()] == [
        (("a",), "E_UNSET_VARIABLE"),
        (("b", 1), "E_BAD_VARIABLE"),
        (("c",), "E_BAD_NUMBER"),
    ]


def test_the_tree_remembers_what_was_written() -> None:
    root = expanded("a: ${A}\nb: {c: 'x${B}'}\n").node
    assert root is not None
    assert to_written(root) == {"a": "${A}", "b": {"c": "x${B}"}}


def test_what_has_no_variables_is_shared() -> None:
    root = read_text("a: {b: [1, $HOME]}\nc: ${A}\n", "m").root
    assert root is not None
    result = expand_node(root, ENV, ())
    assert child(result, "a") is root.entries["a"].node
    assert child(result, "c") is not root.entries["c"].node
