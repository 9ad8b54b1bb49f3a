"""What a function computes, as far as its source tells: the same for every interpreter, whatever its comments say.

The source is read from the file and compared with what Python runs: after an edit, the file says what will run in the
next process, and not what runs in this one. Where the two differ, or there is no source, the bytecode counts, which
is another one for each release of Python: then more is computed than need be.
"""

from __future__ import annotations

import ast
import copy
import dis
import hashlib
import linecache
import marshal
import symtable
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from types import CodeType, FunctionType, MappingProxyType
from typing import Any, NamedTuple

__all__ = [
    "Import",
    "Source",
    "bindings_in",
    "canonical",
    "functions_in",
    "imports_in",
    "source_of_class",
    "source_of_function",
    "text_of",
]


class Import(NamedTuple):
    """Modules that code may import in one statement.

    Attributes
    ----------
    base : str
        The module that it names; empty for ``from . import x``.
    names : frozenset of str
        What it may take of that module: attributes or modules, with dots.
    level : int
        How many dots it begins with.
    whole : bool
        Whether the module itself is used in a way that does not show what is taken of it.
    """

    base: str
    names: frozenset[str]
    level: int
    whole: bool


class Source(NamedTuple):
    """The source of a function or a class.

    Attributes
    ----------
    text : str
        What is compared, without comments and formatting.
    shown : str
        What people read.
    names : frozenset of str
        The names that it reads and does not bind: globals, unless they are built in.
    uses : mapping of str to frozenset of tuple of str
        Of names that it reads, the attributes: ``a.b.c`` is ``("b", "c")`` of ``a``. If it uses one in another way as
        well, or only the bytecode is known, ``()`` is among them.
    imports : tuple of Import
        What it imports by itself.
    """

    text: str
    shown: str
    names: frozenset[str]
    uses: Mapping[str, frozenset[tuple[str, ...]]]
    imports: tuple[Import, ...]


def canonical(node: ast.AST) -> str:
    r"""Return a syntax tree as text: the same for each release of Python, without positions.

    `ast.dump` differs between releases, which add fields and leave out empty ones.

    Examples
    --------
    >>> def same(one, other):
    ...     return canonical(ast.parse(one)) == canonical(ast.parse(other))
    >>> same("def f(x): return x+1", "def f(x):  # adds\n\n    return (x + 1)")
    True
    >>> same("x = 1", "x = 1.0"), same("x = 'a'", "x = b'a'")
    (False, False)
    """
    parts: list[str] = []
    _write(node, parts)
    return "".join(parts)


_IGNORED = frozenset({"ctx", "kind", "type_comment", "type_ignores"})


def _write(value: object, parts: list[str]) -> None:
    if isinstance(value, ast.AST):
        parts.append(f"({type(value).__name__}")
        for field in value._fields:
            child = getattr(value, field, None)
            if isinstance(value, ast.JoinedStr):
                child = [each for each in value.values if not _is_empty(each)]
            if field not in _IGNORED and child is not None and child != []:
                parts.append(f" {field}=")
                _write(child, parts)
        parts.append(")")
    elif isinstance(value, list):
        parts.append("[")
        for child in value:
            _write(child, parts)
            parts.append(",")
        parts.append("]")
    elif isinstance(value, float):
        parts.append(value.hex())
    else:
        # Which characters `repr` escapes differs between releases.
        parts.append(f"{type(value).__name__}:{value!a}")


def _is_empty(node: ast.AST) -> bool:
    """Return whether a part of an f-string is nothing: Python 3.12.1 has one after a nested format."""
    return isinstance(node, ast.Constant) and node.value == ""


