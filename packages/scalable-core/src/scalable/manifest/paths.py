"""How a place in a manifest is named: ``targets.hpc.walltime``, ``project.modules[0]``."""

from __future__ import annotations

import json
import re

__all__ = ["KeyPath", "as_key_path", "format_path", "parse_path"]

type_of_part = str | int
KeyPath = tuple[type_of_part, ...]
"""Keys from the top of the document down; an int is an index into a list."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_PART = re.compile(
    r"""
    (?:^|(?<=.)\.)(?: (?P<quoted>"(?:[^"\\]|\\.)*") | (?P<bare>[^.\[\]"]+) )
    | \[(?P<index>[0-9]+)\]
    """,
    re.VERBOSE,
)


def format_path(path: KeyPath) -> str:
    r"""Write a path as text. Keys that are more than letters, digits, ``_`` and ``-`` are quoted.

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
        bare = _BARE.fullmatch(part)
        shown = part if bare else json.dumps(part, ensure_ascii=not part.isprintable())
        text += f".{shown}" if text else shown
    return text


def parse_path(text: str) -> KeyPath:
    """Read a path that `format_path` wrote; quotes may be left out where a key has no ``.``, ``[``, ``]`` or ``"``.

    Raises
    ------
    ValueError
        The text is no path.

    Examples
    --------
    >>> parse_path('components.gcam.mounts."/data/v7.1"')
    ('components', 'gcam', 'mounts', '/data/v7.1')
    >>> parse_path("project.modules[0]")
    ('project', 'modules', 0)
    """
    parts: list[type_of_part] = []
    at = 0
    while at < len(text):
        match = _PART.match(text, at)
        if match is None:
            raise ValueError(f"{text!r} is no path: cannot read it from {text[at:]!r} on")
        if match["index"]:
            parts.append(int(match["index"]))
        else:
            parts.append(json.loads(match["quoted"]) if match["quoted"] else match["bare"])
        at = match.end()
    return tuple(parts)


def as_key_path(path: str | KeyPath) -> KeyPath:
    """Take a path in either form."""
    return parse_path(path) if isinstance(path, str) else path
