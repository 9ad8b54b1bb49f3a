"""Dask plugins that give the scheduler and the workers the user's modules, sent there by value.

A worker's image may have none of our packages, so nothing here may import `scalable`: the standard library and
distributed only.

An archive is unpacked into a directory of the process. Its modules are found there, and say of themselves, in
`__file__` and in tracebacks, that they are the user's files. Where the process has exactly such a file, of the same
path, size and time of change, that is even true: then it is the one that is read.
"""

from __future__ import annotations

import asyncio
import importlib
import io
import operator
import os
import pickle
import sys
import zipfile
from collections.abc import Iterator, Sequence
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import SchedulerPlugin, WorkerPlugin
from distributed.protocol.serialize import ToPickle

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler
    from distributed.worker import Worker

__all__ = ["UPDATE", "SchedulerModulesPlugin", "WorkerModulesPlugin"]

UPDATE = "scalable-modules"
"""The operation of messages, from the client by the scheduler to the workers, that the user has changed modules."""

_MARK = "scalable_modules"


class _ModulesPlugin:
    """Gives a process the user's modules, unless it is the user's own.

    Parameters
    ----------
    data : bytes
        The zip file.
    digest : str
        Digest of its content. It is part of the directory's name.
    process_id : str
        Id of the process that packed it, which has the original modules on its path.
    origins : dict of str to tuple
        For each file, the path, the size, the time of change and the digest of its original.
    preferred : frozenset of str
        Top-level names that mean these modules, also where others of that name are installed.
    directories : tuple
        The user's directories on ``sys.path``: path, device and inode.
    """

    name = "scalable-modules"

    def __init__(
        self,
        data: bytes,
        digest: str,
        process_id: str,
        origins: dict[str, tuple[str, int, int, str]] | None = None,
        preferred: frozenset[str] = frozenset(),
        directories: Sequence[tuple[str, int, int]] = (),
    ) -> None:
        self.data, self.digest, self.process_id = data, digest, process_id
        self.origins, self.preferred, self.directories = origins or {}, preferred, directories

    @property
    def is_in_users_process(self) -> bool:
        """Whether this is the process that packed the modules."""
        upload = sys.modules.get("scalable.modules.upload")
        return getattr(upload, "PROCESS_ID", None) == self.process_id

    def install(self, scratch: str) -> None:
        """Unpack below a directory, and let ``import`` find the modules there.

        They come after the standard library and the installed packages, because Dask imports some of them late: a
        ``queue.py`` of the workflow's must not take their place. Only the preferred names come before.

        The modules are not imported from the zip file, because they look for data beside ``__file__``.
        """
        if self.is_in_users_process:
            return
        directory = Path(scratch) / f"modules-{self.digest[:16]}"
        with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
            archive.extractall(directory)
        earlier = _installed()
        finder = _ModuleFinder(self, str(directory), scratch)
        if earlier is not None:
            earlier.remove()
        finder.add()
        if earlier is not None:
            finder.forget_changed(earlier)

    def update(self) -> bool:
        """Install these modules in place of those that this process has, and return whether there are any."""
        earlier = _installed()
        if earlier is not None:
            self.install(earlier.scratch)
        return earlier is not None


class _ModuleFinder:
    """Finds unpacked modules: as a hook of ``sys.path``, and the preferred ones before all others."""

    def __init__(self, plugin: _ModulesPlugin, root: str, scratch: str) -> None:
        setattr(self, _MARK, True)
        self.root, self.scratch, self.preferred = root, scratch, plugin.preferred
        self.files = {str(Path(root, name)): o for name, o in plugin.origins.items()}
        self.digests = {name: origin[3] for name, origin in plugin.origins.items()}
        self.directories = [path for path, *inode in plugin.directories if _is_same(path, inode)]
        self.tops = {name.split("/")[0].partition(".")[0] for name in plugin.origins}

    def add(self) -> None:
        """Make ``import`` find the modules."""
        sys.path_hooks.insert(0, self)
        sys.meta_path.insert(0, self)
        self._added = [path for path in (self.root, *self.directories) if path not in sys.path]
        sys.path.extend(self._added)
        self._invalidate()

    def remove(self) -> None:
        """Undo `add`."""
        sys.path_hooks.remove(self)
        sys.meta_path.remove(self)
        sys.path[:] = [entry for entry in sys.path if entry not in self._added]
        self._invalidate()

    def _invalidate(self) -> None:
        for entry in [*sys.path_importer_cache]:
            if _is_below(entry, self.root):
                del sys.path_importer_cache[entry]
        importlib.invalidate_caches()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find a top-level module whose name is preferred."""
        if path is None and name in self.preferred:
            return PathFinder.find_spec(name, [self.root], target)
        return None

    def __call__(self, entry: str) -> FileFinder:
        """Return what finds modules in a directory below that of the archive."""
        if not _is_below(entry, self.root):
            raise ImportError(f"{entry} has no modules of the user's", path=entry)
        source: Any = self.loader
        loaders = (source, SOURCE_SUFFIXES), (ExtensionFileLoader, EXTENSION_SUFFIXES)
        return _DirectoryFinder(entry, *loaders)

    def loader(self, name: str, copy: str) -> SourceFileLoader:
        """Return what loads a module."""
        origin = self.files.get(copy)
        if origin is None:
            return _Loader(name, copy, copy)
        return _Loader(name, origin[0] if _is_unchanged(*origin[:3]) else copy, origin[0])

    def forget_changed(self, earlier: _ModuleFinder) -> None:
        """Make all of the user's modules be imported anew, if any was changed: others refer to what it had.

        What tasks hold of the modules as they were stays in use until these tasks end. Packages with extension modules
        are kept, because most of those cannot be imported twice.
        """
        if all(self.digests.get(name) == digest for name, digest in earlier.digests.items()):
            return
        tops = self.tops | earlier.tops
        kept = {
            name.partition(".")[0]
            for name, module in [*sys.modules.items()]
            if str(getattr(module, "__file__", "")).endswith(tuple(EXTENSION_SUFFIXES))
        }
        originals = {origin[0] for finder in (self, earlier) for origin in finder.files.values()}
        for name, module in [*sys.modules.items()]:
            top = name.partition(".")[0]
            if top in tops - kept and _is_users(module, originals, earlier.root):
                _forget(name, module)


class _DirectoryFinder(FileFinder):
    """Finds modules in one directory of an archive."""

    def find_spec(self, name: str, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find a module, whose file is the one that is read."""
        spec = super().find_spec(name, target)
        if spec is not None and isinstance(spec.loader, _Loader):
            spec.origin = spec.loader.path
        return spec


