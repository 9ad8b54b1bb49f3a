"""The wanted count of each group, from what the user requested, the demand and the cap."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import SupportsIndex

from scalable.cluster.adaptive import (
    CHEAP_START,
    AdaptivePolicy,
    share_out,
    shortest_delay,
    workers_to_keep,
    workers_worth_a_start,
)
from scalable.cluster.budget import MOST_WORKERS
from scalable.cluster.group import Group
from scalable.cluster.link import Demand
from scalable.cluster.starts import StartTime

__all__ = [
    "check_cap",
    "checked_count",
    "checked_counts",
    "checked_ranges",
    "minimum_counts",
    "update_targets",
]


def checked_count(count: object, of: str) -> int:
    """Return a count of workers as an int; raise TypeError for what is no whole number, as `n / 2` is none.

    Examples
    --------
    >>> checked_count(2, "worker group 'gcam'")
    2
    >>> checked_count(5 / 2, "worker group 'gcam'")
    Traceback (most recent call last):
    ...
    TypeError: worker group 'gcam' cannot have 2.5 workers; ask for a whole number
    """
    if not isinstance(count, SupportsIndex):
        raise TypeError(f"{of} cannot have {count!r} workers; ask for a whole number")
    return operator.index(count)


def checked_counts(counts: object) -> dict[str, int]:
    """Return counts of workers by tag; raise TypeError for what has no tags, as one number has none.

    Examples
    --------
    >>> checked_counts(3)
    Traceback (most recent call last):
    ...
    TypeError: 3 does not say which worker group; give counts by tag, such as {'gcam': 2}
    """
    if not isinstance(counts, Mapping):
        raise TypeError(
            f"{counts!r} does not say which worker group; give counts by tag, such as {{'gcam': 2}}"
        )
    return {tag: checked_count(n, f"worker group {tag!r}") for tag, n in counts.items()}


def checked_ranges(ranges: object) -> dict[str, tuple[int, int]]:
    """Return minima and maxima of workers by tag; raise TypeError for anything else.

    Examples
    --------
    >>> checked_ranges({"gcam": [0, 4]})
    {'gcam': (0, 4)}
    >>> checked_ranges({"gcam": 4})
    Traceback (most recent call last):
    ...
    TypeError: worker group 'gcam' cannot adapt between 4; give its minimum and maximum, such as (0, 4)
    """
    if not isinstance(ranges, Mapping):
        raise TypeError(
            f"{ranges!r} does not say which worker group; give ranges by tag, such as {{'gcam': (0, 4)}}"
        )
    checked = {}
    for tag, bounds in ranges.items():
        if not isinstance(bounds, Sequence) or len(bounds) != 2:
            raise TypeError(
                f"worker group {tag!r} cannot adapt between {bounds!r}; "
                "give its minimum and maximum, such as (0, 4)"
            )
        low, high = (checked_count(bound, f"worker group {tag!r}") for bound in bounds)
        checked[tag] = (low, high)
    return checked


def minimum_counts(groups: Mapping[str, Group]) -> dict[str, int]:
    """Return how many workers each group should have at least."""
    return {
        tag: group.wanted if group.range is None else group.range[0]
        for tag, group in groups.items()
    }


def check_cap(counts: Mapping[str, int], cap: int | None) -> None:
    """Raise ValueError for counts that exceed the cap together, or are more than any cluster can have.

    Examples
    --------
    >>> check_cap({"a": 2, "b": 2}, 4)
    >>> check_cap({"a": 2, "b": 3}, 4)
    Traceback (most recent call last):
    ValueError: 5 workers are more than max_workers, which is 4; raise max_workers or ask for fewer
    >>> check_cap({"a": 10**9}, None)
    Traceback (most recent call last):
    ValueError: 1000000000 workers are more than one Dask scheduler can serve; ask for 100000 at most
    """
    total = sum(counts.values())
    if cap is not None and total > cap:
        raise ValueError(
            f"{total} workers are more than max_workers, which is {cap}; "
            "raise max_workers or ask for fewer"
        )
    if total > MOST_WORKERS:
        raise ValueError(
            f"{total} workers are more than one Dask scheduler can serve; ask for {MOST_WORKERS} at most"
        )


def update_targets(
    groups: Mapping[str, Group],
    demand: Mapping[str, Demand],
    policy: AdaptivePolicy,
    cap: int | None,
    now: float,
) -> None:
    """Set the wanted count of each adaptive group, from demand, its range and the cap.

    Parameters
    ----------
    groups : mapping of str to Group
        All groups by tag, those of fixed counts included.
    demand : mapping of str to Demand
        The work, by tag.
    policy : AdaptivePolicy
        How quickly groups follow it.
    cap : int or None
        The most units of all groups together.
    now : float
        Seconds on the controller's clock.

    Examples
    --------
    >>> from scalable.cluster.port import GroupSpec
    >>> group = Group(GroupSpec("gcam", slots=2), range=(0, 10))
    >>> work = {"gcam": Demand(slots=8, unknown=8)}
    >>> update_targets({"gcam": group}, work, AdaptivePolicy(), cap=3, now=0.0)
    >>> group.wanted
    3
    """
    least, desired = _desired_counts(groups, demand, policy, now)
    shares = share_out(desired, least, cap)
    requested = sum(max(shares[tag], group.staying) for tag, group in groups.items())
    excess = 0 if cap is None else max(0, requested - cap)
    # A group without any worker does not wait for the scale-in delay of others.
    any_without = any(shares[tag] and not group.members for tag, group in groups.items())
    _note_unclaimed(groups, demand, now)
    for tag, group in groups.items():
        if group.range is not None:
            work = demand.get(tag, Demand())
            urgent = any_without or not work.slots
            wanted = _next_count(
                group,
                shares[tag],
                group.policy or policy,
                now,
                waiting=work.waiting > 0,
                excess=excess,
                urgent=urgent,
            )
            group.wanted = min(wanted, group.range[1])


def _desired_counts(
    groups: Mapping[str, Group], demand: Mapping[str, Demand], policy: AdaptivePolicy, now: float
) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many workers each group should have at least, and how many by its work."""
    least = minimum_counts(groups)
    desired = dict(least)
    for tag, group in groups.items():
        if group.range is not None:
            desired[tag] = _desired_count(
                group, group.range, demand.get(tag, Demand()), group.policy or policy, now
            )
        if group.failure is not None:
            # It gets no new workers, so the room for them is free for others.
            # Except for one at times, to see whether it could have some now.
            have = len(group.alive) + (now >= group.failures.retry_at)
            least[tag], desired[tag] = min(least[tag], have), min(desired[tag], have)
    return least, desired


