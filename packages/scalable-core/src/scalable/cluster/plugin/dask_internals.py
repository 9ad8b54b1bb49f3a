"""What these modules use of distributed beyond its public interface.

Each name is listed in docs/extending/dask.md and has a test of its own against the installed version. Hooks, handlers
and documented attributes of distributed's state classes are used where they are needed.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from time import time
from types import FunctionType, MethodType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import distributed.client
import distributed.comm.utils
import distributed.protocol.core
import distributed.worker
from dask._task_spec import Task
from distributed import Worker, default_client
from distributed.active_memory_manager import RetireWorker
from distributed.core import ConnectionPool, PooledRPCCall, Status
from distributed.protocol.pickle import dumps, loads
from distributed.protocol.serialize import merge_and_deserialize, serialize, to_serialize
from distributed.shuffle._core import barrier_key
from distributed.worker import get_data_from_worker
from distributed.worker_state_machine import (
    ExecuteFailureEvent,
    ExecuteSuccessEvent,
    RescheduleEvent,
    UnpauseEvent,
)

if TYPE_CHECKING:
    from distributed import Client
    from distributed.scheduler import Scheduler, TaskState, WorkerState

__all__ = [
    "ContainedCalls",
    "Hold",
    "Stealing",
    "actor_failure",
    "adjust_batches",
    "barrier_of_shuffle",
    "cancel_all",
    "close_connection",
    "contain_answers",
    "contain_requests",
    "drop_unusable_traceback",
    "executing_tasks",
    "fail_task",
    "find_worker",
    "forget_worker_and_clients",
    "free_key",
    "has_seceded",
    "hide_from_tracebacks",
    "interrupt_retirement",
    "keep_no_log",
    "lift_send_timeout",
    "lift_worker_send_timeout",
    "not_executed",
    "raised_by",
    "read_unreadable_tasks",
    "receive_alone",
    "release_tasks",
    "remove_worker",
    "replace_batched_send",
    "replace_execute",
    "replace_raised",
    "replace_worker_client",
    "replaced_run_spec",
    "report_failed_graph",
    "results_of_dead_worker",
    "return_resources",
    "run_alone",
    "run_id",
    "runs_alone",
    "runs_here",
    "seconds_alone",
    "send_sooner",
    "send_to_clients",
    "send_worker_status",
    "set_scheduler_side_status",
    "set_worker_status",
    "suspect",
    "take_over_failures",
    "task_failure",
    "task_that_raises",
    "tasks_of_dead_worker",
    "try_to_send",
    "turn_off_worker_ttl",
    "unstarted_tasks",
    "untransferable_error",
    "was_taken_back",
]


BATCH_INTERVAL = 0.002
"""Seconds between two batches of messages on one connection, as from Dask's workers and to its clients."""


def _stimulus_id() -> str:
    return f"scalable-{time()}"


# -- Workers, in the scheduler


def find_worker(scheduler: Scheduler, name: str) -> WorkerState | None:
    """Return the worker of this name, or None."""
    return scheduler.workers.get(scheduler.aliases.get(name, ""))


def set_worker_status(scheduler: Scheduler, ws: WorkerState, status: Status) -> None:
    """Set the status of a worker, in the scheduler at once and on the worker by a message."""
    if ws.status != status:
        scheduler.handle_worker_status_change(status, ws, _stimulus_id())
        send_worker_status(scheduler, ws, status)


def send_worker_status(scheduler: Scheduler, ws: WorkerState, status: Status) -> None:
    """Set the status of a worker; the scheduler follows once the worker has confirmed it."""
    message = {
        "op": "worker-status-change",
        "status": status.name,
        "stimulus_id": _stimulus_id(),
    }
    scheduler.worker_send(ws.address, message)


def set_scheduler_side_status(scheduler: Scheduler, ws: WorkerState, status: Status) -> None:
    """Set the status of a worker in the scheduler only."""
    scheduler.handle_worker_status_change(status, ws, _stimulus_id())


def turn_off_worker_ttl(scheduler: Scheduler) -> None:
    """Let no worker be removed because its heartbeat is late."""
    scheduler.worker_ttl = None
    if check := scheduler.periodic_callbacks.pop("worker-ttl", None):
        check.stop()


def lift_send_timeout(comm: Any) -> None:
    """Let a connection wait for as long as its other end does not read, while that is reachable.

    distributed sets TCP_USER_TIMEOUT to 30 s. Linux then closes a connection whose other end acknowledges but has not
    made room in its buffer for this long, as the process of a task that holds the GIL does not. Keepalive probes still
    find a machine that is gone.
    """
    stream = getattr(comm, "stream", None)  # in-process connections have none
    if stream is not None and stream.socket is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)


def lift_worker_send_timeout(worker: Worker) -> None:
    """Let a worker's connection to the scheduler wait for as long as the scheduler does not read."""
    lift_send_timeout(worker.batched_stream.comm)


