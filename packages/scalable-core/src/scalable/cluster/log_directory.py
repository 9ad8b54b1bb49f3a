"""Where a run keeps the logs of its workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MAX_KEPT", "KeptLogs", "current_log_directory", "keep_logs_in", "kept_logs"]

MAX_KEPT = 1_000_000
"""Bytes that are kept of the log of one worker, where the worker does not write it on this machine: its end."""


@dataclass(frozen=True)
class KeptLogs:
    """Where logs are kept, and what takes secrets out of them."""

    directory: Path
    redact: Callable[[str], str]


_kept: ContextVar[KeptLogs | None] = ContextVar("scalable_kept_logs", default=None)


@contextmanager
def keep_logs_in(
    directory: Path | None, redact: Callable[[str], str] = lambda text: text
) -> Iterator[None]:
    """Have clusters that are built in this block keep the logs of their workers in a directory.

    Parameters
    ----------
    directory : Path or None
        The directory; None keeps none.
    redact : callable
        Returns a text without secrets.
    """
    token = _kept.set(None if directory is None else KeptLogs(directory, redact))
    try:
        yield
    finally:
        _kept.reset(token)


def current_log_directory() -> KeptLogs | None:
    """Return where the enclosing `keep_logs_in` keeps logs; None without one."""
    return _kept.get()


def kept_logs() -> Path | None:
    """Return the directory of the enclosing `keep_logs_in`, for providers whose workers write files on this machine."""
    kept = _kept.get()
    return None if kept is None else kept.directory
