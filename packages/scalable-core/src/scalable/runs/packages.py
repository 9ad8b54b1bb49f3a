"""The versions of the packages that a workflow imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

__all__ = ["imported_names", "workflow_packages"]

_MAX_FILES = 200


def workflow_packages(workflow: Path | None) -> dict[str, str]:
    """Return the versions of the packages that a script imports, or modules beside it that it imports.

    Nothing is imported. Without a script, as in a notebook, it is the packages that the main module has now.

    Parameters
    ----------
    workflow : Path or None
        The script.
    """
    if workflow is None:
        main = vars(sys.modules["__main__"]).values()
        names = {each.__name__.split(".")[0] for each in main if type(each) is type(sys)}
    else:
        names = set(_packages_of(workflow))
    versions = {}
    for name in sorted(names - {"__main__", *sys.stdlib_module_names}):
        if version := _version(name):
            versions[name] = version
    return versions


def imported_names(source: bytes) -> set[str]:
    r"""Return the top-level packages that a source imports anywhere; none for one that is not Python.

    Examples
    --------
    >>> sorted(imported_names(b"import numpy as np\ndef f():\n    from xarray.core import x\nfrom . import y"))
    ['numpy', 'xarray']
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return set()
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def _packages_of(workflow: Path) -> Iterator[str]:
    """Yield what a script imports that is not a module beside it, and what those import."""
    seen, left = {workflow}, [workflow]
    while left and len(seen) < _MAX_FILES:
        try:
            names = imported_names(left.pop().read_bytes())
        except OSError:
            continue
        for name in names:
            beside = [workflow.parent / f"{name}.py", *(workflow.parent / name).glob("*.py")]
            own = [path for path in beside if path.is_file()]
            left += [path for path in own if path not in seen]
            seen.update(own)
            if not own:
                yield name


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except (metadata.PackageNotFoundError, ValueError):
        # A distribution with another name than its package, such as PyYAML.
        version = getattr(sys.modules.get(name), "__version__", None)
        return version if isinstance(version, str) else None
