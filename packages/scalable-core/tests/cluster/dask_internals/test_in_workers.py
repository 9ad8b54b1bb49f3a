"""What we need of Dask beyond its public interface: in the workers.

The docstring of each test begins with the name that it is for.
"""

from __future__ import annotations

import asyncio
import inspect
import multiprocessing
import operator
import pickle
import signal
import socket
import threading
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import dask
import distributed
import pytest
from dask_rig import Rig, Unsendable, identity, on_cluster, until, wait_for_gate
from distributed import Client, Worker, WorkerPlugin, get_client, get_worker, wait
from distributed._signals import wait_for_signals
from distributed.comm.tcp import TCP, TLS
from distributed.comm.utils import from_frames
from distributed.comm.ws import WS
from distributed.core import ConnectionPool
from distributed.diskutils import WorkSpace
from distributed.protocol.core import dumps as protocol_dumps
from distributed.protocol.core import loads as protocol_loads
from distributed.protocol.pickle import loads
from distributed.protocol.serialize import (
    ToPickle,
    merge_and_deserialize,
    serialize,
    to_serialize,
)
from distributed.utils import get_traceback
from distributed.worker import get_data_from_worker
from distributed.worker_state_machine import UnpauseEvent

from scalable.cluster.plugin import raise_unreadable
from scalable.cluster.plugin.dask_internals import (
    actor_executor,
    adjust_batches,
    contain_answers,
    contain_requests,
    drop_unusable_traceback,
    executing_tasks,
    failure_answer,
    forget_worker_and_clients,
    hide_from_tracebacks,
    leave_directory,
    lift_worker_send_timeout,
    raised_by,
    read_unreadable_tasks,
    receive_alone,
    replace_execute,
    replaced_run_spec,
    return_resources,
    run_id,
    task_failure,
    task_that_raises,
    try_to_send,
    unstarted_tasks,
    untransferable_error,
)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has this option")
@on_cluster
async def test_a_worker_waits_for_a_scheduler_that_is_busy(rig: Rig) -> None:
    """`Worker.batched_stream`: has the worker's connection to the scheduler."""
    worker = await rig.add()
    lift_worker_send_timeout(worker)
    connection: Any = worker.batched_stream.comm
    assert connection.peer_address == rig.scheduler.address
    assert not connection.stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


class Unarmed:
    """An argument that the scheduler can unpickle, and the worker cannot."""

    def __reduce__(self) -> Any:
        return Armed, ()


class Armed:
    def __reduce__(self) -> Any:
        return pickle.loads, (b"cno_such_module\nfunction\n.",)


def failing_task(error: BaseException) -> Any:
    assert isinstance(error, Exception)
    return task_that_raises(error)


@on_cluster
async def test_a_worker_reads_on_after_a_task_that_it_cannot_unpickle(rig: Rig) -> None:
    """`Comm.read`: calls `from_frames`, a global name, as each comm that sends bytes does."""
    worker = await rig.add()
    read_unreadable_tasks(worker, failing_task)
    assert await rig.client.submit(identity, 1) == 1  # read as before, because that had begun
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        await rig.client.submit(identity, Unarmed())
    assert await rig.client.submit(identity, 2) == 2
    assert [*rig.scheduler.aliases] == ["a"]


def test_messages_are_read_by_a_function_of_the_protocol() -> None:
    """`distributed.comm.utils.from_frames`: calls `protocol.loads`, a global name."""
    assert {"from_frames"} <= {*TCP.read.__globals__} & {*TLS.read.__globals__} & {
        *WS.read.__globals__
    }
    assert from_frames.__globals__["protocol"].loads is protocol_loads
    assert asyncio.run(from_frames(protocol_dumps({"x": ToPickle(1)}))) == {"x": 1}


def test_the_protocol_unpickles_by_a_function_of_the_module_pickle() -> None:
    """`distributed.protocol.core.loads`: calls `pickle.loads`, a global name, for what is wrapped to be pickled."""
    assert protocol_loads.__globals__["pickle"].loads is loads
    assert protocol_loads(protocol_dumps(ToPickle(Armed))) is Armed


