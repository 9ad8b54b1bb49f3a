"""The interface between the engine and a provider: `Backend`, and the types of its answers.

Nothing here depends on Dask. A backend manages *units*: a process, an element of a Slurm array, a pod, a VM. A unit
runs one Dask worker, whose name is the unit's id; nothing else connects the two.

Native systems may be eventually consistent: a new unit may appear late in the answers, or an answer may show a state
that the unit has left already. The engine allows for this where it can: units that a launch was granted but did not
name are waited for; an answer to a call that began before a unit became known does not mean that the unit is absent; a
unit that reappears belongs to its group again. The rest is up to the backend; see `Backend.observe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

__all__ = [
    "Backend",
    "Explanation",
    "GroupSpec",
    "GroupStatus",
    "LaunchResult",
    "Leftover",
    "NotesLateStarts",
    "Phase",
    "ReadsLogs",
    "Reason",
    "Unit",
    "UnitState",
]


class Phase(StrEnum):
    """The phase of a unit in the native system."""

    PENDING = "pending"
    RUNNING = "running"
    GONE = "gone"


class Reason(StrEnum):
    """Why a unit is pending or gone, in the same terms for every backend."""

    # Pending.
    PRIORITY = "priority"
    """Other work is ahead of it in a queue."""
    RESOURCES = "resources"
    """It waits for machines to become free."""
    QUOTA = "quota"
    """A limit of the account, the project, the queue or the target is reached."""
    CAPACITY = "capacity"
    """The zone or the instance type has no machines at present."""
    UNSCHEDULABLE = "unschedulable"
    """No machine could ever run it with the resources requested."""
    STARTING = "starting"
    """It has its machine; image pull, boot or interpreter start is under way."""
    BACKOFF = "backoff"
    """The engine waits before it tries a failed start again."""
    DEMAND = "demand"
    """The group adapts, and the work that is known of is not worth the start of another worker yet."""
    UNWANTED = "unwanted"
    """Work waits for the group, but 0 workers are wanted."""
    BLOCKED = "blocked"
    """Its slots are taken by tasks that have submitted others, which need one of them."""
    # Joined, but of no use at present.
    PAUSED = "paused"
    """Its Dask worker starts no tasks, because it uses too much of its memory."""
    UNRESPONSIVE = "unresponsive"
    """Its Dask worker is connected, but has not answered for a minute or longer."""
    # Gone, or refused.
    EXITED = "exited"
    """Its process ended by itself."""
    OUT_OF_MEMORY = "out_of_memory"
    """It used more memory than its component has."""
    WALLTIME = "walltime"
    """Its walltime was up."""
    PREEMPTED = "preempted"
    """Its machine was reclaimed for other work."""
    NODE_FAILURE = "node_failure"
    """Its machine failed."""
    CANCELLED = "cancelled"
    """It was cancelled from outside of Scalable."""
    STOPPED = "stopped"
    """Scalable stopped it."""
    IMAGE = "image"
    """Its container image cannot be pulled or read."""
    CREDENTIALS = "credentials"
    """The native system denies access."""
    REFUSED = "refused"
    """The native system rejects the request as it is."""
    MISMATCH = "mismatch"
    """Its Python, dask or distributed version is not the scheduler's."""
    NETWORK = "network"
    """Its Dask worker did not reach the scheduler; or the scheduler, or the native system, does not answer."""
    STARTUP_TIMEOUT = "startup_timeout"
    """Its Dask worker did not join within startup_timeout."""
    UNKNOWN = "unknown"
    """The native system gives no reason."""


@dataclass(frozen=True)
class GroupSpec:
    """The part of a group that the engine needs; its backend knows everything else.

    Parameters
    ----------
    tag : str
        The component's name, and the Dask resource that its workers carry.
    slots : int
        Tasks at a time on one worker, which has ``nthreads == slots`` and ``resources == {tag: slots}``.
    startup_timeout : float
        Seconds from the phase RUNNING until the Dask worker must have joined; otherwise the start has failed. Time in
        a queue is not counted.
    handover : float
        Seconds before a unit's walltime is up in which its worker is drained and replaced. Never more than a quarter of
        the walltime.
    max_launch : int or None
        The most units that one launch may ask for; None where the native system sets no limit.
    expected_queue : float
        A first guess of the seconds that a unit waits for its machine. More than `expected_boot` says that jobs queue,
        where waiting is free: an adaptive group then launches early, and withdraws what it does not need.
    expected_boot : float or None
        A first guess of the seconds from the phase RUNNING until the Dask worker joins. Both guesses hold until starts
        have been measured. None where there is no guess: an adaptive group then starts a few workers first.
    unresponsive_timeout : float
        Seconds for which a Dask worker may not answer while its unit runs. After them, the worker is removed, its tasks
        run again on others, and the unit is stopped. Should exceed the time for which a task may hold the GIL.
    """

    tag: str
    slots: int = 1
    startup_timeout: float = 300.0
    handover: float = 300.0
    max_launch: int | None = None
    expected_queue: float = 0.0
    expected_boot: float | None = None
    unresponsive_timeout: float = 3600.0


