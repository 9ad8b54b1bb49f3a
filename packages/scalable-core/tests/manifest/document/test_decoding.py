from __future__ import annotations

import codecs
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalable.manifest.document.decoding import UnreadableTextError, decode
from scalable.manifest.document.limits import MAX_BYTES


def refusal(document: str | bytes) -> UnreadableTextError:
    with pytest.raises(UnreadableTextError) as caught:
        decode(document)
    return caught.value


def test_a_byte_order_mark_at_the_start_is_not_part_of_the_text() -> None:
    assert decode(codecs.BOM_UTF8 + b"a") == decode("\ufeffa") == "a"


def test_a_byte_order_mark_elsewhere_is_refused() -> None:
    assert refusal("a\ufeff").code == "E_CHARACTER"


def test_what_is_not_utf8_is_refused_where_it_begins() -> None:
    error = refusal("größe: 1\nä: ".encode() + b"\xe4")
    assert (error.code, error.mark) == ("E_ENCODING", (2, 4))
    assert "0xe4" in str(error)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_refused(encoding: str) -> None:
    document = "version: 1".encode(encoding)
    assert refusal(document).code in ("E_ENCODING", "E_CHARACTER")


def test_utf16_is_called_by_its_name() -> None:
    assert "UTF-16" in str(refusal("version: 1".encode("utf-16")))


@pytest.mark.parametrize("character", ["\0", "\x07", "\x1b", "\x7f", "\x80", "\ud800", "\uffff"])
def test_control_characters_are_refused_where_they_are(character: str) -> None:
    error = refusal(f"a: 1\nb: {character}")
    assert (error.code, error.mark) == ("E_CHARACTER", (2, 4))
    assert f"U+{ord(character):04X}" in str(error)


def test_a_document_has_a_size() -> None:
    decode(" " * MAX_BYTES)
    assert refusal(" " * (MAX_BYTES + 1)).code == "E_TOO_LARGE"


@given(st.binary() | st.text())
def test_anything_is_text_or_refused(document: str | bytes) -> None:
    with suppress(UnreadableTextError):
        assert isinstance(decode(document), str)