class _Loader(SourceFileLoader):
    """Loads a module whose code names the user's own file.

    Compiled code is neither read nor written: it would be taken for that of a source which was changed in the same
    second and has the same size.
    """

    def __init__(self, name: str, path: str, shown: str) -> None:
        super().__init__(name, path)
        self.shown = shown

    def get_code(self, fullname: str) -> CodeType | None:
        """Return the compiled module."""
        code: CodeType = self.source_to_code(self.get_data(self.path), self.shown)
        return code


def _installed() -> _ModuleFinder | None:
    """Return what finds the user's modules in this process at present."""
    # By a mark, because this module is sent by value: the class is another one each time.
    found: Iterator[Any] = (hook for hook in sys.path_hooks if getattr(hook, _MARK, False))
    return next(found, None)


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root + os.sep)


def _is_same(path: str, inode: Sequence[int]) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return [status.st_dev, status.st_ino] == [*inode]


def _is_unchanged(path: str, size: int, changed: int) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (size, changed)


def _is_users(module: Any, originals: set[str], root: str) -> bool:
    """Return whether a module was loaded from an archive, or from one of the user's own files."""
    loader = getattr(getattr(module, "__spec__", None), "loader", None)
    if hasattr(loader, "shown") or getattr(module, "__file__", None) in originals:
        return True
    # A package without __init__.py has no file.
    return any(_is_below(str(entry), root) for entry in getattr(module, "__path__", None) or ())


def _forget(name: str, module: Any) -> None:
    del sys.modules[name]
    parent, _, child = name.rpartition(".")
    if parent and getattr(sys.modules.get(parent), child, None) is module:
        delattr(sys.modules[parent], child)


class _Update:
    """A message's part that updates a worker's modules while the message is read.

    Messages are read in turn, but all that have arrived together before the first is handled. A task that was submitted
    after an edit may be among them, and reading it imports modules.
    """

    def __init__(self, plugin: bytes) -> None:
        self._plugin = plugin

    def __reduce__(self) -> Any:
        return operator.call, (operator.methodcaller("update"), _Pickled(self._plugin))


class _Pickled:
    """Stands for what is pickled already."""

    def __init__(self, pickled: bytes) -> None:
        self._pickled = pickled

    def __reduce__(self) -> Any:
        return pickle.loads, (self._pickled,)


class WorkerModulesPlugin(_ModulesPlugin, WorkerPlugin):
    """Gives every worker the modules, before its first task, and those that are changed later."""

    async def setup(self, worker: Worker) -> None:
        """Install them on this worker."""
        worker.stream_handlers[UPDATE] = self.check_update
        await asyncio.to_thread(self.install, worker.local_directory)

    def check_update(self, updated: object) -> None:
        """End this worker if it could not be updated: it must not run what the user has changed.

        Raises
        ------
        RuntimeError
            It could not.
        """
        if updated is not True and not self.is_in_users_process:
            raise RuntimeError(f"cannot install the user's changed modules: {updated}")


class SchedulerModulesPlugin(_ModulesPlugin, SchedulerPlugin):
    """Gives them to the scheduler, which imports them when it unpickles task graphs, and passes changed ones on."""

    async def start(self, scheduler: Scheduler) -> None:
        """Install them on the scheduler."""
        self.scheduler = scheduler
        scheduler.stream_handlers[UPDATE] = self.pass_on
        await asyncio.to_thread(self.install, scheduler.local_directory)

    def pass_on(self, plugin: bytes, client: str) -> None:
        """Update the scheduler, its workers, and those that join later.

        Parameters
        ----------
        plugin : bytes
            `WorkerModulesPlugin`, pickled by value.
        client : str
            The client that sends it, as for all handlers of messages from clients.
        """
        self.scheduler.worker_plugins[self.name] = plugin
        pickle.loads(plugin).update()  # noqa: S301 - from a client, as all tasks are
        for address in [*self.scheduler.stream_comms]:
            message = {"op": UPDATE, "updated": ToPickle(_Update(plugin))}
            self.scheduler.worker_send(address, message)
