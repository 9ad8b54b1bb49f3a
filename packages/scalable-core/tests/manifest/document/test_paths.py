from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalable.manifest.document.paths import KeyPath, format_path, parse_path

key_paths = st.lists(st.text() | st.integers(0, 10**8)).map(tuple)


@given(key_paths)
def test_a_path_reads_back_as_it_was_written(path: KeyPath) -> None:
    assert parse_path(format_path(path)) == path


@given(key_paths)
def test_a_path_is_one_line_that_a_terminal_can_show(path: KeyPath) -> None:
    text = format_path(path)
    assert len(text.splitlines()) <= 1
    assert text.isprintable()


@pytest.mark.parametrize("text", [".a", "a.", "a..b", "a[x]", "a[1", '"a', 'a."b', "a]b", 'a"b"'])
def test_an_invalid_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a valid path"):
        parse_path(text)


def test_quotes_are_only_needed_around_what_would_be_read_otherwise() -> None:
    assert parse_path("components.gcam.mounts./data") == ("components", "gcam", "mounts", "/data")
