"""How long the workers of one group take to start, as measured. No I/O, no clock of its own."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from scalable.cluster.member import Member
from scalable.cluster.port import GroupSpec, Phase

__all__ = ["StartTime", "StartTimes"]


@dataclass(frozen=True)
class StartTime:
    """How long a start takes. Times are in seconds.

    Parameters
    ----------
    queue : float
        From the launch until the unit has its machine. Waiting costs nothing, and the unit can be withdrawn.
    boot : float or None
        From then until the Dask worker has joined. The machine is paid for. None where no start was measured yet, and
        the provider has no guess.
    """

    queue: float = 0.0
    boot: float | None = None

    @property
    def total(self) -> float:
        """Seconds from the launch until the worker has joined, as far as they are known."""
        return self.queue + (self.boot or 0.0)

    @property
    def mostly_waits(self) -> bool:
        """Whether most of a start is time in a queue, so that a launch costs little for the time that it takes."""
        return self.queue > (self.boot or 0.0)

    @property
    def is_known(self) -> bool:
        """Whether anything is known of it."""
        return self.boot is not None or self.mostly_waits


class StartTimes:
    """The most recent starts of one group.

    Parameters
    ----------
    spec : GroupSpec
        The group, with its provider's first guess.

    Attributes
    ----------
    usual : StartTime
        The median of the most recent starts; the guess where there was none.
    """

    def __init__(self, spec: GroupSpec) -> None:
        self._queues: deque[float] = deque(maxlen=_REMEMBERED)
        self._boots: deque[float] = deque(maxlen=_REMEMBERED)
        self.usual = StartTime(spec.expected_queue, spec.expected_boot)

    @property
    def has_measured(self) -> bool:
        """Whether any start was measured."""
        return bool(self._boots)

    def record_joined(self, member: Member, now: float) -> None:
        """Record the start of a worker that has joined now."""
        queued = member.state is not None and member.state.phase is Phase.PENDING
        # A worker may join before its unit was seen with a machine.
        since = member.running_since
        if since is None:
            since = now if queued else member.launched
        self._queues.append(since - member.launched)
        self._boots.append(now - since)
        self.usual = StartTime(statistics.median(self._queues), statistics.median(self._boots))

    def estimate(self, starting: Iterable[Member], now: float) -> StartTime:
        """Return how long the next start will take: as long as is usual, or as the longest one under way so far.

        Parameters
        ----------
        starting : iterable of Member
            The units whose workers have not joined yet.
        now : float
            Seconds on the controller's clock.
        """
        queue, boot = self.usual.queue, self.usual.boot
        for member in starting:
            if member.state is None:
                continue
            if member.state.phase is Phase.PENDING:
                waited = now - member.launched
                if waited >= _SHOWS_QUEUE:
                    queue = max(queue, waited)
            elif boot is not None and member.running_since is not None:
                boot = max(boot, now - member.running_since)
        return StartTime(queue, boot)


_REMEMBERED = 20
"""Starts that count, the most recent ones: conditions change within a day."""

_SHOWS_QUEUE = 10.0
"""Seconds that a unit must be pending to show that there is a queue. Schedulers start jobs at intervals of seconds."""
