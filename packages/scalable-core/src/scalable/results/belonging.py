"""Which modules, functions and classes are the user's, and where the source of a module is. Nothing is imported."""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import sys
import types
from collections.abc import Iterable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from typing import Any, NamedTuple

from scalable.modules.users import is_own, is_sent
from scalable.results.source import Import, functions_in

__all__ = [
    "MAIN",
    "Found",
    "find_module",
    "is_imported",
    "is_own_class",
    "is_own_function",
    "is_own_module",
    "is_written",
    "modules_in",
    "names_imported",
]

MAIN = frozenset({"__main__", "__mp_main__"})


class Found(NamedTuple):
    """A module of the user's.

    Attributes
    ----------
    file : str or None
        Its source or its compiled code; None for a package without ``__init__.py``.
    places : tuple of str
        The directories of its submodules, if it is a package.
    """

    file: str | None
    places: tuple[str, ...]


def find_module(name: str) -> Found | None:
    """Return a module of the user's by its name, or None if there is none that is the user's.

    `importlib.util.find_spec` would import the packages around it.
    """
    if name in MAIN or not is_sent(name):
        return None
    loaded = sys.modules.get(name)
    if isinstance(loaded, types.ModuleType):
        return _found(loaded)
    spec = _find_spec(name)
    if spec is None:
        return None
    return _checked(spec.origin if spec.has_location else None, spec.submodule_search_locations)


def _find_spec(name: str) -> ModuleSpec | None:
    around = name.rpartition(".")[0]
    package = find_module(around) if around else None
    try:
        if not around:
            return importlib.util.find_spec(name)
        return PathFinder.find_spec(name, package.places) if package else None
    except (ImportError, ValueError, AttributeError):
        return None


def _found(module: types.ModuleType) -> Found | None:
    """Return what there is to read of a module that this process has imported."""
    # Not by `getattr`, which may call a function of the module.
    return _checked(vars(module).get("__file__"), vars(module).get("__path__"))


def _checked(file: Any, places: Iterable[str] | None) -> Found | None:
    inside = tuple(map(os.path.abspath, places or ()))
    if not isinstance(file, str):
        inside = tuple(each for each in inside if is_own(each))
        return Found(None, inside) if inside else None
    file = os.path.abspath(file)
    is_code = file.endswith((".py", ".pyc", *EXTENSION_SUFFIXES))
    return Found(file, inside) if is_code and is_own(os.path.dirname(file)) else None


def is_imported(module: types.ModuleType) -> bool:
    """Return whether the name of a module is that by which it can be imported."""
    found = find_module(module.__name__)
    return found is not None and found == _found(module)


def is_own_module(module: types.ModuleType) -> bool:
    """Return whether a module is the user's: also one that was made by hand, or read from a path."""
    name = module.__name__
    if name in MAIN:
        return True
    if not is_sent(name):
        return False
    if _found(module) is not None:
        return True
    return _is_made(name) and vars(module).keys().isdisjoint({"__path__", "__file__"})


def _is_made(name: str) -> bool:
    """Return whether there is no module of this name to import: what says that it is from it was made by hand."""
    top = name.partition(".")[0]
    try:
        return top not in sys.modules and importlib.util.find_spec(top) is None
    except (ImportError, ValueError, AttributeError):
        return False


def _is_own_name(name: str | None) -> bool:
    if name is None or name in MAIN:
        return True
    return is_sent(name) and (find_module(name) is not None or _is_made(name))


def is_own_function(func: types.FunctionType) -> bool:
    """Return whether the code of a function is the user's.

    What its ``__module__`` says may be copied from another function, by `functools.wraps`.
    """
    module = func.__globals__.get("__name__")
    file = func.__code__.co_filename
    if file.startswith("<") or not isinstance(module, str) or module in MAIN:
        return _is_own_name(module if isinstance(module, str) else None)
    return is_sent(module) and is_own(os.path.dirname(os.path.abspath(file)))


def is_written(func: types.FunctionType) -> bool:
    """Return whether somebody has written the code of a function in a file, a notebook or at a prompt."""
    file = func.__code__.co_filename
    return not file.startswith("<") or file.startswith(_TYPED)


_TYPED = ("<ipython-input-", "<stdin", "<console", "<python-input-", "<doctest ")


def is_own_class(cls: type) -> bool:
    """Return whether a class is the user's: also one that was made by a call, and says that it is from elsewhere."""
    if _is_own_name(cls.__module__):
        return True
    found: Any = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    if found is cls:
        return False
    # `dataclasses.make_dataclass` of Python 3.11 names `types`, where it makes them.
    return cls.__module__ == "types" or any(
        is_written(func) and is_own_function(func)
        for value in vars(cls).values()
        for func in functions_in(value)
    )


def names_imported(imports: Iterable[Import], package: str) -> Iterator[tuple[str, bool]]:
    """Yield the names of modules of the user's that code imports, and whether their submodules count as well.

    Parameters
    ----------
    imports : iterable of Import
        What it imports.
    package : str
        The package that it is in.
    """
    names: dict[str, bool] = {}
    for each in imports:
        base = each.base
        if each.level:
            parts = package.split(".")
            base = ".".join([*parts[: len(parts) - each.level + 1], *([base] if base else [])])
        names[base] = names.get(base, False) or each.whole
        for name in each.names:
            names.setdefault(f"{base}.{name}", False)
    for name in [*names]:
        for end in range(1, name.count(".") + 1):
            names.setdefault(".".join(name.split(".")[:end]), False)
    for name, whole in names.items():
        if name and find_module(name) is not None:
            yield name, whole


def modules_in(name: str) -> Iterator[str]:
    """Yield the names of all modules inside of a package of the user's, as its directory has them."""
    package = find_module(name)
    if package is not None:
        for module in pkgutil.iter_modules(package.places, f"{name}."):
            yield module.name
            if module.ispkg:
                yield from modules_in(module.name)
