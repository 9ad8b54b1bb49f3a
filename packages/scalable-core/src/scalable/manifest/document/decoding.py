"""The bytes of a document → text that YAML allows."""

from __future__ import annotations

import re
from functools import cache

from scalable.manifest.document.limits import MAX_BYTES
from scalable.manifest.document.nodes import Mark

__all__ = ["UnreadableTextError", "decode"]

_UNUSUAL = re.compile("[^\t\n\r\x20-\x7e]")


@cache
def _not_allowed() -> re.Pattern[str]:
    """Return a pattern of what YAML does not allow. It takes milliseconds to compile, and most documents are ASCII."""
    # https://yaml.org/spec/1.2.2/#51-character-set, without the byte order mark, which is invisible.
    return re.compile(
        "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
    )


class UnreadableTextError(ValueError):
    """A document that is not text that YAML allows.

    Attributes
    ----------
    code : str
        Code of the issue to report.
    mark : (int, int) or None
        Line and column.
    """

    def __init__(self, code: str, message: str, mark: Mark | None = None) -> None:
        self.code, self.mark = code, mark
        super().__init__(message)


def decode(document: str | bytes) -> str:
    r"""Return UTF-8 as text, without a byte order mark at the start.

    Raises
    ------
    UnreadableTextError
        It is too large, not UTF-8, or has control characters.

    Examples
    --------
    >>> decode(b"\xef\xbb\xbfversion: 1")
    'version: 1'
    """
    if len(document) > MAX_BYTES:
        limit = f"{MAX_BYTES // 10**6} MB"
        raise UnreadableTextError("E_TOO_LARGE", f"the document is larger than {limit}")
    text = document if isinstance(document, str) else _from_utf8(document)
    text = text.removeprefix("\ufeff")
    if _UNUSUAL.search(text) and (bad := _not_allowed().search(text)):
        message = f"character U+{ord(bad[0]):04X} is not allowed in YAML; remove it"
        raise UnreadableTextError("E_CHARACTER", message, _mark_after(text[: bad.start()]))
    return text


def _from_utf8(document: bytes) -> str:
    if document.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnreadableTextError("E_ENCODING", "the file is UTF-16; save it as UTF-8", (1, 1))
    try:
        return document.decode()
    except UnicodeDecodeError as error:
        mark = _mark_after(document[: error.start].decode())
        message = f"byte 0x{document[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise UnreadableTextError("E_ENCODING", message, mark) from None


def _mark_after(before: str) -> Mark:
    return before.count("\n") + 1, len(before) - before.rfind("\n")
