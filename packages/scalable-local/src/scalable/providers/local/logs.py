"""The end of a worker's log, however long the log is."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["tail"]


def tail(path: Path, *, lines: int = 20, size: int = 8192) -> str:
    """Read the last lines of a log.

    Parameters
    ----------
    path : Path
        The log; one that does not exist reads as empty.
    lines : int
        At most so many lines.
    size : int
        At most so many bytes; a line that is cut at its beginning is left out, unless it is the only one.
    """
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - size)
            file.seek(start)
            text = file.read(size).decode(errors="replace")
    except FileNotFoundError:
        return ""
    found = text.splitlines()
    if start and len(found) > 1:
        del found[0]
    return "\n".join(found[-lines:])
