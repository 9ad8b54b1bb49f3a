"""Objects as text for people and for ``kubectl apply``. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import yaml

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
    text = yaml.dump(_redacted(made, redact), Dumper=_Dumper, sort_keys=False, width=100)
    return redact(text)


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _redacted(value: Any, redact: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        # A dollar sign is doubled in an object, in which the value would not be found.
        plain = value.replace("$$", "$")
        shown = redact(plain)
        return value if shown == plain else shown
    if isinstance(value, Mapping):
        return {key: _redacted(item, redact) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item, redact) for item in value]
    return value
