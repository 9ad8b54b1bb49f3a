"""Digests of values and of code: equal for equal content, in each process, on each machine.

`dask.base.tokenize` is no such digest: it differs between releases of Dask and of Python, and a function of a module is
its name, so that an edit of it goes unnoticed. This one leaves nothing out that it cannot read: a value without
content that could be compared is an error.
"""

from __future__ import annotations

import ast
import builtins
import copyreg
import functools
import hashlib
import importlib.util
import inspect
import os
import pathlib
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from scalable.modules.users import is_own, is_sent
from scalable.results.source import (
    Source,
    bindings_of,
    canonical,
    names_read,
    source_of_class,
    source_of_function,
)

__all__ = ["Content", "NoContentError", "digest_of"]

_MAIN = frozenset({"__main__", "__mp_main__"})


class NoContentError(Exception):
    """A value has no content that could be compared: a lock, an open file, a result that is not known yet."""


@dataclass
class Content:
    """Computes digests, and notes the code and the global values that it meets.

    Parameters
    ----------
    name_future : callable, optional
        Returns the name under which the result of a Dask future is kept, or None.

    Attributes
    ----------
    parts : dict of str to str
        For each function, class, module and global value of the user's, a digest of itself alone.
    sources : dict of str to str
        The sources of the functions and classes, for people.
    """

    name_future: Callable[[Any], str | None] = lambda future: None
    parts: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    _open: dict[int, str] = field(default_factory=dict)
    _known: dict[int, tuple[Any, bytes]] = field(default_factory=dict)

    def digest(self, value: Any) -> bytes:
        """Return the digest of a value.

        Raises
        ------
        NoContentError
            It has no content that could be compared.
        """
        kind = type(value)
        plain = _PLAIN.get(kind)
        if plain is not None:
            return _hash(kind.__name__, plain(value))
        if id(value) in self._open:
            return _hash("recursive", self._open[id(value)])
        self._open[id(value)] = f"{kind.__qualname__} {len(self._open)}"
        try:
            return self._digest_open(value, kind)
        except RecursionError:
            raise NoContentError(f"a {kind.__qualname__} that is nested too deeply") from None
        finally:
            del self._open[id(value)]

    def _digest_open(self, value: Any, kind: type) -> bytes:
        if kind in (tuple, list):
            return _hash(kind.__name__, *map(self.digest, value))
        if kind is dict:
            return _hash("dict", *self._digest_pairs(value.items()))
        if kind in (set, frozenset):
            return _hash(kind.__name__, *sorted(map(self.digest, value)))
        if isinstance(value, pathlib.PurePath):
            concrete = "Path" if isinstance(value, pathlib.Path) else "PurePath"
            return _hash(concrete, str(value))
        if isinstance(value, types.ModuleType):
            return self._digest_module(value.__name__)
        for known, digest in _CALLABLES:
            if isinstance(value, known):
                return digest(self, value)
        for name, of_library in _of_library(kind):
            if result := of_library(self, value, name):
                return result
        return self._digest_object(value)

    def _digest_pairs(self, pairs: Iterable[tuple[Any, Any]]) -> Iterator[bytes]:
        for key, value in pairs:
            yield self.digest(key)
            yield self.digest(value)

    def _digest_object(self, value: Any) -> bytes:
        """Return the digest of what `pickle` would make an object from."""
        what = f"a {type(value).__module__}.{type(value).__qualname__}"
        if hasattr(value, "__dask_graph__"):
            raise NoContentError(f"{what}, which is not computed yet")
        reduce = copyreg.dispatch_table.get(type(value))
        try:
            reduced: Any = reduce(value) if reduce else value.__reduce_ex__(4)
        except Exception as error:
            raise NoContentError(f"{what}: {error}") from error
        if isinstance(reduced, str):
            return _hash("global", getattr(value, "__module__", ""), reduced)
        make, args, *rest = reduced
        state, items, pairs = [*rest, None, None, None][:3]
        return _hash(
            "object",
            self.digest(make),
            self.digest(args),
            self.digest(state),
            *map(self.digest, items or ()),
            *self._digest_pairs(pairs or ()),
        )

    # -- Code

    def _once(self, value: Any, digest: Callable[[], bytes]) -> bytes:
        if id(value) not in self._known:
            self._known[id(value)] = value, digest()
        return self._known[id(value)][1]

    def _note(self, label: str, digest: bytes) -> None:
        earlier = self.parts.get(label)
        text = digest.hex()[:16]
        self.parts[label] = (
            text if earlier in (None, text) else _hash(str(earlier), text).hex()[:16]
        )

    def _digest_function(self, func: types.FunctionType) -> bytes:
        return self._once(func, lambda: self._read_function(func))

    def _read_function(self, func: types.FunctionType) -> bytes:
        label = _label(func.__module__, func.__qualname__)
        cells = dict(zip(func.__code__.co_freevars, func.__closure__ or (), strict=True))
        closure = {name: _of_cell(cell) for name, cell in sorted(cells.items())}
        if not _is_own_code(func.__module__, func.__code__.co_filename):
            return _hash("installed", label, *self._digest_bindings(closure))
        source = source_of_function(func)
        self._note(label, _hash(source.text))
        self.sources[label] = source.shown
        given = {"defaults": func.__defaults__, "kwdefaults": func.__kwdefaults__}
        return _hash(
            "function",
            label,
            source.text,
            *self._digest_bindings({**given, **closure}),
            *self._digest_globals(source, func.__globals__, func.__module__),
        )

    def _digest_class(self, cls: type) -> bytes:
        return self._once(cls, lambda: self._read_class(cls))

    def _read_class(self, cls: type) -> bytes:
        label = _label(cls.__module__, cls.__qualname__)
        if not _is_own_module(cls.__module__):
            return _hash("installed", label)
        source = source_of_class(cls)
        bases = [self._digest_class(base) for base in cls.__bases__]
        namespace = inspect.getmodule(cls)
        values = {
            name: value
            for name, value in sorted(vars(cls).items())
            if not (name.startswith("__") and name.endswith("__"))
            or isinstance(value, types.FunctionType)
        }
        if source is None:
            return _hash("class", label, *bases, *self._digest_bindings(values))
        self._note(label, _hash(source.text))
        self.sources[label] = source.shown
        data = {
            name: value
            for name, value in values.items()
            # Not what enumerations and other machinery note there, which differs between releases of Python.
            if (
                type(value) in _PLAIN
                or type(value) in (list, dict, tuple, set, frozenset)
                or _is_of_library(value)
            )
            and not (name.startswith("_") and name.endswith("_"))
        }
        return _hash(
            "class",
            label,
            source.text,
            *bases,
            *self._digest_bindings(data),
            *self._digest_globals(source, vars(namespace) if namespace else {}, cls.__module__),
        )

    def _digest_bindings(self, values: Mapping[str, Any]) -> Iterator[bytes]:
        for name, value in values.items():
            yield _hash(name, self.digest(value))

    def _digest_globals(
        self, source: Source, namespace: Mapping[str, Any], module: str
    ) -> Iterator[bytes]:
        """Yield the digests of the global values that code reads, and of the modules that it imports."""
        attributes, bare = _uses(source.nodes)
        for name in sorted(source.names):
            if name not in namespace or namespace[name] is getattr(builtins, name, _NOTHING):
                continue
            value = namespace[name]
            if isinstance(value, types.ModuleType) and name not in bare and source.nodes:
                for attribute in sorted(attributes.get(name, ())):
                    found = self._digest_attribute(value, attribute)
                    yield _hash(f"{name}.{attribute}", found)
            else:
                digest = self._digest_global(_label(module, name), value)
                yield _hash(name, digest, _bindings(module, name))
        for imported in sorted(_imports(source.nodes, namespace.get("__package__") or "")):
            yield self._digest_module(imported)

    def _digest_global(self, label: str, value: Any) -> bytes:
        try:
            digest = self.digest(value)
        except NoContentError as error:
            raise NoContentError(f"global {label!r} is {error}") from None
        if not callable(value) and not isinstance(value, types.ModuleType):
            self._note(label, digest)
        return digest

    def _digest_attribute(self, module: types.ModuleType, name: str) -> bytes:
        if not _is_own_module(module.__name__):
            return _hash("installed", f"{module.__name__}.{name}")
        digest = self._digest_global(f"{module.__name__}.{name}", getattr(module, name, None))
        return _hash(digest, _bindings(module.__name__, name))

    def _digest_module(self, name: str) -> bytes:
        """Return the digest of a module, and of the modules of the user's that it imports."""
        read: dict[str, bytes] = {}
        self._read_module(name, read)
        return _hash("module", name, *(_hash(each, read[each]) for each in sorted(read)))

    def _read_module(self, name: str, read: dict[str, bytes]) -> None:
        file, is_package = _find_module(name)
        if file is None or name in read:
            return
        try:
            text = pathlib.Path(file).read_text(encoding="utf-8")
            tree = ast.parse(text)
        except (OSError, SyntaxError, ValueError) as error:
            raise NoContentError(
                f"module {name!r}, whose source cannot be read: {error}"
            ) from error
        read[name] = _hash(canonical(tree))
        self._note(name, read[name])
        self.sources[name] = text
        package = name if is_package else name.rpartition(".")[0]
        for imported in _imports((tree,), package):
            self._read_module(imported, read)


