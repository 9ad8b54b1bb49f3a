"""What modules, functions and classes hold beside their source."""

from __future__ import annotations

import enum
import functools
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from scalable.results.belonging import is_own_class, is_own_function, is_own_module, is_written
from scalable.results.hashing import PLAIN, NoContentError
from scalable.results.libraries import is_of_library
from scalable.results.source import functions_in

__all__ = [
    "attribute_of",
    "cells_of",
    "chains_of",
    "data_of",
    "defaults_of",
    "has_own_code",
    "is_dunder",
    "is_inside",
    "is_read",
    "made_of",
    "namespace_of",
]


# -- Modules


def is_read(module: types.ModuleType) -> bool:
    """Return whether attributes of a module count by what they are: those of others are installed."""
    is_directory = "__path__" in vars(module) and vars(module).get("__file__") is None
    return is_directory or is_own_module(module)


def attribute_of(module: types.ModuleType, name: str) -> Any:
    """Return an attribute of a module, or None if it has none.

    Raises
    ------
    NoContentError
        A function of the module, which is asked for it, fails.
    """
    try:
        return getattr(module, name, None)
    except Exception as error:  # of a function of the module's, whatever it is
        raise NoContentError(f"{module.__name__}.{name}, which cannot be read: {error}") from error


def chains_of(
    module: types.ModuleType, chains: Iterable[tuple[str, ...]]
) -> Iterator[tuple[str, ...]]:
    """Yield those attributes up to which there are modules of the user's."""
    for chain in chains:
        inner: Any = module
        found: list[str] = []
        for name in chain:
            found.append(name)
            inner = attribute_of(inner, name) if is_read(inner) else None
            if not isinstance(inner, types.ModuleType) or not is_own_module(inner):
                break
        yield (*found,)


# -- Functions


def is_dunder(name: str) -> bool:
    """Return whether a name is one of Python's own, with two underscores on each side."""
    return name.startswith("__") and name.endswith("__")


def cells_of(func: types.FunctionType) -> dict[str, Any]:
    """Return what a function has of the functions around it, by name."""
    cells = dict(zip(func.__code__.co_freevars, func.__closure__ or (), strict=True))
    return {name: _of_cell(cell) for name, cell in sorted(cells.items())}


def defaults_of(func: types.FunctionType) -> dict[str, Any]:
    """Return the defaults of the arguments of a function, by name."""
    values = func.__defaults__ or ()
    count = func.__code__.co_argcount
    names = func.__code__.co_varnames[count - len(values) : count]
    return dict(zip(names, values, strict=True)) | dict(func.__kwdefaults__ or {})


def _of_cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


# -- Classes


def namespace_of(cls: type) -> Mapping[str, Any]:
    """Return the global names of the code of a class."""
    module = sys.modules.get(cls.__module__)
    if module is not None:
        return vars(module)
    functions = (func for value in vars(cls).values() for func in functions_in(value))
    return next((func.__globals__ for func in functions if is_inside(func, cls)), {})


def is_inside(func: types.FunctionType, cls: type) -> bool:
    """Return whether the source of a class has that of a function."""
    return func.__code__.co_qualname.startswith(f"{cls.__qualname__}.")


def has_own_code(func: types.FunctionType) -> bool:
    """Return whether a function is the user's, or has one: not what dataclasses and enumerations make."""
    if is_written(func) and is_own_function(func):
        return True
    inner = cells_of(func).values()
    return any(isinstance(each, types.FunctionType) and has_own_code(each) for each in inner)


def data_of(cls: type) -> dict[str, Any]:
    """Return the attributes of a class that are data."""
    return {
        name: value
        for name, value in sorted(vars(cls).items())
        # Not what enumerations and other machinery note there, which differs between releases of Python.
        if not (name.startswith("_") and name.endswith("_")) and _is_data(value, cls)
    }


def _is_data(value: Any, cls: type) -> bool:
    kind = type(value)
    if isinstance(value, type):
        return is_own_class(value)
    return (
        kind in PLAIN
        or kind in (list, dict, tuple, set, frozenset, functools.partial)
        or kind.__module__.partition(".")[0] in _VALUES
        or is_of_library(value)
        or (cls not in kind.__mro__ and is_own_class(kind))
    )


_VALUES = frozenset({"datetime", "decimal", "fractions", "pathlib", "re", "uuid"})


def made_of(cls: type) -> dict[str, Any]:
    """Return what a class without source is made of."""
    made: dict[str, Any] = {}
    if issubclass(cls, enum.Enum):
        made = {name: member.value for name, member in cls.__members__.items()}
    elif fields := vars(cls).get("__dataclass_fields__") or vars(cls).get("__pydantic_fields__"):
        names = (
            "annotation",
            "default",
            "default_factory",
            "init",
            "compare",
            "kw_only",
            "metadata",
        )
        made = {key: [getattr(each, name, None) for name in names] for key, each in fields.items()}
    elif not (issubclass(cls, tuple) and "_fields" in vars(cls)):
        return {
            name: value
            for name, value in vars(cls).items()
            if name != "_abc_impl" and (functions_in(value) or not is_dunder(name))
        }
    # What the libraries add to these differs between releases of Python.
    functions = {
        name: value
        for name, value in vars(cls).items()
        if any(is_inside(func, cls) or has_own_code(func) for func in functions_in(value))
    }
    return {**data_of(cls), **functions, "fields": made}
