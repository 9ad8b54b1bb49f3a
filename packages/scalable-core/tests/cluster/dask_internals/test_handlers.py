"""What we need of Dask beyond its public interface: the scheduler's handlers.

The docstring of each test begins with the name that it is for.
"""

from __future__ import annotations

import operator
from typing import Any

import dask
import dask.array as da
import pytest
from dask_rig import Rig, Unsendable, identity, on_cluster, until
from distributed import NannyPlugin, Scheduler, SchedulerPlugin, Worker, WorkerPlugin, wait
from distributed.batched import BatchedSend
from distributed.protocol.pickle import dumps
from distributed.shuffle._core import barrier_key
from distributed.versions import get_versions

from scalable.cluster.plugin.dask_internals import (
    replace_batched_send,
    run_id,
    runs_here,
    send_to_clients,
)


@on_cluster
async def test_a_registration_can_be_refused(rig: Rig) -> None:
    """`Scheduler.handlers["register-worker"]`: gets name and versions; an error written to the comm refuses."""
    original = rig.scheduler.handlers["register-worker"]
    registrations = []

    async def register(comm: Any, **registration: Any) -> None:
        registrations.append(registration)
        if registration["name"] == "refused":
            await comm.write({"status": "error", "message": "not wanted", "time": 0.0})
        else:
            await original(comm, **registration)

    rig.scheduler.handlers["register-worker"] = register
    await rig.add("a")
    with pytest.raises(RuntimeError) as caught:
        await rig.add("refused")
    assert "not wanted" in str(caught.value.__cause__ or caught.value)
    assert [*rig.scheduler.aliases] == ["a"]
    assert registrations[0]["versions"]["packages"] == get_versions()["packages"]


@on_cluster
async def test_a_heartbeat_names_its_worker(rig: Rig) -> None:
    """`Scheduler.handlers["heartbeat_worker"]`: gets the address, and ``missing`` tells a worker that it was removed.

    The worker waits for the interval of the answer until its next one.
    """
    original = rig.scheduler.handlers["heartbeat_worker"]
    addresses = []

    def heartbeat(address: str, **message: Any) -> Any:
        addresses.append(address)
        return original(address=address, **message) | {"heartbeat-interval": 77.0}

    rig.scheduler.handlers["heartbeat_worker"] = heartbeat
    worker = await rig.add()
    await worker.heartbeat()
    assert worker.address in addresses
    assert worker.periodic_callbacks["heartbeat"].callback_time == 77_000
    assert original(
        address="tcp://127.0.0.1:1", now=0, resolve_address=False, metrics={}, executing={}
    ) == {"status": "missing"}


@on_cluster
async def test_a_scatter_ends_when_workers_have_the_data(rig: Rig) -> None:
    """`Scheduler.handlers["scatter"]`: a coroutine function of keywords that returns when workers have the data."""
    original = rig.scheduler.handlers["scatter"]
    done = []

    async def scatter(**message: Any) -> Any:
        result = await original(**message)
        done.append([len(ws.has_what) for ws in rig.scheduler.workers.values()])
        return result

    rig.scheduler.handlers["scatter"] = scatter
    await rig.add()
    assert await (await rig.client.scatter(7)) == 7
    assert done == [[1]]


@on_cluster
async def test_the_end_of_a_task_is_a_message_of_its_worker(rig: Rig) -> None:
    """`Scheduler.stream_handlers["task-finished"]`: called with key, worker, run, and what else was sent."""
    handler, heard = rig.scheduler.stream_handlers["task-finished"], []

    def handle(*, key: Any, worker: str, run_id: int, **message: Any) -> None:
        heard.append((key, worker, run_id, rig.scheduler.tasks[key].run_id, message.pop("extra")))
        handler(key=key, worker=worker, run_id=run_id, **message)

    rig.scheduler.stream_handlers["task-finished"] = handle
    worker = await rig.add()

    def send(message: dict[str, Any]) -> None:
        dask_send(message | ({"extra": 7} if message["op"] == "task-finished" else {}))

    dask_send = replace_batched_send(worker, send)
    future = rig.client.submit(identity, 1)
    assert await future == 1
    ((key, address, run, expected, extra),) = heard
    assert (key, address, run, extra) == (future.key, worker.address, expected, 7)


@on_cluster
async def test_runs_of_a_task_have_numbers(rig: Rig) -> None:
    """`TaskState.run_id`: that of the run which counts."""
    worker = await rig.add()
    future = rig.block()
    await until(lambda: worker.state.executing)
    run = run_id(worker, future.key)
    assert runs_here(rig.scheduler, future.key, worker.address, run)
    assert not runs_here(rig.scheduler, future.key, worker.address, run + 1)
    assert not runs_here(rig.scheduler, future.key, "tcp://127.0.0.1:1", run)
    rig.gate.set()
    await wait([future])
    assert not runs_here(rig.scheduler, future.key, worker.address, run)


@on_cluster
async def test_the_connections_to_workers_are_known_once_they_have_joined(rig: Rig) -> None:
    """They are there when plugins hear of the worker, too: see `Scheduler.stream_comms` below."""
    found = []

    class Plugin(SchedulerPlugin):
        def add_worker(self, scheduler: Scheduler, worker: str) -> None:
            found.append(type(scheduler.stream_comms[worker]))

    rig.scheduler.add_plugin(Plugin(), name="test")
    await rig.add()
    assert found == [BatchedSend]


@on_cluster
async def test_messages_to_clients_keep_their_order(rig: Rig) -> None:
    """`Scheduler.send_all`: sends to clients by name, after what was sent before, and to none that has left."""
    heard: list[int] = []
    rig.client._stream_handlers["test"] = lambda n: heard.append(n)
    for n in range(3):
        send_to_clients(rig.scheduler, [rig.client.id, "gone"], {"op": "test", "n": n})
    await until(lambda: len(heard) == 3)
    assert heard == [0, 1, 2]


