"""Objects as text for people and for ``kubectl apply``. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import yaml

from scalable.providers.rendering import redacted

__all__ = ["rendered"]


def rendered(made: Mapping[str, Any], redact: Callable[[str], str]) -> str:
    """Return an object as YAML, without the values of variables.

    Parameters
    ----------
    made : mapping
        The object.
    redact : callable
        Returns a text with ``${VAR}`` in place of the values that the manifest takes from the environment.
    """
    shown = redacted(made, partial(_redacted, redact=redact))
    text = yaml.dump(shown, Dumper=_Dumper, sort_keys=False, width=100)
    return redact(text)


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    if text in _TRUTH or _is_number(text):
        style = "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_TRUTH = frozenset("yYnN")
"""What kubectl, but not PyYAML, reads as true or false."""


def _is_number(text: str) -> bool:
    """Return whether this may be read as a number, also by those who read more than PyYAML does: kubectl, for example.

    Examples
    --------
    >>> [_is_number(text) for text in ("1e3", "0o14", "64e5173", "2Gi")]
    [True, True, True, False]
    """
    for read in (float, partial(int, base=0)):
        with suppress(ValueError):
            read(text)
            return True
    return False


_Dumper.add_representer(str, _represent_text)


def _redacted(text: str, redact: Callable[[str], str]) -> str:
    # A dollar sign is doubled in an object, in which the value would not be found.
    plain = text.replace("$$", "$")
    shown = redact(plain)
    return text if shown == plain else shown
