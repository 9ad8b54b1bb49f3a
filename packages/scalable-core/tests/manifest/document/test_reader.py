"""YAML to trees, with both of PyYAML's parsers."""

from __future__ import annotations

import json
from textwrap import dedent
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scalable.manifest.document import reader
from scalable.manifest.document.limits import MAX_DEPTH, MAX_NODES
from scalable.manifest.document.nodes import ListNode, MappingNode, to_data
from scalable.manifest.document.reader import read_text

LOADERS = [yaml.BaseLoader, pytest.param(getattr(yaml, "CBaseLoader", None), id="libyaml")]


@pytest.fixture(params=LOADERS, autouse=True)
def _loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param is None:
        pytest.skip("PyYAML was built without libyaml")
    monkeypatch.setattr(reader, "_FAST_LOADER", request.param)


def data(text: str) -> Any:
    root, issues = read_text(dedent(text), "m")
    assert issues == []
    assert root is not None
    return to_data(root)


def found(text: str | bytes) -> list[str]:
    issues = read_text(text, "m").issues
    return [str(issue).removeprefix("m:") for issue in issues]


def test_scalars_are_those_of_yaml_12() -> None:
    text = """
        words: [no, on, off, y, true, ~]
        times: [02:00:00, 2026-08-01]
        numbers: [017, 0o17, 0x1f, 1e3, 1_000]
        quoted: ["1", 'true', "null", !!str 1, ! 2]
        blocks: [one
          line]
        literal: |
          two
          lines
        folded: >-
          one
          line
        nothing:
    """
    assert data(text) == {
        "words": ["no", "on", "off", "y", True, None],
        "times": ["02:00:00", "2026-08-01"],
        "numbers": [17, 15, 31, 1000.0, "1_000"],
        "quoted": ["1", "true", "null", "1", "2"],
        "blocks": ["one line"],
        "literal": "two\nlines\n",
        "folded": "one line",
        "nothing": None,
    }


def test_words_of_yaml_11_are_keys() -> None:
    assert data("on: 1\nno: 2\n'1': 3\n'<<': 4\n") == {"on": 1, "no": 2, "1": 3, "<<": 4}


def test_aliases_stand_for_what_they_name() -> None:
    text = """
        a: &x {p: 1, q: &y [1, 2]}
        b: *x
        c: *y
        &z key: *z
    """
    assert data(text) == {
        "a": {"p": 1, "q": [1, 2]},
        "b": {"p": 1, "q": [1, 2]},
        "c": [1, 2],
        "key": "key",
    }


def test_an_anchor_may_be_used_again() -> None:
    assert data("a: &x 1\nb: *x\nc: &x 2\nd: *x\n") == {"a": 1, "b": 1, "c": 2, "d": 2}


