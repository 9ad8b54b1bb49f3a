"""The store of results: the only module that touches it, in the client, on workers and for the command.

Nothing here imports Scalable, because the module is sent to workers as text: their image may have none of our packages.
A store is any file system of fsspec. It holds::

    scalable-results.json                     which store this is, and who made it
    <task>/<version>/code.json                the sources that this version of a task was computed with
    <task>/<version>/<arguments>.result       one result, the last two parts being digests

A result is one object: a line with a checksum of the header, the header as JSON, and the pickle with its buffers. It
appears whole or not at all, where the file system can do that, and is read only if everything agrees.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import platform
import secrets
import shutil
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

__all__ = [
    "FORMAT",
    "MARKER",
    "SUFFIX",
    "DamagedResultError",
    "Store",
    "StoreError",
    "UntrustedStoreError",
    "keep",
    "load",
    "with_files",
]

FORMAT = 1
MARKER = "scalable-results.json"
SUFFIX = ".result"
CODE = "code.json"
EVENTS = "scalable-results"
"""Dask event topic on which workers say that a result could not be kept."""

_MAGIC = b"scalable-result"
_TEMPORARY = ".partial-"
_ATOMIC = frozenset({"abfs", "abfss", "adl", "az", "gcs", "gs", "memory", "s3", "s3a"})
"""Protocols whose objects appear when they are complete. On others, objects are renamed when they are."""

_IN_MEMORY = 64 * 2**20
"""Larger results are written by way of a local file instead of a second copy in memory, if the store is remote."""

_COPIED = 64 * 2**10
"""Smaller results are not copied to the machine that needs them: asking the store takes as long as reading them."""

_FEW = 8
"""So many names in one directory are asked for one by one; more are found in one listing."""


class StoreError(OSError):
    """The store cannot be read or written."""


class UntrustedStoreError(StoreError):
    """What the store has belongs to somebody else, and reading it would run what they wrote."""


class DamagedResultError(StoreError):
    """An object of the store is not what was written, or not all of it."""


class _Entry(NamedTuple):
    """What a directory has: an object with its size, and its status if it is a local file."""

    name: str
    size: int
    is_directory: bool
    status: os.stat_result | None


class Store:
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
        A directory of this machine for copies of results, which are read in their place.
    tell : callable, optional
        Is called with a line if copies cannot be written.

    Attributes
    ----------
    refused : set of str
        Results that were found and may not be read, because somebody else has written them.
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
        from fsspec.core import url_to_fs

        self.url, self.shown, self.trusted, self.store_id = url, shown or url, trusted, store_id
        self._copies, self._tell = copies and os.path.expanduser(copies), tell  # noqa: PTH111
        self._root = url
        self.refused: set[str] = set()
        try:
            self._fs, self._root = url_to_fs(url, use_listings_cache=False)
        except Exception as error:  # whatever its file system raises
            raise self._failed("use", error) from error
        protocols = self._fs.protocol
        names = {protocols} if isinstance(protocols, str) else {*protocols}
        self.is_local = "file" in names
        self._is_atomic = bool(names & _ATOMIC)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _failed(self, what: str, error: BaseException) -> StoreError:
        text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        for part in (self.url, self._root):
            text = text.replace(part, self.shown)
        return StoreError(f"cannot {what} {self.shown}: {text.splitlines()[0]}")

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
            content = self._fs.cat_file(self._path(MARKER))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._failed("read results at", error) from error
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
                self._check_own(shown, os.stat(path))  # noqa: PTH116

    def _check_own(self, name: str, status: os.stat_result) -> None:
        if problem := _not_own(status):
            raise UntrustedStoreError(
                f"{name} {problem}, and reading a result can run code of those who wrote it; "
                "if you trust them, set trust_results: true in the manifest's project"
            )

    def check_writable(self) -> None:
        """Raise if nothing can be written.

        Raises
        ------
        StoreError
            It cannot.
        """
        name = f"{_TEMPORARY}{secrets.token_hex(8)}"
        self.write_bytes(name, b"ok")
        try:
            self._fs.rm_file(self._path(name))
        except Exception as error:
            raise self._failed("remove what was written to", error) from error

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
        for directory, wanted in by_directory.items():
            entries = self._entries(directory) if len(wanted) > _FEW else self._ask(wanted)
            for entry in entries:
                name = entry.name.removesuffix(SUFFIX)
                if name not in wanted or not entry.name.endswith(SUFFIX):
                    continue
                if self.trusted or entry.status is None or not _not_own(entry.status):
                    found[name] = entry.size
                else:
                    self.refused.add(name)
        return found

    def _ask(self, names: Iterable[str]) -> Iterator[_Entry]:
        """Yield those of some results that are there."""
        for name in names:
            path = self._path(name + SUFFIX)
            try:
                if self.is_local:
                    status = os.stat(path)  # noqa: PTH116
                    yield _Entry(name + SUFFIX, status.st_size, False, status)
                else:
                    yield _Entry(name + SUFFIX, int(self._fs.info(path)["size"]), False, None)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except Exception as error:
                raise self._failed("read results at", error) from error

    def _entries(self, directory: str) -> Iterator[_Entry]:
        """Yield what is in a directory."""
        path = self._path(directory).rstrip("/")
        try:
            yield from self._scan(directory, path) if self.is_local else self._list(directory, path)
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._failed("list results at", error) from error

    def _list(self, directory: str, path: str) -> Iterator[_Entry]:
        for entry in self._fs.ls(path, detail=True):
            name = entry["name"].rstrip("/").rpartition("/")[2]
            is_directory = entry["type"] == "directory"
            yield _Entry(
                f"{directory}/{name}".lstrip("/"), entry.get("size") or 0, is_directory, None
            )

    def _scan(self, directory: str, path: str) -> Iterator[_Entry]:
        with os.scandir(path) as entries:
            for entry in entries:
                name = f"{directory}/{entry.name}".lstrip("/")
                try:
                    status = entry.stat()
                except FileNotFoundError:  # another run has just finished to write it
                    continue
                yield _Entry(name, status.st_size, entry.is_dir(), status)

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
        try:
            if self.is_local:
                _write_file(path, parts)
            elif self._is_atomic:
                self._put(path, parts)
            else:
                partial = self._path(f"{_TEMPORARY}{secrets.token_hex(8)}")
                self._put(partial, parts)
                self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._fs.mv(partial, path)
        except Exception as error:
            raise self._failed("write to", error) from error

    def _put(self, path: str, parts: list[Any]) -> None:
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
        target = self._path(name)
        partial = self._path(f"{_TEMPORARY}{secrets.token_hex(8)}")
        try:
            if self.is_local:
                _make_directory(target.rpartition("/")[0])
                with open(path, "rb") as source:  # noqa: PTH123
                    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                    with os.fdopen(descriptor, "wb") as file:
                        shutil.copyfileobj(source, file, 2**20)
                os.replace(partial, target)  # noqa: PTH105
            elif self._is_atomic:
                self._fs.put_file(path, target)
            else:
                self._fs.put_file(path, partial)
                self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._fs.mv(partial, target)
        except Exception as error:
            raise self._failed("write to", error) from error

    def get_file(self, name: str, path: str) -> None:
        """Write the content of an object into a local file.

        Raises
        ------
        FileNotFoundError
            There is no such object.
        StoreError
            It cannot be read.
        """
        try:
            self._fs.get_file(self._path(name), path)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise self._failed("read results at", error) from error

    def size(self, name: str) -> int:
        """Return the size of an object, -1 if there is none.

        Raises
        ------
        StoreError
            It cannot be read.
        """
        try:
            return int(self._fs.info(self._path(name))["size"])
        except FileNotFoundError:
            return -1
        except Exception as error:
            raise self._failed("read results at", error) from error

    def read_bytes(self, name: str) -> bytes | None:
        """Return an object, or None if there is none.

        Raises
        ------
        StoreError
            It cannot be read.
        """
        path = self._path(name)
        try:
            if self.is_local:
                with open(path, "rb", buffering=0) as file:  # noqa: PTH123
                    if not self.trusted:
                        self._check_own(name, os.fstat(file.fileno()))
                    return file.readall()
            return bytes(self._fs.cat_file(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except StoreError:
            raise
        except Exception as error:
            raise self._failed("read results at", error) from error

    # -- Results

    def write_result(self, name: str, header: Mapping[str, Any], value: object) -> int:
        """Write a result under its name, and return its size.

        Parameters
        ----------
        name : str
            Its name.
        header : mapping
            What to say of it, as JSON values.
        value : object
            The result.

        Raises
        ------
        TypeError
            It cannot be pickled.
        StoreError
            It cannot be written.
        """
        frames = _pickle(value)
        digest = hashlib.sha256()
        for frame in frames:
            digest.update(frame)
        document = {
            **header,
            "name": name,
            "type": f"{type(value).__module__}.{type(value).__qualname__}",
            "created": time.time(),
            "frames": [memoryview(frame).nbytes for frame in frames],
            "sha256": digest.hexdigest(),
            "versions": _versions(),
        }
        encoded = json.dumps(document).encode()
        lead = b"%s %d %d %s\n" % (
            _MAGIC,
            FORMAT,
            len(encoded),
            hashlib.sha256(encoded).hexdigest().encode(),
        )
        parts = [lead, encoded, *frames]
        self._write(name + SUFFIX, parts)
        size = sum(memoryview(part).nbytes for part in parts)
        self._copy(name, parts, size)
        return size

    def _copy(self, name: str, parts: list[Any], size: int) -> None:
        """Write a copy of a result, if it is worth one. The first that cannot be written is the last that is tried."""
        if not self._copies or size < _COPIED:
            return
        copies, shown = Store(f"{self._copies}/{self.store_id}"), self._copies
        try:
            copies._write(name + SUFFIX, parts)
        except StoreError as error:
            self._copies = None
            text = str(error).replace(copies.shown, shown)
            self._tell(f"copies of results (local_cache): {text}; the run goes on without")

    def _read_copy(self, name: str) -> list[Any] | None:
        """Return the parts of the pickle of a result from its copy, if there is one of what the store has."""
        try:
            header, frames = Store(f"{self._copies}/{self.store_id}")._check(name)
        except StoreError:  # not there, damaged, or somebody else's: what the store has counts
            return None
        return frames if self.read_header(name) == header else None

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
        path = self._path(name + SUFFIX)
        try:
            with self._fs.open(path, "rb") as file:
                if self.is_local and not self.trusted:
                    self._check_own(name, os.fstat(file.fileno()))
                start = file.read(4096)
                length = _length_of_header(name, start)
                header, _ = _parse(name, start + file.read(max(0, length - len(start))))
        except StoreError:
            raise
        except (FileNotFoundError, NotADirectoryError):
            raise DamagedResultError(f"{name} is not in {self.shown} any more") from None
        except Exception as error:
            raise self._failed("read results at", error) from error
        return header

    def read_result(self, name: str) -> Any:
        """Return a result.

        Raises
        ------
        DamagedResultError
            It is damaged, or not there.
        StoreError
            It cannot be read.
        """
        frames = self._read_copy(name) if self._copies else None
        if frames is None:
            frames = self._check(name, copy=True)[1]
        return pickle.loads(frames[0], buffers=frames[1:])  # noqa: S301 - the store is trusted

    def check_result(self, name: str) -> list[Any]:
        """Return the parts of the pickle of a result, which are as they were written.

        Raises
        ------
        DamagedResultError
            It is damaged, or not there.
        StoreError
            It cannot be read.
        """
        return self._check(name)[1]

    def _check(self, name: str, *, copy: bool = False) -> tuple[dict[str, Any], list[Any]]:
        content = self.read_bytes(name + SUFFIX)
        if content is None:
            raise DamagedResultError(f"{name} is not in {self.shown} any more")
        header, start = _parse(name, content)
        # Writable, because arrays are views of it.
        view = memoryview(bytearray(memoryview(content)[start:]))
        if view.nbytes != sum(header["frames"]):
            raise DamagedResultError(
                f"{name} in {self.shown} is damaged: it has {view.nbytes} bytes of {sum(header['frames'])}"
            )
        if hashlib.sha256(view).hexdigest() != header["sha256"]:
            raise DamagedResultError(f"{name} in {self.shown} is damaged: its checksum differs")
        frames, begin = [], 0
        for length in header["frames"]:
            frames.append(view[begin : begin + length])
            begin += length
        if copy:
            self._copy(name, [content], len(content))
        return header, frames

    def results(self, below: str = "") -> Iterator[tuple[str, int]]:
        """Yield the name and the size of every result, or of those below a directory."""
        for entry in self._walk(below):
            if entry.name.endswith(SUFFIX):
                yield entry.name.removesuffix(SUFFIX), entry.size

    def partial(self) -> Iterator[str]:
        """Yield what writers write now, or have left when they were killed."""
        for entry in self._walk(""):
            if entry.name.rpartition("/")[2].startswith(_TEMPORARY):
                yield entry.name

    def _walk(self, below: str) -> Iterator[_Entry]:
        for entry in sorted(self._entries(below)):
            if entry.is_directory:
                yield from self._walk(entry.name)
            else:
                yield entry

    def remove(self, name: str) -> None:
        """Remove an object, if it is there.

        Raises
        ------
        StoreError
            It cannot be removed.
        """
        try:
            self._fs.rm_file(self._path(name))
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._failed("remove a result from", error) from error

    def modified(self, name: str) -> float:
        """Return when an object was written, in seconds since the epoch; 0 if the store does not say."""
        try:
            return float(self._fs.modified(self._path(name)).timestamp())
        except FileNotFoundError:
            return 0.0
        except NotImplementedError:
            return 0.0


def _not_own(status: os.stat_result) -> str:
    """Return why somebody else may have written a file; nothing if nobody has. Root may do all things anyway."""
    if not hasattr(os, "getuid"):
        return ""
    if status.st_uid not in (os.getuid(), 0):
        return f"belongs to user {status.st_uid}"
    return "can be written by everybody" if stat.S_IMODE(status.st_mode) & stat.S_IWOTH else ""


def _write_file(path: str, parts: list[Any]) -> None:
    """Write a file under a temporary name, and rename it."""
    directory = os.path.dirname(path)  # noqa: PTH120
    partial = os.path.join(directory, f"{_TEMPORARY}{secrets.token_hex(8)}")  # noqa: PTH118
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        descriptor = os.open(partial, flags, 0o600)
    except FileNotFoundError:
        _make_directory(directory)
        descriptor = os.open(partial, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(parts)
        os.replace(partial, path)  # noqa: PTH105
    except BaseException:
        os.unlink(partial)  # noqa: PTH108
        raise


def _make_directory(path: str) -> None:
    """Make a directory and those above it, for the user alone; `os.makedirs` lets others read those above."""
    try:
        os.mkdir(path, 0o700)  # noqa: PTH102
    except FileNotFoundError:
        _make_directory(os.path.dirname(path))  # noqa: PTH120
        _make_directory(path)
    except FileExistsError:
        return


def _pickle(value: object) -> list[Any]:
    """Return the pickle of a value and its buffers, which are not copied."""
    from distributed.protocol.pickle import dumps

    buffers: list[pickle.PickleBuffer] = []
    try:
        pickled = dumps(value, buffer_callback=buffers.append)
        return [pickled, *(buffer.raw() for buffer in buffers)]
    except BufferError:  # a buffer that is not contiguous
        return [dumps(value)]


def _versions() -> dict[str, str]:
    names = ("dask", "distributed", "numpy", "pandas", "xarray", "cloudpickle")
    found = {"python": platform.python_version()}
    for name in names:
        version = getattr(sys.modules.get(name), "__version__", None)
        if isinstance(version, str):
            found[name] = version
    return found


def _length_of_header(name: str, content: bytes) -> int:
    """Return how many bytes an object has before its pickle."""
    line, newline, _ = content[:200].partition(b"\n")
    words = line.split()
    if not newline or len(words) != 4 or words[0] != _MAGIC or not words[2].isdigit():
        raise DamagedResultError(f"{name} is damaged: it does not begin as results do")
    if words[1] != b"%d" % FORMAT:
        raise DamagedResultError(f"{name} has format {words[1].decode()}, not {FORMAT}")
    return len(line) + 1 + int(words[2])


def _parse(name: str, content: bytes) -> tuple[dict[str, Any], int]:
    """Return an object's header, and where its pickle begins."""
    end = _length_of_header(name, content)
    line, _, _ = content[:200].partition(b"\n")
    encoded = content[len(line) + 1 : end]
    if hashlib.sha256(encoded).hexdigest().encode() != line.split()[3]:
        raise DamagedResultError(f"{name} is damaged: the checksum of its header differs")
    header: dict[str, Any] = json.loads(encoded.decode())
    if header["name"] != name:
        raise DamagedResultError(f"{name} is damaged: it is {header['name']}")
    return header, end


