"""The keys of calls that carry a tag, or that come after an edit of the user's modules.

They are those of Dask, made of what Dask makes them of, and the tag: the same pure call under two tags is two tasks.
So is the same call before and after the user has edited a module, which has a new version then, with or without a tag.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dask.base import tokenize

from scalable.cluster.dask_internals import function_name

__all__ = ["key_of_call", "key_prefix", "keys_of_map"]


def key_prefix(tag: str | None, func: Callable[..., Any]) -> str:
    """Return a key's prefix that includes the tag, so that Dask learns durations for each tag separately.

    Dask takes a key up to its first dash as its prefix. Tags contain neither colon nor dot, so none share a prefix.

    Examples
    --------
    >>> key_prefix("gcam-7", abs)
    'gcam:7.abs'
    """
    name = function_name(func)
    return name if tag is None else f"{tag.replace('-', ':')}.{name}"


def key_of_call(
    tag: str | None,
    n: float,
    func: Callable[..., Any],
    args: Iterable[Any],
    kwargs: Mapping[str, Any],
    *,
    pure: bool,
    version: str = "",
) -> str:
    """Return the key of a call.

    Examples
    --------
    >>> def key(tag, n, pure=True):
    ...     return key_of_call(tag, n, abs, [-1], {}, pure=pure)
    >>> key("gcam", 1) == key("gcam", 1)
    True
    >>> len({key("gcam", 1), key("gcam", 2), key("fair", 1), key("gcam", 1, pure=False)})
    4
    """
    where = _token_of_group(tag, n, version)
    token = tokenize(where, func, kwargs, *args) if pure else uuid.uuid4().hex
    return f"{key_prefix(tag, func)}-{token}"


def keys_of_map(
    tag: str | None,
    n: float,
    func: Callable[..., Any],
    calls: Iterable[Any],
    kwargs: Mapping[str, Any],
    *,
    pure: bool,
    prefix: object = None,
    version: str = "",
) -> list[str]:
    """Return the keys of the calls of a map, which begin with the prefix, if there is one.

    Examples
    --------
    >>> one, other = keys_of_map("gcam", 1, abs, [(-1,), (-2,)], {}, pure=True, prefix="year")
    >>> one.startswith("year-"), one == other
    (True, False)
    """
    prefix = prefix or key_prefix(tag, func)
    if not pure:
        this = uuid.uuid4().hex
        return [f"{prefix}-{this}-{number}" for number, _ in enumerate(calls)]
    common = tokenize(_token_of_group(tag, n, version), func, kwargs)
    return [f"{prefix}-{tokenize(common, call)}" for call in calls]


def _token_of_group(tag: str | None, n: float, version: str) -> tuple[object, ...]:
    return (tag, n, version) if version else (tag, n)