def test_parts_of_a_message_are_unpickled_while_it_is_read() -> None:
    """`distributed.protocol.serialize.ToPickle`: parts of messages that are read together are unpickled in turn."""
    read: list[int] = []
    UNPICKLED["read"] = read.append
    protocol_loads(protocol_dumps([{"part": ToPickle(Part(number))} for number in range(9)]))
    assert read == [*range(9)]


UNPICKLED: dict[str, Callable[[int], None]] = {}


class Part:
    """Says when it is unpickled."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return note_unpickled, (self.number,)


def note_unpickled(number: int) -> None:
    UNPICKLED["read"](number)


@on_cluster
async def test_a_worker_has_handlers_for_messages_of_the_scheduler(rig: Rig) -> None:
    """`Worker.stream_handlers`: by the operation, called with the rest of the message."""
    worker = await rig.add()
    received: list[int] = []
    worker.stream_handlers["scalable-test"] = lambda number: received.append(number)
    rig.scheduler.worker_send(worker.address, {"op": "scalable-test", "number": 7})
    await until(lambda: received == [7])


@on_cluster
async def test_a_client_reaches_handlers_of_the_scheduler(rig: Rig) -> None:
    """`Scheduler.stream_handlers`: called with the message of a client and its name, before what is sent later."""
    received: list[tuple[int, str]] = []

    def receive(number: int, client: str) -> None:
        received.append((number, client))

    rig.scheduler.stream_handlers["scalable-test"] = receive
    rig.client._send_to_scheduler({"op": "scalable-test", "number": 7})
    await rig.add()
    await rig.client.submit(identity, 1)
    assert received == [(7, rig.client.id)]


@on_cluster
async def test_the_scheduler_has_the_plugins_of_workers_that_join_later(rig: Rig) -> None:
    """`Scheduler.worker_plugins`: pickled, by name."""

    class Named(WorkerPlugin):
        name = "scalable-test"

    rig.scheduler.worker_plugins["scalable-test"] = cloudpickle.dumps(Named())
    worker = await rig.add()
    assert type(worker.plugins["scalable-test"]).__name__ == "Named"


@on_cluster
async def test_the_scheduler_has_a_stream_to_each_worker(rig: Rig) -> None:
    """`Scheduler.stream_comms`: by address, from before a worker learns which plugins it is to have."""
    worker = await rig.add()
    assert [*rig.scheduler.stream_comms] == [worker.address]


@on_cluster
async def test_a_worker_knows_what_it_has_started(rig: Rig) -> None:
    """`Worker.state`: its tasks by key with their states, those that execute, and those that have seceded."""
    worker = await rig.add()
    running = rig.block()
    waiting = rig.client.submit(identity, 1, key="waiting", workers=["a"])
    await until(lambda: worker.state.executing and "waiting" in worker.state.tasks)
    assert unstarted_tasks(worker) == ["waiting"]
    assert executing_tasks(worker) == 1
    assert not worker.state.long_running
    rig.gate.set()
    await wait([running, waiting])


@on_cluster
async def test_a_worker_knows_which_tasks_are_ready(rig: Rig) -> None:
    """`WorkerState.ready`: what it starts next of the tasks without resources."""
    worker = await rig.add()
    running = rig.block()
    await until(lambda: worker.state.executing)
    adjust_batches(worker)
    assert worker.batched_stream.interval == 0.0
    waiting = rig.client.submit(identity, 1, workers=["a"])
    await until(lambda: worker.state.ready)
    adjust_batches(worker)
    assert worker.batched_stream.interval == 0.002
    rig.gate.set()
    await wait([running, waiting])


@on_cluster
async def test_a_worker_knows_which_tasks_wait_for_resources(rig: Rig) -> None:
    """`WorkerState.constrained`: what it starts next of the tasks with resources."""
    worker = await rig.add(resources={"gcam": 1})
    running = rig.block(resources={"gcam": 1})
    await until(lambda: worker.state.executing)
    waiting = rig.client.submit(identity, 1, resources={"gcam": 1})
    await until(lambda: worker.state.constrained)
    adjust_batches(worker)
    assert worker.batched_stream.interval == 0.002
    rig.gate.set()
    await wait([running, waiting])
    assert not worker.state.constrained
    adjust_batches(worker)
    assert worker.batched_stream.interval == 0.0


@on_cluster
async def test_a_task_gets_its_client_from_the_worker(rig: Rig) -> None:
    """`Worker._get_client`: what `get_client` calls in a task, with a timeout."""
    worker = await rig.add()
    timeouts: list[Any] = []

    def get_client(timeout: Any = None) -> Client:
        timeouts.append(timeout)
        return rig.client

    worker._get_client = get_client  # type: ignore[method-assign]

    async def ask() -> Any:
        return distributed.get_client(timeout=5).id

    assert await rig.client.submit(ask) == rig.client.id
    assert timeouts == [5]


@on_cluster
async def test_a_worker_keeps_its_client(rig: Rig) -> None:
    """`Worker._client`: returned to tasks unless another client is the default of the process."""
    worker = await rig.add()
    assert worker._client is None
    async with Client(rig.scheduler.address, asynchronous=True, set_as_default=False) as other:
        worker._client = other
        with other.as_current():
            assert worker._get_client() is other


def test_the_clients_of_workers_are_closed_with_them() -> None:
    """`Worker._initialized_clients`: a set of clients, which a worker closes if it is the last one."""
    assert isinstance(Worker._initialized_clients, weakref.WeakSet)
    assert "_initialized_clients" in inspect.getsource(Worker.close)


@on_cluster
async def test_a_task_that_secedes_keeps_its_resources(rig: Rig) -> None:
    """`WorkerState.available_resources`: what no task holds; a task that secedes holds its `resource_restrictions`."""
    worker = await rig.add(resources={"gcam": 1})

    def wait_outside(number: int) -> None:
        distributed.secede()
        wait_for_gate(number)

    future = rig.client.submit(wait_outside, id(rig), resources={"gcam": 1})
    await until(lambda: worker.state.long_running)
    assert worker.state.available_resources == {"gcam": 0}
    return_resources(worker, future.key)
    assert worker.state.available_resources == {"gcam": 1}
    rig.gate.set()
    await future
    assert worker.state.available_resources == {"gcam": 1}


@on_cluster
async def test_a_worker_starts_what_waited_for_resources(rig: Rig) -> None:
    """`distributed.worker_state_machine.UnpauseEvent`: it starts the tasks that have become ready."""
    worker = await rig.add(resources={"gcam": 1})
    worker.state.available_resources["gcam"] = 0
    future = rig.client.submit(identity, 1, resources={"gcam": 1})
    await until(lambda: worker.state.constrained)
    worker.state.available_resources["gcam"] = 1
    worker.handle_stimulus(UnpauseEvent(stimulus_id="test"))
    assert await future == 1


@on_cluster
async def test_a_worker_receives_a_result_from_another(rig: Rig) -> None:
    """`distributed.worker.get_data_from_worker`: a result that cannot be pickled cannot be unpickled either; a busy
    worker sends nothing."""
    first, second = await rig.add("a"), await rig.add("b")
    good = rig.client.submit(identity, 1, workers=["a"])
    bad = rig.client.submit(Unsendable, workers=["a"])
    await wait([good, bad])
    failures: list[BaseException] = []
    assert not await receive_alone(second, good.key, first.address, failures)
    assert failures == []
    assert not await receive_alone(second, bad.key, first.address, failures)
    assert "cannot be pickled" in str(failures[0])
    first.transfer_outgoing_count_limit = 0
    assert await receive_alone(second, good.key, first.address, failures)


class Unreadable:
    """A result that its worker can pickle, and nobody unpickle."""

    def __reduce__(self) -> Any:
        return open, ("/no/such/file",)


@on_cluster
async def test_parts_of_messages_are_unpickled_by_one_function(rig: Rig) -> None:
    """`distributed.protocol.serialize.merge_and_deserialize`: called by its global name, for each result."""
    assert protocol_loads.__globals__["merge_and_deserialize"] is merge_and_deserialize
    await rig.add("a")
    futures = [rig.client.submit(make, workers=["a"]) for make in (Unreadable, dict)]
    contain_answers(rig.client.rpc, lambda error: type(error).__name__)
    assert await rig.client.gather(futures) == ["FileNotFoundError", {}]


@on_cluster
async def test_a_pool_connects_by_a_method(rig: Rig) -> None:
    """`ConnectionPool.connect`: called for each message; a connection is closed on which one could not be read."""
    first = await rig.add("a")
    contain_answers(rig.client.rpc, raise_unreadable)
    future = rig.client.submit(Unreadable, workers=["a"])
    await wait(future)
    with pytest.raises(RuntimeError, match="unpickling it raised FileNotFoundError"):
        await get_data_from_worker(rig.client.rpc, [future.key], first.address)
    assert rig.client.rpc.available[first.address] == set()
    await until(lambda: first.transfer_outgoing_count == 0)


@on_cluster
async def test_a_server_passes_connections_to_a_handler(rig: Rig) -> None:
    """`Listener.comm_handler`: looked up for each connection that a worker accepts."""
    first = await rig.add("a")
    contain_requests(first, raise_unreadable)
    with pytest.raises(RuntimeError, match="unpickling it raised FileNotFoundError"):
        await rig.client.rpc(first.address).update_data(data={"x": to_serialize(Unreadable())})
    assert await rig.client.submit(identity, 1, workers=["a"]) == 1


@on_cluster
async def test_connections_of_its_own(rig: Rig) -> None:
    """`distributed.core.ConnectionPool`: made of a worker's serializers and connection arguments."""
    first, second = await rig.add("a"), await rig.add("b")
    future = rig.client.submit(identity, 1, workers=["a"])
    await wait(future)
    connections = await ConnectionPool(
        serializers=second.rpc.serializers,
        deserializers=second.rpc.deserializers,
        connection_args=second.connection_args,
    )
    answer: Any = await get_data_from_worker(connections, [future.key], first.address)
    assert answer["status"] == "OK"
    await connections.close()


