"""Last lines of a worker's log, however long the log is."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["tail"]


def tail(path: Path, *, lines: int = 20, size: int = 8192) -> str:
    """Return the last lines of a log.

    Parameters
    ----------
    path : Path
        The log; one that does not exist or is not readable counts as empty.
    lines : int
        Maximum number of lines.
    size : int
        Maximum number of bytes; a line that is cut at its beginning is omitted, unless it is the only one.
    """
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - size)
            file.seek(start)
            text = file.read(size).decode(errors="replace")
    except OSError:  # the log is only an addition to what is known of a worker
        return ""
    found = text.splitlines()
    if start and len(found) > 1:
        del found[0]
    return "\n".join(found[-lines:])
