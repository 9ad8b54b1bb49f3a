"""Digests of values and of code: equal for equal content, in each process, on each machine.

`dask.base.tokenize` is no such digest: it differs between releases of Dask and of Python, and a function of a module is
its name, so that an edit of it goes unnoticed. This one leaves nothing out that it cannot read: a value without
content that could be compared is an error.
"""

from __future__ import annotations

import ast
import builtins
import copyreg
import enum
import functools
import importlib.util
import pathlib
import types
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from scalable.results.attributes import (
    attribute_of,
    cells_of,
    chains_of,
    data_of,
    defaults_of,
    has_own_code,
    is_dunder,
    is_inside,
    is_read,
    made_of,
    namespace_of,
)
from scalable.results.belonging import (
    MAIN,
    find_module,
    is_imported,
    is_own_class,
    is_own_function,
    is_own_module,
    modules_in,
    names_imported,
)
from scalable.results.cycles import Cycles, Known
from scalable.results.hashing import PLAIN, NoContentError, hash_of
from scalable.results.libraries import digest_of_library
from scalable.results.source import (
    Import,
    Source,
    bindings_in,
    canonical,
    functions_in,
    imports_in,
    source_of_class,
    source_of_function,
    text_of,
)

__all__ = ["Content", "NoContentError", "digest_of"]

Reading = Generator[Any, bytes, bytes]
"""Yields values, is sent their digests, and returns a digest."""

Readings = Generator[Any, bytes, list[bytes]]
"""The same for several digests."""