def digest_of(value: Any, *, name_future: Callable[[Any], str | None] = lambda future: None) -> str:
    """Return the digest of a value as text.

    Examples
    --------
    >>> digest_of([1, "a"]) == digest_of([1, "a"])
    True
    >>> digest_of([1, "a"]) == digest_of([1.0, "a"])
    False
    """
    return Content(name_future).digest(value).hex()


_NOTHING = object()


def _hash(*parts: str | bytes) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        # With their lengths, because different parts may be the same bytes when concatenated.
        digest.update(b"%d:" % len(content))
        digest.update(content)
    return digest.digest()


_PLAIN: dict[type, Callable[[Any], str | bytes]] = {
    type(None): repr,
    bool: repr,
    int: hex,
    float: float.hex,
    complex: lambda value: f"{value.real.hex()} {value.imag.hex()}",
    str: lambda value: value,
    bytes: lambda value: value,
    bytearray: bytes,
    type(...): repr,
    type(NotImplemented): repr,
}


# -- What belongs to the user


def _is_own_module(name: str | None) -> bool:
    if name is None or name in _MAIN:
        return True
    return _find_module(name)[0] is not None


def _is_own_code(module: str | None, file: str) -> bool:
    if module is None or module in _MAIN:
        return True
    return is_sent(module) and is_own(os.path.dirname(os.path.abspath(file)))  # noqa: PTH100, PTH120


