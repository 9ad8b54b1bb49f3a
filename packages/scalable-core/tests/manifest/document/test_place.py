from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalable.manifest.document.nodes import MappingNode
from scalable.manifest.document.paths import KeyPath
from scalable.manifest.document.place import Place, Source
from scalable.manifest.document.reader import read_text
from scalable.manifest.environment import expand_node

TEXT = """\
targets:
  hpc:
    walltime: 02:00:00
    tags: [a, b]
components:
  gcam:
    mounts:
      "${DATA}/v7.1": /data
    env: {TOKEN: "${TOKEN}"}
"""
ENV = {"DATA": "/scratch", "TOKEN": "s3cret", "N": "4"}


@pytest.fixture
def document() -> Place:
    root = read_text(TEXT, "m").root
    assert root is not None
    expanded = expand_node(root, ENV, ())
    assert isinstance(expanded, MappingNode)
    return Place.of_document(expanded, Source("m", ENV))


@pytest.mark.parametrize(
    ("path", "line", "column"),
    [
        ("targets.hpc.walltime", 3, 5),
        (("targets", "hpc", "walltime"), 3, 5),
        ("targets.hpc", 2, 3),
        ("targets.hpc.tags[1]", 4, 15),
        ('components.gcam.mounts."${DATA}/v7.1"', 8, 7),
        (("components", "gcam", "mounts", "/scratch/v7.1"), 8, 7),
        ("", 1, 1),
        # What is not there is where it would be.
        ("targets.hpc.account", 2, 3),
        ("targets.hpc.tags[2]", 4, 5),
        ("targets.hpc.walltime.x", 3, 5),
        ("nothing.at.all", 1, 1),
    ],
)
def test_positions(document: Place, path: str | KeyPath, line: int, column: int) -> None:
    assert document.at(path).position == ("m", line, column)


def test_there_are_no_positions_without_a_file(document: Place) -> None:
    assert Place(document.node, mark=(1, 1)).at("targets").position is None
    assert Place().at("targets").position is None


def test_an_issue_has_a_position_and_the_path_as_it_is_written(document: Place) -> None:
    issue = document.at(("components", "gcam", "mounts", "/scratch/v7.1")).issue("E_X", "is wrong")
    assert str(issue) == 'm:8:7 E_X components.gcam.mounts."${DATA}/v7.1": is wrong'


def test_an_issue_is_one_line_without_values_of_the_environment(document: Place) -> None:
    issue = document.at("components.gcam.env.TOKEN").issue("W_X", "is\nnot s3cret", "warning")
    assert str(issue) == "m:9:11 W_X components.gcam.env.TOKEN: is not ${TOKEN}"
    assert issue.severity == "warning"


def test_redacting_puts_variables_back(document: Place) -> None:
    assert document.source.redact("/scratch/s3cret: 4") == "${DATA}/${TOKEN}: 4"


@pytest.mark.parametrize(
    "spell",
    [
        pytest.param(lambda value: str(KeyError(value)), id="repr"),
        pytest.param(lambda value: repr({"env": [value]}), id="repr inside"),
        pytest.param(lambda value: repr(value + "'" + '"'), id="repr of a longer text"),
        pytest.param(json.dumps, id="json"),
        pytest.param(lambda value: json.dumps(value, ensure_ascii=False), id="json in unicode"),
        pytest.param(lambda value: f"https://user:{quote(value)}@host/", id="url"),
        pytest.param(lambda value: f"?key={quote(value, safe='')}", id="url component"),
        pytest.param(lambda value: urlencode({"key": value}), id="form"),
        pytest.param(lambda value: shlex.join(["login", value]), id="shell"),
    ],
)
@given(st.text(min_size=8))
def test_a_value_is_redacted_in_every_spelling(spell: Callable[[str], str], value: str) -> None:
    secret = f"s3cret{value}'t3rces"
    text = Source(variables={"TOKEN": secret}).redact(spell(secret))
    assert "${TOKEN}" in text
    assert "s3cret" not in text


def test_a_value_that_is_not_utf8_is_redacted_too() -> None:
    assert Source(variables={"TOKEN": "s3cret\udc80"}).redact("a s3cret\udc80 b") == "a ${TOKEN} b"


def test_the_longest_value_is_put_back_first() -> None:
    source = Source(variables={"USER": "anna", "HOME": "/home/anna"})
    assert source.redact("/home/anna of anna") == "${HOME} of ${USER}"


def test_its_repr_shows_nothing(document: Place) -> None:
    assert "s3cret" not in repr(document)
    assert "s3cret" not in repr(document.source)
    assert "s3cret" not in repr(document.node)
    assert "s3cret" not in repr(document.at("components.gcam.env.TOKEN").scalar)
