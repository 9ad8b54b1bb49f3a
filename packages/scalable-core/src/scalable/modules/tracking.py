"""The user's modules as they are now, compared with those that the workers have."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from scalable.errors import ModulesError
from scalable.modules.archive import (
    MAX_BYTES,
    MAX_FILES,
    Directory,
    Member,
    ModuleArchive,
    build_archive,
    check_bounds,
    list_entry,
    list_importable,
    list_package,
    unreadable_error,
)
from scalable.modules.upload import update_message
from scalable.modules.users import (
    LoadedModule,
    find_loaded,
    find_preferred,
    is_sent,
    own_directories,
)

__all__ = ["UserModules"]

BOUNDS = (MAX_BYTES, MAX_FILES)

BURST = 50e-6
"""Seconds from the end of a call to the next one, in which nobody edits a file."""

MANY = 500
"""Files that take about a millisecond to look at."""

PAUSE = {True: 50, False: 5}
"""How many times as long as a look at all files is the pause after it, where there is one: in bursts, and in others."""


class UserModules:
    """The modules that workers need, and whether the user has changed them.

    These are the modules beside the workflow, or those that ``project.modules`` lists instead; those in the user's
    other directories on ``sys.path``, such as ``src``; and those of the user's that this process has imported in
    whatever way, such as an editable installation or the modules of a test suite. The second and third kind is left
    out where it is too large: workers of this machine find them in place.

    Parameters
    ----------
    workflow : Path or None
        The directory of the workflow.
    listed : sequence of Path, optional
        The entries of ``project.modules``.
    """

    def __init__(self, workflow: Path | None, listed: Sequence[Path] | None = None) -> None:
        self._workflow = workflow
        self._listed = listed
        self.lock = threading.RLock()
        """Held from a call of `update` until the message that it returned is sent."""
        self._originals: dict[str, str] = {}
        self._seen: set[str] = set()
        self._files: list[tuple[str, int, int]] = []
        self._count = 0
        self._last_call = self._looked = self._cost = 0.0
        self.version = ""
        """Identifies the files that were edited, and how; empty as long as none was."""
        self.archive = self._pack()

    def update(self) -> dict[str, Any] | None:
        """Return the message that gives the scheduler and the workers what was changed; None if nothing was.

        Raises
        ------
        ModulesError
            The modules can no longer be sent.
        """
        changed = self.changed()
        return None if changed is None else update_message(changed)

    def message(self) -> dict[str, Any]:
        """Return the message that gives the scheduler and the workers all modules, as they were last looked at."""
        return update_message(self.archive)

    def end_call(self) -> None:
        """Record that a call of the client has ended: from now on, the user may edit a file."""
        self._last_call = time.perf_counter()

    def changed(self) -> ModuleArchive | None:
        """Return the archive if the user's modules are others than at the last call, else None.

        Raises
        ------
        ModulesError
            They can no longer be sent.
        """
        with self.lock:
            start = time.perf_counter()
            in_burst = start - self._last_call < BURST
            if (in_burst or len(self._files) > MANY) and (
                start - self._looked < PAUSE[in_burst] * self._cost
            ):
                return None
            edited = self._is_edited()
            self._looked = time.perf_counter()
            self._cost = self._looked - start
            if not edited and (len(sys.modules) == self._count or not self._has_imported()):
                return None
            return self._repacked()

    def _is_edited(self) -> bool:
        """Return whether a file is not as it was."""
        stat = os.stat
        try:
            for path, size, changed in self._files:
                status = stat(path)
                if status.st_mtime_ns != changed or status.st_size != size:
                    return True
        except OSError:
            return True
        return False

    def _has_imported(self) -> bool:
        """Return whether this process has imported modules of the user's that the archive lacks."""
        self._count = len(sys.modules)
        new = sys.modules.keys() - self._seen
        self._seen |= new
        known = {path for path, *_ in self._files}
        return any(str(each.file) not in known for each in find_loaded(sys.modules, new))

    def _repacked(self) -> ModuleArchive | None:
        before = self.archive
        self.archive = self._pack()
        same = (self.archive.digest, self.archive.preferred) == (before.digest, before.preferred)
        return None if same else self.archive

    def _pack(self) -> ModuleArchive:
        self._count = len(sys.modules)
        self._seen = {*sys.modules}
        path = [*sys.path]
        directories = own_directories(path)
        try:
            files = check_bounds(self._required(), *BOUNDS)
        except OSError as error:
            raise unreadable_error(error) from error
        for group, wins in self._optional(directories):
            try:
                found = {name: file for name, file in group if is_sent(name.parts[0])}
                both = (found, files) if wins else (files, found)
                files = check_bounds(chain.from_iterable(each.items() for each in both), *BOUNDS)
            except (OSError, ModulesError):
                continue  # workers of this machine have them; elsewhere, the error of a task names what is missing
        try:
            archive = build_archive(files)
        except OSError as error:
            raise unreadable_error(error) from error
        tops = {PurePosixPath(name).parts[0].partition(".")[0] for name in archive.names}
        archive = replace(
            archive,
            preferred=find_preferred(tops, sys.modules, path),
            directories=tuple(map(_identify, directories)),
        )
        self._files = [(each.path, each.size, each.changed) for each in archive.origins.values()]
        self.version = self._edits(archive)
        return archive

    def _required(self) -> Iterable[Member]:
        if self._listed is not None:
            return chain.from_iterable(map(list_entry, self._listed))
        return list_importable(self._workflow) if self._workflow else ()

    def _optional(self, directories: Sequence[Path]) -> Iterator[tuple[Iterable[Member], bool]]:
        """Yield further files, and whether they win over those of the same names."""
        if self._listed is None:
            workflow = os.path.realpath(self._workflow) if self._workflow else None
            for directory in directories:
                if str(directory) != workflow:
                    yield list_importable(directory), False
        packages: list[str] = []
        for module in sorted(find_loaded(sys.modules, [*sys.modules])):
            if not any(module.name.startswith(package) for package in packages):
                yield _files_of(module), self._listed is None
                if module.is_package:
                    packages.append(f"{module.name}.")

    def _edits(self, archive: ModuleArchive) -> str:
        """Return what identifies the files that are no longer as they were when they were seen first."""
        edited = {
            name: digest
            for name, digest in archive.contents.items()
            if self._originals.setdefault(name, digest) != digest
        }
        return hashlib.sha256(repr(sorted(edited.items())).encode()).hexdigest() if edited else ""


def _files_of(module: LoadedModule) -> Iterable[Member]:
    if module.is_package:
        return list_package(module.file.parent, module.member.parent)
    return [(module.member, module.file)]


def _identify(directory: Path) -> Directory:
    status = directory.stat()
    return str(directory), status.st_dev, status.st_ino
