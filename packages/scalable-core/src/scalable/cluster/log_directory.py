"""Where a run keeps the logs of its workers."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "MAX_KEPT",
    "KeptLogs",
    "current_log_directory",
    "keep_logs_in",
    "kept_logs",
    "open_log_directory",
]

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
    """Keep the logs of the workers of clusters that are built in this block in a directory.

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


def open_log_directory(directory: Path, *, create: bool = False) -> int:
    """Return a descriptor of a directory, for opening and replacing logs in just that one.

    Parameters
    ----------
    directory : Path
        The directory. Who can write above a run's own directory could put another one in its place, or a link that
        leads to other files of the user.
    create : bool
        Whether it is created if it does not exist; then only its owner can read it.

    Raises
    ------
    OSError
        It or the directory above it does not exist, is a link, or belongs to another user than root.
    """
    if create:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    above = _open_own(directory.parent, directory.parent)
    try:
        if create:
            with suppress(FileExistsError):
                os.mkdir(directory.name, 0o700, dir_fd=above)
        return _open_own(directory.name, directory, at=above)
    finally:
        os.close(above)


def _open_own(name: str | Path, path: Path, *, at: int | None = None) -> int:
    message = "another user has replaced it; start runs where only you can write"
    try:
        found = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise PermissionError(errno.EPERM, message, str(path)) from None
        raise
    if os.fstat(found).st_uid not in (os.geteuid(), 0):
        os.close(found)
        raise PermissionError(errno.EPERM, message, str(path))
    return found
