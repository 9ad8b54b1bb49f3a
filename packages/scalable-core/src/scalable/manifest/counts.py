"""Whether the numbers of workers that a target asks for fit under its cap.

What a provider has to check for itself, the kinds of the values, is taken for granted here: a value of another kind is
passed over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from scalable.manifest.paths import KeyPath

__all__ = ["find_misfits", "least_workers"]


def least_workers(options: Mapping[str, Any], groups: Collection[str]) -> dict[str, int]:
    """Say how many workers each group of a target has at least.

    The first of these that says something about a group decides: ``workers``, ``adaptive``, ``n_workers``; with
    ``max_workers`` alone a group may be empty, and without anything it has one worker.

    Parameters
    ----------
    options : mapping
        What the target says.
    groups : collection of str
        The components.

    Examples
    --------
    >>> least_workers({"workers": {"gcam": 3}, "adaptive": {"minimum": 1, "maximum": 9}}, ["gcam", "fair"])
    {'gcam': 3, 'fair': 1}
    """
    workers = options.get("workers")
    by_tag = workers if isinstance(workers, Mapping) else {}
    adaptive, n_workers = options.get("adaptive"), options.get("n_workers")
    otherwise = 1 if options.get("max_workers") is None else 0
    least = {}
    for group in groups:
        says = (by_tag.get(group), _count(workers), adaptive, n_workers)
        decides = next((value for value in says if value is not None), otherwise)
        least[group] = _minimum(decides)
    return least


def find_misfits(
    options: Mapping[str, Any], groups: Collection[str]
) -> Iterator[tuple[KeyPath, str]]:
    """Find counts of a target that cannot be: the path inside the target, and the message.

    Messages show no numbers, which may have come from the environment.

    Examples
    --------
    >>> for path, message in find_misfits({"workers": {"gcam": 3}, "max_workers": 2}, ["gcam"]):
    ...     print(*path, "|", message)
    workers gcam | is above max_workers, the cap on all groups together; lower it or raise max_workers
    """
    cap = _count(options.get("max_workers"))
    found = False
    for path, value in _counts(options):
        if isinstance(value, Mapping):
            low, high = _count(value.get("minimum")), _count(value.get("maximum"))
            if low is not None and high is not None and low > high:
                found = True
                yield (*path, "minimum"), "is above the maximum; lower it or raise the maximum"
            path, count = (*path, "minimum"), low
        else:
            count = _count(value)
        if cap is not None and count is not None and count > cap:
            found = True
            yield (
                path,
                "is above max_workers, the cap on all groups together; lower it or raise max_workers",
            )
    if cap is not None and not found and sum(least_workers(options, groups).values()) > cap:
        yield (
            ("max_workers",),
            "is below what the groups ask for together; raise it or ask for less",
        )


def _counts(options: Mapping[str, Any]) -> Iterator[tuple[KeyPath, Any]]:
    """Give every count and range of a target."""
    workers = options.get("workers")
    if isinstance(workers, Mapping):
        yield from ((("workers", str(tag)), value) for tag, value in workers.items())
    else:
        yield ("workers",), workers
    yield ("n_workers",), options.get("n_workers")
    yield ("adaptive",), options.get("adaptive")


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _minimum(value: object) -> int:
    return _count(value.get("minimum") if isinstance(value, Mapping) else value) or 0
