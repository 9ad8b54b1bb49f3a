"""How many workers demand is worth, and for how long idle ones are kept: pure functions of times and counts.

A start takes time in a queue, which is free, and time to boot, which is paid for (`scalable.cluster.starts`). From it
follow all decisions that the user has not made by an explicit `AdaptivePolicy`:

* A group gets another worker when there is work for it for as long as it takes to boot. So a group pays for at most
  about as much time to boot as to work, and ends soon after the time that a start and the longest task take anyway.
* What the workers that it has will have done by the time that a new one could be there is no work for a new one.
* A task of unknown duration is assumed to take `ASSUMED_DURATION`, until there are workers to time some. Once tasks of
  its kind have run as long as a start takes, it is worth one. Where most of a start is time in a queue, it is at once:
  a job that turns out not to be needed is withdrawn while it waits.
* An idle worker is kept in proportion to what it took to get it, and the more of them there are, the shorter: of *n*
  workers, all are kept for 1/n of a start, one for the time of a whole start.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scalable.cluster.link import Demand
    from scalable.cluster.starts import StartTime

__all__ = [
    "AdaptivePolicy",
    "Peaks",
    "share_out",
    "target_duration",
    "target_workers",
    "workers_to_keep",
    "workers_worth_a_start",
]

CHEAP_START = 5.0
"""Seconds. Where a start takes no longer, workers are started without proof of work, and are not kept for longer."""

ASSUMED_DURATION = 8.0
"""Seconds that a task of unknown duration is assumed to take at least."""

FIRST_WORKERS = 4
"""Workers of a group at most, until one of them has shown how long a start takes."""

WAIT_SHARE = 0.1
"""Part of the time in a queue by which a group may end later, so that it asks for fewer workers."""


@dataclass(frozen=True)
class AdaptivePolicy:
    """How quickly adaptive groups follow demand. Times are in seconds.

    Parameters
    ----------
    target_duration : float or None
        A group gets enough workers to finish the work of known duration in this time, and a slot for each task of
        unknown duration. None derives the number from the time that a start takes: see `workers_worth_a_start`.
    scale_in_delay : float or None
        Workers without tasks are kept for this long. None keeps them in proportion to the time that a start takes, and
        for 5 s at least.
    waiting_delay : float
        The shortest time for which they are kept while tasks of the group wait for dependencies.
    """

    target_duration: float | None = None
    scale_in_delay: float | None = None
    waiting_delay: float = 60.0


# -- How many workers to have


def target_duration(policy: AdaptivePolicy, start: StartTime) -> float:
    """Return the seconds of work that make a worker worth its start.

    Examples
    --------
    >>> from scalable.cluster.starts import StartTime
    >>> [target_duration(AdaptivePolicy(), StartTime(boot=boot)) for boot in (None, 2.0, 120.0)]
    [5.0, 5.0, 120.0]
    >>> target_duration(AdaptivePolicy(), StartTime(queue=600.0, boot=30.0))
    63.0
    >>> target_duration(AdaptivePolicy(target_duration=20.0), StartTime(boot=120.0))
    20.0
    """
    if policy.target_duration is not None:
        return policy.target_duration
    return max(CHEAP_START, start.boot or 0.0, WAIT_SHARE * start.total)


def target_workers(demand: Demand, slots: int, duration: float) -> int:
    """Return the number of workers that would finish the work in `duration` seconds.

    A task of unknown duration counts as if it took all of that time, which is a slot of its own.

    Examples
    --------
    >>> from scalable.cluster.link import Demand
    >>> target_workers(Demand(slots=100, seconds=20.0), slots=2, duration=5.0)
    2
    >>> target_workers(Demand(slots=3, unknown=3), slots=1, duration=5.0)
    3
    >>> target_workers(Demand(slots=1, seconds=0.001), slots=4, duration=5.0)
    1
    >>> target_workers(Demand(), slots=4, duration=5.0)
    0
    """
    return _workers(demand, slots, demand.seconds + demand.unknown * duration, duration)


def workers_worth_a_start(
    demand: Demand, slots: int, policy: AdaptivePolicy, start: StartTime, *, have: int, joined: int
) -> int:
    """Return the number of workers for which there is enough work; at least 1 if there is any.

    Workers that exist are worth less work than new ones, so that a group does not swing between two numbers.

    Parameters
    ----------
    demand : Demand
        The work.
    slots : int
        Slots of each worker.
    policy : AdaptivePolicy
        What the user has decided.
    start : StartTime
        How long a start takes.
    have, joined : int
        Workers that the group has, those that are still starting included; and those that have joined.

    Examples
    --------
    Of 60 tasks about which nothing is known, four are worth a start of 2 minutes ...

    >>> from scalable.cluster.link import Demand
    >>> from scalable.cluster.starts import StartTime
    >>> start, policy = StartTime(boot=120.0), AdaptivePolicy()
    >>> workers_worth_a_start(Demand(slots=60, unknown=60), 1, policy, start, have=0, joined=0)
    4

    ... and all of them once the first ones have run for as long.

    >>> work = Demand(slots=60, unknown=60, proven=60 * 120.0)
    >>> workers_worth_a_start(work, 1, policy, start, have=4, joined=4)
    60

    If they turn out to be short, the four workers will have finished most of them before a fifth one could join.

    >>> workers_worth_a_start(Demand(slots=56, seconds=560.0), 1, policy, start, have=4, joined=4)
    4

    A queue is free to wait in.

    >>> start = StartTime(queue=600.0, boot=30.0)
    >>> workers_worth_a_start(Demand(slots=60, unknown=60), 1, policy, start, have=0, joined=0)
    60
    """
    duration = target_duration(policy, start)
    if policy.target_duration is not None:
        return target_workers(demand, slots, duration)
    assumed = ASSUMED_DURATION
    if start.mostly_waits:
        assumed = duration  # waiting needs no proof
    elif joined and start.total > CHEAP_START:
        assumed = 0.0  # the workers are about to show how long the tasks take
    unknown = max(demand.unknown * assumed, demand.proven)
    done_meanwhile = joined * slots * start.total
    worth = _workers(demand, slots, max(0.0, demand.seconds - done_meanwhile) + unknown, duration)
    if not start.is_known:
        worth = min(worth, FIRST_WORKERS)
    # A slot that exists may take any task.
    most = demand.seconds + max(unknown, demand.unknown * duration)
    return max(worth, min(have, _workers(demand, slots, most, duration)))


def _workers(demand: Demand, slots: int, seconds: float, duration: float) -> int:
    """Return how many workers have `duration` seconds to do in each slot: 1 at least, and no more than tasks need."""
    if not demand.slots:
        return 0
    by_time = math.ceil(seconds / (duration * slots))
    by_count = math.ceil(demand.slots / slots)
    return max(1, min(by_time, by_count))


# -- How long to keep them


class Peaks:
    """A count as it changes, and when it was last as high as a number.

    Examples
    --------
    >>> needed = Peaks()
    >>> for now, count in enumerate([4, 1, 2, 0]):
    ...     needed.record(count, now=float(now))
    >>> [needed.seconds_since(n, now=10.0) for n in (1, 2, 3, 4, 5)]
    [8.0, 8.0, 10.0, 10.0, inf]
    """

    def __init__(self) -> None:
        # Counts in falling and times in rising order: what a later count exceeds will never be looked up again.
        self._reached: list[tuple[int, float]] = []

    def __bool__(self) -> bool:
        return bool(self._reached)

    def record(self, count: int, now: float) -> None:
        """Record the count at one time, no earlier than those before."""
        while self._reached and self._reached[-1][0] <= count:
            self._reached.pop()
        self._reached.append((count, now))

    def seconds_since(self, count: int, now: float) -> float:
        """Return the seconds since it was `count` or more; infinite if it never was."""
        later = bisect_right(self._reached, -count, key=lambda reached: -reached[0])
        return now - self._reached[later - 1][1] if later else math.inf


def workers_to_keep(
    share: int,
    have: int,
    needed: Peaks,
    used: Peaks,
    policy: AdaptivePolicy,
    start: StartTime,
    *,
    waiting: bool,
    now: float,
) -> int:
    """Return how many workers to keep of those that a group has, busy or not.

    Parameters
    ----------
    share, have : int
        Workers that it should have by demand, and those that it has.
    needed, used : Peaks
        How many demand has called for until now; and how many it has called for or were busy.
    policy : AdaptivePolicy
        What the user has decided.
    start : StartTime
        How long a start takes.
    waiting : bool
        Whether tasks of the group wait for dependencies.
    now : float
        Seconds on the controller's clock.

    Examples
    --------
    Workers that took two minutes to start leave one by one.

    >>> from scalable.cluster.starts import StartTime
    >>> peaks, policy, start = Peaks(), AdaptivePolicy(), StartTime(boot=120.0)
    >>> peaks.record(4, now=0.0), peaks.record(0, now=0.0)
    (None, None)
    >>> [
    ...     workers_to_keep(0, 4, peaks, peaks, policy, start, waiting=False, now=now)
    ...     for now in (20.0, 35.0, 50.0, 90.0, 120.0)
    ... ]
    [4, 3, 2, 1, 0]
    """
    if needed.seconds_since(have, now) < shortest_delay(policy, waiting):
        return have
    count = have
    while count > share:
        if used.seconds_since(count, now) < _patience(policy, start, count - share):
            break
        count -= 1
    return count


def shortest_delay(policy: AdaptivePolicy, waiting: bool) -> float:
    """Return the seconds for which a group keeps all its workers after demand has called for them.

    Examples
    --------
    >>> [shortest_delay(AdaptivePolicy(scale_in_delay=delay), waiting=False) for delay in (None, 1.0)]
    [5.0, 1.0]
    >>> shortest_delay(AdaptivePolicy(), waiting=True)
    60.0
    """
    delay = CHEAP_START if policy.scale_in_delay is None else policy.scale_in_delay
    return max(delay, policy.waiting_delay) if waiting else delay


def _patience(policy: AdaptivePolicy, start: StartTime, surplus: int) -> float:
    """Return the seconds for which the last of some surplus workers may be idle."""
    if policy.scale_in_delay is not None:
        return policy.scale_in_delay
    return start.total / surplus if start.total > CHEAP_START else 0.0


# -- How a cap is shared


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