def test_everything_knows_where_it_is_written() -> None:
    root = read_text("a: 1\nb:\n  - x\n  - y: {z: 2}\n", "m").root
    assert root is not None
    assert root.entries["a"].mark == (1, 1)
    assert root.entries["a"].node.mark == (1, 4)
    items = root.entries["b"].node
    assert isinstance(items, ListNode)
    assert [item.mark for item in items.items] == [(3, 5), (4, 5)]
    inner = items.items[1]
    assert isinstance(inner, MappingNode)
    assert inner.entries["y"].mark == (4, 5)


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n", {"x": 1, "y": 3}),
        ("a: &a {x: 1, y: 2}\nb:\n  y: 3\n  <<: *a\n", {"x": 1, "y": 3}),
        ("a: &a {x: 1}\nb: {<<: [*a, {x: 2, z: 4}]}\n", {"x": 1, "z": 4}),
        ("a: &a {x: 1}\nc: &c {<<: *a, y: 2}\nb: {<<: *c}\n", {"x": 1, "y": 2}),
        ("b: {'<<': 5}\n", {"<<": 5}),
        ("b: {x: 1}\n---\n", {"x": 1}),
        ("---\nb: {x: 1}\n---\n# nothing\n...\n", {"x": 1}),
    ],
)
def test_what_people_write_is_read_as_they_mean_it(text: str, means: dict[str, int]) -> None:
    assert data(text)["b"] == means


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a: @b\n", "text that begins with @ needs quotes around it"),
        ("a: *.nc\n", "text that begins with * or & needs quotes around it"),
        ("a: b: c\n", "text with a colon and a blank in it needs quotes around it"),
        ('a: "C:\\data"\n', r"write \\ for \, or use single quotes"),
        ("a: {b: {c: 1}\nd: 2\n", "it begins in line 1, column 4"),
    ],
)
def test_a_mistake_of_syntax_says_what_to_write(text: str, hint: str) -> None:
    (line,) = found(text)
    assert hint in line


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1:1 E_EMPTY: the document is empty"),
        ("# nothing\n", "1:1 E_EMPTY: the document is empty"),
        ("---\n...\n", "1:1 E_EMPTY: the document is empty"),
        ("~", "1:1 E_EMPTY: the document is empty"),
        ("- a\n", "1:1 E_NOT_A_MAPPING: the document is a list"),
        ("version", "1:1 E_NOT_A_MAPPING: the document is a single value"),
        ("''", "1:1 E_NOT_A_MAPPING: the document is a single value"),
        ("a: 1\n---\nb: 2\n", "2:1 E_MULTIPLE_DOCUMENTS: a second document begins here"),
        ("a: 1\nb: {a: 1, a: 2}\n", "2:11 E_DUPLICATE_KEY b.a: duplicate key 'a'"),
        ("a: 1\n'a': 2\n", "2:1 E_DUPLICATE_KEY a: duplicate key 'a', first in line 1"),
        ("a:\n  <<: 5\n", '2:7 E_MERGE_KEY a."<<": `<<` takes a mapping or a list of them'),
        ("a: {<<: [{b: 1}, c]}\n", '1:9 E_MERGE_KEY a."<<": `<<` takes a mapping or a list'),
        ("1: a\n", "1:1 E_BAD_KEY 1: a key must be text; write '1' in quotes"),
        ("true: a\n", "1:1 E_BAD_KEY true: a key must be text; write 'true' in quotes"),
        ("~: a\n", "1:1 E_BAD_KEY \"~\": a key must be text; write '~' in quotes"),
        ("? [a]\n: b\n", '1:3 E_BAD_KEY "?": a key must be text, not a list or a mapping'),
        ("a: [1, !!python/none x]\n", "1:8 E_TAG a[1]: the tag"),
        ("a: !!int 5\n", "1:4 E_TAG a: the tag"),
        ("a: !x {b: 1}\n", "1:4 E_TAG a: the tag '!x' is not supported"),
        ("a: *b\n", "1:4 E_ALIAS a: *b refers to an anchor that is not defined before it"),
        ("a: &b [*b]\n", "1:8 E_ALIAS a[0]: *b refers to a value that contains it"),
        ("a: .inf\n", "1:4 E_BAD_NUMBER a: '.inf' is not a finite number"),
        ("a: 1e999\n", "1:4 E_BAD_NUMBER a: '1e999' is too large a number"),
        ('a: "\\0"\n', "1:4 E_CHARACTER a: contains a NUL"),
        ('"\\0": a\n', "1:1 E_CHARACTER: contains a NUL"),
        ("a: \x07\n", "1:4 E_CHARACTER: character U+0007 is not allowed in YAML"),
        (b"a: \xff\n", "1:4 E_ENCODING: byte 0xff is not UTF-8"),
        ("a: [1\n", "2:1 E_SYNTAX: not valid YAML: while parsing a flow sequence"),
        ("a: b: c\n", "1:5 E_SYNTAX: not valid YAML: mapping values are not allowed"),
        ("a: @b\n", "1:4 E_SYNTAX: not valid YAML: while scanning for the next token"),
        ("a:\n  - b\n\t- c\n", "3:1 E_SYNTAX: not valid YAML: a tab; indent with spaces instead"),
        (
            '"""A workflow: it runs."""\nfrom a import b\nb()\n',
            "1:1 E_NOT_A_MAPPING: this is a Python program, not a manifest",
        ),
        ("\ta: b\n", "1:1 E_SYNTAX: not valid YAML: a tab; indent with spaces instead"),
    ],
)
def test_a_problem_is_one_line(text: str | bytes, problem: str) -> None:
    (line,) = found(text)
    assert line.startswith(problem)
    assert line.isprintable()