DEEPEST = 100_000
"""Values inside of each other, of which there are no more: something makes them while it is read."""


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
    _cycles: Cycles = field(default_factory=Cycles)
    _code: dict[int, Known] = field(default_factory=dict)
    _values: dict[int, Known] = field(default_factory=dict)
    _sources: dict[types.CodeType, Source] = field(default_factory=dict)
    _bound: dict[str | None, Mapping[str, Sequence[ast.stmt]]] = field(default_factory=dict)

    def digest(self, value: Any) -> bytes:
        """Return the digest of a value.

        Raises
        ------
        NoContentError
            It has no content that could be compared.
        """
        known = self._find(value)
        return self._read_all(value) if known is None else known

    def _find(self, value: Any) -> bytes | None:
        """Return the digest of a value of which nothing is to be read, or not again; else None."""
        kind = type(value)
        plain = PLAIN.get(kind)
        if plain is not None:
            return hash_of(kind.__name__, plain(value))
        if kind in (tuple, list) and all(type(each) in PLAIN for each in value):
            return hash_of(kind.__name__, *map(_digest_plain, value))
        if (far := self._cycles.find(value)) is not None:
            return hash_of("recursive", str(far))
        known = self._known(kind).get(id(value))
        if known and not any(id(each) in self._cycles.places for each in known.cycle):
            return known.digest
        return None

    def _known(self, kind: type) -> dict[int, Known]:
        return self._code if kind is types.FunctionType or issubclass(kind, type) else self._values

    def _read_all(self, value: Any) -> bytes:
        """Return the digest of a value, and read what it needs: without recursion, which Python bounds."""
        cycles = self._cycles
        begun = len(cycles.stack), len(cycles.lowest)
        readings = [(value, self._begin(value))]
        digest: Any = None
        problem: NoContentError | None = None
        try:
            while readings:
                value, reading = readings[-1]
                try:
                    wanted = reading.throw(problem) if problem else reading.send(digest)
                except StopIteration as end:
                    digest, problem = end.value, None
                    readings.pop()
                    if cycle := cycles.leave(value):
                        self._known(type(value))[id(value)] = Known(value, digest, cycle[1:])
                except Exception as error:  # noqa: BLE001 - of code of others, which reading calls
                    problem = _problem_of(value, error)
                    readings.pop()
                else:
                    digest, problem = self._find(wanted), None
                    if digest is None:
                        if len(readings) == DEEPEST:
                            raise NoContentError(
                                f"a {type(value).__qualname__} that is nested too deeply"
                            )
                        readings.append((wanted, self._begin(wanted)))
            if problem:
                raise problem
            return bytes(digest)
        finally:
            cycles.forget(begun[0])
            del cycles.lowest[begun[1] :]
            if not cycles.stack:
                self._values.clear()  # they may change before the next call

    def _begin(self, value: Any) -> Reading:
        self._cycles.enter(value)
        return self._read(value, type(value))

    def _read(self, value: Any, kind: type) -> Reading:
        """Yield the values that the digest of a value needs, and return that: as do all methods of such a name."""
        if kind in (tuple, list):
            return (yield from _read_parts(kind.__name__, *value))
        if kind in (dict, types.MappingProxyType):
            return hash_of(kind.__name__, *(yield from _read_pairs(value.items())))
        if kind in (set, frozenset):
            return hash_of(kind.__name__, *(yield from self._read_set(value)))
        if isinstance(value, pathlib.PurePath):
            concrete = "Path" if isinstance(value, pathlib.Path) else "PurePath"
            return hash_of(concrete, str(value))
        if isinstance(value, types.ModuleType):
            return (yield from self._read_module(value))
        if isinstance(value, types.FunctionType):
            return (yield from self._read_function(value))
        if isinstance(value, type):
            return (yield from self._read_class(value))
        for known, parts in _CALLABLES:
            if isinstance(value, known):
                return (yield from _read_parts(*parts(value)))
        found = digest_of_library(self, value)
        return found if found else (yield from self._read_object(value))

    def _read_set(self, values: Iterable[Any]) -> Readings:
        """Read values that have no order: the digest of none depends on which others were read before."""
        stack = self._cycles.stack
        begin = len(stack)
        digests, read = [], []
        for value in values:
            digests.append((yield value))
            read += self._cycles.forget(begin)
        stack += read
        return sorted(digests)

    def _read_object(self, value: Any) -> Reading:
        """Read what `pickle` would make an object from."""
        what = f"a {type(value).__module__}.{type(value).__qualname__}"
        if hasattr(value, "__dask_graph__"):
            raise NoContentError(f"{what}, which is not computed yet")
        reduce = copyreg.dispatch_table.get(type(value))
        try:
            reduced: Any = reduce(value) if reduce else _reduce(value)
        except Exception as error:
            raise NoContentError(f"{what}: {error}") from error
        if isinstance(reduced, str):
            return hash_of("global", getattr(value, "__module__", ""), reduced)
        make, args, *rest = reduced
        state, items, pairs = [*rest, None, None, None][:3]
        if isinstance(value, set | frozenset):  # their arguments are in an order of this process
            args = ()
            inner = yield from self._read_set(value)
        else:
            inner = yield from _read_each(items or ())
        made = yield from _read_parts("object", make, args, state)
        return hash_of(made, *inner, *(yield from _read_pairs(pairs or ())))

    # -- Code

    def _note(self, label: str, digest: bytes) -> None:
        text = digest.hex()[:16]
        earlier = self.parts.setdefault(label, text)
        if text not in earlier.split("+"):  # several of one name, in whatever order they were met
            self.parts[label] = "+".join(sorted([*earlier.split("+"), text]))

    def _read_function(self, func: types.FunctionType) -> Reading:
        label = _label(func.__module__, func.__qualname__)
        if not is_own_function(func):
            closure = cells_of(func)
            if func.__code__ is _DISPATCHES:  # not what it remembers of calls
                closure = {"registry": dict(vars(func)["registry"])}
            around = yield from _read_bindings(closure, f"{{}} around {label}")
            return hash_of("installed", label, *around)
        source = self._source_of(func)
        self._note(label, hash_of(source.text))
        self.sources[label] = source.shown
        given = yield from self._read_given(func, label)
        module = func.__globals__.get("__name__")
        used = yield from self._read_globals(source, func.__globals__, module)
        return hash_of("function", label, source.text, given, *used)

    def _read_given(self, func: types.FunctionType, label: str) -> Reading:
        """Read what a function has been given beside its source."""
        attributes = {name: each for name, each in vars(func).items() if not is_dunder(name)}
        given = (
            (yield from _read_bindings(defaults_of(func), f"the default of {{}} in {label}")),
            (yield from _read_bindings(cells_of(func), f"{{}} around {label}")),
            (yield from _read_bindings(attributes, f"{label}.{{}}")),
        )
        return hash_of(*(hash_of(*each) for each in given))

    def _read_class(self, cls: type) -> Reading:
        label = _label(cls.__module__, cls.__qualname__)
        if not is_own_class(cls):
            return hash_of("installed", label)
        bases = yield from _read_each(cls.__bases__)
        source = source_of_class(cls)
        if source is None:
            kind = yield type(cls)
            values = dict(sorted(made_of(cls).items()))
            made = yield from _read_bindings(values, f"{label}.{{}}")
            return hash_of("class", label, kind, *bases, *made)
        self._note(label, hash_of(source.text))
        self.sources[label] = source.shown
        data = yield from _read_bindings(data_of(cls), f"{label}.{{}}")
        methods = yield from self._read_methods(cls, label)
        used = yield from self._read_globals(source, namespace_of(cls), cls.__module__)
        return hash_of("class", label, source.text, *bases, *data, *methods, *used)

    def _read_methods(self, cls: type, label: str) -> Readings:
        """Read what the methods of a class are, as far as its source does not say it."""
        digests = []
        for name, value in sorted(vars(cls).items()):
            for func in functions_in(value):
                if is_inside(func, cls):
                    given = yield from self._read_given(func, f"{label}.{name}")
                    digests.append(hash_of(name, given))
                elif has_own_code(func):
                    digests.append(hash_of(name, (yield from _read_named(func, f"{label}.{name}"))))
        return digests

    def _read_globals(
        self, source: Source, namespace: Mapping[str, Any], module: str | None
    ) -> Readings:
        """Read the global values that code reads, and the modules that it imports."""
        digests = []
        for name in sorted(source.names):
            if name not in namespace or namespace[name] is getattr(builtins, name, _NOTHING):
                continue
            value = namespace[name]
            chains = source.uses.get(name, _WHOLE)
            if isinstance(value, types.ModuleType) and () not in chains:
                for chain in sorted({*chains_of(value, chains)}):
                    found = yield from self._read_chain(value, chain)
                    digests.append(hash_of(".".join((name, *chain)), found))
            else:
                digest = yield from self._read_global(_label(module, name), value)
                digests.append(hash_of(name, digest, self._bindings(module, name)))
        package = namespace.get("__package__") or ""
        for imported, whole in sorted(names_imported(source.imports, package)):
            digests.append(self._digest_imported(imported, whole=whole))
        return digests

    def _bindings(self, module: str | None, name: str) -> str:
        """Return how a module of a file gives a name its value.

        Workers import the module anew, so what the value is in this process, which may have set it, is not all.
        """
        if module not in self._bound:
            found = None if module is None else find_module(module)
            self._bound[module] = bindings_in(found.file) if found and found.file else {}
        return text_of(self._bound[module].get(name, ()))

    def _source_of(self, func: types.FunctionType) -> Source:
        if func.__code__ not in self._sources:
            self._sources[func.__code__] = source_of_function(func)
        return self._sources[func.__code__]

    def _read_global(self, label: str, value: Any) -> Reading:
        digest = yield from _read_named(value, f"global {label!r}")
        if not callable(value) and not isinstance(value, types.ModuleType):
            self._note(label, digest)
        return digest

    def _read_chain(self, module: types.ModuleType, chain: tuple[str, ...]) -> Reading:
        """Read what code takes of a module: the last of several attributes."""
        *around, name = chain
        for each in around:
            module = getattr(module, each)
        owner = module.__name__
        if not is_read(module):
            return hash_of("installed", f"{owner}.{name}")
        digest = yield from self._read_global(f"{owner}.{name}", attribute_of(module, name))
        return hash_of(digest, self._bindings(owner, name))

    def _read_module(self, module: types.ModuleType) -> Reading:
        name = module.__name__
        if is_imported(module) or not is_own_module(module):
            return self._digest_imported(name, whole=True)
        values = {name: value for name, value in vars(module).items() if not is_dunder(name)}
        return hash_of("made", *(yield from _read_bindings(values, f"{name}.{{}}")))

    def _digest_imported(self, name: str, *, whole: bool) -> bytes:
        """Return the digest of a module, and of the modules of the user's that it imports.

        Parameters
        ----------
        name : str
            Its name.
        whole : bool
            Whether all modules inside of it count, if it is a package.
        """
        read: dict[str, bytes] = {}
        wanted = [(name, whole)]
        for each, all_of_it in wanted:
            found = find_module(each)
            if found is None:
                continue
            if all_of_it:
                wanted += [(inner, False) for inner in modules_in(each)]
            if found.file is None or each in read:
                continue
            try:
                content = pathlib.Path(found.file).read_bytes()
                read[each], self.sources[each], imports = _parse_module(found.file, content)
            except (OSError, SyntaxError, ValueError) as error:
                raise NoContentError(
                    f"module {each!r}, whose source cannot be read: {error}"
                ) from error
            self._note(each, read[each])
            package = each if found.places else each.rpartition(".")[0]
            wanted += names_imported(imports, package)
        return hash_of("module", name, *(hash_of(each, read[each]) for each in sorted(read)))


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

