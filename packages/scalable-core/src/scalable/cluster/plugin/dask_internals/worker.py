"""Tasks, as a worker has them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from dask._task_spec import Task
from distributed import Worker
from distributed.core import Status
from distributed.protocol.pickle import dumps, loads
from distributed.protocol.serialize import serialize, to_serialize
from distributed.worker_state_machine import (
    ExecuteFailureEvent,
    ExecuteSuccessEvent,
    RescheduleEvent,
    UnpauseEvent,
)

from scalable.cluster.plugin.dask_internals.functions import new_stimulus_id
from scalable.cluster.plugin.dask_internals.scheduler import ALONE

__all__ = [
    "actor_executor",
    "drop_unusable_traceback",
    "executing_tasks",
    "failure_answer",
    "has_seceded",
    "not_executed",
    "raised_by",
    "replace_execute",
    "replace_raised",
    "replaced_run_spec",
    "return_resources",
    "run_id",
    "seconds_alone",
    "task_failure",
    "task_that_raises",
    "try_to_send",
    "unstarted_tasks",
    "untransferable_error",
    "was_taken_back",
]


def unstarted_tasks(worker: Worker) -> list[Any]:
    """Return the keys of the tasks that a worker has and has not started."""
    return [
        ts.key
        for ts in worker.state.tasks.values()
        if ts.state in ("ready", "constrained", "waiting")
    ]


def executing_tasks(worker: Worker) -> int:
    """Return how many tasks a worker runs, those that have seceded included."""
    return len(worker.state.executing) + len(worker.state.long_running)


def has_seceded(worker: Worker, key: Any) -> bool:
    """Return whether a task that a worker runs has seceded."""
    ts = worker.state.tasks.get(key)
    return ts is not None and ts in worker.state.long_running


def seconds_alone(worker: Worker, key: Any) -> float | None:
    """Return for how long a worker runs a task alone; None where others may run meanwhile."""
    ts = worker.state.tasks.get(key)
    seconds: float | None = (ts.annotations or {}).get(ALONE) if ts else None
    return seconds


def was_taken_back(worker: Worker, key: Any) -> bool:
    """Return whether the scheduler has taken back a task that a worker is about to start, or runs."""
    ts = worker.state.tasks.get(key)
    return ts is not None and ts.state == "cancelled"


def not_executed(key: Any) -> RescheduleEvent:
    """Return what `Worker.execute` returns for a task that it has not started and the scheduler has taken back."""
    return RescheduleEvent(key=key, stimulus_id=new_stimulus_id())


def replace_execute(worker: Worker, execute: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """Make a worker call `execute` to run a task; return what it called before."""
    previous = worker.execute
    setattr(worker, "execute", execute)  # noqa: B010 - a method, as mypy sees it
    return previous


def run_id(worker: Worker, key: Any) -> int:
    """Return the number that the scheduler gave to this run of a task."""
    ts = worker.state.tasks.get(key)
    return ts.run_id if ts else -1


@contextmanager
def replaced_run_spec(worker: Worker, key: Any, replace: Callable[[Any], Any]) -> Iterator[None]:
    """Make a worker call `replace(task)` in place of a task, if a thread calls it, until the block is left."""
    ts = worker.state.tasks.get(key)
    if ts is None or ts.run_spec is None or not _is_run_by_thread(worker, ts):
        yield
        return
    original = ts.run_spec
    replaced = ts.run_spec = replace(original)
    try:
        yield
    finally:
        if ts.run_spec is replaced:
            ts.run_spec = original


def _is_run_by_thread(worker: Worker, ts: Any) -> bool:
    executor = worker.executors.get((ts.annotations or {}).get("executor", "default"))
    # As `Worker.execute` decides it. Other executors may pickle the task.
    return "ThreadPoolExecutor" in str(type(executor)) and not ts.run_spec.is_coro


def task_that_raises(error: Exception) -> Any:
    """Return a task that raises an error."""
    return Task(None, _raise, error)


def _raise(error: Exception) -> Any:
    raise error


def replace_raised(done: Any, error: Exception) -> None:
    """Replace the exception in what `Worker.execute` returned for a task that has failed."""
    done.exception = to_serialize(dumps(error))
    done.exception_text = repr(error)


async def try_to_send(worker: Worker, done: Any) -> None:
    """Pickle the result in what `Worker.execute` returned, as if it was sent; whether that fails is found out later."""
    if isinstance(done, ExecuteSuccessEvent):
        await worker.loop.run_in_executor(worker.executors["actor"], _try_to_pickle, done.value)


def _try_to_pickle(value: object) -> None:
    with suppress(BaseException):
        serialize(value)


def raised_by(done: Any) -> BaseException | None:
    """Return what a task has raised, from what `Worker.execute` returned; None if it has not failed."""
    if not isinstance(done, ExecuteFailureEvent):
        return None
    error = done.exception.data
    if isinstance(error, bytes):
        error = loads(error)
    return error if isinstance(error, BaseException) else None


def drop_unusable_traceback(done: Any) -> None:
    """Remove the traceback from what `Worker.execute` returned, if it is one that the client fails on, and waits.

    distributed sends the text of a traceback that it cannot pickle, for instance after 1,000 calls of a recursion.
    """
    if isinstance(done, ExecuteFailureEvent) and done.traceback is not None:
        pickled = done.traceback.data
        if isinstance(pickled, bytes) and isinstance(loads(pickled), str):
            done.traceback = None


def task_failure(key: Any, run: int, error: Exception, cause: BaseException) -> ExecuteFailureEvent:
    """Return what `Worker.execute` returns for a task that fails with `error`, with the traceback of its cause.

    It must not be called while an exception is handled.
    """
    try:
        raise error.with_traceback(cause.__traceback__)
    except Exception as raised:  # noqa: BLE001 - with a traceback, where Dask looks for it
        failure = ExecuteFailureEvent.from_exception(
            raised, key=key, run_id=run, stimulus_id=new_stimulus_id()
        )
    drop_unusable_traceback(failure)
    return failure


def actor_executor(worker: Worker) -> Any:
    """Return the executor that calls methods of actors."""
    return worker.executors["actor"]


def failure_answer(error: Exception) -> dict[str, Any]:
    """Return what the handlers of a worker that call the user's code besides tasks return for what that has raised."""
    return {"status": "error", "exception": to_serialize(error), "traceback": None}


def untransferable_error(answer: Any) -> BaseException | None:
    """Return the exception in the answer of a handler that cannot be pickled, unpickled or raised by who asked.

    Of tasks, distributed checks that; the caller of an actor's method would wait for ever.
    """
    sent = answer.get("exception") if isinstance(answer, dict) else None
    error = getattr(sent, "data", None)
    if not isinstance(error, BaseException):
        return None
    try:
        copy = loads(dumps(error))
    except BaseException:  # noqa: BLE001 - its class may raise anything there
        return error
    return None if isinstance(copy, Exception) and not isinstance(copy, StopIteration) else error


def return_resources(worker: Worker, key: Any) -> None:
    """Release the resources of a task that has seceded, and start tasks that waited for them."""
    ts = worker.state.tasks[key]
    for name, amount in ts.resource_restrictions.items():
        worker.state.available_resources[name] += amount
    if ts.resource_restrictions:
        ts.resource_restrictions = {}  # so that none are returned again when it ends
        worker.loop.add_callback(_start_ready_tasks, worker)


def _start_ready_tasks(worker: Worker) -> None:
    if worker.status == Status.running:
        worker.handle_stimulus(UnpauseEvent(stimulus_id=new_stimulus_id()))