class _Flat(ast.NodeTransformer):
    """Replaces f-strings by what they contain, because Python 3.11 cannot write each of them."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        parts = [part for part in node.values if isinstance(part, ast.FormattedValue)]
        inner = [each for part in parts for each in (part.value, part.format_spec) if each]
        return ast.Tuple([self.visit(each) for each in inner], ast.Load())


def names_read(nodes: Iterable[ast.AST], free: Iterable[str] = ()) -> frozenset[str]:
    """Return the names that functions and classes read, and do not bind by themselves.

    Parameters
    ----------
    nodes : iterable of ast.AST
        Their syntax trees.
    free : iterable of str
        The names that the functions around them bind.

    Examples
    --------
    >>> sorted(names_read(ast.parse("def f(x): y = x + g(h.z); return [i for i in y]").body))
    ['g', 'h']
    """
    names: set[str] = set()
    for node in nodes:
        inner = [n for each in ast.walk(node) if isinstance(each, ast.Nonlocal) for n in each.names]
        around: Any = ast.parse("def around(): pass").body[0]
        bound = {*free, *inner}
        around.args.args = [ast.arg(name) for name in sorted(bound)]
        flat = _Flat().visit(copy.deepcopy(node))
        around.body = [flat if isinstance(flat, ast.stmt) else ast.Expr(flat)]
        if (own := getattr(node, "name", None)) and own not in bound:
            around.body.insert(0, ast.Global([own]))
        text = ast.unparse(ast.fix_missing_locations(ast.Module([around], [])))
        tables = [symtable.symtable(text, "<names>", "exec")]
        for table in tables:
            tables += table.get_children()
            names |= {
                symbol.get_name()
                for symbol in table.get_symbols()
                if symbol.is_referenced()
                # A name that the body of a class binds may be a global one before.
                and (symbol.is_global() or (table.get_type() == "class" and symbol.is_local()))
            }
    return frozenset(names)


def _uses(nodes: Iterable[ast.AST]) -> dict[str, frozenset[tuple[str, ...]]]:
    """Return which attributes of names code reads: an empty tuple for a name that it uses otherwise.

    Examples
    --------
    >>> _uses([ast.parse("a.b.d(c)")])
    {'a': frozenset({('b', 'd')}), 'c': frozenset({()})}
    """
    found: dict[str, set[tuple[str, ...]]] = {}
    inside: set[int] = set()
    for node in (node for tree in nodes for node in ast.walk(tree)):
        chain: list[str] = []
        owner: Any = node
        while isinstance(owner, ast.Attribute):
            chain.append(owner.attr)
            owner = owner.value
            inside.add(id(owner))
        is_outermost = isinstance(owner, ast.Name) and id(node) not in inside
        if is_outermost and (chain or isinstance(owner.ctx, ast.Load)):
            found.setdefault(owner.id, set()).add((*reversed(chain),))
    return {name: frozenset(chains) for name, chains in found.items()}


def imports_in(nodes: Iterable[ast.AST]) -> tuple[Import, ...]:
    """Return what code imports.

    Examples
    --------
    >>> imports_in([ast.parse("from .a import b; b")])
    (Import(base='a', names=frozenset({'b'}), level=1, whole=False),)
    """
    nodes = tuple(nodes)
    uses = _uses(nodes)
    found: dict[Import, None] = {}
    for node in (node for tree in nodes for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                base = alias.name if alias.asname else alias.name.partition(".")[0]
                chains = uses.get(alias.asname or base, frozenset())
                names = {".".join(chain[:end]) for chain in chains for end in _ends(chain)}
                if base != alias.name:
                    names.add(alias.name.partition(".")[2])
                found[Import(base, frozenset(names), 0, () in chains)] = None
        elif isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names} | {
                ".".join((alias.name, *chain[:end]))
                for alias in node.names
                for chain in uses.get(alias.asname or alias.name, ())
                for end in _ends(chain)
            }
            found[Import(node.module or "", frozenset(names), node.level, False)] = None
    return (*found,)


def _ends(chain: Sequence[str]) -> range:
    return range(1, len(chain) + 1)


def source_of_function(func: FunctionType) -> Source:
    """Return the source of a function, or its bytecode if the file does not have what runs."""
    code = func.__code__
    found = _find_code(code)
    return _of_bytecode(code) if found is None else found


def bindings_in(file: str) -> Mapping[str, Sequence[ast.stmt]]:
    """Return the statements of a module that give each of its global names its value, or may change it."""
    parsed = _parse(file, _lines(file))
    return {} if parsed is None else parsed.bindings


@lru_cache(maxsize=4_096)
def text_of(statements: Sequence[ast.stmt]) -> str:
    """Return statements without comments and formatting."""
    return "".join(map(canonical, statements))


def _bindings_of(tree: ast.Module) -> dict[str, tuple[ast.stmt, ...]]:
    found: dict[str, tuple[ast.stmt, ...]] = {}
    for statement in tree.body:
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for name in {_bound_by(node) for node in ast.walk(statement)} - {None}:
                found[str(name)] = (*found.get(str(name), ()), statement)
    return found


def _bound_by(node: ast.AST) -> str | None:
    """Return the name to which code gives a value, or whose value it may change: by an item, an attribute or a method.

    Examples
    --------
    >>> [_bound_by(ast.parse(text).body[0].value) for text in ("a.b.sort()", "sort(a)", "a")]
    ['a', None, None]
    """
    match node:
        case ast.Name(ctx=ast.Store()):
            return node.id
        case (
            ast.Attribute(ctx=ast.Store() | ast.Del()) | ast.Subscript(ctx=ast.Store() | ast.Del())
        ):
            owner: ast.AST = node
        case ast.Call(func=ast.Attribute()):
            owner = node.func
        case _:
            return None
    while isinstance(owner, ast.Attribute | ast.Subscript):
        owner = owner.value
    return owner.id if isinstance(owner, ast.Name) else None


def source_of_class(cls: type) -> Source | None:
    """Return the source of a class, or None if the file does not have the methods that run."""
    functions = [each for value in vars(cls).values() for each in functions_in(value)]
    module = sys.modules.get(cls.__module__)
    # Dataclasses make methods from text, which have no file.
    files = [getattr(module, "__file__", None), *(each.__code__.co_filename for each in functions)]
    for file in dict.fromkeys(each for each in files if isinstance(each, str)):
        parsed = _parse(file, _lines(file))
        nodes = tuple(parsed.classes.get(cls.__qualname__, ())) if parsed else ()
        if parsed is None or not nodes:
            continue
        if len(nodes) > 1:  # which of them runs is known of its methods only
            return None
        running = {each.__code__ for each in functions if each.__code__.co_filename == file}
        return _of_nodes(nodes, parsed.lines) if running <= parsed.codes.keys() else None
    return None


def functions_in(value: object) -> list[FunctionType]:
    """Return the functions of an attribute of a class: itself, or those of a method or a property."""
    names = ("__func__", "fget", "fset", "fdel", "func")
    found = (value, *(getattr(value, name, None) for name in names if isinstance(value, _METHODS)))
    return [each for each in found if isinstance(each, FunctionType)]


_METHODS = (staticmethod, classmethod, property, cached_property)


class _Parsed(NamedTuple):
    """A file: its lines, its code objects, and the trees of functions, by line and name, of classes and of globals."""

    lines: tuple[str, ...]
    bindings: dict[str, tuple[ast.stmt, ...]]
    codes: dict[CodeType, None]
    functions: dict[tuple[int, str], list[ast.AST]]
    classes: dict[str, list[ast.AST]]


def _lines(file: str) -> tuple[str, ...]:
    linecache.checkcache(file)
    return tuple(linecache.getlines(file))


@lru_cache(maxsize=256)
def _parse(file: str, lines: tuple[str, ...]) -> _Parsed | None:
    if not lines:
        return None
    text = "".join(lines)
    try:
        tree = ast.parse(text)
        compiled = compile(tree, file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    parsed = _Parsed(lines, _bindings_of(tree), dict.fromkeys(_codes(compiled)), {}, {})
    _index(tree, "", parsed)
    return parsed


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _index(node: ast.AST, qualname: str, parsed: _Parsed) -> None:
    for child in ast.iter_child_nodes(node):
        inner = qualname
        match child:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                first = min([child.lineno, *(each.lineno for each in child.decorator_list)])
                parsed.functions.setdefault((first, name), []).append(child)
                inner = f"{qualname}{name}.<locals>."
            case ast.Lambda():
                parsed.functions.setdefault((child.lineno, "<lambda>"), []).append(child)
                inner = f"{qualname}<lambda>.<locals>."
            case ast.ClassDef(name=name):
                parsed.classes.setdefault(qualname + name, []).append(child)
                inner = f"{qualname}{name}."
        _index(child, inner, parsed)


def _find_code(code: CodeType) -> Source | None:
    parsed = _parse(code.co_filename, _lines(code.co_filename))
    if parsed is None or code not in parsed.codes:
        return None
    node = _select(parsed.functions.get((code.co_firstlineno, code.co_name), ()), code)
    return None if node is None else _of_nodes((node,), parsed.lines, code.co_freevars)


def _select(nodes: Sequence[ast.AST], code: CodeType) -> ast.AST | None:
    """Return the one of several functions in one line that a code object was made from."""
    if len(nodes) == 1:
        return nodes[0]
    places = [
        (start, end)
        for line, last, column, end_column in code.co_positions()
        if line and last and column is not None and end_column
        for start, end in [((line, column), (last, end_column))]
    ]
    around = [
        node
        for node in nodes
        if places and all(_begin(node) <= start and end <= _end(node) for start, end in places)
    ]
    # Of functions inside of each other, the innermost is meant.
    around.sort(key=lambda node: (_begin(node), tuple(-each for each in _end(node))))
    return around[-1] if around else None


def _begin(node: Any) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _end(node: Any) -> tuple[int, int]:
    return node.end_lineno, node.end_col_offset


@lru_cache(maxsize=4_096)
def _of_nodes(
    nodes: tuple[ast.AST, ...], lines: tuple[str, ...], free: tuple[str, ...] = ()
) -> Source:
    shown = "\n".join(_segment(lines, node) for node in nodes)
    bare = [_without_decorators(node) for node in nodes]
    return Source(
        "".join(map(canonical, bare)),
        shown,
        names_read(bare, free),
        MappingProxyType(_uses(bare)),
        imports_in(bare),
    )


def _segment(lines: Sequence[str], node: ast.AST) -> str:
    """Return the source of a syntax tree, as `ast.get_source_segment` does, which reads the whole file for it."""
    (first, begin), (last, end) = _begin(node), _end(node)
    some = [line.encode() for line in lines[first - 1 : last]]
    some[-1] = some[-1][:end]  # before the first line is cut, which may be the same
    some[0] = some[0][begin:]
    return b"".join(some).decode()


def _without_decorators(node: ast.AST) -> ast.AST:
    """Return the tree of a function without its decorators, which are what is called, if anything is left of them."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.decorator_list:
        copied: dict[str, Any] = {name: getattr(node, name, None) for name in node._fields}
        return type(node)(**{**copied, "decorator_list": []})
    return node