@pytest.mark.parametrize("text", ["a: {b: ${C}}", "a: [${C}]"])
def test_a_variable_without_the_quotes_that_yaml_needs_is_reported(text: str) -> None:
    (line,) = found(text)
    assert line.endswith("; between { } or [ ], a ${VAR} needs quotes around it")


@pytest.mark.parametrize("text", ['"\\UFFFFFFFF": a', "%YAML 1." + "9" * 5000 + "\n---\na: b"])
def test_numbers_out_of_range_in_the_syntax_are_wrong_syntax(text: str) -> None:
    (line,) = found(text)
    assert "E_SYNTAX" in line


def test_every_problem_is_found_in_one_reading() -> None:
    text = "a: !x 1\na: 2\nb: *c\n1: .nan\n"
    assert [line.rpartition(": ")[0].partition(": ")[0] for line in found(text)] == [
        "1:4 E_TAG a",
        "2:1 E_DUPLICATE_KEY a",
        "3:4 E_ALIAS b",
        "4:1 E_BAD_KEY 1",
        "4:4 E_BAD_NUMBER 1",
    ]


def nested(depth: int) -> str:
    """Nest that many collections, the mapping at the top included."""
    return "a: " + "[" * (depth - 1) + "]" * (depth - 1)


def test_nesting_has_a_limit() -> None:
    assert data(nested(MAX_DEPTH))
    (line,) = found(nested(MAX_DEPTH + 1))
    assert line == f"1:{3 + MAX_DEPTH} E_TOO_DEEP: nested more than {MAX_DEPTH} deep"


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        pytest.param("[" * 50_000, 1, MAX_DEPTH + 1, id="lists"),
        pytest.param("a: " + "[" * 50_000, 1, MAX_DEPTH + 3, id="lists in a mapping"),
        pytest.param("{a: " * 50_000, 1, 4 * MAX_DEPTH + 1, id="mappings"),
        pytest.param("[{a: " * 50_000, 1, 5 * MAX_DEPTH // 2 + 1, id="both"),
        pytest.param("- " * 50_000, 1, 2 * MAX_DEPTH + 1, id="items"),
        pytest.param("? " * 50_000, 1, 2 * MAX_DEPTH + 1, id="keys"),
        pytest.param("[\n" * 50_000, MAX_DEPTH + 1, 1, id="lines"),
    ],
)
def test_far_too_deep_is_one_error_at_one_place(text: str, line: int, column: int) -> None:
    assert found(text) == [f"{line}:{column} E_TOO_DEEP: nested more than {MAX_DEPTH} deep"]


def test_aliases_cannot_nest_deeper() -> None:
    half = MAX_DEPTH // 2
    opening, closing = "[" * half, "]" * half
    assert data(f"a: &a {'[' * half}{']' * half}\nb: {opening[1:]}*a{closing[1:]}")
    (line,) = found(f"a: &a {opening}{closing}\nb: {opening}*a{closing}")
    assert "E_TOO_DEEP: aliases nest more than" in line


def test_a_billion_laughs_are_one_error() -> None:
    lines = ["a0: &a0 [lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (line,) = found("\n".join(lines))
    assert f"E_TOO_LARGE: more than {MAX_NODES:,} values" in line


@given(st.text(alphabet="ab:-?[]{},&*!|>'\"%@`#~ \n\t\\0x1."))
def test_no_text_of_yaml_characters_breaks_the_reader(text: str) -> None:
    reading = read_text(text, "m")
    assert reading.root is not None or reading.issues
    for issue in reading.issues:
        assert len(str(issue).splitlines()) == 1


# Half of a character is not UTF-8, DEL and the like are not YAML, and two line breaks of YAML 1.1 are not JSON.
texts = st.text(
    st.characters(
        codec="utf-8", min_codepoint=32, exclude_characters="\x85\u2028\u2029\ufeff"
    ).filter(lambda character: not "\x7f" <= character <= "\x9f" and character < "\ufffe")
    | st.sampled_from("\n\t\r\b")
)
values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(texts, values, max_size=3), st.sampled_from([None, 0, 2]))
def test_json_is_read_as_what_it_is(document: dict[str, Any], indent: int | None) -> None:
    assert data(json.dumps(document, indent=indent, ensure_ascii=False)) == document