class Pickled:
    """A result that is noted when it is pickled."""

    noted: list[str] = []  # noqa: RUF012 - of all

    def __reduce__(self) -> Any:
        self.noted.append(threading.current_thread().name)
        return Pickled, ()


@on_cluster
async def test_a_result_is_what_execute_returns(rig: Rig) -> None:
    """`distributed.worker_state_machine.ExecuteSuccessEvent`: has the result."""
    worker = await rig.add()
    Pickled.noted.clear()

    async def execute(key: Any, *, stimulus_id: str) -> Any:
        done = await previous(key, stimulus_id=stimulus_id)
        await try_to_send(worker, done)
        return done

    previous = replace_execute(worker, execute)
    for make in (Pickled, Unsendable):
        await wait(rig.client.submit(make))
    with pytest.raises(ZeroDivisionError):
        await rig.client.submit(operator.truediv, 1, 0)
    assert len(Pickled.noted) == 1
    assert "Dask-Actor-Threads" in Pickled.noted[0]


def test_results_are_pickled_by_one_function() -> None:
    """`distributed.protocol.serialize.serialize`: returns frames, and an error in their place only if it may."""
    Pickled.noted.clear()
    header, _ = serialize(Pickled())
    assert header["serializer"] == "pickle"
    assert len(Pickled.noted) == 1