def _of_bytecode(code: CodeType) -> Source:
    digest = hashlib.sha256(marshal.dumps(_plain(code), 2)).hexdigest()
    version = "{}.{}".format(*sys.version_info)
    instructions = [[*dis.get_instructions(each)] for each in _codes(code)]
    names = frozenset(
        str(each.argval)
        for some in instructions
        for each in some
        if each.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
    )
    return Source(
        f"bytecode {version} {digest}",
        f"<bytecode of {code.co_name}>",
        names,
        dict.fromkeys(names, frozenset({()})),
        tuple(each for some in instructions for each in _imports_of(some)),
    )


def _imports_of(instructions: Sequence[dis.Instruction]) -> Iterator[Import]:
    """Yield what bytecode imports. Before each import, it loads the number of dots, and the names or None."""
    plain = [each for each in instructions if each.opname != "EXTENDED_ARG"]
    for (level, names), importing in zip(pairwise(plain), plain[2:], strict=False):
        if importing.opname == "IMPORT_NAME":
            base = str(importing.argval)
            yield Import(base, frozenset(names.argval or ()), level.argval, not names.argval)


def _plain(code: CodeType) -> tuple[Any, ...]:
    """Return what a code object does, without where it was written."""
    constants = tuple(_plain(c) if isinstance(c, CodeType) else c for c in code.co_consts)
    return (
        code.co_code,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        constants,
    )
