"""Run a workflow the way Python runs a script."""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType, NoneType, TracebackType

from scalable.cli.failures import exit_status

__all__ = ["Outcome", "compile_script", "find_other_target", "run_script", "trim_tracebacks"]

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
    try:
        yield main
    finally:
        sys.modules["__main__"], sys.argv, sys.path[:] = before


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
