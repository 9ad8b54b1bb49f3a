"""Against the tables of the core schema, https://yaml.org/spec/1.2.2/#1032-tag-resolution."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalable.manifest.document.scalars import JSONScalar, is_storable_number, resolve


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("null", None),
        ("Null", None),
        ("NULL", None),
        ("~", None),
        ("true", True),
        ("True", True),
        ("TRUE", True),
        ("false", False),
        ("False", False),
        ("FALSE", False),
        ("0", 0),
        ("-19", -19),
        ("+12", 12),
        ("017", 17),
        ("0o17", 15),
        ("0x3A", 58),
        ("0.", 0.0),
        ("-0.0", -0.0),
        (".5", 0.5),
        ("+12e03", 12000.0),
        ("-2E+05", -200000.0),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
    ],
)
def test_the_core_schema(text: str, value: JSONScalar) -> None:
    found = resolve(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    [
        *("yes", "no", "on", "off", "y", "n", "nULL", "tRUE"),  # words of YAML 1.1, and of nobody
        *("02:00:00", "1:30", "2026-08-01", "1_000", "0b11", "0o18", "-0o7", "+0x1"),
        *("1.2.3", "e5", ".", "-", "+", "1e", "8G", "٣", "1 2"),
    ],
)
def test_all_else_is_text(text: str) -> None:
    assert resolve(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *(".inf", "-.Inf", "+.INF", ".nan", ".NaN", "1e999"),
        *("9223372036854775808", "0x" + "f" * 17, "9" * 10_000),
    ],
)
def test_numbers_that_nothing_can_hold_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quotes"):
        resolve(text)


@given(st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_reads_back_as_python_writes_it(number: float) -> None:
    assert is_storable_number(number)
    assert resolve(repr(number)) == number


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, 2**63, -(2**63) - 1])
def test_a_number_that_json_cannot_hold_is_recognised(number: float) -> None:
    assert not is_storable_number(number)
