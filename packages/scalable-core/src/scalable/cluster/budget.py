"""What a run may use, and a meter of what it has used. Pure: no I/O, no clock of its own, no Dask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import Any

from scalable.errors import LimitExceededError

__all__ = ["MOST_WORKERS", "WARNING_SHARE", "Budget", "Meter", "OnExceed", "largest_counts"]

MOST_WORKERS = 100_000
"""Workers that a cluster may be asked to have: far more than one Dask scheduler serves."""

WARNING_SHARE = 0.8
"""The part of a limit at which it is warned of."""


class OnExceed(StrEnum):
    """What happens once a limit on the use of a run is reached."""

    STOP_SCALING = "stop-scaling"
    """No more workers are started, not even for those that are lost; the others go on."""
    DRAIN = "drain"
    """Workers finish the tasks that they run, and leave; the other tasks fail."""
    ABORT = "abort"
    """Workers are removed at once, and the tasks fail."""


_CONSEQUENCES = {
    OnExceed.STOP_SCALING: "no more workers are started",
    OnExceed.DRAIN: "workers finish the tasks that they run, and leave",
    OnExceed.ABORT: "all workers are removed",
}


@dataclass(frozen=True)
class Budget:
    """What a run may use.

    Parameters
    ----------
    max_workers : int or None
        Workers of all groups at a time.
    max_hourly_cost : float or None
        Cost of an hour.
    max_cost : float or None
        Cost of the run.
    max_worker_hours : float or None
        Hours for which workers have machines, together.
    on_exceed : OnExceed
        What happens once one of the last two is reached.
    prices : mapping of str to float
        The price of one worker for one hour, by tag. A group that is left out has no known price.
    fixed_price : float or None
        The price of an hour of everything else, such as the scheduler; None if it is not known.
    currency : str
        The currency of the prices.

    Examples
    --------
    >>> budget = Budget(max_hourly_cost=5.0, prices={"gcam": 2.0}, fixed_price=0.5)
    >>> budget.affordable("gcam", {"gcam": 1})
    1
    """

    max_workers: int | None = None
    max_hourly_cost: float | None = None
    max_cost: float | None = None
    max_worker_hours: float | None = None
    on_exceed: OnExceed = OnExceed.STOP_SCALING
    prices: Mapping[str, float] = field(default_factory=dict)
    fixed_price: float | None = None
    currency: str = ""

    @property
    def is_limited(self) -> bool:
        """Whether there is any limit."""
        return any(limit is not None for limit in self._limits())

    def _limits(self) -> tuple[float | None, ...]:
        return self.max_workers, self.max_hourly_cost, self.max_cost, self.max_worker_hours

    def cap(self, workers: int | None) -> int | None:
        """Return the lower one of a cap on workers and its own; None if there is neither."""
        return min((each for each in (workers, self.max_workers) if each is not None), default=None)

    def hourly_cost(self, counts: Mapping[str, int]) -> float | None:
        """Return the cost of an hour with so many workers; None if a part of it is not known."""
        if self.fixed_price is None or any(n and t not in self.prices for t, n in counts.items()):
            return None
        return self.fixed_price + sum(self.prices[tag] * n for tag, n in counts.items() if n)

    def affordable(self, tag: str, counts: Mapping[str, int]) -> float:
        """Return how many more workers of a group may exist beside these; infinity without a limit."""
        if self.max_hourly_cost is None:
            return inf
        now = self.hourly_cost(counts)
        if now is None or tag not in self.prices:
            return 0
        price = self.prices[tag]
        # A sum of prices may be a rounding error above what it is.
        room = self.max_hourly_cost * (1 + 1e-9) - now
        return inf if not price and room >= 0 else max(0, int(room / price)) if price else 0

    def check(
        self, minima: Mapping[str, int], maxima: Mapping[str, int], cap: int | None = None
    ) -> None:
        """Raise LimitExceededError for counts that may exceed the limits on workers and on the cost of an hour.

        Parameters
        ----------
        minima, maxima : mapping of str to int
            The counts of each group; the same where they are fixed.
        cap : int, optional
            The most workers of all groups together, if there is one besides its own.
        """
        least = sum(minima.values())
        if self.max_workers is not None and least > self.max_workers:
            raise LimitExceededError(
                f"{least} workers are more than limits.max_workers, which is {self.max_workers}; "
                "ask for fewer, or raise the limit"
            )
        if self.max_hourly_cost is None:
            return
        price = self.prices.get
        largest = largest_counts(minima, maxima, lambda tag: price(tag, inf), self.cap(cap))
        cost = self.hourly_cost(largest)
        if cost is None or cost > self.max_hourly_cost * (1 + 1e-9):
            what = "an unknown amount" if cost is None else f"{cost:.2f} {self.currency}".rstrip()
            raise LimitExceededError(
                f"the workers may cost {what} an hour, and limits.max_hourly_cost is "
                f"{self.max_hourly_cost:g}; ask for fewer, or raise the limit"
            )


def largest_counts(
    minima: Mapping[str, int],
    maxima: Mapping[str, int],
    price: Callable[[str], Any],
    cap: int | None,
) -> dict[str, int]:
    """Return the most expensive counts between minima and maxima, of at most `cap` workers.

    Examples
    --------
    >>> largest_counts({"a": 1, "b": 0}, {"a": 5, "b": 2}, {"a": 1, "b": 9}.get, cap=4)
    {'a': 2, 'b': 2}
    """
    counts = dict(minima)
    room = inf if cap is None else cap - sum(counts.values())
    for tag in sorted(maxima, key=price, reverse=True):
        more = max(0, int(min(maxima[tag] - counts.get(tag, 0), room)))
        counts[tag] = counts.get(tag, 0) + more
        room -= more
    return counts


class Meter:
    """Measures what a run uses, and tells when a limit is near or reached.

    Parameters
    ----------
    budget : Budget
        What the run may use.
    started : float
        When that which costs money besides workers was started: seconds, of the same clock as in `update`.

    Attributes
    ----------
    worker_hours : dict of str to float
        What was used so far, by group.
    exceeded : str
        The limit that was reached, in one line; empty before. It stays reached.

    Examples
    --------
    >>> meter = Meter(Budget(max_worker_hours=10, on_exceed=OnExceed.DRAIN), started=0.0)
    >>> meter.update({"gcam": 7.5 * 3600}, now=3600.0)
    []
    >>> meter.update({"gcam": 8.5 * 3600}, now=4000.0)
    ['85 % of limits.max_worker_hours are used: 8.5 of 10']
    >>> meter.update({"gcam": 10 * 3600}, now=4600.0)
    ['limits.max_worker_hours is reached: 10 of 10; workers finish the tasks that they run, and leave']
    """

    def __init__(self, budget: Budget, started: float) -> None:
        self.budget, self.started = budget, started
        self.worker_hours: dict[str, float] = {}
        self.exceeded = ""
        self._hours = 0.0
        self._reached = ""
        self._warned: set[str] = set()

    @property
    def cost(self) -> float | None:
        """What was used so far costs this; None if a part of it is not known."""
        prices, fixed = self.budget.prices, self.budget.fixed_price
        if fixed is None or any(h and tag not in prices for tag, h in self.worker_hours.items()):
            return None
        workers = sum(prices[tag] * hours for tag, hours in self.worker_hours.items() if hours)
        return workers + fixed * self._hours

    def update(self, worker_seconds: Mapping[str, float], now: float) -> list[str]:
        """Record what was used until now, and return what is new about limits, in one line each.

        Parameters
        ----------
        worker_seconds : mapping of str to float
            For how long the workers of each group have had machines, together.
        now : float
            Seconds.
        """
        self.worker_hours = {tag: seconds / 3600 for tag, seconds in worker_seconds.items()}
        self._hours = max(0.0, now - self.started) / 3600
        return list(self._notices())

    def _notices(self) -> Iterator[str]:
        for name, used, most in self._use():
            amount = f"{used:.3g} of {most:g} {self.budget.currency if name == 'max_cost' else ''}"
            if used >= most and not self.exceeded:
                self._reached, self._warned = name, {*self._warned, name}
                self.exceeded = f"limits.{name} is reached: {amount.strip()}"
                yield f"{self.exceeded}; {_CONSEQUENCES[self.budget.on_exceed]}"
            elif used >= WARNING_SHARE * most and name not in self._warned and not self.exceeded:
                self._warned.add(name)
                yield f"{used / most:.0%} of limits.{name} are used: {amount.strip()}".replace(
                    "%", " %", 1
                )

    def _use(self) -> Iterator[tuple[str, float, float]]:
        """Yield each limit on the whole run, what of it is used, and what may be."""
        budget = self.budget
        if budget.max_worker_hours is not None:
            yield "max_worker_hours", sum(self.worker_hours.values()), budget.max_worker_hours
        if budget.max_cost is not None:
            # What is not known must have been refused before the start; if not, nothing is left of the limit.
            yield "max_cost", inf if self.cost is None else self.cost, budget.max_cost

    def to_dict(self) -> dict[str, Any]:
        """Return what was used, as JSON values: the cost, the limits, the one that was reached, and what followed."""
        names = ("max_workers", "max_hourly_cost", "max_cost", "max_worker_hours")
        limits = {name: getattr(self.budget, name) for name in names}
        return {
            "cost": None if self.cost is None else round(self.cost, 6),
            "currency": self.budget.currency or None,
            "limits": {name: limit for name, limit in limits.items() if limit is not None},
            "limit_reached": self._reached or None,
            "action": self.budget.on_exceed.value if self.exceeded else None,
        }