def _is_own_top(name: str) -> bool:
    """Return whether a top-level module or package is the user's. Nothing is imported, unlike for what is inside."""
    if not is_sent(name):
        return False
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return False
    if spec is None:
        return False
    files = [spec.origin] if spec.has_location and spec.origin else []
    places = [os.path.dirname(file) for file in files] or [*(spec.submodule_search_locations or ())]  # noqa: PTH120
    return any(is_own(os.path.abspath(place)) for place in places)  # noqa: PTH100


def _find_module(name: str) -> tuple[str | None, bool]:
    """Return the file of a module of the user's, and whether it is a package; no file if it is not the user's."""
    if name in _MAIN or not _is_own_top(name.partition(".")[0]):
        return None, False
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None, False
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None, False
    if not is_own(os.path.dirname(os.path.abspath(spec.origin))):  # noqa: PTH100, PTH120
        return None, False
    return spec.origin, spec.submodule_search_locations is not None


def _bindings(module: str | None, name: str) -> str:
    """Return how a module of a file gives a name its value.

    Workers import the module anew, so what the value is in this process, which may have set it, is not all.
    """
    file = None if module is None else _find_module(module)[0]
    return "" if file is None else bindings_of(file, name)


def _label(module: str | None, name: str) -> str:
    return name if module is None or module in _MAIN else f"{module}.{name}"