# -- On workers

_stores: dict[tuple[str, str], Store] = {}
_lock = threading.Lock()


def _store_of(settings: Mapping[str, Any]) -> Store:
    """Return the store of a call, once it is known to be the one that the client uses."""
    key = settings["url"], settings["id"]
    with _lock:
        if key not in _stores:
            # Read are only results that the client has found.
            url, shown = settings["url"], settings["shown"]
            store = Store(
                url,
                trusted=True,
                store_id=settings["id"],
                shown=shown,
                copies=settings.get("copies"),
                tell=_tell,
            )
            store.check_same()
            _stores[key] = store
        return _stores[key]


def keep(
    settings: Mapping[str, Any], func: Callable[..., Any], about: str, /, *args: Any, **kwargs: Any
) -> Any:
    """Return the result of a call, once the store has it.

    Parameters
    ----------
    settings : mapping
        The store, and what to do if it cannot be written: ``url``, ``shown``, ``id``, ``on_store_error``, ``task``;
        with ``outputs``, the paths of files that the function writes.
    func : callable
        The function.
    about : str
        The result's name, and what it was computed from as JSON.
    *args, **kwargs
        The function's arguments.

    Raises
    ------
    TypeError
        The result cannot be pickled.
    StoreError
        The store cannot be written, and that is to end the task.
    """
    name, _, said = about.partition(" ")
    started = time.time()
    patterns = settings.get("outputs")
    paths = _outputs().expand(patterns, func, args, kwargs) if patterns else {}
    value = func(*args, **kwargs)
    header = {**json.loads(said), "seconds": time.time() - started, "host": platform.node()}
    try:
        if paths:
            _outputs().check_written(settings["task"], paths)
        store = _store_of(settings)
        if paths:
            _outputs().keep_outputs(store, name, settings["task"], paths)
        store.write_result(name, header, value)
    except FileNotFoundError:  # an output
        raise
    except OSError as error:
        text = f"a result of {settings['task']} could not be kept: {error}"
        if settings["on_store_error"] == "fail":
            text += "; mend the store, or set on_store_error: continue, and run again"
            raise OSError(text) from None
        _tell(f"{text}; the run goes on with it, and the next one computes it again")
    except Exception as error:  # noqa: BLE001 - pickling runs code of the result's
        raise TypeError(
            f"the result of {settings['task']}, of type {type(value).__qualname__}, cannot be kept, because it cannot "
            f"be pickled: {error}; return data, or remove `cache`"
        ) from None
    return value


