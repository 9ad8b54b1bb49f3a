"""A store: results under a path or a URL of fsspec.

It holds::

    scalable-results.json                       which store this is, and who made it
    <task>/<version>/code.json                  the sources that this version of a task was computed with
    <task>/<version>/<arguments>.result         one result, the last two parts being digests
    <task>/<version>/segments/<number>.segment  many small results, one after the other

A result is read only if everything agrees.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from scalable.results.store import disk, objects, segments
from scalable.results.store.location import ABSENT, Entry, Location, UntrustedStoreError
from scalable.results.store.objects import FORMAT, DamagedResultError, StoreError
from scalable.results.store.segments import Place, SegmentWriter

__all__ = [
    "FORMAT",
    "MARKER",
    "SUFFIX",
    "DamagedResultError",
    "Store",
    "StoreError",
    "UntrustedStoreError",
]

T = TypeVar("T")

MARKER = "scalable-results.json"
SUFFIX = ".result"
CODE = "code.json"

_COPIED = 64 * 2**10
"""What is smaller is not copied to the machine that needs it: asking the store takes as long as reading it."""

_FEW = 8
"""So many names in one directory are asked for one by one; more are found in one listing."""


class Store(Location):
    """Results under a path or a URL of fsspec.

    Parameters
    ----------
    url : str
        The directory.
    trusted : bool
        Whether to read what other users have written.
    store_id : str, optional
        The store that must be there: on another machine the same path may be another directory.
    shown : str, optional
        What messages call it, if its URL is not to be shown.
    copies : str, optional
        A directory of this machine for copies of results and files, which are read in their place.
    tell : callable, optional
        Is called with a line if copies cannot be written.

    Attributes
    ----------
    refused : set of str
        Results, or segments of them, that were found and may not be read, because somebody else has written them.
    damaged : set of str
        Segments of which a part cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        trusted: bool = False,
        store_id: str | None = None,
        shown: str | None = None,
        copies: str | None = None,
        tell: Callable[[str], object] = lambda text: None,
    ) -> None:
        super().__init__(url, trusted=trusted, shown=shown)
        self.store_id = store_id
        self._copies, self._tell = copies, tell
        self.refused: set[str] = set()
        self.damaged: set[str] = set()
        self._places: dict[str, Place] = {}
        self._other_places: dict[str, list[Place]] = {}
        self._scanned: dict[str, int] = {}
        self._copied_segments: set[str] = set()
        self._lock = threading.Lock()
        self._segments = SegmentWriter()

    # -- The store as a whole

    def open(self, owner: str, *, create: bool) -> dict[str, Any]:
        """Return what the store says of itself, after making it if it is not there.

        Parameters
        ----------
        owner : str
            The user.
        create : bool
            Whether to make it.

        Raises
        ------
        StoreError
            It cannot be read or made, or it is somebody else's.
        """
        found = self._read_marker()
        if found is None and create:
            found = {"format": FORMAT, "id": secrets.token_hex(16), "owner": owner}
            self.write_bytes(MARKER, json.dumps(found).encode())
            # Of two that make it at once, both use the one that stays.
            found = self._read_marker() or found
        if found is None:
            raise StoreError(f"there are no results at {self.shown}: it has no {MARKER}")
        if found.get("format") != FORMAT:
            raise StoreError(
                f"the results at {self.shown} have format {found.get('format')}, and this version reads {FORMAT}; "
                "use another directory"
            )
        if not self.trusted:
            self._check_owner(owner, found)
        self.store_id = str(found["id"])
        return found

    def _read_marker(self) -> dict[str, Any] | None:
        try:
            with self._failing("read results at", FileNotFoundError):
                content = self._fs.cat_file(self._path(MARKER))
        except FileNotFoundError:
            return None
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if not isinstance(found, dict) or not isinstance(found.get("id"), str):
            raise StoreError(
                f"{self.shown}/{MARKER} is damaged; use another directory, or remove it"
            )
        return found

    def _check_owner(self, owner: str, found: Mapping[str, Any]) -> None:
        if found.get("owner") != owner:
            raise UntrustedStoreError(
                f"the results at {self.shown} are those of {found.get('owner')!r}, not of {owner!r}, and reading a "
                "result can run code of those who wrote it; if you trust them, set trust_results: true in the "
                "manifest's project"
            )
        if self.is_local:
            for path, shown in ((self._root, self.shown), (self._path(MARKER), MARKER)):
                self._check_own(shown, os.stat(path))

    def check_writable(self) -> None:
        """Raise if nothing can be written.

        Raises
        ------
        StoreError
            It cannot.
        """
        name = f"{disk.TEMPORARY}{secrets.token_hex(8)}"
        self.write_bytes(name, b"ok")
        with self._failing("remove what was written to"):
            self._fs.rm_file(self._path(name))

    def check_same(self) -> None:
        """Raise if this process sees another store under this URL, or none."""
        found = self._read_marker()
        if found is None or found["id"] != self.store_id:
            raise StoreError(
                f"{self.shown} on {platform.node()} is not the directory that the client uses; "
                "set project.results to a directory that all machines share, or to a URL such as s3://bucket/results"
            )

    # -- Objects

    def find(self, names: Iterable[str]) -> dict[str, int]:
        """Return the size of each result that is there and may be read, by its name, in few requests.

        Raises
        ------
        StoreError
            The store cannot be read.
        """
        by_directory: dict[str, set[str]] = {}
        for name in names:
            by_directory.setdefault(name.rpartition("/")[0], set()).add(name)
        found: dict[str, int] = {}
        for directory, asked in by_directory.items():
            self._scan_segments(directory)
            places = self._places
            found |= {
                name: places[name].end - places[name].begin for name in asked if name in places
            }
            wanted = asked - found.keys()
            if not wanted:
                continue
            entries = self._entries(directory) if len(wanted) > _FEW else self._ask(wanted)
            for entry in entries:
                name = entry.name.removesuffix(SUFFIX)
                if name not in wanted or not entry.name.endswith(SUFFIX):
                    continue
                if self.trusted or entry.status is None or not disk.not_own(entry.status):
                    found[name] = entry.size
                else:
                    self.refused.add(name)
        return found

    def _ask(self, names: Iterable[str]) -> Iterator[Entry]:
        """Yield those of some results that are there."""
        for name in names:
            path = self._path(name + SUFFIX)
            with suppress(*ABSENT), self._failing("read results at", *ABSENT):
                if self.is_local:
                    status = os.stat(path)
                    yield Entry(name + SUFFIX, status.st_size, False, status)
                else:
                    yield Entry(name + SUFFIX, int(self._fs.info(path)["size"]), False, None)

    def _scan_segments(self, directory: str) -> None:
        """Note which results are in the segments of a directory, as far as they have been written since the last time.

        Raises
        ------
        StoreError
            The store cannot be read.
        """
        below = f"{directory}/{segments.DIRECTORY}"
        with self._lock:
            if below in self._copied_segments:
                return
            for entry in self._entries(below, ABSENT):
                if not entry.name.endswith(segments.SUFFIX):
                    continue
                if not self.trusted and entry.status and disk.not_own(entry.status):
                    self.refused.add(entry.name)
                elif entry.size > self._scanned.get(entry.name, 0):
                    self._scan_segment(entry.name)
            if not self.is_local:  # nobody appends to them
                self._copied_segments.add(below)

    def _scan_segment(self, segment: str) -> None:
        start = end = self._scanned.get(segment, 0)
        content = self.read_bytes(segment, start) or b""
        for name, begin, after in segments.scan(content):
            if start + begin != end:
                self.damaged.add(segment)
            end = start + after
            if name in self._places:  # computed again, or twice at once
                self._other_places.setdefault(name, []).append(self._places[name])
            self._places[name] = Place(segment, start + begin, end)
        self._scanned[segment] = end

    # -- Results

    def write_result(
        self, name: str, header: Mapping[str, Any], value: object, *, alone: bool = False
    ) -> int:
        """Write a result under its name, and return its size.

        Parameters
        ----------
        name : str
            Its name.
        header : mapping
            What to say of it, as JSON values.
        value : object
            The result.
        alone : bool
            Whether to write it to a file of its own although it is small.

        Raises
        ------
        TypeError
            It cannot be pickled.
        StoreError
            It cannot be written.
        """
        parts = objects.encode(name, header, value)
        size = sum(memoryview(part).nbytes for part in parts)
        if self.is_local and not alone and size <= segments.SMALL:
            directory = f"{name.rpartition('/')[0]}/{segments.DIRECTORY}"
            with self._failing("write to"):
                self._segments.append(self._path(directory), b"".join(parts))
        else:
            self._write(name + SUFFIX, parts)
            self._copy(size, lambda copies: copies._write(name + SUFFIX, parts))
        return size

    def read_code(self, name: str) -> dict[str, Any]:
        """Return what the version of a result is computed with; empty if the store does not know.

        Raises
        ------
        StoreError
            It cannot be read.
        """
        content = self.read_bytes(f"{name.rpartition('/')[0]}/{CODE}")
        try:
            found = json.loads(content or b"{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def read_header(self, name: str) -> dict[str, Any]:
        """Return what is said of a result, without the result.

        Raises
        ------
        DamagedResultError
            It is damaged, or not there.
        StoreError
            It cannot be read.
        """
        return self._first(name, objects.header_of, self._read_beginning)

    def read_result(self, name: str) -> Any:
        """Return a result.

        Raises
        ------
        DamagedResultError
            It is damaged, or not there.
        StoreError
            It cannot be read.
        """
        frames = self._read_copy(name)
        if frames is None:
            content, frames = self._first(name, _with_frames, self.read_bytes)
            self._copy(len(content), lambda copies: copies._write(name + SUFFIX, [content]))
        return objects.value_of(frames)

    def reader(self, names: Iterable[str]) -> Callable[[str], Any]:
        """Return a function as `read_result`, which reads a segment with several of these results once."""
        places = {name: self._places[name] for name in names if name in self._places}
        count = Counter(place.segment for place in places.values())
        read: dict[str, bytes] = {}

        def read_result(name: str) -> Any:
            place = places.get(name)
            if place is None or count[place.segment] <= _FEW:
                return self.read_result(name)
            if place.segment not in read:
                read[place.segment] = self.read_bytes(place.segment) or b""
            try:
                frames = objects.frames_of(name, read[place.segment][place.begin : place.end])
            except DamagedResultError:
                return self.read_result(name)  # there may be another one
            return objects.value_of(frames)

        return read_result

    def check_result(self, name: str) -> list[Any]:
        """Return the parts of the pickle of a result, which are as they were written.

        Raises
        ------
        DamagedResultError
            It is damaged, or not there.
        StoreError
            It cannot be read.
        """
        return self._first(name, objects.frames_of, self.read_bytes)

    def _first(
        self, name: str, decode: Callable[[str, bytes], T], read: Callable[[str], bytes | None]
    ) -> T:
        """Return what the first object of a result is decoded to that is not damaged."""
        problem = DamagedResultError(f"{name} is not in {self.shown} any more")
        for content in self._contents(name, read):
            try:
                return decode(name, content)
            except DamagedResultError as error:
                problem = error
        raise problem

    def _contents(self, name: str, read: Callable[[str], bytes | None]) -> Iterator[bytes]:
        """Yield the objects of a result: one, unless it was computed again because it was damaged, or twice at once."""
        before = self._places_of(name)
        for place in before:
            yield self.read_bytes(*place) or b""
        if content := read(name + SUFFIX):
            yield content
        self._scan_segments(name.rpartition("/")[0])
        for place in self._places_of(name):
            if place not in before:
                yield self.read_bytes(*place) or b""

    def _places_of(self, name: str) -> list[Place]:
        if name not in self._places:
            return []
        return [self._places[name], *reversed(self._other_places.get(name, []))]

    def _read_beginning(self, name: str) -> bytes | None:
        """Return the beginning of an object, with its header; None if there is none."""
        try:
            with (
                self._failing("read results at", *ABSENT),
                self._fs.open(self._path(name), "rb") as file,
            ):
                if self.is_local and not self.trusted:
                    self._check_own(name, os.fstat(file.fileno()))
                content: bytes = file.read(4096)
                while b"\n" not in content and (more := file.read(len(content))):
                    content += more
                end = objects.lead_of(name, content).frames[0]
                content += file.read(max(0, end - len(content)))
                return content
        except ABSENT:
            return None

    def results(self, below: str = "") -> Iterator[tuple[str, int]]:
        """Yield the name and the size of every result, or of those below a directory, in the order of the names."""
        found: dict[str, int] = {}
        for entry in self._walk(below):
            if entry.name.endswith(SUFFIX):
                found[entry.name.removesuffix(SUFFIX)] = entry.size
            elif entry.name.endswith(segments.SUFFIX):
                content = self.read_bytes(entry.name) or b""
                found |= {name: end - begin for name, begin, end in segments.scan(content)}
        yield from sorted(found.items())

    def remove_results(self, names: Iterable[str]) -> None:
        """Remove results, if they are there.

        Raises
        ------
        StoreError
            One cannot be removed.
        """
        of_segment: dict[str, set[str]] = {}
        for name in names:
            self._scan_segments(name.rpartition("/")[0])
            for place in self._places_of(name):
                of_segment.setdefault(place.segment, set()).add(name)
            self._places.pop(name, None)
            self._other_places.pop(name, None)
            self.remove(name + SUFFIX)
        for segment, some in of_segment.items():
            self._remove_from_segment(segment, some)

    def _remove_from_segment(self, segment: str, names: set[str]) -> None:
        if self.is_local:
            with (
                suppress(FileNotFoundError),
                self._failing("remove a result from", FileNotFoundError),
            ):
                segments.remove_from(self._path(segment), names)
            return
        kept, _ = segments.without(self.read_bytes(segment) or b"", names)
        if kept:
            self.write_bytes(f"{segment.rpartition('/')[0]}/{segments.new_name()}", kept)
        self.remove(segment)

    # -- Copies on this machine

    def _copies_in(self, directory: str) -> Store:
        """Return the copies of what this store has. Only this user writes them."""
        expanded = os.path.expanduser(directory)
        if not os.path.isabs(expanded):
            raise StoreError(
                f"{directory} needs a home directory, and there is none on {platform.node()}; "
                "set HOME in the env of the component, or name an absolute path"
            )
        copies = Store(f"{expanded}/{self.store_id}", shown=expanded)
        with suppress(*ABSENT), copies._failing("read", *ABSENT):
            if problem := disk.not_own(os.stat(copies.url)):
                raise UntrustedStoreError(f"{copies.url} {problem}")
        return copies

    def _copy(self, size: int, write: Callable[[Store], object]) -> None:
        """Write a copy, if it is worth one. The first that cannot be written is the last that is tried."""
        directory = self._copies
        if not directory or size < _COPIED:
            return
        try:
            write(self._copies_in(directory))
        except StoreError as error:
            with self._lock:
                is_first, self._copies = self._copies is not None, None
            if is_first:
                self._tell(f"copies of results (local_cache): {error}; the run goes on without")

    def _read_copy(self, name: str) -> list[Any] | None:
        """Return the parts of the pickle of a result from its copy, if there is one of what the store has."""
        directory = self._copies
        if not directory:
            return None
        try:
            copies = self._copies_in(directory)
            header, frames = copies.read_header(name), copies.check_result(name)
        except StoreError:  # not there, damaged, or somebody else's: what the store has counts
            return None
        return frames if self.read_header(name) == header else None

    def copy_file(self, name: str, path: str, size: int) -> None:
        """Write a copy of an object with the content of a local file, if it is worth one."""
        self._copy(size, lambda copies: copies.put_file(name, path))

    def get_copy(self, name: str, path: str, size: int) -> bool:
        """Write the copy of an object, if there is one, into a local file; return whether that was done.

        Whether the store has the same is for the caller to see.
        """
        directory = self._copies
        if not directory or size < _COPIED:
            return False
        try:
            self._copies_in(directory).get_file(name, path)
        except OSError:  # not there, or somebody else's
            return False
        return True


def _with_frames(name: str, content: bytes) -> tuple[bytes, list[Any]]:
    return content, objects.frames_of(name, content)
