"""Run a workflow the way Python runs a script."""

from __future__ import annotations

import ast
import atexit
import builtins
import os
import sys
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType, NoneType, TracebackType
from typing import NoReturn

from scalable.cli.failures import exit_status

__all__ = [
    "Mention",
    "Outcome",
    "compile_script",
    "find_mentions",
    "find_other_target",
    "run_script",
    "trim_tracebacks",
]

_HIDDEN_PACKAGES = frozenset(
    {"asyncio", "concurrent", "dask", "distributed", "scalable", "threading", "tornado"}
)


@dataclass(frozen=True)
class Outcome:
    """How a script ended.

    Parameters
    ----------
    code : int
        The exit status that Python would have given it.
    error : BaseException or None
        The exception that ended it, `SystemExit` aside.
    """

    code: int
    error: BaseException | None = None


def compile_script(path: Path) -> CodeType:
    """Compile a script.

    Raises
    ------
    OSError
        It cannot be read.
    SyntaxError, ValueError
        It is not valid Python.
    """
    return compile(path.read_bytes(), str(path.absolute()), "exec", dont_inherit=True)


def find_other_target(source: str | bytes, targets: Collection[str]) -> tuple[int, str] | None:
    """Find out, before anything is started, whether a script always requests a session on another target.

    Parameters
    ----------
    source : str or bytes
        The script. It must compile.
    targets : collection of str
        The targets that it may name.

    Returns
    -------
    tuple of int and str, or None
        The line and the target that it names there. None if it names one of `targets`, none at all, or one that
        cannot be read from the source.

    Examples
    --------
    >>> find_other_target('with ScalableSession.from_yaml(target="hpc") as client: ...', {"laptop"})
    (1, 'hpc')
    >>> find_other_target('with ScalableSession.from_yaml() as client: ...', {"laptop"})
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(
                ast.Attribute(attr="from_yaml"),
                [],  # a path may be that of another manifest
                [ast.keyword("target", ast.Constant(str(target)))],
            ) if target not in targets:
                found.append((node.lineno, target))
            case ast.Call(ast.Attribute(attr="from_yaml")):
                return None
    return min(found, default=None)


@dataclass(frozen=True)
class Mention:
    """A tag or a task that a script names in a call of its client.

    Parameters
    ----------
    line : int
        The line of the call.
    keyword : str
        ``tag`` or ``task``.
    name : str
        What it names.
    is_certain : bool
        Whether the call is made in any case, as far as the source shows: in no branch, loop or ``try``.
    """

    line: int
    keyword: str
    name: str
    is_certain: bool


def find_mentions(source: str | bytes) -> list[Mention]:
    r"""Find the tags and tasks that a script names, as far as its source shows, before anything is started.

    Parameters
    ----------
    source : str or bytes
        The script. It must compile.

    Examples
    --------
    >>> script = "with ScalableSession.from_yaml() as client:\n    client.submit(f, tag='gcam')"
    >>> find_mentions(script)
    [Mention(line=2, keyword='tag', name='gcam', is_certain=True)]
    """
    tree = ast.parse(source)
    clients, called = set(), set()
    for node, certain in _with_certainty(tree, True, ()):
        match node:
            case ast.withitem(ast.Call(ast.Attribute(attr="from_yaml")), ast.Name(name)):
                clients.add(name)
            case ast.Assign([ast.Name(name)], ast.Call(ast.Attribute(attr="start"), [], [])):
                clients.add(name)  # client = session.start()
            case ast.Call(ast.Name(name)) if certain:
                called.add(name)
    found = []
    for node, certain in _with_certainty(tree, True, called):
        match node:
            case ast.Call(ast.Attribute(ast.Name(name)), _, keywords) if name in clients:
                for keyword in keywords:
                    match keyword:
                        case ast.keyword("tag" | "task" as which, ast.Constant(str(named))):
                            found.append(Mention(node.lineno, which, named, certain))
    return found


_UNCERTAIN = (
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.Try,
    ast.TryStar,
    ast.Match,
    ast.ClassDef,
    ast.Lambda,
    ast.IfExp,
    ast.BoolOp,
    ast.GeneratorExp,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
)


def _with_certainty(
    node: ast.AST, certain: bool, called: Collection[str]
) -> Iterator[tuple[ast.AST, bool]]:
    """Yield a node and what is below it, each with whether it is run in any case.

    The body of a function is if its name is one of `called`.
    """
    yield node, certain
    match node:
        case ast.If(ast.Compare(ast.Name("__name__"))):
            pass
        case ast.If() | ast.With() | ast.AsyncWith() if not _is_session_block(node):
            certain = False
        case ast.FunctionDef(name) | ast.AsyncFunctionDef(name):
            certain = certain and name in called
        case _ if isinstance(node, _UNCERTAIN):
            certain = False
    for child in ast.iter_child_nodes(node):
        yield from _with_certainty(child, certain, called)


def _is_session_block(node: ast.AST) -> bool:
    """Return whether a node is a ``with`` of sessions alone; another one may suppress errors."""
    return isinstance(node, (ast.With, ast.AsyncWith)) and all(
        isinstance(item.context_expr, ast.Call)
        and isinstance(item.context_expr.func, ast.Attribute)
        and item.context_expr.func.attr == "from_yaml"
        for item in node.items
    )


def run_script(code: CodeType, path: Path, arguments: Sequence[str]) -> Outcome:
    """Run a compiled script as ``__main__``, in this process and on this thread.

    Parameters
    ----------
    code : CodeType
        From `compile_script`.
    path : Path
        Its path, as the user wrote it.
    arguments : sequence of str
        Its command-line arguments, ``sys.argv[1:]``.
    """
    process = os.getpid()
    outcome = _run(code, path, arguments)
    if os.getpid() != process:
        _end_fork(outcome)
    return outcome


def _run(code: CodeType, path: Path, arguments: Sequence[str]) -> Outcome:
    with _as_main(path, arguments) as main:
        try:
            exec(code, main.__dict__)  # noqa: S102 - the user asked to run it
        except SystemExit as error:
            if not isinstance(error.code, (int, NoneType)):
                print(error.code, file=sys.stderr)
            return Outcome(exit_status(error))
        except BaseException as error:  # noqa: BLE001 - returned to the caller, which shows it
            return Outcome(exit_status(error), error)
    return Outcome(0)


def _end_fork(outcome: Outcome) -> NoReturn:
    """End a fork that the script has made where its copy of the script ends. What follows, the run's process does."""
    if outcome.error is not None:
        trim_tracebacks(outcome.error)
        traceback.print_exception(outcome.error)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    # Not `sys.exit`, which would go on with what is to be closed and recorded.
    os._exit(outcome.code & 0xFF)


