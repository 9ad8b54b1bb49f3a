"""How often the controller takes a turn, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Pace"]


@dataclass(frozen=True)
class Pace:
    """The controller's intervals and timeouts, all in seconds.

    Parameters
    ----------
    tick : float
        Between two turns, each with one report of the scheduler, which costs nothing.
    poll : float
        Between two observations of the native system, which may cost money or be throttled.
    steady_poll : float
        The same while no unit is to change, as `Member.is_steady` tells; no shorter than `poll`.
    max_poll : float
        The longest of these intervals, to which it grows while the native system does not answer.
    native_timeout : float
        For one call to the native system. No turn waits for it: a call that takes longer than `tick` continues while
        turns are taken.
    describe_timeout : float
        For the reason why a unit ended, the one answer that a turn does wait for.
    scheduler_wait : float
        For an answer of the scheduler, in each turn. A call that takes longer continues while turns are taken.
    scheduler_call_timeout : float
        For one call to the scheduler.
    late_after : float
        After this time without an answer, the scheduler is late: no worker counts as running.
    scheduler_timeout : float
        After this time without an answer, the scheduler is lost, unless its host says so before: units are stopped,
        and whoever waits gets a `SchedulerLostError`.
    stop_retry_interval : float
        Between two requests to stop the same unit, should it still run.
    hold_timeout : float
        For a draining worker of a fixed-size group whose results no other worker can take. After it, the worker is
        retired and they are lost. In an adaptive group it stays, because lost results would be computed again by a
        worker launched for that. After this time, groups for which it leaves no room have failed.
    left_behind_timeout : float
        For the connection of a Dask worker to close after its unit has ended. After it, the worker is removed from the
        scheduler, and its tasks run on others.
    unwanted_after : float
        For work that waits for a group that is to have no worker. After it, one warning says so.
    close_timeout : float
        For each step of closing.
    """

    tick: float = 0.5
    poll: float = 1.0
    steady_poll: float = 0.0
    max_poll: float = 30.0
    native_timeout: float = 120.0
    describe_timeout: float = 10.0
    scheduler_wait: float = 1.0
    scheduler_call_timeout: float = 30.0
    late_after: float = 15.0
    scheduler_timeout: float = 300.0
    stop_retry_interval: float = 60.0
    hold_timeout: float = 600.0
    left_behind_timeout: float = 10.0
    unwanted_after: float = 30.0
    close_timeout: float = 20.0
