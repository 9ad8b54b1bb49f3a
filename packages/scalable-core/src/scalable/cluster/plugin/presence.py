"""Ends a cluster to which neither its controller nor any client is connected any more."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

__all__ = ["Presence"]

MAX_STEP = 5.0
"""The most seconds that count between two checks: time in which the scheduler did not run proves nothing."""

MIN_IDLE_TIMEOUT = 60.0
"""Seconds that a configured idle timeout is at least, because a controller may be slow to ask."""


class Presence:
    """Closes the scheduler, and its workers with it, after a time without its controller or any client.

    A client that was killed cannot close its cluster. Dask's own idle timeout would not do: it counts while the user
    thinks, too.

    Parameters
    ----------
    scheduler : Scheduler
        The scheduler. Dask's own timeouts that could end a session in use are turned off.
    orphan_timeout : float
        Seconds; 0 for never. A shorter idle timeout in Dask's configuration takes its place.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        orphan_timeout: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.scheduler = scheduler
        self.clock = clock
        limits = [orphan_timeout] if orphan_timeout else []
        if scheduler.idle_timeout:
            limits.append(max(scheduler.idle_timeout, MIN_IDLE_TIMEOUT))
        self.limit = min(limits, default=0.0)
        scheduler.idle_timeout = None
        scheduler.no_workers_timeout = None
        self.silence = 0.0
        self._checked_at = self.clock()
        # Whoever asks from outside whether it is idle, as the Dask operator does, would end a session in use.
        setattr(scheduler, "check_idle", self.idle_since)  # noqa: B010 - a method, as mypy sees it

    def idle_since(self) -> float:
        """Return the time of day since when neither was there, in place of when the scheduler had no tasks."""
        self.check()
        return time() - self.silence

    def note_controller(self) -> None:
        """Record that the controller has asked something."""
        self.silence = 0.0
        self._checked_at = self.clock()

    def check(self) -> None:
        """Close the scheduler if its time is up."""
        now = self.clock()
        self.silence += min(now - self._checked_at, MAX_STEP)
        self._checked_at = now
        if self.scheduler.client_comms:
            self.silence = 0.0
        if self.limit and self.silence > self.limit:
            self.limit = 0.0  # once
            reason = f"neither controller nor client for {self.silence:.0f} s"
            self.scheduler.loop.add_callback(self.scheduler.close, reason=reason)
