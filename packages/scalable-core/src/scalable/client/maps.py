"""Dask's `map`, whose calls may share large keyword arguments."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dask.base import tokenize
from dask.sizeof import sizeof
from distributed import Client, Future

__all__ = ["LARGE", "is_large", "map_calls"]

LARGE = 1e5
"""Bytes of a keyword argument above which Dask makes it a task of its own, which the calls of a map share."""

_OF_TASKS = ("resources", "workers", "allow_other_workers", "retries", "priority", "fifo_timeout")
"""The options that hold for such a task as well."""


def is_large(value: object) -> bool:
    """Return whether Dask would make a task of a keyword argument of a map.

    Examples
    --------
    >>> is_large("ssp2"), is_large(bytes(200_000))
    (False, True)
    """
    return bool(sizeof(value) > LARGE)


def map_calls(
    client: Client,
    func: Callable[..., Any],
    iterables: Iterable[Any],
    kwargs: Mapping[str, Any],
    **options: Any,
) -> list[Future[Any]]:
    """Submit calls as Dask's `map` does, and return their futures.

    Dask's own task of a large keyword argument has the name of the argument, which is the same in other maps, and no
    priority, on which the scheduler fails. Here it is a task like others.

    Parameters
    ----------
    client : Client
        Whose calls they are.
    func : callable
        The function.
    iterables : iterable of iterable
        Its arguments, element by element.
    kwargs : mapping of str to object
        Its keyword arguments.
    **options
        Of ``distributed.Client.map``.
    """
    shared = {name: options[name] for name in _OF_TASKS if name in options}
    arguments: dict[str, Any] = {
        name: Client.submit(
            client,
            *(operator.getitem, [value], 0),  # the value itself
            key=f"argument-{name}-{tokenize(value, shared.get('resources'))}",
            **shared,
        )
        if is_large(value)
        else value
        for name, value in kwargs.items()
    }
    futures: list[Future[Any]] = Client.map(client, func, *iterables, **options, **arguments)
    return futures
