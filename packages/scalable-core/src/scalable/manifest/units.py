"""Amounts of memory and time, as a manifest writes them.

`Memory` and `Duration` are the annotated types for fields of models, the options of providers included: the field is
an ``int`` of bytes or seconds, however the manifest writes it.
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import ceil
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

__all__ = [
    "Duration",
    "Memory",
    "format_duration",
    "format_memory",
    "parse_duration",
    "parse_memory",
]

_MAX_INT64 = 2**63 - 1

_DECIMAL = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15, "e": 10**18}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40, "pi": 2**50, "ei": 2**60}
_FACTORS = {"": 1, **_DECIMAL, **_BINARY}
_MEMORY_PATTERN = r"^[0-9]{1,19}(\.[0-9]{1,19})? ?([kKmMgGtTpPeE][iI]?)?[bB]?$"
_MEMORY = re.compile(
    r"([0-9]{1,19}(?:\.[0-9]{1,19})?) ?((?:[kmgtpe]i?)?)b?", re.IGNORECASE | re.ASCII
)
_BAD_MEMORY = "must be an amount of memory: 8G is 8·10⁹ bytes, 8Gi is 2³³, a number is bytes"

_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION_PATTERN = (
    r"^([0-9]{1,18}|([0-9]{1,9}-)?[0-9]{1,9}:[0-5][0-9]:[0-5][0-9]"
    r"|(?=[0-9])([0-9]{1,9}d)?([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?)$"
)
_CLOCK = re.compile(r"(?:([0-9]{1,9})-)?([0-9]{1,9}):([0-5][0-9]):([0-5][0-9])", re.ASCII)
_WITH_UNITS = re.compile(
    r"(?=[0-9])(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?", re.ASCII
)
_BAD_DURATION = "must be a duration: HH:MM:SS, D-HH:MM:SS, 90m, 2h, or a number of seconds"


def _as_int(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():  # 16e9
        return int(value)
    return None if isinstance(value, bool) or not isinstance(value, int) else value


def parse_memory(text: str | float) -> int:
    """Return an amount of memory in bytes.

    Parameters
    ----------
    text : str, int or float
        ``8G`` (decimal), ``8Gi`` (binary), either with a ``B`` at the end and in any case; a whole number is bytes.

    Returns
    -------
    int
        Bytes, rounded up.

    Raises
    ------
    ValueError
        It is not an amount of memory, or zero, or above 2⁶³ - 1. The message does not quote it.

    Examples
    --------
    >>> parse_memory("8G"), parse_memory("8Gi"), parse_memory("1.5 GB"), parse_memory(512), parse_memory(16e9)
    (8000000000, 8589934592, 1500000000, 512, 16000000000)
    """
    amount = _as_int(text)
    if amount is None:
        match = _MEMORY.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(_BAD_MEMORY)
        amount = ceil(Fraction(match[1]) * _FACTORS[match[2].lower()])
    if not 0 < amount <= _MAX_INT64:
        raise ValueError("must be more than 0 and less than 8Ei of memory")
    return amount


def format_memory(size: int) -> str:
    """Return bytes as the shortest exact text.

    Examples
    --------
    >>> format_memory(8_000_000_000), format_memory(2**33), format_memory(128_000), format_memory(1536)
    ('8G', '8Gi', '128k', '1536')
    """
    exact = (
        f"{size // factor}{unit if unit == 'k' else unit.capitalize()}"
        for unit, factor in _FACTORS.items()
        if size % factor == 0
    )
    return min(exact, key=len)


def parse_duration(text: str | float) -> int:
    """Return a span of time in seconds.

    Parameters
    ----------
    text : str, int or float
        ``HH:MM:SS`` (more than 24 hours are fine), ``D-HH:MM:SS``, ``90m``, ``2h``, ``1h30m``, ``2d``, ``45s``; a
        whole number is seconds.

    Returns
    -------
    int
        Seconds.

    Raises
    ------
    ValueError
        It is not a duration, or above 2⁶³ - 1. The message does not quote it.

    Examples
    --------
    >>> parse_duration("02:00:00"), parse_duration("1-12:00:00"), parse_duration("90m"), parse_duration(30)
    (7200, 129600, 5400, 30)
    """
    seconds = _as_int(text)
    if seconds is None and isinstance(text, str):
        seconds = _parse_duration_text(text)
    if seconds is None or not 0 <= seconds <= _MAX_INT64:
        raise ValueError(_BAD_DURATION)
    return seconds


def _parse_duration_text(text: str) -> int | None:
    if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
        return int(text)
    if clock := _CLOCK.fullmatch(text):
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        if clock[1] and hours > 23:
            return None
        return days * 86_400 + hours * 3_600 + minutes * 60 + seconds
    if with_units := _WITH_UNITS.fullmatch(text):
        counts = (int(part or 0) for part in with_units.groups())
        return sum(n * unit for n, unit in zip(counts, _SECONDS.values(), strict=True))
    return None


def format_duration(seconds: int) -> str:
    """Return seconds as ``HH:MM:SS``, from one day on as ``D-HH:MM:SS``.

    Examples
    --------
    >>> format_duration(7200), format_duration(129_600)
    ('02:00:00', '1-12:00:00')
    """
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour:02}:{minute:02}:{second:02}"
    return f"{days}-{clock}" if days else clock


Memory = Annotated[
    int,
    BeforeValidator(parse_memory),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": _MEMORY_PATTERN},
            ],
            "examples": ["8G", "8Gi", "512M"],
        }
    ),
]
"""Bytes: an ``int`` in the model; ``8G``, ``8Gi`` or bytes in the manifest."""

Duration = Annotated[
    int,
    BeforeValidator(parse_duration),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": _DURATION_PATTERN},
            ],
            "examples": ["02:00:00", "1-12:00:00", "90m", "2h"],
        }
    ),
]
"""Seconds: an ``int`` in the model; ``02:00:00``, ``1-12:00:00``, ``90m``, ``2h`` or seconds in the manifest."""
