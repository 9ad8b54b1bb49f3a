"""What a change of the number of workers makes of a plan. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from scalable.errors import UnknownTagError
from scalable.providers.base import ScalePlan

__all__ = ["changed_plan"]


def changed_plan(
    plan: ScalePlan,
    known: Collection[str],
    *,
    workers: Mapping[str, int] | None = None,
    ranges: Mapping[str, tuple[int, int]] | None = None,
) -> ScalePlan:
    """Return a plan with other counts or ranges for some groups.

    Parameters
    ----------
    plan : ScalePlan
        The plan so far.
    known : collection of str
        The tags that there are.
    workers : mapping of str to int, optional
        Counts by tag; such a group is not adaptive any more.
    ranges : mapping of str to (int, int), optional
        Minima and maxima by tag.

    Raises
    ------
    UnknownTagError
        There is no such group.

    Examples
    --------
    >>> plan = ScalePlan({"fair": 1}, {}, {"gcam": (0, 4)})
    >>> changed = changed_plan(plan, {"fair", "gcam"}, workers={"gcam": 2})
    >>> dict(changed.workers_by_tag), dict(changed.ranges_by_tag)
    ({'fair': 1, 'gcam': 2}, {})
    """
    workers, ranges = workers or {}, ranges or {}
    for tag in (*workers, *ranges):
        if tag not in known:
            raise UnknownTagError(tag, known)
    adaptive = {tag: bounds for tag, bounds in plan.ranges_by_tag.items() if tag not in workers}
    return replace(
        plan,
        # The cluster rejects negative counts; for the limit they cost nothing.
        workers_by_tag={
            **plan.workers_by_tag,
            **{tag: max(0, count) for tag, count in workers.items()},
        },
        ranges_by_tag={
            **adaptive,
            **{tag: (max(0, low), max(0, high)) for tag, (low, high) in ranges.items()},
        },
    )
