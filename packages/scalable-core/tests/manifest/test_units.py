from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from scalable.manifest.units import (
    Duration,
    Memory,
    format_duration,
    format_memory,
    parse_duration,
    parse_memory,
)

LARGEST = 2**63 - 1


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8G", 8 * 10**9),
        ("8Gi", 2**33),
        ("8GB", 8 * 10**9),
        ("8 GiB", 2**33),
        ("8g", 8 * 10**9),
        ("1k", 1000),
        ("1K", 1000),
        ("1Ki", 1024),
        ("0.5Ti", 2**39),
        ("1.0001k", 1001),  # never less than what was asked for
        ("512", 512),
        ("512B", 512),
        (2**40, 2**40),
        ("9.2E", 9_200_000_000_000_000_000),
    ],
)
def test_memory(text: str | int, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "G",
            "8X",
            "8GiG",
            "8,5G",
            "-8G",
            "8 G B",
            " 16G",
            "16G\n",
            "1e9",
            "٨G",
            "9" * 10_000,
        ),
        *("0", "0G", "9.3E", 0, -1, LARGEST + 1, True, 1.5, None),
    ],
)
def test_invalid_memory_is_refused_and_not_quoted(text: object) -> None:
    with pytest.raises(ValueError, match=r"^must be .* memory") as caught:
        parse_memory(text)  # type: ignore[arg-type]  # wrong on purpose
    if isinstance(text, str) and len(text) > 2:
        assert text not in str(caught.value)


@given(st.integers(1, LARGEST))
def test_memory_reads_back_as_it_was_written(size: int) -> None:
    assert parse_memory(format_memory(size)) == size


@given(
    st.sampled_from(["k", "M", "G", "T", "P", "Ki", "Mi", "Gi", "Ti", "Pi"]), st.integers(1, 999)
)
@example("k", 128)  # 125Ki has as few digits
def test_memory_is_written_as_briefly_as_is_exact(unit: str, count: int) -> None:
    assert len(format_memory(parse_memory(f"{count}{unit}"))) <= len(f"{count}{unit}")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("02:00:00", 7200),
        ("00:00:01", 1),
        ("48:00:00", 172_800),
        ("1-12:00:00", 129_600),
        ("90m", 5400),
        ("2h", 7200),
        ("1h30m", 5400),
        ("2d", 172_800),
        ("1d2h3m4s", 93_784),
        ("45s", 45),
        ("3600", 3600),
        (3600, 3600),
        (0, 0),
    ],
)
def test_duration(text: str | int, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        # Two fields are minutes and seconds to Slurm and hours and minutes to people.
        *("01:30", "1-00", "1-24:00:00", "00:60:00", "00:00:60"),
        *("", "h", "1.5h", "30m1h", "1w", "-5", "2 h", "٢h", "02:00:00\n", "9" * 10_000),
        *(-1, LARGEST + 1, True, 1.5, None),
    ],
)
def test_an_invalid_duration_is_refused_and_not_quoted(text: object) -> None:
    with pytest.raises(ValueError, match=r"^must be a duration") as caught:
        parse_duration(text)  # type: ignore[arg-type]  # wrong on purpose
    if isinstance(text, str) and len(text) > 2:
        assert text not in str(caught.value)


@given(st.integers(0, 10**12))
def test_a_duration_reads_back_as_it_was_written(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.text())
def test_no_text_breaks_a_unit(text: str) -> None:
    for parse in (parse_memory, parse_duration):
        with suppress(ValueError):
            assert 0 <= parse(text) <= LARGEST


def test_models_hold_bytes_and_seconds() -> None:
    assert TypeAdapter(Memory).validate_python("8Gi") == 2**33
    assert TypeAdapter(Duration).validate_python("2h") == 7200