@dataclass(frozen=True)
class Unit:
    """One native thing that runs one Dask worker.

    Parameters
    ----------
    id : str
        Stable, and unique within the cluster. The Dask worker's name.
    tag : str
        The group it belongs to.
    request_id : str
        The launch that created it.
    native : str
        Its name in the native system (job id, pod name), for messages. Units with one name share what it names, which
        is given back when the last of them has ended; scale-in empties those of which the least is in use first.
    """

    id: str
    tag: str
    request_id: str
    native: str = ""


@dataclass(frozen=True)
class LaunchResult:
    """What a launch created, where that is not simply all units that were asked for.

    Parameters
    ----------
    units : sequence of Unit
        The new units whose names are known.
    unnamed : int
        Units that were created as well, and that `observe` will show later with the same request id.
    shortfall : Explanation or None
        Why the launch created fewer than it was asked for; None where the native system gives no reason.
    awaited : Explanation or None
        Why units have no name yet, and what to do if they get none; shown for as long as that is so.
    """

    units: Sequence[Unit] = ()
    unnamed: int = 0
    shortfall: Explanation | None = None
    awaited: Explanation | None = None


@dataclass(frozen=True)
class UnitState:
    """The state of one unit in one observation.

    Parameters
    ----------
    unit : Unit
        The unit.
    phase : Phase
        Its phase.
    reason : Reason
        Why it is pending or gone. A unit that is RUNNING with the reason PREEMPTED is under notice: the native system
        has announced that it will take its machine. Its worker is drained and replaced, and its end is nobody's
        failure. Once shown, this should be shown until the unit is gone.
    detail : str
        The native system's own text for the reason.
    seconds_left : float or None
        Until its walltime is up, or, under notice, until it is preempted; None where that is not known. No walltime is
        taken from a number that is not positive, as from a clock that differs.
    """

    unit: Unit
    phase: Phase
    reason: Reason = Reason.UNKNOWN
    detail: str = ""
    seconds_left: float | None = None


@dataclass(frozen=True)
class Explanation:
    """Why a unit or a group is in its state, for users.

    Parameters
    ----------
    reason : Reason
        The normalised reason.
    summary : str
        One line: what happened.
    native : str
        The native system's own text (``QOSMaxCpuPerUserLimit``, ``ErrImagePull``).
    log_tail : str
        The last lines of the worker's log; may be empty.
    remedy : str
        What to do next; may be empty.
    """

    reason: Reason
    summary: str
    native: str = ""
    log_tail: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        text = self.summary or str(self.reason)
        if self.native and self.native not in text:
            text += f" ({self.native})"
        if self.remedy:
            text += f"; {self.remedy}"
        if self.log_tail:
            text += "\n" + "\n".join(f"  | {line}" for line in self.log_tail.splitlines())
        return text


@dataclass(frozen=True)
class Leftover:
    """Something native that could not be removed.

    Parameters
    ----------
    kind : str
        Its kind: ``Slurm job``, ``process``, ``directory``.
    name : str
        Its name in the native system.
    error : str
        Why it still exists, or its state.
    is_certain : bool
        Whether it is known that this exists. Otherwise the native system could not be asked what is left, and it stands
        for whatever there may be; it is not reported if nothing was ever launched.
    """

    kind: str
    name: str
    error: str
    is_certain: bool = True

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({self.error})"


