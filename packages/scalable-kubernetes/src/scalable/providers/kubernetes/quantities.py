"""Quantities as Kubernetes writes them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

__all__ = ["Millicores", "format_quantity", "is_quantity", "parse_cpu", "parse_quantity"]

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity
_QUANTITY = re.compile(
    r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+|)", re.ASCII
)
_BINARY = {f"{prefix}i": Decimal(1024) ** power for power, prefix in enumerate("KMGTPE", 1)}
_DECIMAL = {
    prefix: Decimal(1000) ** power for power, prefix in enumerate("num kMGTPE", -3) if prefix != " "
}

_CPU = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)|([0-9]{1,9})m", re.ASCII)
_WANTED = "must be an amount of CPU: 2, 0.5 or 500m, and more than 0"


def parse_cpu(text: str | float) -> int:
    """Return an amount of CPU in thousandths of a core.

    Parameters
    ----------
    text : str, int or float
        ``2``, ``0.5``, ``500m``. A thousandth is the smallest amount in Kubernetes.

    Returns
    -------
    int
        Thousandths of a core.

    Raises
    ------
    ValueError
        It is not an amount of CPU, or zero.

    Examples
    --------
    >>> parse_cpu(2), parse_cpu("0.5"), parse_cpu("250m")
    (2000, 500, 250)
    """
    match = None if isinstance(text, bool) else _CPU.fullmatch(str(text))
    if match is None:
        raise ValueError(_WANTED)
    millicores = int(match[2]) if match[2] else int(Decimal(match[1]) * 1000)
    if not millicores:
        raise ValueError(_WANTED)
    return millicores


def is_quantity(text: object) -> bool:
    """Return whether this is a quantity, as text.

    Examples
    --------
    >>> [is_quantity(text) for text in ("500m", "2Gi", "1e3", "500MB", "lots", 2)]
    [True, True, True, False, False, False]
    """
    return isinstance(text, str) and _QUANTITY.fullmatch(text) is not None


def parse_quantity(text: str) -> Decimal:
    """Return a quantity as a number.

    Raises
    ------
    ValueError
        It is no quantity.

    Examples
    --------
    >>> [int(parse_quantity(text)) for text in ("2", "1500m", "2Gi", "1e3", "3k")]
    [2, 1, 2147483648, 1000, 3000]
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no quantity of Kubernetes")
    number, suffix = match.groups()
    if suffix[:1] in ("e", "E") and len(suffix) > 1 and suffix != "Ei":
        return Decimal(number + suffix)
    return Decimal(number) * _BINARY.get(suffix, _DECIMAL.get(suffix, Decimal(1)))


def format_quantity(amount: Decimal) -> str:
    """Return a quantity for people.

    Examples
    --------
    >>> format_quantity(Decimal("1.500")), format_quantity(Decimal(3 * 2**30)), format_quantity(Decimal(16))
    ('1.5', '3Gi', '16')
    """
    for suffix, size in reversed(_BINARY.items()):
        if abs(amount) >= size and amount % (size / 1024) == 0 and suffix != "Ki":
            return f"{(amount / size).normalize():f}{suffix}"
    return f"{amount.normalize():f}"


Millicores = Annotated[
    int,
    BeforeValidator(parse_cpu),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0},
                {"type": "string", "pattern": r"^([0-9]{1,6}(\.[0-9]{1,3})?|[0-9]{1,9}m)$"},
            ],
            "examples": [2, 0.5, "500m"],
        }
    ),
]
"""Thousandths of a core: an ``int`` in the model; ``2``, ``0.5`` or ``500m`` in the manifest."""
