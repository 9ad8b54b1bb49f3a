"""The controller's calls to the Dask scheduler, as an interface and over its RPC."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

import cloudpickle
from distributed import Scheduler, rpc

from scalable.cluster import plugin
from scalable.cluster.dask_internals import pickle_object
from scalable.cluster.deaths import in_one_line, may_be_task
from scalable.cluster.host import SchedulerState, WatchedHost
from scalable.cluster.versions import check_scheduler_versions

if TYPE_CHECKING:
    from scalable.cluster.host import Host
    from scalable.cluster.port import Explanation
    from scalable.errors import GroupFailedError, WalltimeError

__all__ = ["Demand", "DrainProgress", "Report", "RpcLink", "SchedulerLink", "Stage", "WorkerInfo"]


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A Dask worker, as the scheduler knows it.

    Parameters
    ----------
    status : str
        Dask's name for it, such as ``running`` or ``paused``; ``unresponsive`` if it has been silent for too long.
    tasks, results : int
        Tasks that are assigned to it, and results that it has.
    silence : float
        Seconds since its last heartbeat, in which the scheduler could have heard it.
    executing : int
        Of a paused worker, the tasks that it runs.
    memory : float
        Of a paused worker, the share of its memory that it uses; 0 where that is not known.
    """

    status: str
    tasks: int = 0
    results: int = 0
    silence: float = 0.0
    executing: int = 0
    memory: float = 0.0

    @property
    def is_registering(self) -> bool:
        """Whether the scheduler has it, but it has not confirmed that yet, so that it gets no tasks."""
        return self.status == "init"


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
    proven : float
        Slot-seconds that the tasks of unknown duration would take if each took about as long as those of its kind that
        run now have run already.
    tagged : float
        Slots of the tasks that carry the tag. Tasks without one count for the first group, but any worker may run them.
    """

    slots: float = 0.0
    seconds: float = 0.0
    unknown: float = 0.0
    waiting: int = 0
    proven: float = 0.0
    tagged: float = 0.0


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
        Workers that have left since the previous report that was received, including those that joined after it.
    deaths : mapping of str to bool
        Workers that have died with tasks, until `SchedulerLink.explain_deaths` says why, and whether they had finished
        any task before.
    blocked : mapping of str to str
        Which tasks keep slots that others need which they have submitted, by the tag of the group that lacks a slot.
    since : float
        Since when the scheduler has answered without a gap, in seconds on the controller's clock. No worker could
        join before.
    """

    workers: Mapping[str, WorkerInfo] = field(default_factory=dict)
    demand: Mapping[str, Demand] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    removed: Collection[str] = ()
    deaths: Mapping[str, bool] = field(default_factory=dict)
    blocked: Mapping[str, str] = field(default_factory=dict)
    since: float = -float("inf")


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
    """The scheduler as the controller uses it, through `SchedulerCalls`, which limits every call.

    All methods but `start` may be called every turn. Each raises OSError where the scheduler cannot be reached.
    """

    async def start(self, slots: Mapping[str, int]) -> None:
        """Install the plugin on the scheduler, with the group table: slots per worker, by tag.

        Raises
        ------
        VersionMismatchError
            The scheduler could not run it.
        """
        ...

    async def identity(self) -> str:
        """Return the id of the scheduler that answers; another one has another."""
        ...

    async def host_state(self) -> SchedulerState | None:
        """Return what the host says about the scheduler; None where it does not know."""
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

    async def expire(self, workers: Mapping[str, tuple[float, WalltimeError | None]]) -> None:
        """Announce in how many seconds workers will be ended.

        With it comes the error of tasks that are too long for their walltime; None for a worker that is preempted,
        which is not the fault of its tasks.
        """
        ...

    async def explain_deaths(self, deaths: Mapping[str, Explanation]) -> None:
        """Report why workers have died, so that their deaths can be held against tasks where these may be the cause."""
        ...

    async def fail(self, tag: str, error: GroupFailedError | None) -> None:
        """Fail the tasks that only this group could run with `error`; None ends that."""
        ...

    async def cancel_all(self, reason: str) -> None:
        """Cancel the futures of all clients."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


_pickling_lock = threading.Lock()


def pickled_plugin(slots: Mapping[str, int], orphan_timeout: float = 0.0) -> bytes:
    """Pickle the scheduler plugin by value, because a stock image has none of our modules."""
    made = _make_plugin(slots, orphan_timeout)
    with _by_value():
        pickled: bytes = cloudpickle.dumps(made)
    return pickled


def _make_plugin(slots: Mapping[str, int], orphan_timeout: float) -> plugin.GroupsPlugin:
    with _by_value():
        for_workers: bytes = cloudpickle.dumps(plugin.GroupsWorkerPlugin())
    return plugin.GroupsPlugin(dict(slots), for_workers, orphan_timeout)


@contextmanager
def _by_value() -> Iterator[None]:
    """Make cloudpickle pickle the modules of the plugin by value until the block is left."""
    with _pickling_lock:  # cloudpickle has one registry for all threads
        cloudpickle.register_pickle_by_value(plugin)
        try:
            with plugin.kept_file_names():
                yield
        finally:
            cloudpickle.unregister_pickle_by_value(plugin)


def _is_here(host: Host) -> bool:
    """Return whether the scheduler is an object of this process, which has our modules."""
    return isinstance(getattr(host, "scheduler", None), Scheduler)


CONNECT_TIMEOUT = 10.0
"""Seconds in which a connection must be made, whatever Dask's configuration says."""


