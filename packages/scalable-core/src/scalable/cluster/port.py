"""What a provider writes so that the engine can run its workers: the backend port.

Nothing here knows Dask. A backend deals in *units*: a process, an element of a Slurm array, a pod, a VM. A unit runs
one Dask worker, which reports the unit's id as its name; that name is all that joins the two worlds.
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
    "Leftover",
    "Phase",
    "Reason",
    "Unit",
    "UnitState",
]


class Phase(StrEnum):
    """Where a unit is in its life, as the native system sees it."""

    PENDING = "pending"
    RUNNING = "running"
    GONE = "gone"


class Reason(StrEnum):
    """Why a unit waits, or why it is gone: one vocabulary for every backend."""

    # It waits.
    PRIORITY = "priority"
    """Behind other work in a queue."""
    RESOURCES = "resources"
    """For machines to become free."""
    QUOTA = "quota"
    """At a limit of the account, the project, the queue or the target."""
    CAPACITY = "capacity"
    """The zone or the instance type has no machines now."""
    UNSCHEDULABLE = "unschedulable"
    """No machine could ever hold it as it was asked for."""
    STARTING = "starting"
    """It has its machine; image pull, boot or interpreter start is under way."""
    BACKOFF = "backoff"
    """The engine waits a little before it tries a failed start again."""
    # It is gone, or can never be.
    EXITED = "exited"
    """Its process ended by itself."""
    OUT_OF_MEMORY = "out_of_memory"
    """It used more memory than its component may."""
    WALLTIME = "walltime"
    """Its time was up."""
    PREEMPTED = "preempted"
    """Its machine was given to somebody else."""
    NODE_FAILURE = "node_failure"
    """Its machine failed."""
    CANCELLED = "cancelled"
    """Somebody outside of Scalable ended it."""
    STOPPED = "stopped"
    """Scalable ended it."""
    IMAGE = "image"
    """Its container image cannot be had."""
    CREDENTIALS = "credentials"
    """The native system does not let us."""
    REFUSED = "refused"
    """The native system refuses the request as it stands."""
    MISMATCH = "mismatch"
    """Its Python, dask or distributed version is not the scheduler's."""
    NETWORK = "network"
    """It runs, but no Dask worker reached the scheduler."""
    STARTUP_TIMEOUT = "startup_timeout"
    """It ran for the whole of startup_timeout without a Dask worker."""
    UNKNOWN = "unknown"
    """The native system does not say."""


@dataclass(frozen=True)
class GroupSpec:
    """What the engine knows of a group; everything else about it is its backend's business.

    Parameters
    ----------
    tag : str
        The component's name, and the Dask resource that its workers carry.
    slots : int
        Tasks at a time on one worker. The worker has ``nthreads == slots`` and ``resources == {tag: slots}``.
    startup_timeout : float
        Seconds from a unit's RUNNING to its Dask worker, after which its start has failed. Queue time is not counted.
    handover : float
        Seconds before the end of a unit's own time (walltime) in which its worker finishes what it runs, hands over
        its results and is replaced. Never more than a quarter of that time.
    """

    tag: str
    slots: int = 1
    startup_timeout: float = 300.0
    handover: float = 300.0


@dataclass(frozen=True)
class Unit:
    """One native thing that runs one Dask worker.

    Parameters
    ----------
    id : str
        Stable and unique in the life of the cluster. The Dask worker's name.
    tag : str
        The group it belongs to.
    request_id : str
        The launch it came from.
    native : str
        How the native system calls it (job id, pod name), for people.
    """

    id: str
    tag: str
    request_id: str
    native: str = ""


@dataclass(frozen=True)
class UnitState:
    """What one look at the native system says of one unit.

    Parameters
    ----------
    unit : Unit
        Which one.
    phase : Phase
        Where it is in its life.
    reason : Reason
        Why it waits, or why it is gone.
    detail : str
        The same in the native system's words.
    seconds_left : float or None
        Until its own time is up (walltime); None where it has no end.
    """

    unit: Unit
    phase: Phase
    reason: Reason = Reason.UNKNOWN
    detail: str = ""
    seconds_left: float | None = None


@dataclass(frozen=True)
class Explanation:
    """Why a unit or a group is as it is, for people.

    Parameters
    ----------
    reason : Reason
        The normalised reason.
    summary : str
        One line: what happened.
    native : str
        The native system's own words (``QOSMaxCpuPerUserLimit``, ``ErrImagePull``).
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
        What it is: ``Slurm job``, ``process``, ``directory``.
    name : str
        Which one, as its native system calls it.
    error : str
        Why it is still there, or in which state it is.
    """

    kind: str
    name: str
    error: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({self.error})"


@runtime_checkable
class Backend(Protocol):
    """The five things a provider does for the engine.

    All are coroutines on the engine's event loop: whatever blocks goes to a thread. All are idempotent. None keeps
    a wish: how many units there should be is the engine's business alone.
    """

    async def launch(self, group: GroupSpec, n: int, request_id: str) -> Sequence[Unit]:
        """Ask the native system for `n` new units of `group`, in one native call where one exists.

        Called by the controller, once for all the units that a group lacks in one turn. Returns when the native
        system has accepted, not when anything runs. A second call with the same `request_id` starts nothing.

        Returns
        -------
        sequence of Unit
            The new units. May be shorter than `n` where the native system names units later; `observe` then shows
            them under the same `request_id`.

        Raises
        ------
        LaunchError
            Nothing of this request exists, and it may succeed later; the engine tries again with back-off until then.
        LaunchRefusedError
            Nothing of this request exists, nor ever will as it stands: the group fails at once.
        """
        ...

    async def observe(self) -> Mapping[str, UnitState]:
        """Say the state of every unit, by id, in one native call.

        Called every turn. A unit that was launched and is absent counts as gone. A unit that ended stays visible as
        GONE for one call at least. May raise anything: the engine then keeps what it knew, reports it, and asks again.
        """
        ...

    async def stop(self, units: Sequence[Unit]) -> None:
        """End these units, now, in one native call where one exists. A unit that is gone already is no error.

        The engine has drained whatever was worth draining.
        """
        ...

    async def describe(self, unit: Unit) -> Explanation:
        """Explain one unit: the normalised reason, the native system's own words, the tail of its log.

        Called for units that failed and for people who ask; may cost native calls. Works for units that are gone.
        """
        ...

    async def sweep(self) -> Sequence[Leftover]:
        """Remove everything native that carries this cluster's label, and say what could not be removed.

        Called last at close, after `stop`; also when the cluster was only half built.
        """
        ...


@dataclass(frozen=True)
class GroupStatus:
    """One group at a glance: what `GroupedCluster.groups` holds for each tag.

    Parameters
    ----------
    tag : str
        The group.
    wanted : int
        Workers it should have now. In an adaptive group this moves.
    minimum, maximum : int or None
        The range of an adaptive group; None where the count is fixed.
    pending, starting, running, draining : int
        Units in a queue; units with a machine but without a Dask worker; Dask workers that take tasks; Dask workers
        on their way out.
    holding : int
        Results that keep draining workers alive, because no other worker can take them.
    failed : bool
        The engine has given up on the group until somebody scales it again.
    reason : Reason or None
        What it waits for, or why it failed; None where nothing is missing.
    detail : str
        `reason` in words, for people.
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
    holding: int = 0
    failed: bool = False
    reason: Reason | None = None
    detail: str = ""
    workers: tuple[str, ...] = field(default=(), repr=False)
