"""The scheduler plugin: it connects the other modules with the scheduler and the controller."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from time import time
from typing import TYPE_CHECKING, Any

from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin
from tornado.ioloop import PeriodicCallback

from scalable.cluster.plugin.actors import Actors
from scalable.cluster.plugin.admission import Admission
from scalable.cluster.plugin.dask_internals import (
    cancel_all,
    keep_no_log,
    report_failed_graph,
    results_of_dead_worker,
    send_sooner,
    tasks_of_dead_worker,
)
from scalable.cluster.plugin.deaths import Deaths
from scalable.cluster.plugin.demand import Backlog
from scalable.cluster.plugin.draining import Draining
from scalable.cluster.plugin.exceptions import ordinary
from scalable.cluster.plugin.explaining import TaskFacts
from scalable.cluster.plugin.failed_groups import FailedGroups
from scalable.cluster.plugin.filenames import FileNames
from scalable.cluster.plugin.isolation import contained
from scalable.cluster.plugin.liveness import Liveness
from scalable.cluster.plugin.nannies import refuse_nanny_plugins
from scalable.cluster.plugin.presence import Presence
from scalable.cluster.plugin.results import ResultForwarding
from scalable.cluster.plugin.shuffles import Shuffles
from scalable.cluster.plugin.spreading import spread_waiting_tasks
from scalable.cluster.plugin.submissions import Submissions
from scalable.cluster.plugin.transfers import Transfers
from scalable.cluster.plugin.walltimes import Walltimes
from scalable.cluster.plugin.worker import GroupsWorkerPlugin

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, WorkerState

__all__ = ["TABLE_TOPIC", "GroupsPlugin"]

TABLE_TOPIC = "scalable-groups"
"""Dask event topic on which the group table is published."""

TICK_MS = 250
"""Milliseconds between rounds of spreading waiting tasks and failing those that cannot run."""


class GroupsPlugin(SchedulerPlugin):
    """The scheduler's part of the engine.

    It counts demand per tag, drains workers without losing or repeating anything, refuses workers of another
    environment, fails the tasks of failed groups, those that kill workers and those whose inputs cannot be sent to
    them, spreads waiting tasks over workers that join later, and publishes the group table.

    Parameters
    ----------
    slots : dict of str to int
        The group table: slots per worker, by tag. Tasks without a tag count for the first entry.
    worker_plugin : bytes
        `GroupsWorkerPlugin`, pickled by value.
    orphan_timeout : float
        Seconds without controller and clients after which the scheduler closes itself; 0 for never.
    """

    name = "scalable-groups"

    def __init__(
        self, slots: dict[str, int], worker_plugin: bytes, orphan_timeout: float = 0.0
    ) -> None:
        self.slots = slots
        self.worker_plugin = worker_plugin
        self.orphan_timeout = orphan_timeout
        self.members: dict[str, tuple[WorkerState, float]] = {}
        # Workers that have left, by the number of their departure: the controller may ask again for those whose answer
        # it has not received.
        self.removed: dict[int, str] = {}
        self.departures = 0
        self.backlog = Backlog()
        self.file_names = FileNames()

    async def start(self, scheduler: Scheduler) -> None:
        """Add the handlers to the scheduler."""
        self.scheduler = scheduler
        self.file_names.keep()
        self.admission = Admission(scheduler)
        self.liveness = Liveness(scheduler)
        self.transfers = Transfers(scheduler)
        self.draining = Draining(scheduler, self.transfers)
        self.failed_groups = FailedGroups(scheduler)
        self.walltimes = Walltimes(scheduler, self.members)
        self.submissions = Submissions(scheduler)
        self.deaths = Deaths(scheduler)
        self.actors = Actors(scheduler)
        self.presence = Presence(scheduler, self.orphan_timeout)
        self.results = ResultForwarding(scheduler)
        scheduler.handlers |= {
            "register-worker": self.admission.register_worker,
            "heartbeat_worker": self.admission.heartbeat_worker,
            "scatter": self.draining.scatter,
            "shuffle_get_or_create": Shuffles(scheduler).get_or_create,
            "scalable_publish": self.publish,
            "scalable_report": self.report,
            "scalable_drain": self.drain,
            "scalable_resume": self.resume,
            "scalable_expire": self.expire,
            "scalable_explain_task": TaskFacts(
                scheduler, self.liveness.status, self.submissions.explain, self.admission.unknown
            ).find,
            "scalable_alone": self.deaths.record_alone,
            "scalable_explain_deaths": self.explain_deaths,
            "scalable_find_actor_error": self.actors.find_error,
            "scalable_fail": self.failed_groups.fail,
            "scalable_cancel_all": self.cancel_all,
            "run_function": contained(scheduler.handlers["run_function"], "the function"),
        }
        refuse_nanny_plugins(scheduler)
        scheduler.stream_handlers |= {
            "task-finished": self.results.handle_task_finished,
            "scalable-receive-results": self.results.add_client,
            "task-erred": self.transfers.handle_task_erred,
            "update-graph": self.handle_update_graph,
            "long-running": self.deaths.handle_long_running,
            "scalable-recording": self.deaths.record_recording,
            "scalable-started": self.deaths.record_started,
        }
        await scheduler.register_worker_plugin(
            None, self.worker_plugin, name=GroupsWorkerPlugin.name, idempotent=True
        )
        # Nothing may be awaited from here on: the scheduler reports changes to a plugin once this has returned.
        for address in scheduler.workers:
            self.add_worker(scheduler, address)
        for ts in scheduler.tasks.values():
            if ts.state in Backlog.STATES:
                self.backlog.add(ts)
        self.publish(self.slots)
        self.ticker = PeriodicCallback(self.tick, TICK_MS)
        self.ticker.start()

    async def close(self) -> None:
        """Stop the periodic callback and what is in progress."""
        self.ticker.stop()
        self.file_names.release()
        self.draining.close()
        self.transfers.close()
        self.deaths.close()

    def tick(self) -> None:
        """Run what is due every `TICK_MS` milliseconds."""
        self.liveness.tick()
        self.presence.check()
        self.failed_groups.fail_tasks(self.slots)
        self.walltimes.fail_tasks()
        self.deaths.tick()
        self.actors.tick()
        spread_waiting_tasks(self.scheduler, self.slots, self.liveness.is_unresponsive)

    # -- Hooks that the scheduler calls

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Record when a worker joined, and its state, which the scheduler drops once the worker is gone."""
        self.members[worker] = scheduler.workers[worker], time()
        send_sooner(scheduler.stream_comms[worker])
        keep_no_log(scheduler.stream_comms[worker])

    def remove_worker(
        self, scheduler: Scheduler, worker: str, *, stimulus_id: str, **kwargs: Any
    ) -> None:
        """Record that a worker has left, and which of its tasks may have killed it."""
        ws, joined = self.members.pop(worker)
        self.departures += 1
        self.removed[self.departures] = str(ws.name)
        self.admission.on_worker_removed(ws)
        self.liveness.forget_worker(worker)
        self.draining.forget_worker(ws)
        assigned = tasks_of_dead_worker(scheduler, worker)
        is_preempted = self.walltimes.is_preempted(ws)
        self.walltimes.on_worker_removed(ws, joined, assigned)
        lost = results_of_dead_worker(scheduler, worker)
        self.deaths.on_worker_removed(ws, joined, assigned, lost, excused=is_preempted)
        self.actors.on_worker_removed(ws)

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """Send no more results to a client."""
        self.results.remove_client(client)

    def transition(
        self, key: Any, start: str, finish: str, *args: Any, stimulus_id: str, **kwargs: Any
    ) -> None:
        """Count a task in its new state."""
        if start in Backlog.STATES:
            self.backlog.discard(key)
        if start == "memory":
            self.transfers.forget_result(key)
        if finish in ("memory", "erred", "forgotten"):
            self.walltimes.forget_task(key)
        self.submissions.on_transition(key, finish)
        self.deaths.on_transition(key, start, finish, kwargs.get("worker"))
        if finish in Backlog.STATES:
            self.backlog.add(self.scheduler.tasks[key])

    # -- Messages of clients

    async def handle_update_graph(
        self, *, keys: Collection[Any], client: str, **message: Any
    ) -> None:
        """Add tasks; those that cannot be unpickled fail, whatever that raises."""
        try:
            await self.submissions.handle_update_graph(keys=keys, client=client, **message)
        except (Exception, asyncio.CancelledError):
            raise
        except BaseException as error:  # noqa: BLE001 - it would end the scheduler, or nobody would learn of it
            failure = error
        else:
            return
        report_failed_graph(self.scheduler, keys, client, ordinary(failure, "unpickling the task"))

    # -- Handlers that the controller calls

    def publish(self, slots: dict[str, int]) -> None:
        """Replace the group table and publish it to clients."""
        self.slots = slots
        self.scheduler.log_event(TABLE_TOPIC, slots)

    def report(self, departures: int = 0) -> dict[str, Any]:
        """Return the connected workers, those that have left or died, and the work for each tag.

        Parameters
        ----------
        departures : int
            How many departures of workers the controller knows of.
        """
        self.presence.note_controller()
        self.removed = {n: name for n, name in self.removed.items() if n > departures}
        workers = self.scheduler.workers.values()
        # Tasks without a tag count for the first, which should be a group that can have workers.
        tags = sorted(self.slots, key=self.failed_groups.has_failed)
        return {
            "workers": {str(ws.name): self._worker_facts(ws) for ws in workers},
            "demand": self.backlog.demand(tags, workers),
            "refused": self.admission.refused,
            "removed": [*self.removed.values()],
            "departures": self.departures,
            "deaths": self.actors.unexplained | self.deaths.unexplained,
            "blocked": self.submissions.blocked(),
        }

    def _worker_facts(self, ws: WorkerState) -> tuple[str | float, ...]:
        """Return the fields of `scalable.cluster.link.WorkerInfo`."""
        status = self.liveness.status(ws)
        facts = (status, len(ws.processing), len(ws.has_what), self.liveness.silence(ws))
        if status != Status.paused.name:
            return facts
        executing = sum(ts not in ws.long_running for ts in ws.executing)
        memory = ws.metrics.get("memory", 0) / ws.memory_limit if ws.memory_limit else 0.0
        return (*facts, executing, memory)

    async def drain(self, names: list[str], force: bool = False) -> dict[str, tuple[str, int]]:
        """Start or continue to drain workers; return how far each is. Those that never joined may not register."""
        self.admission.blocked.update(names)
        return await self.draining.drain(names, force)

    def expire(self, workers: dict[str, tuple[float, bytes | None]]) -> None:
        """Record in how many seconds workers will be ended; the error is None where that is a preemption."""
        self.draining.urgent.update(workers)
        for name, (seconds, error) in workers.items():
            self.walltimes.expire(name, seconds, error)

    def resume(self, names: list[str]) -> list[str]:
        """Take draining workers back; return those that could be."""
        resumed = self.draining.resume(names)
        self.admission.blocked.difference_update(resumed)
        return resumed

    def explain_deaths(self, deaths: dict[str, tuple[bool, str, bytes]]) -> None:
        """Record why workers died, for the tasks and the actors that they had."""
        self.deaths.explain(deaths)
        self.actors.explain(deaths)

    def cancel_all(self, reason: str) -> None:
        """Cancel the futures of all clients."""
        cancel_all(self.scheduler, reason)