class RpcLink:
    """The link to a real scheduler, through its RPC port.

    Parameters
    ----------
    host : Host
        The scheduler's host.
    orphan_timeout : float
        Seconds without controller and clients after which the scheduler closes itself; 0 for never.
    """

    def __init__(self, host: Host, orphan_timeout: float = 0.0) -> None:
        self._host = host
        self._orphan_timeout = orphan_timeout
        self._departures = 0
        self._rpc: Any = None

    @property
    def _scheduler(self) -> Any:
        # Made on first use, on the event loop. The host's own connection has the timeouts of Dask's configuration.
        if self._rpc is None:
            self._rpc = rpc(
                self._host.scheduler_address,
                timeout=CONNECT_TIMEOUT,
                connection_args=self._host.security.get_connection_args("client"),
            )
        return self._rpc

    async def start(self, slots: Mapping[str, int]) -> None:
        """Install the plugin on the scheduler, with the group table: slots per worker, by tag."""
        check_scheduler_versions(await self._scheduler.versions())
        await self._scheduler.register_scheduler_plugin(
            plugin=self._plugin(slots),
            name=plugin.GroupsPlugin.name,
            idempotent=True,
        )

    def _plugin(self, slots: Mapping[str, int]) -> bytes:
        if not _is_here(self._host):
            return pickled_plugin(slots, self._orphan_timeout)
        # By reference, which takes a third of the time.
        return pickle.dumps(_make_plugin(slots, self._orphan_timeout))

    async def identity(self) -> str:
        """Return the id of the scheduler that answers; another one has another."""
        return str((await self._scheduler.identity(n_workers=0))["id"])

    async def host_state(self) -> SchedulerState | None:
        """Return what the host says about the scheduler; None where it does not know."""
        if isinstance(self._host, WatchedHost):
            return await self._host.scheduler_state()
        return None

    async def publish(self, slots: Mapping[str, int]) -> None:
        """Replace the group table."""
        await self._scheduler.scalable_publish(slots=dict(slots))

    async def report(self) -> Report:
        """Return the workers and the demand."""
        answer = await self._scheduler.scalable_report(departures=self._departures)
        self._departures = answer["departures"]
        return Report(
            workers={name: WorkerInfo(*facts) for name, facts in answer["workers"].items()},
            demand={tag: Demand(*facts) for tag, facts in answer["demand"].items()},
            refused=answer["refused"],
            removed=answer["removed"],
            deaths=answer["deaths"],
            blocked=answer["blocked"],
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

    async def expire(self, workers: Mapping[str, tuple[float, WalltimeError | None]]) -> None:
        """Announce in how many seconds workers will be ended, and the error of tasks too long for their walltime."""
        message = {
            name: (left, None if error is None else pickle_object(error))
            for name, (left, error) in workers.items()
        }
        await self._scheduler.scalable_expire(workers=message)

    async def explain_deaths(self, deaths: Mapping[str, Explanation]) -> None:
        """Report why workers have died, so that their deaths can be held against tasks where these may be the cause."""
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

    async def close(self) -> None:
        """Close the connections."""
        if self._rpc is not None:
            await self._rpc.close_rpc()
