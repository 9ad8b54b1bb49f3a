"""The directory of the workflow, whose modules it can import."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

__all__ = ["find_workflow_directory", "workflow_directory"]


def workflow_directory() -> Path | None:
    """Return the directory of the running workflow.

    Returns
    -------
    Path or None
        The directory of the script that Python runs, or the current directory in a notebook or an interpreter;
        None if nothing can be imported from there.
    """
    return find_workflow_directory(sys.modules["__main__"], sys.path, sys.prefix, Path.cwd())


def find_workflow_directory(
    main: ModuleType, path: Sequence[str], prefix: str, cwd: Path
) -> Path | None:
    """Return the workflow's directory for the given state of a process.

    Parameters
    ----------
    main : ModuleType
        The module ``__main__``.
    path : sequence of str
        ``sys.path``.
    prefix : str
        ``sys.prefix``. A script below it is a tool (pytest, jupyter), not a workflow.
    cwd : Path
        The current directory.
    """
    script = getattr(main, "__file__", None)
    # Under `python -m`, `__spec__` is set and modules are found in the current directory.
    if script and getattr(main, "__spec__", None) is None:
        directory = Path(script).resolve().parent
        if not directory.is_relative_to(Path(prefix).resolve()):
            return directory
    cwd = cwd.resolve()
    return cwd if any(Path(entry).resolve() == cwd for entry in path) else None