def _of_cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _uses(nodes: Iterable[ast.AST]) -> tuple[dict[str, set[str]], frozenset[str]]:
    """Return which attributes of names code reads, and which names it uses otherwise.

    Examples
    --------
    >>> _uses([ast.parse("a.b(c)")])
    ({'a': {'b'}}, frozenset({'c'}))
    """
    attributes: dict[str, set[str]] = {}
    owners: set[int] = set()
    for tree in nodes:
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                attributes.setdefault(node.value.id, set()).add(node.attr)
                owners.add(id(node.value))
    others = [
        n for t in nodes for n in ast.walk(t) if isinstance(n, ast.Name) and id(n) not in owners
    ]
    return attributes, names_read(others)


def _imports(nodes: Iterable[ast.AST], package: str) -> set[str]:
    """Return the modules of the user's that code imports.

    Examples
    --------
    >>> _imports([ast.parse("import os.path")], "")
    set()
    """
    names: set[str] = set()
    for tree in nodes:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    parts = package.split(".")
                    parts = parts[: len(parts) - node.level + 1]
                    base = ".".join([*parts, *([base] if base else [])])
                names.add(base)
                names.update(f"{base}.{alias.name}" for alias in node.names)
    parents = {
        ".".join(name.split(".")[:end]) for name in names for end in range(1, name.count(".") + 2)
    }
    return {name for name in parents if name and _find_module(name)[0] is not None}


# -- Callables


def _builtin(content: Content, value: Any) -> bytes:
    owner = getattr(value, "__self__", None)
    name = getattr(value, "__qualname__", value.__name__)
    where = getattr(value, "__module__", None) or getattr(
        getattr(value, "__objclass__", None), "__module__", ""
    )
    if owner is None or isinstance(owner, types.ModuleType):
        return _hash("builtin", str(where), name)
    return _hash("builtin", str(where), name, content.digest(owner))


_CALLABLES: tuple[tuple[Any, Callable[[Content, Any], bytes]], ...] = (
    (types.FunctionType, lambda content, value: content._digest_function(value)),
    (type, lambda content, value: content._digest_class(value)),
    (
        types.MethodType,
        lambda content, value: _hash(
            "method", content.digest(value.__func__), content.digest(value.__self__)
        ),
    ),
    (
        functools.partial,
        lambda content, value: _hash(
            "partial",
            content.digest(value.func),
            content.digest(value.args),
            content.digest(value.keywords),
        ),
    ),
    (
        type(functools.cache(len)),
        lambda content, value: _hash("lru_cache", content.digest(value.__wrapped__)),
    ),
    (
        (
            types.BuiltinFunctionType,
            types.MethodDescriptorType,
            types.WrapperDescriptorType,
            types.MethodWrapperType,
            types.ClassMethodDescriptorType,
        ),
        _builtin,
    ),
    (
        (staticmethod, classmethod),
        lambda content, value: _hash(type(value).__name__, content.digest(value.__func__)),
    ),
    (
        property,
        lambda content, value: _hash(
            "property", *map(content.digest, (value.fget, value.fset, value.fdel))
        ),
    ),
)


# -- Libraries, none of which is imported here


@lru_cache(maxsize=10_000)
def _of_library(kind: type) -> tuple[tuple[str, Callable[[Content, Any, str], bytes | None]], ...]:
    """Return what may digest values of a type, with the name of the base that it is for."""
    found = []
    for base in kind.__mro__:
        top = base.__module__.partition(".")[0]
        digest = _LIBRARIES.get((top, base.__name__))
        if digest is not None:
            found.append((base.__name__, digest))
    return tuple(found)


def _is_of_library(value: object) -> bool:
    kind: Any = type(value)
    return bool(_of_library(kind))


def _future(content: Content, value: Any, base: str) -> bytes:
    name = content.name_future(value)
    if name is None:
        raise NoContentError("the future of a call whose result is not kept")
    return _hash("future", name)


def _describe_dtype(dtype: Any) -> str:
    import numpy as np

    describe: Any = np.lib.format.dtype_to_descr
    return repr(describe(dtype))


def _array(content: Content, value: Any, base: str) -> bytes | None:
    if type(value).__name__ != base:  # a subclass has more
        return None
    if value.dtype.hasobject:
        return _hash("array", str(value.dtype), repr(value.shape), content.digest(value.tolist()))
    import numpy as np

    content_of: Any = np.ascontiguousarray(value).reshape(-1)
    content_of = memoryview(content_of.view(np.uint8)) if value.size else b""
    return _hash("array", _describe_dtype(value.dtype), repr(value.shape), content_of)


