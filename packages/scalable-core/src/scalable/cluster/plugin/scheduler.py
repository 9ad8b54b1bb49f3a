"""Where the scheduler's part of the engine is put together and meets the scheduler."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import SchedulerPlugin
from tornado.ioloop import PeriodicCallback

from scalable.cluster.plugin.admission import Admission
from scalable.cluster.plugin.demand import Backlog
from scalable.cluster.plugin.draining import Draining
from scalable.cluster.plugin.ending import FailedGroups, Walltimes, cancel_all, clear_suspicion
from scalable.cluster.plugin.spreading import spread_waiting_tasks
from scalable.cluster.plugin.transfers import Transfers
from scalable.cluster.plugin.worker import GroupsWorkerPlugin

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, WorkerState

__all__ = ["TABLE_TOPIC", "GroupsPlugin"]

TABLE_TOPIC = "scalable-groups"
"""Dask event topic on which the group table is published."""

TICK_MS = 250
"""How often waiting tasks are spread and tasks of failed groups are ended."""


class GroupsPlugin(SchedulerPlugin):
    """The scheduler's part of the engine.

    It counts demand per tag, drains workers without losing or repeating anything, refuses workers of another
    environment, ends the tasks of failed groups and those whose inputs cannot be sent to them, spreads waiting tasks
    over late workers, and publishes the group table.

    Parameters
    ----------
    slots : dict of str to int
        The group table: slots per worker, by tag. Tasks without a tag count for its first entry.
    worker_plugin : bytes
        `GroupsWorkerPlugin`, pickled by value.
    """

    name = "scalable-groups"

    def __init__(self, slots: dict[str, int], worker_plugin: bytes) -> None:
        self.slots = slots
        self.worker_plugin = worker_plugin
        self.members: dict[str, tuple[WorkerState, float]] = {}
        self.removed: list[str] = []
        self.backlog = Backlog()

    async def start(self, scheduler: Scheduler) -> None:
        """Add our handlers to the scheduler."""
        self.scheduler = scheduler
        self.admission = Admission(scheduler)
        self.transfers = Transfers(scheduler)
        self.draining = Draining(scheduler, self.transfers)
        self.failed_groups = FailedGroups(scheduler)
        self.walltimes = Walltimes(scheduler, self.members)
        scheduler.handlers |= {
            "register-worker": self.admission.register_worker,
            "heartbeat_worker": self.admission.heartbeat_worker,
            "scatter": self.draining.scatter,
            "scalable_publish": self.publish,
            "scalable_report": self.report,
            "scalable_drain": self.drain,
            "scalable_resume": self.resume,
            "scalable_expire": self.walltimes.expire,
            "scalable_fail": self.failed_groups.fail,
            "scalable_cancel_all": self.cancel_all,
        }
        scheduler.stream_handlers["task-erred"] = self.transfers.handle_task_erred
        await scheduler.register_worker_plugin(
            None, self.worker_plugin, name=GroupsWorkerPlugin.name, idempotent=True
        )
        # Nothing may be awaited from here on: the scheduler tells plugins of changes once this has returned.
        self.members |= {address: (ws, time()) for address, ws in scheduler.workers.items()}
        for ts in scheduler.tasks.values():
            if ts.state in Backlog.STATES:
                self.backlog.add(ts)
        self.publish(self.slots)
        self.ticker = PeriodicCallback(self.tick, TICK_MS)
        self.ticker.start()

    async def close(self) -> None:
        """Stop what runs by itself."""
        self.ticker.stop()
        self.draining.close()
        self.transfers.close()

    def tick(self) -> None:
        """Do what must be done without being asked."""
        self.failed_groups.fail_tasks(self.slots)
        self.walltimes.fail_tasks()
        spread_waiting_tasks(self.scheduler, self.slots)

    # -- What the scheduler tells us

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Remember a worker's state, which is out of reach once the worker is gone, and when it came."""
        self.members[worker] = scheduler.workers[worker], time()

    def remove_worker(
        self, scheduler: Scheduler, worker: str, *, stimulus_id: str, **kwargs: Any
    ) -> None:
        """Do justice to the tasks of a worker that has died."""
        ws, joined = self.members.pop(worker)
        self.removed.append(str(ws.name))
        self.admission.on_worker_removed(ws)
        self.draining.forget_worker(worker)
        _, event = scheduler.get_events(worker)[-1]
        died = event["action"] == "remove-worker" and not event["expected"]
        keys = event["processing-tasks"] if died else ()
        assigned = [ts for key in keys if (ts := scheduler.tasks.get(key))]
        clear_suspicion(ws, assigned)
        self.walltimes.on_worker_removed(ws, joined, assigned)

    def transition(
        self, key: Any, start: str, finish: str, *args: Any, stimulus_id: str, **kwargs: Any
    ) -> None:
        """Count a task where it is now."""
        if start in Backlog.STATES:
            self.backlog.discard(key)
        if start == "memory":
            self.transfers.forget_result(key)
        if finish in ("memory", "erred", "forgotten"):
            self.walltimes.forget_task(key)
        if finish in Backlog.STATES:
            self.backlog.add(self.scheduler.tasks[key])

    # -- What the controller asks

    def publish(self, slots: dict[str, int]) -> None:
        """Replace the group table, and tell clients."""
        self.slots = slots
        self.scheduler.log_event(TABLE_TOPIC, slots)

    def report(self) -> dict[str, Any]:
        """Say which workers there are, which have left since the last report, and how much work waits for each tag."""
        removed, self.removed = self.removed, []
        workers = self.scheduler.workers.values()
        # What takes no tag counts for the first, which should be one that can have workers.
        tags = sorted(self.slots, key=self.failed_groups.has_failed)
        return {
            "workers": {
                str(ws.name): (ws.status.name, len(ws.processing), len(ws.has_what))
                for ws in workers
            },
            "demand": self.backlog.demand(tags, workers),
            "refused": self.admission.refused,
            "removed": removed,
        }

    async def drain(self, names: list[str], force: bool = False) -> dict[str, tuple[str, int]]:
        """Bring workers nearer to their end, and say how near each is; those that were never seen may not come."""
        self.admission.blocked.update(names)
        return await self.draining.drain(names, force)

    def resume(self, names: list[str]) -> list[str]:
        """Take draining workers back into service; say which could still be had."""
        resumed = self.draining.resume(names)
        self.admission.blocked.difference_update(resumed)
        return resumed

    def cancel_all(self, reason: str) -> None:
        """Cancel what clients wait for."""
        cancel_all(self.scheduler, reason)
