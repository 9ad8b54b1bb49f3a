"""CPU quantities as Kubernetes writes them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

__all__ = ["Millicores", "parse_cpu"]

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