@on_cluster
async def test_an_error_of_a_task_is_a_message_of_its_worker(rig: Rig) -> None:
    """`Scheduler.stream_handlers["task-erred"]`: gets key and worker; looked up for workers that join later."""
    original = rig.scheduler.stream_handlers["task-erred"]
    errors = []

    def erred(key: Any, worker: str, **message: Any) -> None:
        errors.append((key, worker))
        original(key=key, worker=worker, **message)

    rig.scheduler.stream_handlers["task-erred"] = erred
    worker = await rig.add()
    future = rig.client.submit(operator.truediv, 1, 0)
    with pytest.raises(ZeroDivisionError):
        await future
    assert errors == [(future.key, worker.address)]


@on_cluster
async def test_a_result_that_cannot_be_sent_is_reported_as_an_error_of_its_task(rig: Rig) -> None:
    """`distributed#6705`: the recipient reports an error of the result's key, and the dependent never runs."""
    original = rig.scheduler.stream_handlers["task-erred"]
    states = []

    def erred(key: Any, worker: str, **message: Any) -> None:
        states.append((key, rig.scheduler.tasks[key].state))
        original(key=key, worker=worker, **message)

    rig.scheduler.stream_handlers["task-erred"] = erred
    first, second = await rig.add("a"), await rig.add("b")
    bad = rig.client.submit(Unsendable, workers=[first.address])
    await wait(bad)
    dependent = rig.client.submit(identity, bad, workers=[second.address])
    await until(lambda: states)
    assert states[0] == (bad.key, "memory")
    # Were this to change, `scalable.cluster.plugin.transfers` would not be needed.
    assert rig.task(dependent).state == "processing"


@on_cluster
async def test_the_first_task_of_a_shuffle_creates_it(rig: Rig) -> None:
    """`Scheduler.handlers["shuffle_get_or_create"]`: called with the shuffle, the task and the worker's address."""
    calls: list[Any] = []
    dask_handler = rig.scheduler.handlers["shuffle_get_or_create"]

    def handler(shuffle_id: Any, key: Any, worker: str) -> Any:
        calls.append((rig.scheduler.tasks[barrier_key(shuffle_id)].worker_restrictions, worker))
        return dask_handler(shuffle_id, key, worker)

    rig.scheduler.handlers["shuffle_get_or_create"] = handler
    worker = await rig.add()
    with dask.config.set({"array.rechunk.method": "p2p"}):
        array = da.ones((4, 4), chunks=(4, 1)).rechunk((1, 4))
    assert float(await rig.client.compute(array.sum())) == 16
    assert calls[0] == (None, worker.address)


@on_cluster
async def test_a_shuffle_uses_the_workers_of_its_barrier(rig: Rig) -> None:
    """`distributed.shuffle._core.barrier_key`: a restriction of this task decides which workers take part."""
    names: dict[str, set[str]] = {}
    handler = rig.scheduler.handlers["shuffle_get_or_create"]

    def restrict(shuffle_id: Any, key: Any, worker: str) -> Any:
        barrier = rig.scheduler.tasks[barrier_key(shuffle_id)]
        barrier.worker_restrictions = {first.address}
        answer = handler(shuffle_id, key, worker)
        shuffles: Any = rig.scheduler.extensions["shuffle"]
        names[shuffle_id] = {*shuffles.active_shuffles[shuffle_id].run_spec.worker_for.values()}
        return answer

    rig.scheduler.handlers["shuffle_get_or_create"] = restrict
    first, _ = await rig.add("a"), await rig.add("b")
    with dask.config.set({"array.rechunk.method": "p2p"}):
        array = da.ones((4, 4), chunks=(4, 1)).rechunk((1, 4))
    assert float(await rig.client.compute(array.sum())) == 16
    assert [*names.values()] == [{first.address}]


@on_cluster
async def test_nanny_plugins_are_registered_by_a_method(rig: Rig) -> None:
    """`Scheduler.register_nanny_plugin`: clients call the handler, and plugins of the scheduler the method, by name."""
    assert rig.scheduler.handlers["register_nanny_plugin"] == rig.scheduler.register_nanny_plugin
    names: list[str] = []

    async def register(*args: Any, name: str, **kwargs: Any) -> Any:
        names.append(name)
        return {}

    rig.scheduler.handlers["register_nanny_plugin"] = register
    rig.scheduler.register_nanny_plugin = register  # type: ignore[method-assign,assignment]
    await rig.client.register_plugin(NannyPlugin(), name="own")
    assert names == ["own"]


@on_cluster
async def test_a_pickled_worker_plugin_reaches_present_and_later_workers(rig: Rig) -> None:
    """`Scheduler.register_worker_plugin`: takes a pickled plugin, and sets it up on every worker."""

    class Handlers(WorkerPlugin):
        def setup(self, worker: Worker) -> None:
            worker.handlers["ours"] = lambda: str(worker.name)

    first = await rig.add("a")
    await rig.scheduler.register_worker_plugin(None, dumps(Handlers()), name="h", idempotent=True)
    second = await rig.add("b")
    names = [await rig.scheduler.rpc(w.address).ours() for w in (first, second)]
    assert names == ["a", "b"]


@on_cluster
async def test_a_handler_of_a_worker_can_be_called_by_the_scheduler(rig: Rig) -> None:
    """`Worker.handlers`: what ``Scheduler.rpc`` calls by name, a coroutine function or a function."""
    worker = await rig.add()

    async def double(x: int) -> int:
        return 2 * x

    worker.handlers["double"] = double
    assert await rig.scheduler.rpc(worker.address).double(x=2) == 4
