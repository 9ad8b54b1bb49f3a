"""The controller's calls to the Dask scheduler, as an interface and over its RPC."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

import cloudpickle

from scalable.cluster import plugin
from scalable.cluster.dask_internals import pickle_object
from scalable.cluster.deaths import in_one_line, may_be_task

if TYPE_CHECKING:
    from scalable.cluster.host import Host
    from scalable.cluster.port import Explanation
    from scalable.errors import GroupFailedError, WalltimeError

__all__ = ["Demand", "DrainProgress", "Report", "RpcLink", "SchedulerLink", "Stage", "WorkerInfo"]


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A Dask worker: its status, the number of tasks assigned to it, and of results that it has."""

    status: str
    tasks: int = 0
    results: int = 0


@dataclass(frozen=True, slots=True)
class Demand:
    """The work for a tag, waiting or running.

    Parameters
    ----------
    slots : float
        Slots that all of it would need at once.
    seconds : float
        Slot-seconds left of the tasks whose duration Dask has learned.
    unknown : float
        Slots of the tasks whose duration is not known.
    waiting : int
        Tasks whose dependencies are not finished yet.
    """

    slots: float = 0.0
    seconds: float = 0.0
    unknown: float = 0.0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """The state of the scheduler at one time.

    Parameters
    ----------
    workers : mapping of str to WorkerInfo
        The registered workers, by name.
    demand : mapping of str to Demand
        The work, by tag.
    refused : mapping of str to str
        The reason by name, for workers that were refused at registration.
    removed : collection of str
        Workers that have left since the previous report, including those that joined after it.
    deaths : mapping of str to bool
        Workers that have died with tasks, until `SchedulerLink.explain_deaths` says why, and whether they had finished
        any task before.
    """

    workers: Mapping[str, WorkerInfo] = field(default_factory=dict)
    demand: Mapping[str, Demand] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    removed: Collection[str] = ()
    deaths: Mapping[str, bool] = field(default_factory=dict)


class Stage(StrEnum):
    """How far the drain of a worker is."""

    BUSY = "busy"
    """It is running tasks."""
    MOVING = "moving"
    """Its results are on their way to other workers."""
    HOLDING = "holding"
    """No other worker can take its results."""
    GONE = "gone"
    """It has left, or will be refused if it tries to join."""


@dataclass(frozen=True, slots=True)
class DrainProgress:
    """A draining worker's stage, and the number of tasks or results left."""

    stage: Stage
    remaining: int = 0


class SchedulerLink(Protocol):
    """The scheduler as the controller uses it. All methods but `start` may be called every turn."""

    async def start(self, slots: Mapping[str, int]) -> None:
        """Install the plugin on the scheduler, with the group table: slots per worker, by tag."""
        ...

    async def publish(self, slots: Mapping[str, int]) -> None:
        """Replace the group table."""
        ...

    async def report(self) -> Report:
        """Return the workers and the demand."""
        ...

    async def drain(
        self, names: Sequence[str], *, force: bool = False
    ) -> Mapping[str, DrainProgress]:
        """Start or continue to drain workers; `force` gives up their results."""
        ...

    async def resume(self, names: Sequence[str]) -> Sequence[str]:
        """Take draining workers back; return those that could be."""
        ...

    async def expire(self, workers: Mapping[str, tuple[float, WalltimeError]]) -> None:
        """Announce in how many seconds workers reach their walltime, and the error of tasks too long for it."""
        ...

    async def explain_deaths(self, deaths: Mapping[str, Explanation]) -> None:
        """Say why workers have died, so that their deaths can be held against tasks where these may be the cause."""
        ...

    async def fail(self, tag: str, error: GroupFailedError | None) -> None:
        """Fail the tasks that only this group could run with `error`; None ends that."""
        ...

    async def cancel_all(self, reason: str) -> None:
        """Cancel the futures of all clients."""
        ...


_pickling_lock = threading.Lock()


def pickled_plugin(slots: Mapping[str, int]) -> bytes:
    """Pickle the scheduler plugin by value, because a stock image has none of our modules."""
    with _pickling_lock:  # cloudpickle has one registry for all threads
        cloudpickle.register_pickle_by_value(plugin)
        try:
            with plugin.kept_file_names():
                for_workers = cloudpickle.dumps(plugin.GroupsWorkerPlugin())
                ours = plugin.GroupsPlugin(dict(slots), for_workers)
                for_scheduler: bytes = cloudpickle.dumps(ours)
        finally:
            cloudpickle.unregister_pickle_by_value(plugin)
    return for_scheduler


class RpcLink:
    """The link to a real scheduler, through its RPC port.

    Parameters
    ----------
    host : Host
        The scheduler's host.
    """

    def __init__(self, host: Host) -> None:
        self._host = host

    @property
    def _scheduler(self) -> Any:
        return self._host.scheduler_comm

    async def start(self, slots: Mapping[str, int]) -> None:
        """Install the plugin on the scheduler, with the group table: slots per worker, by tag."""
        await self._scheduler.register_scheduler_plugin(
            plugin=pickled_plugin(slots), name=plugin.GroupsPlugin.name, idempotent=True
        )

    async def publish(self, slots: Mapping[str, int]) -> None:
        """Replace the group table."""
        await self._scheduler.scalable_publish(slots=dict(slots))

    async def report(self) -> Report:
        """Return the workers and the demand."""
        answer = await self._scheduler.scalable_report()
        return Report(
            workers={name: WorkerInfo(*facts) for name, facts in answer["workers"].items()},
            demand={tag: Demand(*facts) for tag, facts in answer["demand"].items()},
            refused=answer["refused"],
            removed=answer["removed"],
            deaths=answer["deaths"],
        )

    async def drain(
        self, names: Sequence[str], *, force: bool = False
    ) -> Mapping[str, DrainProgress]:
        """Start or continue to drain workers; `force` gives up their results."""
        answer = await self._scheduler.scalable_drain(names=list(names), force=force)
        return {name: DrainProgress(Stage(stage), left) for name, (stage, left) in answer.items()}

    async def resume(self, names: Sequence[str]) -> Sequence[str]:
        """Take draining workers back; return those that could be."""
        resumed: Sequence[str] = await self._scheduler.scalable_resume(names=list(names))
        return resumed

    async def expire(self, workers: Mapping[str, tuple[float, WalltimeError]]) -> None:
        """Announce in how many seconds workers reach their walltime, and the error of tasks too long for it."""
        message = {name: (left, pickle_object(error)) for name, (left, error) in workers.items()}
        await self._scheduler.scalable_expire(workers=message)

    async def explain_deaths(self, deaths: Mapping[str, Explanation]) -> None:
        """Say why workers have died, so that their deaths can be held against tasks where these may be the cause."""
        message = {
            name: (may_be_task(why.reason), in_one_line(why), pickle_object(why))
            for name, why in deaths.items()
        }
        await self._scheduler.scalable_explain_deaths(deaths=message)

    async def fail(self, tag: str, error: GroupFailedError | None) -> None:
        """Fail the tasks that only this group could run with `error`; None ends that."""
        message = None if error is None else pickle_object(error)
        await self._scheduler.scalable_fail(tag=tag, error=message)

    async def cancel_all(self, reason: str) -> None:
        """Cancel the futures of all clients."""
        await self._scheduler.scalable_cancel_all(reason=reason)
