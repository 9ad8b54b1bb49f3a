"""Files that tasks write: whether they are there, and their copies in the store.

Nothing here imports Scalable, because the module is sent to workers as text, as `storage` is.
The store has, beside the result of a call::

    <task>/<version>/<arguments>.outputs         which files there are, with their checksums, as JSON
    <task>/<version>/<arguments>.<name>.output   the content of one; a directory's as a tar archive
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import re
import stat
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "DamagedOutputError",
    "check_outputs",
    "check_written",
    "checked",
    "expand",
    "fields_of",
    "keep_outputs",
    "remove_outputs",
    "restore_outputs",
]

INDEX = ".outputs"
CONTENT = ".output"

_FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(:[^{}]*)?\}")
_PIECE = 2**20
_MODE = 0o777
"""What is kept of the mode of a file: who may read, write and execute it."""


class DamagedOutputError(OSError):
    """A file in the store is not what was written, or not there."""


def fields_of(pattern: str) -> list[str]:
    """Return the fields of a path.

    Raises
    ------
    ValueError
        Its braces are not those of fields.

    Examples
    --------
    >>> fields_of("output/{scenario}-{member:03d}.nc")
    ['scenario', 'member']
    """
    rest = _FIELD.sub("", pattern)
    if "{" in rest or "}" in rest:
        raise ValueError("braces are for names of arguments, such as {member} or {member:03d}")
    return [match[1] for match in _FIELD.finditer(pattern)]


def expand(
    patterns: Mapping[str, str], func: Callable[..., Any], args: Any, kwargs: Any
) -> dict[str, str]:
    """Return the paths of the outputs of a call.

    Raises
    ------
    ValueError
        A path names what is no argument, or leads out of the working directory.

    Examples
    --------
    >>> def simulate(member, scenario="ssp2"): ...
    >>> expand({"table": "out/{scenario}-{member:02d}.csv"}, simulate, (7,), {})
    {'table': 'out/ssp2-07.csv'}
    """
    bound = inspect.signature(func).bind(*args, **kwargs)
    bound.apply_defaults()
    paths = {}
    for name, pattern in patterns.items():
        try:
            path = pattern.format_map(bound.arguments)
        except (KeyError, ValueError, TypeError) as error:
            what = f"there is no argument {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"the path of output {name!r} is {pattern}: {what}") from None
        if ".." in Path(path).parts:
            raise ValueError(f"the path of output {name!r} is {path}; leave out '..'")
        paths[name] = path
    return paths


def check_written(task: str, paths: Mapping[str, str]) -> None:
    """Raise if an output of a call is not there.

    Raises
    ------
    FileNotFoundError
        One is not.
    """
    for name, path in paths.items():
        if not os.path.exists(path):
            raise FileNotFoundError(
                f"task {task} has not written its output {name!r}: there is no {path} in {Path.cwd()} on "
                f"{platform.node()}; write it there, or mend tasks.{task}.outputs"
            )


def checked(
    task: str, patterns: Mapping[str, str], func: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    """Return the result of a call, once its outputs are there.

    Raises
    ------
    FileNotFoundError
        One is not.
    """
    paths = expand(patterns, func, args, kwargs)
    value = func(*args, **kwargs)
    check_written(task, paths)
    return value


def keep_outputs(store: Any, name: str, task: str, paths: Mapping[str, str]) -> None:
    """Copy the outputs of a call to the store, those that are directories as archives.

    Raises
    ------
    FileNotFoundError
        One is not there.
    OSError
        The store cannot be written.
    """
    check_written(task, paths)
    index = {}
    for output, path in paths.items():
        mode = stat.S_IMODE(os.stat(path).st_mode) & _MODE
        with tempfile.TemporaryDirectory() as scratch:
            source, kind = path, "file"
            if os.path.isdir(path):
                source, kind = os.path.join(scratch, "tar"), "directory"
                _pack(path, source)
            digest, size = _digest(source)
            store.put_file(f"{name}.{output}{CONTENT}", source)
            if store.size(f"{name}.{output}{CONTENT}") != size or _digest(source)[0] != digest:
                raise OSError(
                    f"output {output!r} of {task} has changed while it was copied: {path}"
                )
            store.copy_file(f"{name}.{output}{CONTENT}", source, size)
        facts = {"path": path, "kind": kind, "mode": mode, "size": size, "sha256": digest}
        index[output] = facts
    store.write_bytes(name + INDEX, json.dumps(index).encode())


def check_outputs(store: Any, name: str, *, content: bool) -> None:
    """Raise if the store lacks an output of a call.

    Parameters
    ----------
    store : Store
        The store.
    name : str
        The name of the call's result.
    content : bool
        Whether to compare their content with the checksums.

    Raises
    ------
    DamagedOutputError
        It does, or one is damaged.
    """
    with tempfile.TemporaryDirectory() as scratch:
        for output, facts in _index(store, name).items():
            if store.size(f"{name}.{output}{CONTENT}") != facts["size"]:
                raise DamagedOutputError(f"output {output!r} of {name} is damaged, or not there")
            if content:
                _fetch(store, name, output, facts, os.path.join(scratch, output))


def restore_outputs(store: Any, name: str, to: str | None = None) -> dict[str, str]:
    """Write the outputs of a call where the task had written them, and return their paths.

    Files that are there already, with this content, are left as they are.

    Parameters
    ----------
    store : Store
        The store.
    name : str
        The name of the call's result.
    to : str, optional
        The directory for them, instead of the working directory.

    Raises
    ------
    FileNotFoundError
        The store has none.
    DamagedOutputError
        One is damaged, or not there.
    OSError
        The store cannot be read, or a file cannot be written.
    """
    restored = {}
    for output, facts in _index(store, name).items():
        path = facts["path"]
        if to is not None:
            path = os.path.join(to, path.lstrip("/"))
        _restore(store, name, output, facts, path)
        restored[output] = path
    return restored


def _restore(store: Any, name: str, output: str, facts: Mapping[str, Any], path: str) -> None:
    above = os.path.dirname(path) or "."
    os.makedirs(above, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=above) as scratch:
        partial = os.path.join(scratch, "content")
        if facts["kind"] == "directory":
            if os.path.isdir(path):
                _pack(path, partial)
                if _digest(partial)[0] == facts["sha256"]:
                    return
            _bring(store, name, output, facts, partial)
            _unpack(partial, os.path.join(scratch, "unpacked"), path)
        elif not (os.path.isfile(path) and _digest(path)[0] == facts["sha256"]):
            _bring(store, name, output, facts, partial)
            if "mode" in facts:  # earlier versions did not keep it
                os.chmod(partial, facts["mode"] & _MODE)
            os.replace(partial, path)


def _pack(directory: str, archive: str) -> None:
    """Write a directory into an archive, which is the same for the same content.

    Links stay links. Pipes and devices, which have no content, are left out, as tarfile leaves out sockets.
    """

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not (entry.isfile() or entry.isdir() or entry.issym() or entry.islnk()):
            return None
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime = 0
        # Files could not be moved into a directory that is restored as one that cannot be written.
        entry.mode = 0o755 if entry.isdir() else entry.mode & _MODE
        return entry

    with tarfile.open(archive, "w") as tar:
        tar.add(directory, arcname=".", filter=plain)


def _unpack(archive: str, scratch: str, directory: str) -> None:
    """Write the files of an archive into a directory, each whole or not at all; others in it stay."""
    try:
        with tarfile.open(archive) as tar:
            # Python has filters since 3.11.4 only; what they are for is checked here.
            tar.extraction_filter = lambda entry, _: entry
            for entry in tar:
                _check_inside(entry, scratch)
                entry.mode &= _MODE
                entry.mtime = time.time()  # sites remove what is old
                tar.extract(entry, scratch)
    except tarfile.TarError as error:
        raise DamagedOutputError(f"the archive cannot be unpacked: {error}") from error
    for root, directories, files in os.walk(scratch):
        to = os.path.normpath(os.path.join(directory, os.path.relpath(root, scratch)))
        os.makedirs(to, exist_ok=True)
        links = [each for each in directories if os.path.islink(os.path.join(root, each))]
        for file in [*files, *links]:
            os.replace(os.path.join(root, file), os.path.join(to, file))


def _check_inside(entry: tarfile.TarInfo, directory: str) -> None:
    """Raise an error if an entry would be written, or is a hard link to what is, outside of a directory."""
    inside = os.path.realpath(directory)
    for name in [entry.name, entry.linkname] if entry.islnk() else [entry.name]:
        place = os.path.realpath(os.path.join(inside, name))
        if os.path.commonpath([inside, place]) != inside:
            raise tarfile.TarError(f"{name!r} leads out of it")


def _bring(store: Any, name: str, output: str, facts: Mapping[str, Any], path: str) -> None:
    """Write the content of an output into a file: from this machine's copy, or from the store, and copy it then."""
    content, size = f"{name}.{output}{CONTENT}", facts["size"]
    if store.get_copy(content, path, size) and _digest(path)[0] == facts["sha256"]:
        return
    _fetch(store, name, output, facts, path)
    store.copy_file(content, path, size)


def _fetch(store: Any, name: str, output: str, facts: Mapping[str, Any], path: str) -> None:
    try:
        store.get_file(f"{name}.{output}{CONTENT}", path)
    except FileNotFoundError:
        raise DamagedOutputError(
            f"output {output!r} of {name} is not in the store any more"
        ) from None
    if _digest(path)[0] != facts["sha256"]:
        raise DamagedOutputError(f"output {output!r} of {name} is damaged: its checksum differs")


def remove_outputs(store: Any, name: str) -> None:
    """Remove the outputs of a call from the store, if it has any.

    Raises
    ------
    OSError
        They cannot be removed.
    """
    try:
        index = _index(store, name)
    except (DamagedOutputError, FileNotFoundError):
        return
    for output in index:
        store.remove(f"{name}.{output}{CONTENT}")
    store.remove(name + INDEX)


def _index(store: Any, name: str) -> dict[str, Any]:
    content = store.read_bytes(name + INDEX)
    if content is None:
        raise FileNotFoundError(f"the store has no outputs of {name}")
    try:
        found: dict[str, Any] = json.loads(content)
    except ValueError:
        raise DamagedOutputError(f"the list of the outputs of {name} is damaged") from None
    return found


def _digest(path: str) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return digest.hexdigest(), size
