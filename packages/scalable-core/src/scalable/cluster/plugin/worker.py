"""What only a worker knows about its tasks and the results that it can receive."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import WorkerPlugin

from scalable.cluster.plugin.clients import provide_client
from scalable.cluster.plugin.dask_internals import (
    executing_tasks,
    explain_lost_actors,
    lift_worker_send_timeout,
    receive_alone,
    return_resources,
    unstarted_tasks,
)
from scalable.cluster.plugin.exceptions import in_one_line
from scalable.cluster.plugin.filenames import FileNames
from scalable.cluster.plugin.forks import detach_forks
from scalable.cluster.plugin.isolation import Isolation
from scalable.cluster.plugin.results import SmallResults
from scalable.cluster.plugin.running import RunRecord

if TYPE_CHECKING:
    from distributed.worker import Worker

__all__ = ["GroupsWorkerPlugin"]

RETRY_DELAY = 0.15
"""Seconds between requests to a worker that sends results to too many others at present."""


class GroupsWorkerPlugin(WorkerPlugin):
    """Lets a worker record what it runs, and adds handlers: what it has not started, what it can receive.

    The scheduler cannot know what it has not started, because its view of executing tasks is as old as the last
    heartbeat, and a draining worker keeps in its queue what was sent to it before. It does not learn at all which
    results it cannot receive.
    """

    name = "scalable-groups-worker"

    def __init__(self) -> None:
        self.file_names = FileNames()

    def setup(self, worker: Worker) -> None:
        """Add the handlers to this worker."""
        self.worker = worker
        self.file_names.keep()
        lift_worker_send_timeout(worker)
        note_key = provide_client(worker)
        worker.handlers["scalable_unstarted_tasks"] = self.unstarted_tasks
        worker.handlers["scalable_check_transfer"] = self.check_transfer
        self.isolation = Isolation(worker, note_key)
        explain_lost_actors(worker.rpc, self.find_actor_error)
        detach_forks(worker, self.isolation.is_forking)
        self.record = RunRecord(worker)
        self.results = SmallResults(worker, self.record.usage.take)

    def teardown(self, worker: Worker) -> None:
        """Leave the worker's process as it was."""
        self.file_names.release()
        self.results.close()
        self.record.close()
        self.isolation.close()

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """Release the slots of a task that secedes: it may wait for other tasks of its group."""
        if finish == "long-running":
            return_resources(self.worker, key)

    def unstarted_tasks(self) -> dict[str, Any]:
        """Return this worker's status, the tasks it has not started, and the number of tasks it executes."""
        return {
            "status": self.worker.status.name,
            "unstarted": unstarted_tasks(self.worker),
            "executing": executing_tasks(self.worker),
        }

    async def find_actor_error(self, actor: Any) -> Any:
        """Return why an actor is lost, as `Actors.find_error` does."""
        return await self.worker.scheduler.scalable_find_actor_error(actor=actor)

    async def check_transfer(self, key: Any, holders: list[str]) -> str | None:
        """Receive a result from one of its holders and discard it; return why it cannot be received, or None."""
        failures: list[BaseException] = []
        for holder in holders:
            try:
                while await receive_alone(self.worker, key, holder, failures):
                    await asyncio.sleep(RETRY_DELAY)
            except OSError:
                continue  # the holder is at fault, not the result
            except Exception as error:  # noqa: BLE001 - pickling may raise anything, and that is the reason
                failures.append(error)
            return in_one_line(failures[0]) if failures else None
        return None