@contextmanager
def _as_main(path: Path, arguments: Sequence[str]) -> Iterator[ModuleType]:
    main = ModuleType("__main__")
    main.__file__ = str(path.absolute())
    main.__loader__ = SourceFileLoader("__main__", main.__file__)
    # As in a script: a __spec__ would mean `python -m`, and exec() would set __builtins__ to a dict.
    vars(main).update(__builtins__=builtins, __cached__=None, __package__=None, __spec__=None)
    before = sys.modules["__main__"], sys.argv, list(sys.path)
    sys.modules["__main__"] = main
    sys.argv = [str(path), *arguments]
    if not sys.flags.safe_path:
        # The script's directory replaces the entry that Python added for the `scalable` command.
        sys.path[:1] = [str(path.resolve().parent)]
    during = main, sys.argv
    try:
        yield main
    finally:
        sys.modules["__main__"], sys.argv, sys.path[:] = before
        # The last that is registered is called first: before what the script has registered, which may pickle.
        atexit.register(_become_main, *during)


def _become_main(main: ModuleType, argv: list[str]) -> None:
    """Let what Python calls at its end find the script in its place again."""
    sys.modules["__main__"], sys.argv = main, argv


def trim_tracebacks(error: BaseException) -> None:
    """Remove all but the user's frames from the tracebacks of an exception and of those that it is chained to.

    Frames of Scalable, of Dask and of the standard library's modules between them are removed; frames of other
    packages that the user's code called stay.
    """
    pending, seen = [error], set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        current.__traceback__ = _trimmed(current.__traceback__)
        pending += [e for e in (current.__cause__, current.__context__) if e is not None]
        if isinstance(current, BaseExceptionGroup):
            pending += current.exceptions


def _trimmed(tb: TracebackType | None) -> TracebackType | None:
    entries = []
    while tb is not None:
        entries.append(tb)
        tb = tb.tb_next
    kept = None
    for entry in reversed(entries):
        package = str(entry.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in _HIDDEN_PACKAGES:
            kept = TracebackType(kept, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return kept
