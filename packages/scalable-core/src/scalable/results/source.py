"""What a function computes, as far as its source tells: the same for every interpreter, whatever its comments say.

The source is read from the file and compared with what Python runs: after an edit, the file says what will run in the
next process, and not what runs in this one. Where the two differ, or there is no source, the bytecode counts, which
is another one for each release of Python: then more is computed than need be.
"""

from __future__ import annotations

import ast
import hashlib
import linecache
import marshal
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any, NamedTuple

__all__ = [
    "Source",
    "bindings_of",
    "canonical",
    "names_read",
    "source_of_class",
    "source_of_function",
]


class Source(NamedTuple):
    """The source of a function or a class.

    Attributes
    ----------
    text : str
        What is compared, without comments and formatting.
    shown : str
        What people read.
    nodes : tuple of ast.AST
        Its syntax trees; none if only the bytecode is known.
    names : frozenset of str
        The names that it reads, some of which are global.
    """

    text: str
    shown: str
    nodes: tuple[ast.AST, ...]
    names: frozenset[str]


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
        parts.append(f"{type(value).__name__}:{value!r}")


def _is_empty(node: ast.AST) -> bool:
    """Return whether a part of an f-string is nothing: Python 3.12.1 has one after a nested format."""
    return isinstance(node, ast.Constant) and node.value == ""


def names_read(nodes: Iterable[ast.AST]) -> frozenset[str]:
    """Return the names that are read anywhere in syntax trees.

    Examples
    --------
    >>> sorted(names_read([ast.parse("def f(x): y = x + g(h.z)")]))
    ['g', 'h', 'x']
    """
    return frozenset(
        node.id
        for tree in nodes
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    )


def source_of_function(func: FunctionType) -> Source:
    """Return the source of a function, or its bytecode if the file does not have what runs."""
    code = func.__code__
    found = _find_code(code)
    return _of_bytecode(code) if found is None else found


def bindings_of(file: str, name: str) -> str:
    """Return the statements of a module that give a global name its value, without comments and formatting."""
    parsed = _parse(file, _lines(file))
    if parsed is None:
        return ""
    return "".join(
        canonical(statement)
        for statement in parsed.tree.body
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and any(
            isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
            for node in ast.walk(statement)
        )
    )


def source_of_class(cls: type) -> Source | None:
    """Return the source of a class, or None if the file does not have the methods that run."""
    functions = [*_functions_of(cls)]
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
        return _of_nodes(nodes, parsed.text) if running <= parsed.codes.keys() else None
    return None


def _functions_of(cls: type) -> Iterator[FunctionType]:
    for value in vars(cls).values():
        for each in (value, getattr(value, "__func__", None), getattr(value, "fget", None)):
            if isinstance(each, FunctionType):
                yield each


class _Parsed(NamedTuple):
    """A file: its text and tree, its code objects, and the trees that made them, by line and name, and of classes."""

    text: str
    tree: ast.Module
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
    parsed = _Parsed(text, tree, dict.fromkeys(_codes(compiled)), {}, {})
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
    return None if node is None else _of_nodes((node,), parsed.text)


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


def _of_nodes(nodes: tuple[ast.AST, ...], text: str) -> Source:
    shown = "\n".join(ast.get_source_segment(text, node) or "" for node in nodes)
    compared = "".join(canonical(_without_decorators(node)) for node in nodes)
    return Source(compared, shown, nodes, names_read(nodes))


def _without_decorators(node: ast.AST) -> ast.AST:
    """Return the tree of a function without its decorators, which are what is called, if anything is left of them."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.decorator_list:
        copied: dict[str, Any] = {name: getattr(node, name, None) for name in node._fields}
        return type(node)(**{**copied, "decorator_list": []})
    return node


def _of_bytecode(code: CodeType) -> Source:
    digest = hashlib.sha256(marshal.dumps(_plain(code), 2)).hexdigest()
    version = "{}.{}".format(*sys.version_info)
    names = frozenset(name for each in _codes(code) for name in each.co_names)
    return Source(f"bytecode {version} {digest}", f"<bytecode of {code.co_name}>", (), names)


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