def _note_unclaimed(groups: Mapping[str, Group], demand: Mapping[str, Demand], now: float) -> None:
    """Record which groups have work and are to have no worker, and since when."""
    no_workers = not any(group.wanted or group.alive for group in groups.values())
    for tag, group in groups.items():
        work = demand.get(tag, Demand())
        group.unclaimed = _unclaimed_slots(group, work, no_workers=no_workers)
        if not group.unclaimed:
            group.unclaimed_since = None
        elif group.unclaimed_since is None:
            group.unclaimed_since = now


def _unclaimed_slots(group: Group, work: Demand, *, no_workers: bool) -> float:
    """Return how many slots of work wait for a group that has no worker and is to have none.

    Parameters
    ----------
    group : Group
        The group.
    work : Demand
        The work for it.
    no_workers : bool
        Whether no group has a worker, so that tasks without a tag wait as well.

    Examples
    --------
    >>> from scalable.cluster.port import GroupSpec
    >>> _unclaimed_slots(Group(GroupSpec("gcam")), Demand(slots=5, tagged=3), no_workers=False)
    3
    >>> _unclaimed_slots(Group(GroupSpec("gcam"), wanted=1), Demand(slots=5, tagged=3), no_workers=False)
    0.0
    """
    if group.most or group.alive or group.failure is not None:
        return 0.0
    return work.slots if no_workers else work.tagged


def _desired_count(
    group: Group, bounds: tuple[int, int], work: Demand, policy: AdaptivePolicy, now: float
) -> int:
    """Return how many workers a group should have by its work, within its bounds, and record why not more."""
    low, high = bounds
    slots, start = group.spec.slots, group.start_time(now)
    alive = group.alive
    have = len(alive) + group.unnamed
    joined = sum(member.joined_at is not None for member in alive)
    count = workers_worth_a_start(work, slots, policy, start, have=have, joined=joined)
    # A worker whose walltime is nearly up needs another one to hand its results over to.
    successor = any(m.expires and m.holding for m in group.members.values())
    count = min(max(count, low, successor), high)
    usable = min(math.ceil(work.slots / slots), high)
    group.deferred = ""
    if max(count, have) < usable and policy.target_duration is None:
        group.deferred = _explain_deferral(start)
    return count


def _explain_deferral(start: StartTime) -> str:
    """Return what a group waits for before it starts more workers, if that is for the time that a start takes.

    Examples
    --------
    >>> _explain_deferral(StartTime(boot=120.0))
    'more workers wait until the work is worth a start of 120 s'
    >>> _explain_deferral(StartTime())
    'more workers wait until the first ones show how long a start takes'
    >>> _explain_deferral(StartTime(boot=2.0))
    ''
    """
    if not start.is_known:
        return "more workers wait until the first ones show how long a start takes"
    if start.total <= CHEAP_START:
        return ""
    return f"more workers wait until the work is worth a start of {start.total:.0f} s"


def _next_count(
    group: Group,
    share: int,
    policy: AdaptivePolicy,
    now: float,
    *,
    waiting: bool,
    excess: int,
    urgent: bool,
) -> int:
    """Return the next wanted count: grow at once; shrink after a delay, or at once by what others need room for."""
    alive = group.alive
    have = len(alive) + group.unnamed
    idle = sum(member.idle for member in alive)
    if not group.needed:
        # What it had before it adapted is not surplus at once.
        group.needed.record(have, now)
        group.used.record(have, now)
    group.needed.record(share, now)
    group.used.record(max(share, len(alive) - idle), now)
    if share >= have:
        group.start_when_needed = group.start_time(now)
        return share
    if excess:
        overdue = group.needed.seconds_since(share + 1, now) >= shortest_delay(policy, waiting)
        return max(share, have - (excess if overdue or urgent else min(excess, idle)))
    keep = workers_to_keep(
        share,
        have,
        group.needed,
        group.used,
        policy,
        # Jobs that wait without need would make a start seem ever longer.
        max(group.starts.usual, group.start_when_needed, key=lambda start: start.total),
        waiting=waiting,
        now=now,
    )
    return max(keep, have - idle)
