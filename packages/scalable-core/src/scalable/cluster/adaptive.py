"""The number of workers for each adaptive group: pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scalable.cluster.link import Demand

__all__ = ["AdaptivePolicy", "share_out", "target_workers"]


@dataclass(frozen=True)
class AdaptivePolicy:
    """How quickly adaptive groups follow demand. Times are in seconds.

    Parameters
    ----------
    target_duration : float
        A group gets enough workers to finish the work of known duration in this time. Should exceed the time that a
        worker takes to start; otherwise workers join when their work is done.
    scale_in_delay : float
        A group shrinks when it has been too large for this long without interruption.
    waiting_delay : float
        The same, while tasks of the group wait for dependencies.
    """

    target_duration: float = 5.0
    scale_in_delay: float = 5.0
    waiting_delay: float = 60.0


def target_workers(demand: Demand, slots: int, target_duration: float) -> int:
    """Return the number of workers that would finish the work in `target_duration`.

    A task of unknown duration counts as if it took all of that time, which is a slot of its own.

    Examples
    --------
    >>> from scalable.cluster.link import Demand
    >>> target_workers(Demand(slots=100, seconds=20.0), slots=2, target_duration=5.0)
    2
    >>> target_workers(Demand(slots=3, unknown=3), slots=1, target_duration=5.0)
    3
    >>> target_workers(Demand(slots=1, seconds=0.001), slots=4, target_duration=5.0)
    1
    >>> target_workers(Demand(), slots=4, target_duration=5.0)
    0
    """
    if not demand.slots:
        return 0
    seconds = demand.seconds + demand.unknown * target_duration
    by_time = math.ceil(seconds / (target_duration * slots))
    by_count = math.ceil(demand.slots / slots)
    return max(1, min(by_time, by_count))


def share_out(
    wanted: Mapping[str, int], floor: Mapping[str, int], cap: int | None
) -> dict[str, int]:
    """Return the number of workers for each group: what it wants, or a fair share of `cap`.

    Each group gets its floor. Then each group that has none but wants some gets one, in their order; the rest is
    shared in proportion to what is still wanted.

    Parameters
    ----------
    wanted, floor : mapping of str to int
        Workers by tag. The sum of the floors should not exceed `cap`.
    cap : int or None
        Workers in total; None for no limit.

    Examples
    --------
    >>> share_out({"a": 3, "b": 2}, {}, cap=8)
    {'a': 3, 'b': 2}
    >>> share_out({"a": 100, "b": 2}, {}, cap=4)
    {'a': 3, 'b': 1}
    >>> share_out({"a": 9, "b": 9}, {"b": 3}, cap=4)
    {'a': 1, 'b': 3}
    >>> share_out({"a": 1, "b": 1, "c": 1}, {}, cap=2)
    {'a': 1, 'b': 1, 'c': 0}
    """
    full = {tag: max(n, floor.get(tag, 0)) for tag, n in wanted.items()}
    if cap is None or sum(full.values()) <= cap:
        return full
    shares = {tag: min(floor.get(tag, 0), full[tag]) for tag in full}
    left = cap - sum(shares.values())
    for tag in shares:
        if left > 0 and shares[tag] == 0 and full[tag] > 0:
            shares[tag], left = 1, left - 1
    missing = {tag: full[tag] - shares[tag] for tag in full}
    total = sum(missing.values())
    if left <= 0 or not total:
        return shares
    exact = {tag: left * n / total for tag, n in missing.items()}
    for tag, share in exact.items():
        shares[tag] += math.floor(share)
    rest = left - sum(math.floor(share) for share in exact.values())
    # Largest remainders first; sorted() is stable, so ties keep the manifest's order.
    by_remainder = sorted(exact, key=lambda tag: math.floor(exact[tag]) - exact[tag])
    for tag in by_remainder[:rest]:
        shares[tag] += 1
    return shares
