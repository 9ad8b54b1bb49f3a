"""The logs of workers: where a run keeps them, and the last lines of one, however long it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from scalable.cluster.log_directory import keep_logs_in, kept_logs, open_log_directory

__all__ = [
    "keep_logs_in",
    "kept_logs",
    "open_log_directory",
    "read_end",
    "tail",
    "tidy_logs",
]

MAX_LOG = 10_000_000
"""Bytes that are kept of one worker's log after a run: its end."""


def tidy_logs(directory: Path, redact: Callable[[str], str]) -> None:
    """Shorten the logs in a directory to their ends, and take secrets out of them; removes the directory if empty.

    Parameters
    ----------
    directory : Path
        The directory; one that does not exist counts as empty.
    redact : callable
        Returns a text without secrets.

    Raises
    ------
    OSError
        A log cannot be written, or another user has replaced the directory.
    """
    try:
        at = open_log_directory(directory)
    except FileNotFoundError:
        return
    try:
        for name in os.listdir(at):  # noqa: PTH208 - pathlib takes no descriptors
            if name.endswith(".log"):
                _tidy(os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at), redact)
    finally:
        os.close(at)
    with suppress(OSError):
        directory.rmdir()


def _tidy(log: int, redact: Callable[[str], str]) -> None:
    with os.fdopen(log, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        left_out = file.seek(max(0, size - MAX_LOG))
        content = file.read()
        # A line that is cut may begin within a secret, which nothing would recognise.
        if left_out and (cut := content.find(b"\n") + 1) < len(content):
            left_out, content = left_out + cut, content[cut:]
        written = content.decode(errors="replace")
        kept = redact(written)
        if left_out:
            kept = f"[the first {left_out} bytes are not kept]\n{kept}"
        if kept != written:
            file.seek(0)
            file.truncate()
            file.write(kept.encode(errors="replace"))


def read_end(path: Path, size: int) -> str:
    """Return the end of a log, at most `size` bytes of it; empty if it does not exist or is not readable."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read(size).decode(errors="replace")
    except OSError:  # the log is only an addition to what is known of a worker
        return ""


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
