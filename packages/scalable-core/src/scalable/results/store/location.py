"""Objects under a path or a URL of fsspec: how they are written, read, listed and removed.

An object appears whole or not at all, where the file system can do that.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from scalable.results.store import disk
from scalable.results.store.objects import StoreError

__all__ = ["ABSENT", "Entry", "Location", "UntrustedStoreError"]

_ATOMIC = frozenset({"abfs", "abfss", "adl", "az", "gcs", "gs", "memory", "s3", "s3a"})
"""Protocols whose objects appear when they are complete. On others, objects are renamed when they are."""

ABSENT = (FileNotFoundError, NotADirectoryError)
"""Errors of a local disk which mean that there is no such object."""

_IN_MEMORY = 64 * 2**20
"""Larger objects are written by way of a local file instead of a second copy in memory, if the store is remote."""


class UntrustedStoreError(StoreError):
    """What the store has belongs to somebody else, and reading it would run what they wrote."""


class Entry(NamedTuple):
    """What a directory has: an object with its size, and its status if it is a local file."""

    name: str
    size: int
    is_directory: bool
    status: os.stat_result | None


class Location:
    """Objects under a path or a URL of fsspec.

    Parameters
    ----------
    url : str
        The directory.
    trusted : bool
        Whether to read what other users have written.
    shown : str, optional
        What messages call it, if its URL is not to be shown.
    """

    def __init__(self, url: str, *, trusted: bool = False, shown: str | None = None) -> None:
        from fsspec.core import url_to_fs

        self.url, self.shown, self.trusted = url, shown or url, trusted
        self._root = url
        with self._failing("use"):
            self._fs, self._root = url_to_fs(url, use_listings_cache=False)
        protocols = self._fs.protocol
        names = {protocols} if isinstance(protocols, str) else {*protocols}
        self.is_local = "file" in names
        self._is_atomic = bool(names & _ATOMIC)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def _failing(self, what: str, *absent: type[Exception]) -> Iterator[None]:
        """Raise whatever a file system raises as a `StoreError`, besides errors which mean that there is none."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            if isinstance(error, absent):
                raise
            text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
            for part in (self.url, self._root):
                text = text.replace(part, self.shown)
            message = f"cannot {what} {self.shown}: {text.splitlines()[0]}"
            raise StoreError(message) from error

    def _check_own(self, name: str, status: os.stat_result) -> None:
        if problem := disk.not_own(status):
            raise UntrustedStoreError(
                f"{name} {problem}, and reading a result can run code of those who wrote it; "
                "if you trust them, set trust_results: true in the manifest's project"
            )

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write an object, which appears whole or not at all.

        Raises
        ------
        StoreError
            It cannot be written.
        """
        self._write(name, [content])

    def _write(self, name: str, parts: list[Any]) -> None:
        path = self._path(name)
        with self._failing("write to"):
            if self.is_local:
                disk.write_file(path, parts)
            else:
                self._put(path, lambda target: self._put_parts(target, parts))

    def _put(self, path: str, put: Callable[[str], object]) -> None:
        """Write an object to a file system that is none of this machine's, under a temporary name where that helps."""
        if self._is_atomic:
            put(path)
            return
        partial = self._path(f"{disk.TEMPORARY}{secrets.token_hex(8)}")
        put(partial)
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._fs.mv(partial, path)

    def _put_parts(self, path: str, parts: list[Any]) -> None:
        import tempfile

        if sum(memoryview(part).nbytes for part in parts) <= _IN_MEMORY:
            self._fs.pipe_file(path, b"".join(parts))
            return
        with tempfile.NamedTemporaryFile() as file:
            file.writelines(parts)
            file.flush()
            self._fs.put_file(file.name, path)

    def put_file(self, name: str, path: str) -> None:
        """Write an object with the content of a local file.

        Raises
        ------
        StoreError
            It cannot be written.
        """
        with self._failing("write to"):
            if self.is_local:
                disk.copy_file(path, self._path(name))
            else:
                self._put(self._path(name), lambda target: self._fs.put_file(path, target))

    def get_file(self, name: str, path: str) -> None:
        """Write the content of an object into a local file.

        Raises
        ------
        FileNotFoundError
            There is no such object.
        StoreError
            It cannot be read.
        """
        with self._failing("read results at", FileNotFoundError):
            if self.is_local and not self.trusted:
                self._check_own(name, os.stat(self._path(name)))
            self._fs.get_file(self._path(name), path)

    def size(self, name: str) -> int:
        """Return the size of an object, -1 if there is none.

        Raises
        ------
        StoreError
            It cannot be read.
        """
        try:
            with self._failing("read results at", FileNotFoundError):
                return int(self._fs.info(self._path(name))["size"])
        except FileNotFoundError:
            return -1

    def read_bytes(self, name: str, begin: int = 0, end: int | None = None) -> bytes | None:
        """Return an object, or a part of it, or None if there is none.

        Raises
        ------
        StoreError
            It cannot be read.
        """
        path = self._path(name)
        try:
            with self._failing("read results at", *ABSENT):
                if not self.is_local:
                    part = {} if end is None and not begin else {"start": begin, "end": end}
                    return bytes(self._fs.cat_file(path, **part))
                with open(path, "rb", buffering=0) as file:
                    if not self.trusted:
                        self._check_own(name, os.fstat(file.fileno()))
                    if begin:
                        file.seek(begin)
                    return file.readall() if end is None else file.read(end - begin)
        except ABSENT:
            return None

    def remove(self, name: str) -> None:
        """Remove an object, if it is there.

        Raises
        ------
        StoreError
            It cannot be removed.
        """
        with suppress(FileNotFoundError), self._failing("remove a result from", FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def modified(self, name: str) -> float:
        """Return when an object was written, in seconds since the epoch; 0 if the store does not say."""
        try:
            return float(self._fs.modified(self._path(name)).timestamp())
        except (FileNotFoundError, NotImplementedError):
            return 0.0

    def partial(self) -> Iterator[str]:
        """Yield what writers write now, or have left when they were killed."""
        for entry in self._walk(""):
            if entry.name.rpartition("/")[2].startswith(disk.TEMPORARY):
                yield entry.name

    def _walk(self, below: str) -> Iterator[Entry]:
        for entry in sorted(self._entries(below)):
            if entry.is_directory:
                yield from self._walk(entry.name)
            else:
                yield entry

    def _entries(
        self, directory: str, absent: tuple[type[OSError], ...] = (FileNotFoundError,)
    ) -> Iterator[Entry]:
        """Yield what is in a directory, nothing after errors that mean that there is none."""
        path = self._path(directory).rstrip("/")
        with suppress(*absent), self._failing("list results at", *absent):
            yield from self._scan(directory, path) if self.is_local else self._list(directory, path)

    def _list(self, directory: str, path: str) -> Iterator[Entry]:
        for entry in self._fs.ls(path, detail=True):
            name = entry["name"].rstrip("/").rpartition("/")[2]
            is_directory = entry["type"] == "directory"
            yield Entry(
                f"{directory}/{name}".lstrip("/"), entry.get("size") or 0, is_directory, None
            )

    def _scan(self, directory: str, path: str) -> Iterator[Entry]:
        for name, is_directory, status in disk.scan(path):
            entry = f"{directory}/{name}" if directory else name
            yield Entry(entry, status.st_size, is_directory, status)
