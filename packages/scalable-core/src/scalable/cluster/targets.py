"""The wanted count of each group, from what the user requested, the demand and the cap."""

from __future__ import annotations

from collections.abc import Mapping

from scalable.cluster.adaptive import AdaptivePolicy, share_out, target_workers
from scalable.cluster.group import Group
from scalable.cluster.link import Demand

__all__ = ["check_cap", "minimum_counts", "update_targets"]


def minimum_counts(groups: Mapping[str, Group]) -> dict[str, int]:
    """Return how many workers each group should have at least."""
    return {
        tag: group.wanted if group.range is None else group.range[0]
        for tag, group in groups.items()
    }


def check_cap(counts: Mapping[str, int], cap: int | None) -> None:
    """Raise ValueError for counts that exceed the cap together.

    Examples
    --------
    >>> check_cap({"a": 2, "b": 2}, 4)
    >>> check_cap({"a": 2, "b": 3}, 4)
    Traceback (most recent call last):
    ValueError: 5 workers are more than max_workers, which is 4; raise max_workers or ask for fewer
    """
    total = sum(counts.values())
    if cap is not None and total > cap:
        raise ValueError(
            f"{total} workers are more than max_workers, which is {cap}; "
            "raise max_workers or ask for fewer"
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
    least = minimum_counts(groups)
    desired = dict(least)
    for tag, group in groups.items():
        if group.range is not None:
            work = demand.get(tag, Demand())
            target = target_workers(work, group.spec.slots, policy.target_duration)
            # A worker whose walltime is nearly up needs another one to hand its results over to.
            successor = any(m.expires and m.holding for m in group.members.values())
            desired[tag] = min(max(target, group.range[0], successor), group.range[1])
        if group.failure is not None:
            # It gets no new workers, so the room for them is free for others.
            # Except for one at times, to see whether it could have some now.
            have = len(group.alive) + (now >= group.failures.retry_at)
            least[tag], desired[tag] = min(least[tag], have), min(desired[tag], have)
    shares = share_out(desired, least, cap)
    requested = sum(
        max(shares[tag], len(group.members) + group.unnamed) for tag, group in groups.items()
    )
    over_cap = cap is not None and requested > cap
    # A group without any worker does not wait for the scale-in delay of others.
    any_without = any(shares[tag] and not group.members for tag, group in groups.items())
    for tag, group in groups.items():
        if group.range is not None:
            work = demand.get(tag, Demand())
            delay = policy.waiting_delay if work.waiting else policy.scale_in_delay
            urgent = any_without or not work.slots
            wanted = _next_count(
                group, shares[tag], now, delay=delay, over_cap=over_cap, urgent=urgent
            )
            group.wanted = min(wanted, group.range[1])


def _next_count(
    group: Group, share: int, now: float, *, delay: float, over_cap: bool, urgent: bool
) -> int:
    """Return the next wanted count: grow at once; shrink after a delay, by busy workers only if others need room."""
    have = len(group.alive) + group.unnamed
    if share >= have:
        group.low_since = None
        return share
    if group.low_since is None:
        group.low_since = now
    overdue = now - group.low_since >= delay
    if over_cap and (overdue or urgent):
        return share
    if overdue or over_cap:
        idle = sum(member.idle for member in group.alive)
        return max(share, have - idle)
    return have