@runtime_checkable
class Backend(Protocol):
    """The five operations that the engine needs of a provider.

    All are coroutines on the engine's event loop, so blocking work belongs in a thread. All are idempotent. A backend
    stores no desired state: how many units there should be is known to the engine alone.

    A call that takes too long, or is still under way some time after the cluster was closed, is cancelled. That ends
    the coroutine, not a thread below it. The engine calls no `launch` after `sweep`, and names the launches that it
    has cancelled; that nothing else comes into being after `sweep` has returned is for the backend to guarantee.
    `scalable.providers.blocking.BlockingCalls` does this for an SDK that blocks.
    """

    async def launch(
        self, group: GroupSpec, n: int, request_id: str
    ) -> LaunchResult | Sequence[Unit]:
        """Request `n` new units of `group` from the native system, in one native call where one exists.

        Called once for all the units that a group lacks in one turn. Returns when the native system has accepted the
        request, not when a unit runs. A second call with the same `request_id` starts nothing and returns the same:
        the engine makes one where the first has not answered in time, or has raised what is not listed here, to learn
        what exists. Until then, all `n` count against the cap.

        Cancelling the coroutine does not stop a thread of an SDK. Whatever such a thread may still create is removed
        by `sweep`, which waits for it, or is returned by `sweep` as a leftover.

        Returns
        -------
        sequence of Unit or LaunchResult
            The new units. Where these are fewer than `n`, the others do not exist, and are requested again with
            back-off; `LaunchResult` says why, and how many exist without a name.

        Raises
        ------
        LaunchError
            The request created nothing, but may succeed later; the engine tries again with back-off until then.
        LaunchRefusedError
            The request created nothing and will always be refused; the group fails at once.
        """
        ...

    async def observe(self) -> Mapping[str, UnitState]:
        """Return the state of every unit, by id, in one native call.

        A unit that ended is shown as GONE at least once, and then counts as gone. One that is merely absent may exist,
        because listings are cached and many native systems are eventually consistent: it counts as gone once it has
        been absent for `RetryPolicy.absence_timeout`, from two answers at least, and its Dask worker is not connected.

        May raise anything: the engine then keeps what it knows, says so in each group, and calls again with back-off.
        """
        ...

    async def stop(self, units: Sequence[Unit]) -> None:
        """Stop these units at once, in one native call where one exists. A unit that is already gone is not an error.

        The engine has drained their workers before, where there was something to drain.
        """
        ...

    async def describe(self, unit: Unit) -> Explanation:
        """Explain one unit: the normalised reason, the native system's own text, the tail of its log.

        Called for units that failed, and when a user requests it; may cost native calls. Works for units that are gone.
        """
        ...

    async def sweep(self) -> Sequence[Leftover]:
        """Remove everything native that carries this cluster's label, and return what could not be removed.

        Called last at close, after `stop`; also for a cluster that was built in part. First accepts no more launches,
        and waits for those that are under way below a cancelled coroutine, so that it sees what they create. One that
        has not returned by a limit of the backend's, well below the time that closing has, is a leftover: it may
        create units later. `launch` creates nothing from then on.
        """
        ...


@runtime_checkable
class ReadsLogs(Protocol):
    """An optional ability of a `Backend`: to read the log of a unit, and not only the end of it as `describe` does.

    Attributes
    ----------
    logs_outlive_units : bool
        Whether a log can be read once `sweep` has returned. Otherwise it is read before its unit is stopped, and must
        be readable for some seconds after a unit has been shown as GONE.
    """

    @property
    def logs_outlive_units(self) -> bool: ...  # noqa: D102 - above

    async def read_log(self, unit: Unit, size: int) -> str:
        """Return the end of a unit's log, of about `size` bytes; empty where there is none, or it cannot be read."""
        ...


@runtime_checkable
class NotesLateStarts(Protocol):
    """An optional ability of a `Backend`: to keep new units off the machines on which workers start, but never join."""

    def note_late_starts(self, late: Sequence[Unit], connected: Sequence[Unit]) -> None:
        """Record that the Dask workers of `late` did not join within startup_timeout, while others are connected.

        Where none is connected, the scheduler may be the one that cannot be reached.
        """
        ...


@dataclass(frozen=True)
class GroupStatus:
    """The counts of one group, as in `GroupedCluster.groups`.

    Parameters
    ----------
    tag : str
        The group.
    wanted : int
        Workers that it should have now. Changes with demand in an adaptive group.
    minimum, maximum : int or None
        The range of an adaptive group; None where the count is fixed.
    pending, starting, running, draining : int
        Units in a queue; units with a machine but without a Dask worker; Dask workers that take tasks; Dask workers
        that drain.
    unavailable : int
        Dask workers that have joined, do not drain, and take no tasks at present, or are not known to, because the
        scheduler does not answer.
    holding : int
        Results that keep draining workers, because no other worker can take them.
    failed : bool
        The engine has given up on the group until it is scaled again.
    reason : Reason or None
        What it waits for, or why it failed; None where no worker is missing.
    detail : str
        `reason` as text, for users.
    workers : tuple of str
        Names of the Dask workers that take tasks.
    """

    tag: str
    wanted: int = 0
    minimum: int | None = None
    maximum: int | None = None
    pending: int = 0
    starting: int = 0
    running: int = 0
    draining: int = 0
    unavailable: int = 0
    holding: int = 0
    failed: bool = False
    reason: Reason | None = None
    detail: str = ""
    workers: tuple[str, ...] = field(default=(), repr=False)
