"""Results that this process cannot unpickle, apart from those that came with them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from scalable.cluster.plugin import in_one_line, passable, raise_unreadable

__all__ = ["Unreadable", "answer_without", "received_apart", "replace_unreadable"]

_apart: ContextVar[list[Unreadable] | None] = ContextVar("scalable_apart", default=None)


class Unreadable:
    """Stands for a result that cannot be unpickled.

    Parameters
    ----------
    error : Exception
        Why.
    """

    def __init__(self, error: Exception) -> None:
        self.error = error


@contextmanager
def received_apart() -> Iterator[list[Unreadable]]:
    """Within the block, have an `Unreadable` in the place of each result that cannot be unpickled; yields them.

    Elsewhere, the whole message cannot be read.
    """
    found: list[Unreadable] = []
    token = _apart.set(found)
    try:
        yield found
    finally:
        _apart.reset(token)


def replace_unreadable(error: BaseException) -> Any:
    """Return what takes the place of a result, whose unpickling has raised this error."""
    found = _apart.get()
    if found is None:
        raise_unreadable(error)
    found.append(Unreadable(_described(error)))
    return found[-1]


class _Keys(list[Any]):
    """The keys of such results, where Dask has those of results that it asks for again."""


def answer_without(found: Mapping[Any, Unreadable]) -> dict[str, Any]:
    """Return a response, to a gather, after which Dask asks the scheduler whether these tasks have finished."""
    logging.getLogger("distributed.client").addFilter(_is_about_others)  # once
    return {"status": "error", "keys": _Keys(found)}


def _is_about_others(record: logging.LogRecord) -> bool:
    """Return whether a message is not Dask's that such results are computed again, which they are not."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    return not any(isinstance(each, _Keys) for each in arguments)


def _described(error: BaseException) -> Exception:
    """Return the error that the future of such a result raises."""
    if isinstance(error, TypeError) and str(error).startswith("Could not serialize"):
        # Dask's text, from the worker, has the traceback there in it.
        text = in_one_line(error).removeprefix("TypeError: ")
        return TypeError(f"{text}; let the task return what can be pickled")
    failure = passable(error, "unpickling the result")
    if failure is error:
        failure.add_note("(raised while the result was unpickled in this process)")
    return failure