def load(settings: Mapping[str, Any], name: str) -> Any:
    """Return a result that the client has found in the store, for a task that needs it."""
    try:
        return _store_of(settings).read_result(name)
    except StoreError as error:
        raise OSError(f"{error}; run the workflow again, and it is computed") from None


def with_files(
    settings: Mapping[str, Any],
    names: list[str],
    func: Callable[..., Any],
    /,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Return the result of a call that reads files which earlier tasks have written, once they are here.

    Parameters
    ----------
    settings : mapping
        The store, as for `keep`.
    names : list of str
        The names of the results of those tasks.
    func : callable
        The function.
    *args, **kwargs
        Its arguments.

    Raises
    ------
    OSError
        The store cannot be read, or what it has is damaged.
    """
    outputs = _outputs()
    for name in names:
        try:
            store = _store_of(settings)
            outputs.restore_outputs(store, name)
        except FileNotFoundError as error:  # it could not be kept, and that was not to end its task
            _tell(f"{error}; a task that may read them goes on")
        except outputs.DamagedOutputError as error:
            store.remove(name + SUFFIX)  # the next run must not find it
            raise OSError(f"{error}; run the workflow again, and it is computed") from None
        except StoreError as error:
            raise OSError(f"files of {name} cannot be restored: {error}") from None
    return func(*args, **kwargs)


def _outputs() -> Any:
    """Return the module for files, which has been sent to workers as this one has."""
    import importlib

    return importlib.import_module("_scalable_results_outputs")


def _tell(text: str) -> None:
    """Send a message to the client, by the scheduler."""
    from distributed import get_worker

    get_worker().log_event(EVENTS, text)