_WHOLE: frozenset[tuple[str, ...]] = frozenset({()})

_DISPATCHES = functools.singledispatch(len).__code__  # type: ignore[attr-defined]


def _reduce(value: Any) -> Any:
    """Return how a value is made, as for pickle."""
    if isinstance(value, enum.Enum):
        # As of Python 3.11.4. Earlier ones have the name in place of the value.
        return type(value), (value.value,)
    return value.__reduce_ex__(4)


def _read_each(values: Iterable[Any]) -> Readings:
    digests = []
    for value in values:
        digests.append((yield value))
    return digests


def _read_parts(label: str, *parts: Any) -> Reading:
    return hash_of(label, *(yield from _read_each(parts)))


def _read_pairs(pairs: Iterable[tuple[Any, Any]]) -> Readings:
    return (yield from _read_each(part for pair in pairs for part in pair))


def _read_bindings(values: Mapping[str, Any], where: str) -> Readings:
    digests = []
    for name, value in values.items():
        digests.append(hash_of(name, (yield from _read_named(value, where.format(name)))))
    return digests


def _read_named(value: Any, where: str) -> Reading:
    try:
        return (yield value)
    except NoContentError as error:
        raise error.named(where) from None


def _problem_of(value: Any, error: Exception) -> NoContentError:
    if isinstance(error, NoContentError):
        return error
    kind = type(value)
    if isinstance(error, RecursionError):
        return NoContentError(f"a {kind.__qualname__} that is nested too deeply")
    what = f"a {kind.__module__}.{kind.__qualname__}, which cannot be read"
    return NoContentError(f"{what}: {error!r}")


