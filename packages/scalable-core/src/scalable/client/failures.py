"""Tasks that failed, beside the results of those that did not."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

from distributed import Future

__all__ = ["TaskFailure", "gather_with_failures"]


@dataclass(frozen=True)
class TaskFailure:
    """What `gather` returns in the place of a result, with ``errors="collect"``: the task has failed.

    Parameters
    ----------
    key : object
        The key of its future.
    error : BaseException
        Why, with the traceback of the task; ``raise failure.error`` raises it.
    """

    key: Any
    error: BaseException

    @property
    def reason(self) -> str:
        """Why, in one line.

        Examples
        --------
        >>> TaskFailure("simulate-1f", ValueError("no data")).reason
        'ValueError: no data'
        """
        return " ".join("".join(traceback.format_exception_only(self.error)).split())


async def gather_with_failures(
    gather: Callable[[dict[Any, Future[Any]]], Awaitable[dict[Any, Any]]], futures: Any
) -> tuple[Any, dict[Any, TaskFailure]]:
    """Return results and failures, nested as the futures are, and the failures by their key.

    Parameters
    ----------
    gather : callable
        Gathers a dictionary of futures, and does not raise if some have failed.
    futures : object
        A future, or lists, tuples, sets and dictionaries with futures.
    """
    by_key = {future.key: future for future in _futures_in(futures)}
    values = await gather(by_key)
    failures = {}
    for key, future in by_key.items():
        if future.status not in ("error", "cancelled", "lost"):
            continue
        waiting: Any = future.exception()  # an awaitable on the client's loop
        error = await waiting or CancelledError(str(key))
        failures[key] = TaskFailure(key, error)
    return _fill(futures, {**values, **failures}), failures


def _futures_in(value: Any) -> Iterator[Future[Any]]:
    if isinstance(value, Future):
        yield value
    elif type(value) in (list, tuple, set, frozenset):
        for each in value:
            yield from _futures_in(each)
    elif type(value) is dict:
        yield from _futures_in([*value.values()])


def _fill(value: Any, found: Mapping[Any, Any]) -> Any:
    if isinstance(value, Future):
        return found[value.key]
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(_fill(each, found) for each in value)
    if type(value) is dict:
        return {key: _fill(each, found) for key, each in value.items()}
    return value