def _masked(content: Content, value: Any, base: str) -> bytes:
    import numpy as np

    ma: Any = np.ma
    parts = (np.asarray(value.data), ma.getmaskarray(value), np.asarray(value.fill_value))
    return _hash("masked", type(value).__name__, *map(content.digest, parts))


def _scalar(content: Content, value: Any, base: str) -> bytes:
    import numpy as np

    return _hash("scalar", content.digest(np.asarray(value)))


def _dtype(content: Content, value: Any, base: str) -> bytes:
    return _hash("dtype", _describe_dtype(value))


def _ufunc(content: Content, value: Any, base: str) -> bytes:
    return _hash("ufunc", value.__name__)


def _pandas_values(content: Content, values: Any) -> bytes:
    """Return the digest of a column or of an index."""
    import numpy as np

    dtype = str(values.dtype)
    if dtype == "category":
        codes = content.digest(np.asarray(values.codes))
        return _hash(dtype, str(values.ordered), content.digest(values.categories), codes)
    if hasattr(values, "asi8"):
        return _hash(dtype, str(getattr(values, "freqstr", None)), content.digest(values.asi8))
    return _hash(dtype, content.digest(np.asarray(values)))


def _index(content: Content, value: Any, base: str) -> bytes:
    names = content.digest(list(value.names))
    if base == "MultiIndex":
        levels = [*map(content.digest, value.levels)]
        return _hash(base, names, *levels, content.digest([*map(list, value.codes)]))
    return _hash(type(value).__name__, names, _pandas_values(content, value.array))


def _series(content: Content, value: Any, base: str) -> bytes:
    values = _pandas_values(content, value.array)
    parts = (content.digest(value.name), content.digest(value.index), content.digest(value.attrs))
    return _hash(type(value).__qualname__, *parts, values)


def _frame(content: Content, value: Any, base: str) -> bytes:
    columns = [_pandas_values(content, value.iloc[:, i].array) for i in range(value.shape[1])]
    parts = (
        content.digest(value.columns),
        content.digest(value.index),
        content.digest(value.attrs),
    )
    return _hash(type(value).__qualname__, *parts, *columns)


def _variable(content: Content, value: Any, base: str) -> bytes:
    if value.chunks is not None:
        raise NoContentError("an xarray object of Dask arrays, which is not computed yet")
    return _hash(
        "variable",
        content.digest(list(value.dims)),
        content.digest(dict(value.attrs)),
        content.digest(value.values),
    )


def _data_array(content: Content, value: Any, base: str) -> bytes:
    coords = sorted(value.coords.items(), key=lambda item: str(item[0]))
    return _hash(
        type(value).__qualname__,
        content.digest(value.name),
        _variable(content, value.variable, base),
        *(
            _hash(content.digest(name), _variable(content, each.variable, base))
            for name, each in coords
        ),
    )


def _dataset(content: Content, value: Any, base: str) -> bytes:
    variables = sorted(value.variables.items(), key=lambda item: str(item[0]))
    return _hash(
        type(value).__qualname__,
        content.digest(dict(value.attrs)),
        content.digest(sorted(map(str, value.coords))),
        *(_hash(content.digest(name), _variable(content, each, base)) for name, each in variables),
    )


_LIBRARIES: dict[tuple[str, str], Callable[[Content, Any, str], bytes | None]] = {
    ("distributed", "Future"): _future,
    ("numpy", "MaskedArray"): _masked,
    ("numpy", "ndarray"): _array,
    ("numpy", "generic"): _scalar,
    ("numpy", "dtype"): _dtype,
    ("numpy", "ufunc"): _ufunc,
    ("pandas", "MultiIndex"): _index,
    ("pandas", "Index"): _index,
    ("pandas", "Series"): _series,
    ("pandas", "DataFrame"): _frame,
    ("xarray", "DataArray"): _data_array,
    ("xarray", "Dataset"): _dataset,
    ("xarray", "Variable"): _variable,
}