@on_cluster
async def test_a_failure_is_what_execute_returns(rig: Rig) -> None:
    """`distributed.worker_state_machine.ExecuteFailureEvent`: has exception and traceback, pickled."""
    worker = await rig.add()
    raised: list[BaseException | None] = []

    async def execute(key: Any, *, stimulus_id: str) -> Any:
        run = run_id(worker, key)
        done = await previous(key, stimulus_id=stimulus_id)
        raised.append(error := raised_by(done))
        assert error is not None
        return task_failure(key, run, OSError("another"), error)

    previous = replace_execute(worker, execute)
    with pytest.raises(OSError, match="another"):
        await rig.client.submit(operator.truediv, 1, 0)
    assert isinstance(raised[0], ZeroDivisionError)


def recurse(n: int) -> int:
    return recurse(n + 1) + 1


@on_cluster
async def test_a_traceback_that_cannot_be_pickled_is_a_text(rig: Rig) -> None:
    """`distributed.protocol.pickle.loads`: reads a failure; for a traceback that is too deep, that is its text."""
    worker = await rig.add()
    tracebacks: list[Any] = []

    async def execute(key: Any, *, stimulus_id: str) -> Any:
        done = await previous(key, stimulus_id=stimulus_id)
        tracebacks.append(done.traceback and done.traceback.data)
        drop_unusable_traceback(done)
        tracebacks.append(done.traceback)
        return done

    previous = replace_execute(worker, execute)
    with pytest.raises(Exception, match="recursion"):
        await asyncio.wait_for(rig.client.submit(recurse, 0)._result(), 30)
    first, second = tracebacks
    # Where a later Python or distributed can pickle it, it stays; or there is none to begin with.
    usable = first is not None and not isinstance(loads(first), str)
    assert second.data == first if usable else second is None


