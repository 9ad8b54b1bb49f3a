"""Files of a local disk: who can have written them, and how they appear at once."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress

__all__ = ["TEMPORARY", "copy_file", "make_directory", "not_own", "scan", "write_file"]

TEMPORARY = ".partial-"
"""What the name of a file begins with while it is written."""


def not_own(status: os.stat_result) -> str:
    """Return why somebody else may have written a file; nothing if nobody has. Root may do all things anyway."""
    if not hasattr(os, "getuid"):
        return ""
    if status.st_uid not in (os.getuid(), 0):
        return f"belongs to user {status.st_uid}"
    return "can be written by everybody" if stat.S_IMODE(status.st_mode) & stat.S_IWOTH else ""


def scan(path: str) -> Iterator[tuple[str, bool, os.stat_result]]:
    """Yield what is in a directory: its name, whether it is a directory, and its status."""
    with os.scandir(path) as entries:
        for entry in entries:
            try:
                status = entry.stat()
            except FileNotFoundError:  # another run has just finished to write it
                continue
            yield entry.name, entry.is_dir(), status


def write_file(path: str, parts: list[bytes]) -> None:
    """Write a file under a temporary name, and rename it."""
    directory = os.path.dirname(path)
    partial = os.path.join(directory, f"{TEMPORARY}{secrets.token_hex(8)}")
    descriptor = create_file(partial)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(parts)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def copy_file(source: str, path: str) -> None:
    """Write a file with the content of another, as `write_file` does."""
    directory = os.path.dirname(path)
    partial = os.path.join(directory, f"{TEMPORARY}{secrets.token_hex(8)}")
    descriptor = create_file(partial)
    try:
        with open(source, "rb") as content, os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(content, file, 2**20)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def create_file(path: str) -> int:
    """Return the descriptor of a new file, for the user alone, in a directory that is made if it is not there."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        make_directory(os.path.dirname(path))
        return os.open(path, flags, 0o600)


def make_directory(path: str) -> None:
    """Make a directory and those above it, for the user alone; `os.makedirs` lets others read those above."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        above = os.path.dirname(path)
        if above in ("", path):
            raise
        make_directory(above)
        # Raises if it cannot be made there either, as behind a link to what does not exist.
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