def send_sooner(batched: Any) -> None:
    """Let a connection send its next batch of messages after 2 ms, where Dask waits for 5 or 10 ms."""
    batched.interval = BATCH_INTERVAL


def keep_no_log(batched: Any) -> None:
    """Let a connection keep none of the messages that it has sent.

    Dask keeps the last 1000 batches below 1 MB for its developers, with all small results, functions and arguments that
    were sent in them.
    """
    batched.recent_message_log = deque(maxlen=0)


def adjust_batches(worker: Worker) -> None:
    """Let a worker send messages to the scheduler at once, or in batches while it has more tasks to run.

    Nobody may have anything to do but wait for the only task, whose start has been sent just before its end.
    """
    has_more = worker.state.ready or worker.state.constrained
    worker.batched_stream.interval = BATCH_INTERVAL if has_more else 0.0


async def remove_worker(scheduler: Scheduler, ws: WorkerState) -> None:
    """Remove and close a worker at once; its tasks run elsewhere, and none is suspected."""
    await scheduler.remove_worker(ws.address, expected=True, close=True, stimulus_id=_stimulus_id())


def interrupt_retirement(scheduler: Scheduler, address: str) -> bool:
    """Let ``Scheduler.retire_workers`` give up on a worker; return whether its policy was found.

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
    _, event = scheduler.get_events(address)[-1]
    died = event["action"] == "remove-worker" and not event["expected"]
    return [ts for key in event[which] if (ts := scheduler.tasks.get(key))] if died else []


# -- Tasks, in the scheduler


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
    stimulus_id = _stimulus_id()
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


def free_key(scheduler: Scheduler, address: str, key: Any) -> None:
    """Let a worker forget a task: it does not start it, or drops its result or its failure."""
    message = {"op": "free-keys", "keys": [key], "stimulus_id": _stimulus_id()}
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
    scheduler.transitions({ts.key: "released" for ts in tasks}, stimulus_id=_stimulus_id())


def take_over_failures(scheduler: Scheduler) -> int:
    """Keep the scheduler from failing tasks whose workers die; return how many deaths it would have allowed."""
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
            self._scheduler.transitions({ts.key: "processing"}, stimulus_id=_stimulus_id())


_ALONE = "scalable-alone"
"""Annotation of a task that its worker runs alone: for how many seconds, at most."""


def run_alone(ts: TaskState, seconds: float | None) -> None:
    """Let a task run alone on its worker for that long, from its next start on; None ends that."""
    ts.annotations = {k: v for k, v in (ts.annotations or {}).items() if k != _ALONE}
    if seconds is not None:
        ts.annotations[_ALONE] = seconds


def runs_alone(ts: TaskState) -> bool:
    """Return whether a task is to run alone on its worker."""
    return _ALONE in (ts.annotations or {})


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
    """Let futures of a client raise an error, whose tasks the scheduler cannot read."""
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


# -- On a worker


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
    seconds: float | None = (ts.annotations or {}).get(_ALONE) if ts else None
    return seconds


def was_taken_back(worker: Worker, key: Any) -> bool:
    """Return whether the scheduler has taken back a task that a worker is about to start, or runs."""
    ts = worker.state.tasks.get(key)
    return ts is not None and ts.state == "cancelled"


def not_executed(key: Any) -> RescheduleEvent:
    """Return what `Worker.execute` returns for a task that it has not started and the scheduler has taken back."""
    return RescheduleEvent(key=key, stimulus_id=_stimulus_id())


def replace_execute(worker: Worker, execute: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """Let a worker call `execute` to run a task; return what it has called so far."""
    previous = worker.execute
    setattr(worker, "execute", execute)  # noqa: B010 - a method, as mypy sees it
    return previous


def replace_batched_send(worker: Worker, send: Callable[[Any], None]) -> Callable[[Any], None]:
    """Let a worker call `send` with its messages to the scheduler; return what it has called so far."""
    previous = worker.batched_send
    setattr(worker, "batched_send", send)  # noqa: B010 - a method, as mypy sees it
    return previous


def run_id(worker: Worker, key: Any) -> int:
    """Return the number that the scheduler gave to this run of a task."""
    ts = worker.state.tasks.get(key)
    return ts.run_id if ts else -1


@contextmanager
def replaced_run_spec(worker: Worker, key: Any, replace: Callable[[Any], Any]) -> Iterator[None]:
    """Within the block, let a worker call `replace(task)` in place of a task, if a thread calls it."""
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


def read_unreadable_tasks(worker: Worker, replace: Callable[[BaseException], Any]) -> None:
    """Let a worker go on if it cannot unpickle a task that the scheduler sends; `replace(error)` takes its place.

    The message is lost otherwise, and with it the worker, since nobody knows any more which task it was.
    """
    comm: Any = worker.batched_stream.comm
    pickling = SimpleNamespace(loads=_guarded(loads, replace), dumps=dumps)
    hide_from_tracebacks(_raise)
    _read_with(comm, pickle=pickling)


def contain_requests(worker: Worker, replace: Callable[[BaseException], Any]) -> None:
    """Let `replace(error)` take the place of what a worker is sent and cannot unpickle, such as scattered data."""

    def contained(handle: Callable[[Any], Any], comm: Any) -> Any:
        _contain_unpickling(comm, replace)
        return handle(comm)

    listeners: list[Any] = worker.listeners
    for listener in listeners:
        listener.comm_handler = functools.partial(contained, listener.comm_handler)


def contain_answers(pool: Any, replace: Callable[[BaseException], Any]) -> None:
    """Let `replace(error)`, which may raise, take the place of what a pool of connections receives and cannot unpickle.

    What users' code raises there is taken for something else: `OSError` and `EOFError` for trouble with the network, so
    that the same is asked for again without end; `SystemExit` ends the event loop.

    Parameters
    ----------
    pool : ConnectionPool
        Of a worker or a client.
    replace : callable
        Returns what takes its place, or raises an exception that is none of these.
    """
    pool.__class__ = _ContainedPool
    pool.replace = replace


class _ContainedPool(ConnectionPool):
    """A pool whose connections contain what is raised while a message is unpickled."""

    replace: Callable[[BaseException], Any]

    async def connect(self, addr: str, timeout: float | None = None) -> Any:
        """Return a connection."""
        comm: Any = await super().connect(addr, timeout)
        if "read" not in vars(comm):
            _contain_unpickling(comm, self.replace)
            comm.read = functools.partial(_read_or_abort, comm, comm.read)
        return comm

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        calls = super().__call__(*args, **kwargs)
        made: Any = ContainedCalls
        return made(calls.addr, self, calls.serializers, calls.deserializers)


async def _read_or_abort(comm: Any, read: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Read a message; close the connection if it cannot be read, because its sender waits there for a confirmation."""
    try:
        return await read(*args, **kwargs)
    except (OSError, asyncio.CancelledError):
        raise
    except Exception:
        comm.abort()
        raise


