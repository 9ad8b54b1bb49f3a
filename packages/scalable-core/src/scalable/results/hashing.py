"""What all digests are made with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

__all__ = ["PLAIN", "NoContentError", "hash_of"]


class NoContentError(Exception):
    """A value has no content that could be compared: a lock, an open file, a result that is not known yet.

    Parameters
    ----------
    problem : str
        What it is, and why it has none.
    where : str
        What names it, such as a global name; empty if nothing does.
    """

    def __init__(self, problem: str, where: str = "") -> None:
        super().__init__(f"{where} is {problem}" if where else problem)
        self.where = where

    def named(self, where: str) -> NoContentError:
        """Return the error with what names the value, unless it says that already."""
        return self if self.where else NoContentError(str(self), where)


def hash_of(*parts: str | bytes) -> bytes:
    """Return the digest of several parts."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        # With their lengths, because different parts may be the same bytes when concatenated.
        digest.update(b"%d:" % len(content))
        digest.update(content)
    return digest.digest()


PLAIN: dict[type, Callable[[Any], str | bytes]] = {
    type(None): repr,
    bool: repr,
    int: hex,
    float: float.hex,
    complex: lambda value: f"{value.real.hex()} {value.imag.hex()}",
    str: lambda value: value,
    bytes: lambda value: value,
    bytearray: bytes,
    type(...): repr,
    type(NotImplemented): repr,
}
"""Types whose values contain nothing, and what is read of these."""
