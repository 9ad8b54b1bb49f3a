"""Which workers answer, as seen from the scheduler."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from distributed.core import Status

from scalable.cluster.plugin.dask_internals import (
    send_worker_status,
    set_scheduler_side_status,
    turn_off_worker_ttl,
)

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, WorkerState

__all__ = ["UNRESPONSIVE", "Liveness"]

UNRESPONSIVE = "unresponsive"
"""What is reported as the status of a worker that has been silent for too long."""

UNRESPONSIVE_AFTER = 60.0
"""Seconds of silence after which a worker gets no new tasks. Dask's workers send a heartbeat every few seconds."""

LONGEST_STEP = 2.0
"""Seconds that count at most between two ticks. In a longer time, the scheduler could not hear anybody either."""


class Liveness:
    """Measures how long workers have been silent, and gives no new tasks to those that have been for long.

    Silence alone ends nothing. A worker does not answer while a task holds the GIL or its process is frozen, and both
    may end well; whether its machine still exists is known to the controller. So Dask's own limit is taken away.

    Parameters
    ----------
    scheduler : Scheduler
        The scheduler that has the workers.

    Attributes
    ----------
    unresponsive_after : float
        Seconds of silence after which a worker gets no new tasks.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.unresponsive_after = UNRESPONSIVE_AFTER
        turn_off_worker_ttl(scheduler)
        self._ticked_at = monotonic()
        # Seconds for which this process has been awake, and their number at each worker's last heartbeat.
        self._awake = 0.0
        self._heard: dict[str, tuple[float, float]] = {}
        self._suspended: set[str] = set()

    def tick(self) -> None:
        """Note the heartbeats since the last tick; suspend workers that are silent, and resume those that answer."""
        now = monotonic()
        self._awake += min(now - self._ticked_at, LONGEST_STEP)
        self._ticked_at = now
        for address, ws in self.scheduler.workers.items():
            heard = self._heard.get(address)
            if heard is None or heard[0] != ws.last_seen:
                self._heard[address] = ws.last_seen, self._awake
            elif ws.status is Status.running and self.is_unresponsive(ws):
                set_scheduler_side_status(self.scheduler, ws, Status.paused)
                self._suspended.add(address)
        for address in list(self._suspended):
            ws = self.scheduler.workers[address]
            if ws.status is not Status.paused:
                self._suspended.discard(address)  # it drains
            elif not self.is_unresponsive(ws):
                self._suspended.discard(address)
                # The scheduler follows once the worker confirms. One that is short of memory pauses again at once.
                send_worker_status(self.scheduler, ws, Status.running)

    def silence(self, ws: WorkerState) -> float:
        """Return the seconds since a worker's last heartbeat in which it could have been heard."""
        heard = self._heard.get(ws.address)
        return 0.0 if heard is None or heard[0] != ws.last_seen else self._awake - heard[1]

    def is_unresponsive(self, ws: WorkerState) -> bool:
        """Return whether a worker has been silent for too long."""
        return self.silence(ws) >= self.unresponsive_after

    def status(self, ws: WorkerState) -> str:
        """Return a worker's status: Dask's name for it, or ``unresponsive``."""
        return UNRESPONSIVE if self.is_unresponsive(ws) else ws.status.name

    def forget_worker(self, address: str) -> None:
        """Forget a worker that has left."""
        self._heard.pop(address, None)
        self._suspended.discard(address)