@on_cluster
async def test_a_worker_calls_the_specification_of_a_task(rig: Rig) -> None:
    """`TaskState.run_spec`: of a worker's task, called with the data; read once the task is executed."""
    worker = await rig.add()
    called = []

    def replaced(task: Any) -> Any:
        class Replaced:
            is_coro = False

            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                called.append(threading.current_thread() is threading.main_thread())
                return task(*args, **kwargs)

        return Replaced()

    async def execute(key: Any, *, stimulus_id: str) -> Any:
        with replaced_run_spec(worker, key, replaced):
            return await previous(key, stimulus_id=stimulus_id)

    previous = replace_execute(worker, execute)
    assert await rig.client.submit(identity, 1) == 1
    assert await rig.client.submit(asyncio.sleep, 0, 2) == 2  # a coroutine is none of a thread's
    assert called == [False]


@on_cluster
async def test_a_worker_has_its_executors_by_name(rig: Rig) -> None:
    """`Worker.executors`: by the name in a task's annotations; threads unless it says otherwise."""
    worker = await rig.add()
    assert "ThreadPoolExecutor" in str(type(worker.executors["default"]))
    assert "ThreadPoolExecutor" in str(type(actor_executor(worker)))


def test_frames_are_left_out_by_the_name_of_their_file() -> None:
    """`distributed.utils.get_traceback`: begins below the frames of Dask's own files."""

    def find() -> list[str]:
        try:
            outer()
        except ValueError:
            return [frame.name for frame in traceback.extract_tb(get_traceback())]
        return []

    def outer() -> None:
        inner()

    def inner() -> None:
        raise ValueError

    assert find() == ["find", "outer", "inner"]
    hide_from_tracebacks(find)
    hide_from_tracebacks(outer)
    assert find() == ["inner"]


