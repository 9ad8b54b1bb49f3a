"""Where the workflow lives: the directory whose modules it can import."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

__all__ = ["find_workflow_directory", "workflow_directory"]


def workflow_directory() -> Path | None:
    """Find the directory of the running workflow.

    Returns
    -------
    Path or None
        The directory of the script that Python runs, the current directory in a notebook or an interpreter, and
        None where nothing can be imported from either.
    """
    return find_workflow_directory(sys.modules["__main__"], sys.path, sys.prefix, Path.cwd())


def find_workflow_directory(
    main: ModuleType, path: Sequence[str], prefix: str, cwd: Path
) -> Path | None:
    """Apply the rule of `workflow_directory` to what it reads from the process.

    Parameters
    ----------
    main : ModuleType
        The module ``__main__``.
    path : sequence of str
        ``sys.path``.
    prefix : str
        ``sys.prefix``. What runs from below it is a tool (pytest, jupyter), not a workflow.
    cwd : Path
        The current directory.
    """
    script = getattr(main, "__file__", None)
    # Under `python -m` there is a spec, and modules are found from the current directory.
    if script and getattr(main, "__spec__", None) is None:
        directory = Path(script).resolve().parent
        if not directory.is_relative_to(Path(prefix).resolve()):
            return directory
    cwd = cwd.resolve()
    return cwd if any(Path(entry).resolve() == cwd for entry in path) else None