def _digest_plain(value: Any) -> bytes:
    kind = type(value)
    return hash_of(kind.__name__, PLAIN[kind](value))


@lru_cache(maxsize=1_000)
def _parse_module(file: str, content: bytes) -> tuple[bytes, str, tuple[Import, ...]]:
    """Return the digest of a file of a module, its source for people, and what it imports."""
    if not file.endswith(".py"):
        return hash_of(content), f"<compiled: {pathlib.Path(file).name}>", ()
    text = importlib.util.decode_source(content)
    tree = ast.parse(text)
    return hash_of(canonical(tree)), text, imports_in((tree,))


def _label(module: str | None, name: str) -> str:
    return name if module is None or module in MAIN else f"{module}.{name}"


# -- Callables


def _parts_of_builtin(value: Any) -> tuple[Any, ...]:
    owner = getattr(value, "__self__", None)
    name = getattr(value, "__qualname__", value.__name__)
    where = getattr(value, "__module__", None) or getattr(
        getattr(value, "__objclass__", None), "__module__", ""
    )
    is_bound = owner is not None and not isinstance(owner, types.ModuleType)
    return "builtin", str(where), name, *([owner] if is_bound else [])


_CALLABLES: tuple[tuple[Any, Callable[[Any], tuple[Any, ...]]], ...] = (
    (types.MethodType, lambda value: ("method", value.__func__, value.__self__)),
    (functools.partial, lambda value: ("partial", value.func, value.args, value.keywords)),
    (type(functools.cache(len)), lambda value: ("lru_cache", value.__wrapped__)),
    (
        (
            types.BuiltinFunctionType,
            types.MethodDescriptorType,
            types.WrapperDescriptorType,
            types.MethodWrapperType,
            types.ClassMethodDescriptorType,
        ),
        _parts_of_builtin,
    ),
    ((staticmethod, classmethod), lambda value: (type(value).__name__, value.__func__)),
    (property, lambda value: ("property", value.fget, value.fset, value.fdel)),
)
"""Types of what can be called, and of what they consist, after a label."""
