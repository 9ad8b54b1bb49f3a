"""Modules that a worker cannot import."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["explained"]

_MISSING = "No module named"


def explained(error: BaseException, worker: str, tags: Iterable[str]) -> Exception | None:
    """Return an error that says which worker cannot import a module, and what to do; None if it is another error.

    Parameters
    ----------
    error : BaseException
        What a task has raised.
    worker : str
        The worker's name.
    tags : iterable of str
        The components that the worker is for.

    Examples
    --------
    >>> print(explained(ModuleNotFoundError("No module named 'demeter'"), "gcam-1", ["gcam"]))
    No module named 'demeter' on worker gcam-1 of component 'gcam'; if it is your own, add it to project.modules in ...
    >>> print(explained(SyntaxError("'(' was never closed", ("/home/me/model.py", 3, 1, "f(")), "gcam-1", ["gcam"]))
    '(' was never closed (/home/me/model.py, line 3)
    """
    if isinstance(error, SyntaxError):
        return _with_text(error)
    text = str(error)
    if not isinstance(error, ModuleNotFoundError) or not text.startswith(_MISSING):
        return None
    component = "".join(f" of component {tag!r}" for tag in tags)
    return ModuleNotFoundError(
        f"{text} on worker {worker}{component}; if it is your own, add it to project.modules in the manifest, "
        "else install it where this component's workers run, or in its image",
        name=error.name,
        path=error.path,
    )


def _with_text(error: SyntaxError) -> Exception | None:
    """Return an error with the text of one that loses it when it is pickled by tblib, as Dask does."""
    if not (len(error.args) == 2 and isinstance(error.args[1], tuple)):
        return None
    text, (file, line, *_) = error.args
    return ImportError(f"{text} ({file}, line {line})", path=file)
