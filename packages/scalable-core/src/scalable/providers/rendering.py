"""What a provider shows of the requests that a run would send."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["redacted"]


def redacted(value: Any, redact: Callable[[str], str]) -> Any:
    """Return what a provider renders without the values of variables, wherever there is text in it.

    Parameters
    ----------
    value : object
        Mappings, lists and scalars.
    redact : callable
        Returns a text with ``${VAR}`` in place of the values that the manifest takes from the environment.

    Examples
    --------
    >>> redacted({"env": [{"value": "hunter2"}], "n": 2}, lambda text: text.replace("hunter2", "${PASSWORD}"))
    {'env': [{'value': '${PASSWORD}'}], 'n': 2}
    """
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redacted(item, redact) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item, redact) for item in value]
    return value
