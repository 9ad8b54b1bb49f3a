"""Paths to places in a manifest: ``targets.hpc.walltime``, ``project.modules[0]``."""

from __future__ import annotations

import json
import re
from typing import TypeAlias

__all__ = ["KeyPath", "format_path", "parse_path"]

KeyPath: TypeAlias = tuple[str | int, ...]
"""Keys from the top of the document down; an int is an index into a list."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_PART = re.compile(
    r"""
    (?: ^ | (?<=.)\. ) (?: (?P<quoted> "(?:[^"\\]|\\.)*" ) | (?P<bare> [^.\[\]"]+ ) )
    | \[ (?P<index> [0-9]{1,9} ) \]
    """,
    re.VERBOSE | re.DOTALL,
)


def format_path(path: KeyPath) -> str:
    """Return a path as one line of text.

    Keys that are more than letters, digits, ``_`` and ``-`` are quoted as in JSON.

    Examples
    --------
    >>> format_path(("targets", "hpc", "walltime"))
    'targets.hpc.walltime'
    >>> format_path(("project", "modules", 0))
    'project.modules[0]'
    >>> print(format_path(("components", "gcam", "mounts", "/data/v7.1")))
    components.gcam.mounts."/data/v7.1"
    """
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        bare = _BARE.fullmatch(part) is not None
        shown = part if bare else json.dumps(part, ensure_ascii=not part.isprintable())
        text += f".{shown}" if text else shown
    return text


def parse_path(text: str) -> KeyPath:
    """Return the path that `format_path` wrote as this text.

    Quotes are optional around a key without ``.``, ``[``, ``]`` and ``"``.

    Raises
    ------
    ValueError
        The text is not a valid path.

    Examples
    --------
    >>> parse_path('components.gcam.mounts."/data/v7.1"')
    ('components', 'gcam', 'mounts', '/data/v7.1')
    >>> parse_path("project.modules[0]")
    ('project', 'modules', 0)
    """
    parts: list[str | int] = []
    at = 0
    while at < len(text):
        match = _PART.match(text, at)
        if match is None:
            raise ValueError(f"{text!r} is not a valid path from {text[at:]!r} on")
        if match["index"]:
            parts.append(int(match["index"]))
        elif match["quoted"]:
            parts.append(json.loads(match["quoted"]))
        else:
            parts.append(match["bare"])
        at = match.end()
    return tuple(parts)