class UnsendableError(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("it cannot be pickled")


class Raising:
    limit = 3

    def method(self, name: str) -> None:
        raise {"sent": ValueError("as it is"), "unsendable": UnsendableError()}[name]


@on_cluster
async def test_a_method_of_an_actor_is_a_call_of_a_handler(rig: Rig) -> None:
    """`Worker.actor_execute`: returns the exception as an object, which `untransferable_error` finds."""
    worker = await rig.add()
    actor = await rig.client.submit(Raising, actor=True)
    answers = []

    async def execute(**message: Any) -> Any:
        answers.append(answer := await worker.actor_execute(**message))
        error = untransferable_error(answer)
        return answer if error is None else failure_answer(OSError("another"))

    worker.handlers["actor_execute"] = execute
    with pytest.raises(ValueError, match="as it is"):
        await actor.method("sent")
    with pytest.raises(OSError, match="another"):
        await actor.method("unsendable")
    assert {answer["status"] for answer in answers} == {"error"}


@on_cluster
async def test_an_attribute_of_an_actor_is_read_by_a_call_of_the_worker(rig: Rig) -> None:
    """`Worker.actor_attribute`: called by name, with the actor's key, as `ContainedCalls` forwards it."""
    worker = await rig.add()
    actor = await rig.client.submit(Raising, actor=True)
    called = []

    def read(**message: Any) -> Any:
        called.append(message)
        return worker.actor_attribute(**message)

    worker.handlers["actor_attribute"] = read
    assert await actor.limit == 3
    assert called == [{"actor": actor.key, "attribute": "limit"}]


def test_what_is_sent_is_wrapped() -> None:
    """`distributed.protocol.serialize.to_serialize`: keeps an object, as ``data``, until it is sent."""
    error = ValueError()
    assert to_serialize(error).data is error


@on_cluster
async def test_a_fork_has_no_worker(rig: Rig) -> None:
    """`distributed.worker._worker_cvar`: where `get_worker` looks; without a value, it raises ValueError."""
    await rig.add()
    assert await rig.client.submit(in_fork, get_worker) == "ValueError"


@on_cluster
async def test_a_fork_has_no_client(rig: Rig) -> None:
    """`distributed.client._global_clients`: where `get_client` looks once there is no worker."""
    await rig.add()
    assert await rig.client.submit(in_fork, get_client) == "ValueError"


@on_cluster
async def test_a_fork_has_no_current_client(rig: Rig) -> None:
    """`distributed.client._current_client`: where `Client.current` looks first."""
    with rig.client.as_current():
        assert in_fork(Client.current) == "ValueError"


def in_fork(function: Callable[[], Any]) -> str:
    """Return what a function raises in a fork in which the worker and clients are forgotten."""
    with multiprocessing.get_context("fork").Pool(1, forget_worker_and_clients) as pool:
        return pool.apply(name_of_error, (function,))


def name_of_error(function: Callable[[], Any]) -> str:
    try:
        function()
    except Exception as error:  # noqa: BLE001 - its name is the result
        return type(error).__name__
    return "none"


@on_cluster
async def test_a_server_may_have_a_directory(rig: Rig) -> None:
    """`distributed.core.Server._workdir`: the directory of a scheduler or a worker."""
    worker: Any = await rig.add()
    scheduler: Any = rig.scheduler
    for server in (worker, scheduler):
        assert server._workdir.dir_path == server.local_directory


def test_a_directory_that_is_left_is_there_after_its_server(tmp_path: Path) -> None:
    """`distributed.diskutils.WorkDir._finalizer`: removes the directory of a server."""
    with dask.config.set({"distributed.worker.use-file-locking": False}):
        space = WorkSpace(str(tmp_path))
        kept, removed = (space.new_work_dir(prefix="worker-") for _ in range(2))
    leave_directory(SimpleNamespace(_workdir=kept))
    for each in (kept, removed):
        each.release()
    assert [Path(each.dir_path).exists() for each in (kept, removed)] == [True, False]


def test_the_handlers_of_signals_are_those_of_a_module() -> None:
    """`distributed._signals`: the module of the handlers that ``dask worker`` sets."""

    async def run() -> list[Any]:
        waiting = asyncio.ensure_future(wait_for_signals())
        await asyncio.sleep(0)
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        waiting.cancel()
        await asyncio.wait([waiting])
        return handlers

    assert [handler.__module__ for handler in asyncio.run(run())] == ["distributed._signals"] * 2
