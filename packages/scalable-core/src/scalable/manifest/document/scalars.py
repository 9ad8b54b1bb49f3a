"""Plain scalars → values: the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema).

PyYAML's own resolver follows YAML 1.1, where ``no`` is false, ``02:00:00`` is 7200 and ``017`` is 15.
"""

from __future__ import annotations

import re
from math import isfinite

__all__ = ["JSONScalar", "is_storable_number", "resolve"]

JSONScalar = str | int | float | bool | None

_KEYWORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", re.ASCII)
_NUMBER_STARTS = frozenset("0123456789+-.")


def resolve(text: str) -> JSONScalar:
    """Return the value of a plain scalar.

    Raises
    ------
    ValueError
        It is a number that JSON cannot hold: infinite, not a number, or an integer beyond 64 bits.

    Examples
    --------
    >>> [resolve(text) for text in ("no", "02:00:00", "0o17", "017", "1e3", "~", "True")]
    ['no', '02:00:00', 15, 17, 1000.0, None, True]
    """
    if text in _KEYWORDS:
        return _KEYWORDS[text]
    if text[0] not in _NUMBER_STARTS:
        return text
    number: int | float
    if _INT.fullmatch(text):
        if len(text) > 40:  # int() refuses thousands of digits with a text of its own
            raise ValueError(_TOO_LARGE)
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        number = int(text, base)
    elif _FLOAT.fullmatch(text):
        number = float(text)
    elif _NOT_FINITE.fullmatch(text):
        raise ValueError("is not a finite number; leave it out, or write it in quotes to mean text")
    else:
        return text
    if not is_storable_number(number):
        raise ValueError(_TOO_LARGE)
    return number


_TOO_LARGE = "is too large a number; write it in quotes to mean text"


def is_storable_number(number: float) -> bool:
    """Return whether a number survives JSON: finite, and at most 64 bits if it is an integer."""
    if isinstance(number, int):
        return -(2**63) <= number < 2**63
    return isfinite(number)
