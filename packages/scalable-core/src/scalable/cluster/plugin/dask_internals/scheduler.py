"""Workers and tasks, as the scheduler has them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from distributed.active_memory_manager import RetireWorker
from distributed.core import Status
from distributed.protocol.serialize import to_serialize
from distributed.shuffle._core import barrier_key

from scalable.cluster.plugin.dask_internals.functions import new_stimulus_id

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

__all__ = [
    "ALONE",
    "Hold",
    "Stealing",
    "barrier_of_shuffle",
    "cancel_all",
    "fail_task",
    "find_worker",
    "free_key",
    "interrupt_retirement",
    "release_tasks",
    "removal_was_expected",
    "remove_worker",
    "report_error",
    "report_failed_graph",
    "results_of_dead_worker",
    "run_alone",
    "runs_alone",
    "runs_here",
    "send_to_clients",
    "send_worker_status",
    "set_scheduler_side_status",
    "set_worker_status",
    "suspect",
    "take_over_failures",
    "tasks_of_dead_worker",
    "turn_off_worker_ttl",
]


def find_worker(scheduler: Scheduler, name: str) -> WorkerState | None:
    """Return the worker of this name, or None."""
    return scheduler.workers.get(scheduler.aliases.get(name, ""))


def set_worker_status(scheduler: Scheduler, ws: WorkerState, status: Status) -> None:
    """Set the status of a worker, in the scheduler at once and on the worker by a message."""
    if ws.status != status:
        scheduler.handle_worker_status_change(status, ws, new_stimulus_id())
        send_worker_status(scheduler, ws, status)


def send_worker_status(scheduler: Scheduler, ws: WorkerState, status: Status) -> None:
    """Set the status of a worker; the scheduler follows once the worker has confirmed it."""
    message = {
        "op": "worker-status-change",
        "status": status.name,
        "stimulus_id": new_stimulus_id(),
    }
    scheduler.worker_send(ws.address, message)


def set_scheduler_side_status(scheduler: Scheduler, ws: WorkerState, status: Status) -> None:
    """Set the status of a worker in the scheduler only."""
    scheduler.handle_worker_status_change(status, ws, new_stimulus_id())


def turn_off_worker_ttl(scheduler: Scheduler) -> None:
    """Stop the scheduler from removing workers whose heartbeats are late."""
    scheduler.worker_ttl = None
    if check := scheduler.periodic_callbacks.pop("worker-ttl", None):
        check.stop()


async def remove_worker(scheduler: Scheduler, ws: WorkerState) -> None:
    """Remove and close a worker at once; its tasks run elsewhere, and none is suspected."""
    await scheduler.remove_worker(
        ws.address, expected=True, close=True, stimulus_id=new_stimulus_id()
    )


def interrupt_retirement(scheduler: Scheduler, address: str) -> bool:
    """Make ``Scheduler.retire_workers`` give up on a worker; return whether its policy was found.

    If the active memory manager is off, retirement has one of its own, and must be cancelled instead.
    """
    policies = scheduler.extensions["amm"].policies
    found = [p for p in policies if isinstance(p, RetireWorker) and p.address == address]
    for policy in found:
        policy.no_recipients = True
        policies.remove(policy)
    return bool(found)


def tasks_of_dead_worker(scheduler: Scheduler, address: str) -> list[TaskState]:
    """Return the tasks that were assigned to a removed worker, none if its removal was expected."""
    return _tasks_of_death(scheduler, address, "processing-tasks")


def results_of_dead_worker(scheduler: Scheduler, address: str) -> list[TaskState]:
    """Return the tasks whose results were lost with a removed worker, none if its removal was expected."""
    return _tasks_of_death(scheduler, address, "lost-computed-tasks")


def _tasks_of_death(scheduler: Scheduler, address: str, which: str) -> list[TaskState]:
    keys = () if (event := _removal(scheduler, address))["expected"] else event[which]
    return [ts for key in keys if (ts := scheduler.tasks.get(key))]


def removal_was_expected(scheduler: Scheduler, address: str) -> bool:
    """Return whether a removed worker was removed on purpose."""
    return bool(_removal(scheduler, address)["expected"])


def _removal(scheduler: Scheduler, address: str) -> dict[str, Any]:
    """Return what the scheduler has logged of the removal of a worker."""
    _, event = scheduler.get_events(address)[-1]
    return dict(event) if event["action"] == "remove-worker" else {"expected": True}


def fail_task(scheduler: Scheduler, ts: TaskState, error: bytes, text: str) -> None:
    """Fail a task, wherever it waits to run.

    Parameters
    ----------
    scheduler : Scheduler
        The scheduler that has the task.
    ts : TaskState
        The task.
    error : bytes
        The exception, pickled. The scheduler cannot unpickle it and need not.
    text : str
        The exception in one line.
    """
    holder = ts.processing_on
    stimulus_id = new_stimulus_id()
    recommendations = scheduler.transition(
        ts.key,
        "erred",
        exception=error,
        exception_text=text,
        cause=ts.key,
        stimulus_id=stimulus_id,
    )
    scheduler.transitions(recommendations, stimulus_id=stimulus_id)
    if holder is not None:
        free_key(scheduler, holder.address, ts.key)


def report_error(scheduler: Scheduler, ts: TaskState, error: bytes, text: str) -> None:
    """Replace the exception of a task that has failed, and of those that failed with it, if it is still there."""
    if ts.state != "erred":
        return
    ts.exception, ts.exception_text = error, text  # type: ignore[assignment]
    for failed in [*scheduler.tasks.values()]:
        if failed.state == "erred" and failed.exception_blame is ts:
            scheduler.report_on_key(ts=failed)


def free_key(scheduler: Scheduler, address: str, key: Any) -> None:
    """Make a worker forget a task: it does not start it, or drops its result or its failure."""
    message = {"op": "free-keys", "keys": [key], "stimulus_id": new_stimulus_id()}
    scheduler.worker_send(address, message)


def runs_here(scheduler: Scheduler, key: Any, address: str, run_id: int) -> bool:
    """Return whether a task runs on this worker, and this run of it is the one that counts."""
    ts = scheduler.tasks.get(key)
    if ts is None or ts.processing_on is None or ts.processing_on.address != address:
        return False
    return ts.run_id == run_id


def send_to_clients(scheduler: Scheduler, clients: Iterable[str], message: dict[str, Any]) -> None:
    """Send a message to some clients, after what has been sent to them before."""
    scheduler.send_all({client: [message] for client in clients}, {})


def release_tasks(scheduler: Scheduler, tasks: Iterable[TaskState]) -> None:
    """Take tasks away from their workers, so that the scheduler assigns them anew."""
    scheduler.transitions({ts.key: "released" for ts in tasks}, stimulus_id=new_stimulus_id())


def take_over_failures(scheduler: Scheduler) -> int:
    """Stop the scheduler from failing tasks whose workers die; return how many deaths it would have allowed."""
    allowed: int = scheduler.allowed_failures
    scheduler.allowed_failures = sys.maxsize
    return allowed


def suspect(ts: TaskState, deaths: int) -> None:
    """Count deaths of workers against a task, or fewer where `deaths` is negative."""
    change = max(deaths, -ts.suspicious)
    ts.suspicious += change
    ts.prefix.suspicious += change


class Hold:
    """Keeps a task from being assigned to a worker, until it is resumed or failed."""

    # No worker has this address, so that the task is in state ``no-worker`` and not ``queued``.
    _NOWHERE = "scalable://held"

    def __init__(self, scheduler: Scheduler, ts: TaskState) -> None:
        self._scheduler = scheduler
        self._task = ts
        self._restrictions = ts.worker_restrictions, ts.loose_restrictions
        ts.worker_restrictions, ts.loose_restrictions = {self._NOWHERE}, False
        if ts.state in ("processing", "queued"):
            release_tasks(scheduler, [ts])

    def resume(self) -> None:
        """Let the task be assigned again."""
        ts = self._task
        ts.worker_restrictions, ts.loose_restrictions = self._restrictions
        if ts.state == "no-worker":
            self._scheduler.transitions({ts.key: "processing"}, stimulus_id=new_stimulus_id())


ALONE = "scalable-alone"
"""Annotation of a task that its worker runs alone: for how many seconds, at most."""


def run_alone(ts: TaskState, seconds: float | None) -> None:
    """Make a task run alone on its worker for that long, from its next start on; None ends that."""
    ts.annotations = {k: v for k, v in (ts.annotations or {}).items() if k != ALONE}
    if seconds is not None:
        ts.annotations[ALONE] = seconds


def runs_alone(ts: TaskState) -> bool:
    """Return whether a task is to run alone on its worker."""
    return ALONE in (ts.annotations or {})


def cancel_all(scheduler: Scheduler, reason: str) -> None:
    """Cancel the futures of all clients, so that they raise instead of hanging, and nothing is recomputed.

    `Scheduler.stimulus_cancel` fails on graphs in which no client has a future of an intermediate task.
    """
    for name, client in list(scheduler.clients.items()):
        keys = [ts.key for ts in client.wants_what]
        # A task that has failed already keeps its own error.
        lost = [ts.key for ts in client.wants_what if ts.state != "erred"]
        scheduler.client_releases_keys(keys, client=name)
        message = {
            "op": "cancelled-keys",
            "keys": lost,
            "reason": "cluster-closed",
            "msg": reason,
        }
        scheduler.report(message, client=name)


def report_failed_graph(
    scheduler: Scheduler, keys: Iterable[Any], client: str, error: Exception
) -> None:
    """Make the futures of tasks that the scheduler cannot unpickle raise an error in their client."""
    for key in keys:
        message = {"op": "task-erred", "key": key, "exception": to_serialize(error)}
        scheduler.report({**message, "traceback": None}, client=client)


class Stealing:
    """The scheduler's work stealing, which moves a task after its worker has confirmed that it is not started."""

    def __init__(self, extension: Any) -> None:
        self._extension = extension

    @classmethod
    def of(cls, scheduler: Scheduler) -> Stealing | None:
        """Return a scheduler's stealing; None if it has none."""
        extension = scheduler.extensions.get("stealing")
        return None if extension is None else cls(extension)

    @property
    def moves(self) -> Mapping[TaskState, Mapping[str, Any]]:
        """The moves in progress: by task, its ``victim`` and its ``thief``."""
        in_flight: Mapping[TaskState, Mapping[str, Any]] = self._extension.in_flight
        return in_flight

    def move(self, ts: TaskState, victim: WorkerState, thief: WorkerState) -> None:
        """Request that a task moves from one worker to another."""
        self._extension.move_task_request(ts, victim, thief)


def barrier_of_shuffle(scheduler: Scheduler, shuffle_id: Any) -> TaskState | None:
    """Return the task of a shuffle that runs between its two halves."""
    return scheduler.tasks.get(barrier_key(shuffle_id))