class ContainedCalls(PooledRPCCall):
    """Calls of a server, of which those of an actor's methods do not raise.

    Dask raises that where nobody asks for it, and whoever waits for the method's result waits for ever.
    """

    async def actor_execute(self, **kwargs: Any) -> Any:
        """Call a method of an actor; return what was raised, as a worker does."""
        call = self.__getattr__("actor_execute")  # type: ignore[no-untyped-call]
        return await _answered(call(**kwargs))

    async def proxy(self, *, msg: dict[str, Any], **kwargs: Any) -> Any:
        """Let a scheduler pass on a call to a worker."""
        call = self.__getattr__("proxy")  # type: ignore[no-untyped-call]
        answer = call(msg=msg, **kwargs)
        return await (_answered(answer) if msg["op"] == "actor_execute" else answer)


async def _answered(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except OSError:
        raise  # Dask answers this itself
    except Exception as error:  # noqa: BLE001 - raised where the result is asked for
        return {"status": "error", "exception": error}


def _contain_unpickling(comm: Any, replace: Callable[[BaseException], Any]) -> None:
    _read_with(comm, merge_and_deserialize=_guarded(merge_and_deserialize, replace))


def _guarded(load: Callable[..., Any], replace: Callable[[BaseException], Any]) -> Any:
    """Return a function that returns `replace(error)` where `load` raises."""

    def load_or_replace(*args: Any, **kwargs: Any) -> Any:
        try:
            return load(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - unpickling may raise anything
            failure = error
        return replace(failure)

    hide_from_tracebacks(load_or_replace)
    return load_or_replace


def _read_with(comm: Any, **functions: Any) -> None:
    """Let a connection read messages by copies of distributed's functions, which find others under some names."""
    read = type(comm).read
    if "from_frames" not in read.__globals__:
        return  # within one process, nothing is pickled
    protocol = SimpleNamespace(loads=_with_globals(distributed.protocol.core.loads, **functions))
    from_frames = _with_globals(distributed.comm.utils.from_frames, protocol=protocol)
    comm.read = MethodType(_with_globals(read, from_frames=from_frames), comm)


def _with_globals(function: Any, **changed: Any) -> Any:
    """Return a copy of a function that finds other objects under some global names."""
    names = function.__globals__ | changed
    copy = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


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
            raised, key=key, run_id=run, stimulus_id=_stimulus_id()
        )
    drop_unusable_traceback(failure)
    return failure


def actor_executor(worker: Worker) -> Any:
    """Return the executor that calls methods of actors."""
    return worker.executors["actor"]


def actor_failure(error: Exception) -> dict[str, Any]:
    """Return what `Worker.actor_execute` returns for a call that has raised `error`."""
    return {"status": "error", "exception": to_serialize(error)}


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


def hide_from_tracebacks(function: Any) -> None:
    """Let Dask leave out this function's frame above that of a task, as it leaves out its own."""
    # `distributed.utils.get_traceback` goes by the name of the file.
    name = os.path.join("distributed", "worker.py")  # noqa: PTH118 - a text that is compared
    function.__code__ = function.__code__.replace(co_filename=name)


def close_connection(worker: Worker) -> None:
    """In a fork of a worker's process, close its copy of the connection to the scheduler."""
    stream = getattr(worker.batched_stream and worker.batched_stream.comm, "stream", None)
    if stream is not None and stream.socket is not None:
        stream.socket.close()


def forget_worker_and_clients() -> None:
    """In a fork, let Dask find no worker and no client there: `get_worker` and `get_client` raise ValueError."""
    distributed.worker._worker_cvar = ContextVar("_worker_cvar")
    distributed.client._global_clients.clear()
    distributed.client._current_client.set(None)


async def receive_alone(
    worker: Worker, key: Any, holder: str, failures: list[BaseException]
) -> bool:
    """Receive a result from another worker and discard it; return whether that one was too busy to send it.

    Parameters
    ----------
    worker : Worker
        The recipient.
    key : object
        The key of the result.
    holder : str
        The address of the other worker.
    failures : list
        What unpickling the result raises is appended.

    Raises
    ------
    OSError
        The other worker cannot be reached.
    Exception
        The result cannot be pickled there.
    """
    # A pool of its own, whose connections are closed whatever comes of it.
    connections = await ConnectionPool(
        serializers=worker.rpc.serializers,
        deserializers=worker.rpc.deserializers,
        connection_args=worker.connection_args,
    )
    contain_answers(connections, failures.append)
    try:
        got = await get_data_from_worker(connections, [key], holder, who=worker.address)
    finally:
        await connections.close()
    return bool(got["status"] == "busy")


def return_resources(worker: Worker, key: Any) -> None:
    """Let a task that has seceded hold no resources any more, and start tasks that waited for them."""
    ts = worker.state.tasks[key]
    for name, amount in ts.resource_restrictions.items():
        worker.state.available_resources[name] += amount
    if ts.resource_restrictions:
        ts.resource_restrictions = {}  # so that none are returned again when it ends
        worker.loop.add_callback(_start_ready_tasks, worker)


def _start_ready_tasks(worker: Worker) -> None:
    if worker.status == Status.running:
        worker.handle_stimulus(UnpauseEvent(stimulus_id=_stimulus_id()))


def _add_submitting_task(client: Client, find_key: Callable[[], Any]) -> None:
    """Let the scheduler know which coroutine has submitted a task, as it does of tasks that run in a thread."""
    send: Any = client._send_to_scheduler

    def send_with_key(msg: dict[str, Any]) -> None:
        if msg["op"] == "update-graph" and msg["submitting_task"] is None:
            msg["submitting_task"] = find_key()
        send(msg)

    client._send_to_scheduler = send_with_key  # type: ignore[method-assign]


def replace_worker_client(
    worker: Worker, client_class: Callable[[], type[Client]]
) -> Callable[[Any], object]:
    """Let tasks on a worker get a client of this class where Dask would make one of its own.

    Return a function to be called in the asyncio task of each task of Dask's, with its key.
    """
    dask_get_client = worker._get_client
    key_of_coroutine: ContextVar[Any] = ContextVar("scalable_key_of_coroutine", default=None)

    def get_client(timeout: Any = None) -> Client:
        if not worker._client and not _default_client_fits(worker):
            limit = {} if timeout is None else {"timeout": timeout}
            worker._client = client_class()(
                worker.scheduler,
                loop=worker.loop,
                security=worker.security,
                set_as_default=True,
                asynchronous=_runs_on_loop(worker),
                direct_to_workers=True,
                name="worker",
                **limit,
            )
            Worker._initialized_clients.add(worker._client)  # closed with the process
            _add_submitting_task(worker._client, key_of_coroutine.get)
        return dask_get_client(timeout)

    worker._get_client = get_client  # type: ignore[method-assign]
    return key_of_coroutine.set


def _runs_on_loop(worker: Worker) -> bool:
    """Return whether this is called on the worker's event loop, as by a coroutine function."""
    try:
        return asyncio.get_running_loop() is worker.loop.asyncio_loop  # type: ignore[attr-defined]
    except RuntimeError:
        return False


def _default_client_fits(worker: Worker) -> bool:
    """Return whether there is a client of the worker's scheduler in this process already."""
    try:
        client = default_client()
    except ValueError:
        return False
    return bool(client.scheduler and client.scheduler.address == worker.scheduler.address)
