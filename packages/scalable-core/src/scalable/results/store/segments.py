"""Segments: files of a local disk that have many small results, one after the other.

To make a file takes longer than to compute many a small result, and on shared disks files are counted. So each process
appends its small results to a segment of its own; no two write to one. If a process is killed, the last object of its
segment may not be whole, and nothing follows it.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Collection, Iterator
from typing import NamedTuple

from scalable.results.store import disk
from scalable.results.store.objects import MAGIC, DamagedResultError, checked_lead

__all__ = [
    "DIRECTORY",
    "SMALL",
    "SUFFIX",
    "Place",
    "SegmentWriter",
    "new_name",
    "remove_from",
    "scan",
    "without",
]

DIRECTORY = "segments"
SUFFIX = ".segment"

SMALL = 4 * 2**10
"""Larger objects have a file of their own, which takes as much space then as they do."""

_FULL = 16 * 2**20
"""Another segment is begun after so many bytes, since removing a result writes the others of its segment anew."""


class Place(NamedTuple):
    """Where a result is: its segment, and where its object begins and ends in that."""

    segment: str
    begin: int
    end: int


def new_name() -> str:
    """Return the name of a new segment."""
    return f"{secrets.token_hex(8)}{SUFFIX}"


def scan(content: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield the objects of a segment: the name of the result, where it begins, and where it ends.

    Where they do not follow each other, something is damaged. The pickles of the results are not looked at.
    """
    at = 0
    while at < len(content):
        try:
            lead = checked_lead("", content, at)
        except DamagedResultError:
            lead = None
        if lead is not None and lead.end <= len(content):
            yield lead.name, at, lead.end
            at = lead.end
            continue
        at = content.find(MAGIC, at + 1)
        if at < 0:
            return


def without(content: bytes, names: Collection[str]) -> tuple[bytes, bytes]:
    """Return the objects of a segment besides those of some results, and what follows the last whole object."""
    kept, end = [], 0
    for name, begin, end in scan(content):
        if name not in names:
            kept.append(content[begin:end])
    return b"".join(kept), content[end:]


def remove_from(path: str, names: Collection[str]) -> None:
    """Remove results from a segment, to which another process may append meanwhile.

    The others are written to a new segment. A process that has appended looks whether its segment is still there,
    and appends to another one if it is not. What it had appended before is found here.
    """
    directory = os.path.dirname(path)
    with open(path, "rb") as file:
        kept, rest = without(file.read(), names)
        if kept:
            disk.write_file(f"{directory}/{new_name()}", [kept])
        os.unlink(path)
        late, _ = without(rest + file.read(), ())
        if late:
            disk.write_file(f"{directory}/{new_name()}", [late])


class SegmentWriter:
    """Appends small results to segments of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paths: dict[str, str] = {}

    def append(self, directory: str, content: bytes) -> None:
        """Append an object to the segment of this process in a directory, which is made if it is not there.

        Raises
        ------
        OSError
            It cannot be written. Then the segment is as it was.
        """
        with self._lock:
            path = self._paths.get(directory)
            while path is None or not _append(path, content):
                path = f"{directory}/{new_name()}"
                os.close(disk.create_file(path))
                self._paths[directory] = path


def _append(path: str, content: bytes) -> bool:
    """Append to a file, and return whether that is still there and has it. It is left as it is if it is full."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    except FileNotFoundError:
        return False
    try:
        size = os.fstat(descriptor).st_size
        if size > _FULL:
            return False
        try:
            written = 0
            while written < len(content):
                written += os.write(descriptor, content[written:])
        except OSError:
            os.ftruncate(descriptor, size)
            raise
        return os.fstat(descriptor).st_nlink > 0
    finally:
        os.close(descriptor)
