"""What the controller asks of the Dask scheduler, and how the answer gets here."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

import cloudpickle
from distributed.protocol import pickle

from scalable.cluster import plugin

if TYPE_CHECKING:
    from scalable.cluster.host import Host
    from scalable.errors import GroupFailedError, WalltimeError

__all__ = ["Demand", "DrainProgress", "Report", "RpcLink", "SchedulerLink", "Stage", "WorkerInfo"]


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """One Dask worker: its status, the tasks assigned to it, the results it has."""

    status: str
    tasks: int = 0
    results: int = 0


@dataclass(frozen=True, slots=True)
class Demand:
    """What waits for a tag or runs under it.

    Parameters
    ----------
    slots : float
        Slots that all of it would take at once.
    seconds : float
        Slot-seconds left of the tasks whose duration Dask has learned.
    unknown : float
        Slots of the tasks whose duration nobody knows.
    waiting : int
        Tasks whose dependencies are not there yet.
    """

    slots: float = 0.0
    seconds: float = 0.0
    unknown: float = 0.0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """One look at the scheduler.

    Parameters
    ----------
    workers : mapping of str to WorkerInfo
        Those that are there, by name.
    demand : mapping of str to Demand
        What there is to do, by tag.
    refused : mapping of str to str
        Workers that were not let in, with the reason.
    removed : collection of str
        Workers that have left since the last look. Some came after it, too.
    """

    workers: Mapping[str, WorkerInfo] = field(default_factory=dict)
    demand: Mapping[str, Demand] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    removed: Collection[str] = ()


class Stage(StrEnum):
    """How near to its end a draining worker is."""

    BUSY = "busy"
    """It still runs tasks."""
    MOVING = "moving"
    """Its results are on their way to other workers."""
    HOLDING = "holding"
    """No other worker can take its results."""
    GONE = "gone"
    """It has left, or will be refused if it ever comes."""


@dataclass(frozen=True, slots=True)
class DrainProgress:
    """A draining worker's stage, with how many tasks or results are left."""

    stage: Stage
    remaining: int = 0


class SchedulerLink(Protocol):
    """The scheduler as the controller sees it. All but `start` may be called every turn."""

    async def start(self, slots: Mapping[str, int]) -> None:
        """Install our part on the scheduler, with the group table: slots per worker, by tag."""
        ...

    async def publish(self, slots: Mapping[str, int]) -> None:
        """Replace the group table."""
        ...

    async def report(self) -> Report:
        """Look at workers and demand."""
        ...

    async def drain(
        self, names: Sequence[str], *, force: bool = False
    ) -> Mapping[str, DrainProgress]:
        """Bring workers nearer to their end; `force` lets results go with them."""
        ...

    async def resume(self, names: Sequence[str]) -> Sequence[str]:
        """Take draining workers back into service; return those that could still be had."""
        ...

    async def expire(self, workers: Mapping[str, tuple[float, WalltimeError]]) -> None:
        """Tell in how many seconds workers will be ended, and the error of tasks that they take along."""
        ...

    async def fail(self, tag: str, error: GroupFailedError | None) -> None:
        """End the tasks that only this group could run in `error`; None lifts that."""
        ...

    async def cancel_all(self, reason: str) -> None:
        """Cancel whatever clients wait for."""
        ...


_pickling_lock = threading.Lock()


def pickled_plugin(slots: Mapping[str, int]) -> bytes:
    """Pickle the scheduler's part of the engine by value: a stock image has none of our modules."""
    with _pickling_lock:  # what cloudpickle has registered is one set for all threads
        cloudpickle.register_pickle_by_value(plugin)
        try:
            for_workers = cloudpickle.dumps(plugin.GroupsWorkerPlugin())
            for_scheduler: bytes = cloudpickle.dumps(plugin.GroupsPlugin(dict(slots), for_workers))
        finally:
            cloudpickle.unregister_pickle_by_value(plugin)
    return for_scheduler


class RpcLink:
    """The link to a real scheduler, through its RPC port.

    Parameters
    ----------
    host : Host
        Where the scheduler is.
    """

    def __init__(self, host: Host) -> None:
        self._host = host

    @property
    def _scheduler(self) -> Any:
        return self._host.scheduler_comm

    async def start(self, slots: Mapping[str, int]) -> None:
        """Install our part on the scheduler, with the group table: slots per worker, by tag."""
        await self._scheduler.register_scheduler_plugin(
            plugin=pickled_plugin(slots), name=plugin.GroupsPlugin.name, idempotent=True
        )

    async def publish(self, slots: Mapping[str, int]) -> None:
        """Replace the group table."""
        await self._scheduler.scalable_publish(slots=dict(slots))

    async def report(self) -> Report:
        """Look at workers and demand."""
        answer = await self._scheduler.scalable_report()
        return Report(
            workers={name: WorkerInfo(*facts) for name, facts in answer["workers"].items()},
            demand={tag: Demand(*facts) for tag, facts in answer["demand"].items()},
            refused=answer["refused"],
            removed=answer["removed"],
        )

    async def drain(
        self, names: Sequence[str], *, force: bool = False
    ) -> Mapping[str, DrainProgress]:
        """Bring workers nearer to their end; `force` lets results go with them."""
        answer = await self._scheduler.scalable_drain(names=list(names), force=force)
        return {name: DrainProgress(Stage(stage), left) for name, (stage, left) in answer.items()}

    async def resume(self, names: Sequence[str]) -> Sequence[str]:
        """Take draining workers back into service; return those that could still be had."""
        resumed: Sequence[str] = await self._scheduler.scalable_resume(names=list(names))
        return resumed

    async def expire(self, workers: Mapping[str, tuple[float, WalltimeError]]) -> None:
        """Tell in how many seconds workers will be ended, and the error of tasks that they take along."""
        message = {name: (left, pickle.dumps(error)) for name, (left, error) in workers.items()}
        await self._scheduler.scalable_expire(workers=message)

    async def fail(self, tag: str, error: GroupFailedError | None) -> None:
        """End the tasks that only this group could run in `error`; None lifts that."""
        message = None if error is None else pickle.dumps(error)
        await self._scheduler.scalable_fail(tag=tag, error=message)

    async def cancel_all(self, reason: str) -> None:
        """Cancel whatever clients wait for."""
        await self._scheduler.scalable_cancel_all(reason=reason)
