"""Which of this process's modules are the user's own, and not installed."""

from __future__ import annotations

import csv
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import NamedTuple

__all__ = [
    "LoadedModule",
    "find_loaded",
    "find_preferred",
    "installed_into",
    "is_own",
    "own_directories",
]

_INSTALLED = frozenset({"site-packages", "dist-packages"})

_NEVER_SENT = frozenset({"__main__", "__mp_main__", "dask", "distributed", "scalable"})
"""Top-level names of what is not a module of a file, and of what runs the workers themselves."""


class LoadedModule(NamedTuple):
    """A module of the user's that this process has imported.

    Attributes
    ----------
    name : str
        Its name in ``sys.modules``.
    file : Path
        Its source.
    is_package : bool
        Whether the source is an ``__init__.py``.
    """

    name: str
    file: Path
    is_package: bool

    @property
    def member(self) -> PurePosixPath:
        """Its path below a directory in which ``import`` finds it by its name."""
        parts = self.name.split(".")
        if self.is_package:
            return PurePosixPath(*parts, "__init__.py")
        return PurePosixPath(*parts[:-1], f"{parts[-1]}.py")


@lru_cache
def _tool_directories() -> tuple[str, ...]:
    """Return the directories of the standard library and of installed programs."""
    names = ("stdlib", "platstdlib", "scripts")
    found = {os.path.realpath(sysconfig.get_path(name)) for name in names}
    return (*found, os.path.realpath(Path(sys.executable).parent))


def is_own(path: str) -> bool:
    """Return whether a directory is neither installed nor part of Python."""
    return _is_outside(path) and _is_outside(_real(path))


def _is_outside(path: str) -> bool:
    if "-packages" in path and _INSTALLED.intersection(Path(path).parts):
        return False
    return not any(path == each or path.startswith(each + os.sep) for each in _tool_directories())


@lru_cache(maxsize=1_000)
def _real(path: str) -> str:
    return os.path.realpath(path)


@lru_cache(maxsize=1_000)
def installed_into(directory: str) -> frozenset[str]:
    """Return the top-level names of what is installed into a directory, as ``pip install --target`` does.

    Such a directory is on the ``PYTHONPATH``, and may have modules of the user's beside. Each distribution lists its
    files: https://packaging.python.org/en/latest/specifications/recording-installed-packages/.
    """
    names = set()
    for record in Path(directory).glob("*.dist-info/RECORD"):
        try:
            rows = record.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue  # then its files count as the user's
        for row in csv.reader(rows):
            top = PurePosixPath(row[0]).parts[0]
            names.add(top.partition(".")[0] if "/" not in row[0] else top)
    return frozenset(name for name in names if name.isidentifier() and name != "__pycache__")


def own_directories(path: Sequence[str]) -> list[Path]:
    """Return the directories of the user's own among the entries of ``sys.path``, in their order."""
    found = (Path(os.path.realpath(entry)) for entry in path if is_own(str(Path(entry).absolute())))
    return [each for each in dict.fromkeys(found) if each.is_dir()]


def is_sent(name: str) -> bool:
    """Return whether a module of this name may be sent to workers, if it is the user's own."""
    return name.partition(".")[0] not in _NEVER_SENT


def find_loaded(
    modules: Mapping[str, ModuleType | None], names: Iterable[str]
) -> Iterator[LoadedModule]:
    """Yield the user's own modules among those that this process has imported.

    Parameters
    ----------
    modules : mapping of str to module
        ``sys.modules``.
    names : iterable of str
        The names to consider.
    """
    for name in names:
        file = getattr(modules.get(name), "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py"):
            continue
        parts = name.split(".")
        if not is_sent(name) or not all(part.isidentifier() for part in parts):
            continue
        if not is_own(os.path.dirname(file)):
            continue
        path = Path(file).absolute()
        is_package = path.name == "__init__.py" and parts[-1] != "__init__"
        module = LoadedModule(name, path, is_package)
        if path.is_file() and parts[0] not in installed_into(_root(module)):
            yield module


def _root(module: LoadedModule) -> str:
    """Return the directory in which ``import`` has found a module's top-level package."""
    depth = len(module.member.parts)
    return str(module.file.parents[min(depth, len(module.file.parents)) - 1])


def find_preferred(
    names: Iterable[str], modules: Mapping[str, ModuleType | None], path: Sequence[str]
) -> frozenset[str]:
    """Return which top-level names mean the user's modules, also where a worker has others of that name installed.

    They are those that mean them in this process: it has imported them, or has nothing else of that name. Names of the
    standard library never do, because workers need it.
    """
    installed = [entry for entry in path if not is_own(str(Path(entry).absolute()))]
    return frozenset(
        name
        for name in names
        if name not in sys.stdlib_module_names
        and (_is_loaded(modules.get(name)) or not _is_installed(name, installed))
    )


def _is_loaded(module: ModuleType | None) -> bool:
    """Return whether this process has imported a module, and nothing of it is installed."""
    if module is None:
        return False
    file = getattr(module, "__file__", None)
    places = [Path(file).parent] if isinstance(file, str) else getattr(module, "__path__", ())
    return all(is_own(str(Path(place).absolute())) for place in places)


def _is_installed(name: str, path: Sequence[str]) -> bool:
    spec = PathFinder.find_spec(name, path)
    return spec is not None and spec.loader is not None and spec.origin is not None
