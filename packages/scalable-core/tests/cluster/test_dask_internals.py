"""What we need of Dask beyond its public interface, each name by itself on the installed version.

docs/extending/dask.md lists the names and where they are used. The docstring of each test here, and in the modules of
this name of other packages, begins with the name that it is for.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import functools
import inspect
import io
import json
import logging
import multiprocessing
import operator
import pickle
import re
import signal
import socket
import sys
import threading
import traceback
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import distributed
import pytest
from dask._expr import HLGExpr, _HLGExprSequence
from dask._task_spec import GraphNode, Task, TaskRef
from dask.base import annotate, collections_to_expr, tokenize
from dask.blockwise import optimize_blockwise
from dask.core import flatten
from dask.delayed import delayed
from dask.highlevelgraph import HighLevelGraph
from dask.utils import ensure_dict, funcname
from distributed import (
    CancelledError,
    Client,
    LocalCluster,
    NannyPlugin,
    Scheduler,
    SchedulerPlugin,
    Status,
    Worker,
    WorkerPlugin,
    futures_of,
    get_client,
    get_worker,
    wait,
)
from distributed._signals import wait_for_signals
from distributed.batched import BatchedSend
from distributed.cfexecutor import ClientExecutor
from distributed.cli import dask_scheduler, dask_worker
from distributed.comm.tcp import TCP, TLS
from distributed.comm.utils import from_frames
from distributed.comm.ws import WS
from distributed.core import ConnectionPool, rpc
from distributed.preloading import PreloadManager
from distributed.protocol.core import dumps as protocol_dumps
from distributed.protocol.core import loads as protocol_loads
from distributed.protocol.pickle import dumps, loads
from distributed.protocol.serialize import ToPickle, to_serialize
from distributed.scheduler import TaskState
from distributed.shuffle._core import barrier_key
from distributed.utils import (
    LoopRunner,
    get_traceback,
    iscoroutinefunction,
    silence_logging_cmgr,
    sync,
)
from distributed.versions import get_versions
from distributed.worker import get_data_from_worker
from distributed.worker_state_machine import UnpauseEvent
from tornado.httpclient import AsyncHTTPClient

from scalable.client import ScalableClient
from scalable.client.connection import WatchedClient
from scalable.cluster.dask_internals import (
    defer_unpickling,
    dependencies_of,
    existing_future,
    fail_futures,
    finished_future,
    has_own_deserializers,
    reset_future,
    send_with_next,
    take_from_gather,
    when_client_is_missing,
)
from scalable.cluster.plugin.dask_internals import (
    Hold,
    Stealing,
    actor_executor,
    actor_failure,
    adjust_batches,
    cancel_all,
    drop_unusable_traceback,
    executing_tasks,
    fail_task,
    find_worker,
    forget_worker_and_clients,
    free_key,
    gather_failure,
    has_seceded,
    hide_from_tracebacks,
    interrupt_retirement,
    is_holder_busy,
    lift_send_timeout,
    lift_worker_send_timeout,
    not_executed,
    raised_by,
    read_unreadable_tasks,
    release_tasks,
    remove_worker,
    replace_batched_send,
    replace_execute,
    replace_gather,
    replaced_run_spec,
    return_resources,
    run_alone,
    run_id,
    runs_alone,
    runs_here,
    seconds_alone,
    send_sooner,
    send_to_clients,
    send_worker_status,
    set_worker_status,
    suspect,
    take_over_failures,
    task_failure,
    task_that_raises,
    tasks_of_dead_worker,
    turn_off_worker_ttl,
    unstarted_tasks,
    untransferable_error,
    was_taken_back,
)
from scalable.providers.servers import stop_http_server


class Rig:
    """A scheduler, its workers and a client, all on one event loop."""

    def __init__(self, scheduler: Scheduler, client: Client, stack: contextlib.AsyncExitStack):
        self.scheduler, self.client, self._stack = scheduler, client, stack
        self.gate = threading.Event()
        gates[id(self)] = self.gate

    async def add(self, name: str = "a", **options: Any) -> Worker:
        worker = Worker(
            self.scheduler.address,
            name=name,
            nthreads=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            **options,
        )
        await self._stack.enter_async_context(worker)
        # Its first message, which sets the status, comes after its registration.
        await until(lambda: self.scheduler.workers[worker.address].status is Status.running)
        return worker

    def block(self, **options: Any) -> Any:
        """Submit a task that runs until the gate is opened."""
        return self.client.submit(wait_for_gate, id(self), pure=False, **options)

    def task(self, future: Any) -> TaskState:
        return self.scheduler.tasks[future.key]


gates: dict[int, threading.Event] = {}


def wait_for_gate(rig: int, *_: Any) -> None:
    gates[rig].wait(30)


def secede_and_wait_for_gate(rig: int) -> None:
    distributed.secede()
    wait_for_gate(rig)


def identity(x: Any) -> Any:
    return x


class Unsendable:
    def __reduce__(self) -> Any:
        raise TypeError("it cannot be pickled")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def _rig() -> AsyncIterator[Rig]:
    async with contextlib.AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(
            Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0")
        )
        client = await stack.enter_async_context(Client(scheduler.address, asynchronous=True))
        rig = Rig(scheduler, client, stack)
        try:
            yield rig
        finally:
            rig.gate.set()


def on_cluster(test: Callable[[Rig], Awaitable[None]]) -> Callable[[], None]:
    """Run a coroutine test with a cluster of its own."""

    async def run() -> None:
        async with _rig() as rig:
            await asyncio.wait_for(test(rig), 60)

    def synchronous() -> None:
        asyncio.run(run())

    synchronous.__name__, synchronous.__doc__ = test.__name__, test.__doc__
    return synchronous


# -- In the client's process


@on_cluster
async def test_a_nested_task_is_computed_by_the_worker(rig: Rig) -> None:
    """`dask._task_spec.Task`: given as an argument, the worker computes it as a part of the task that it is in."""
    await rig.add()
    assert await rig.client.submit(operator.call, Task(None, pickle.loads, dumps(abs)), -1) == 1
    assert await rig.client.submit(operator.call, defer_unpickling(lambda x: x + 1), 1) == 2
    missing = Task(None, pickle.loads, b"cno_such_module\nfunction\n.")
    with pytest.raises(ModuleNotFoundError):
        await rig.client.submit(operator.call, missing)
    assert [*rig.scheduler.aliases] == ["a"]


def test_equal_calls_have_one_token() -> None:
    """`dask.base.tokenize`: the same for equal arguments, another one for others."""
    assert tokenize(abs, (1,), {"a": [2]}) == tokenize(abs, (1,), {"a": [2]})
    assert tokenize(abs, (1,)) != tokenize(abs, (2,))


@on_cluster
async def test_a_key_begins_with_the_name_of_the_function(rig: Rig) -> None:
    """`dask.utils.funcname`: the name that Dask itself gives a function in keys."""
    for func in (identity, functools.partial(identity), operator.add):
        assert str(rig.client.submit(func, 1).key).startswith(f"{funcname(func)}-")


@on_cluster
async def test_every_call_becomes_a_graph(rig: Rig) -> None:
    """`distributed.Client._graph_to_futures`: all calls of the client come here, with their restrictions by name."""
    seen: list[Any] = []

    class Recording(Client):
        def _graph_to_futures(self, expr: Any, keys: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append((kwargs["resources"], kwargs["workers"], kwargs["allow_other_workers"]))
            return Client._graph_to_futures(self, expr, keys, *args, **kwargs)

    worker = await rig.add(resources={"gcam": 1})
    x, options = delayed(identity)(1), {"resources": {"gcam": 1}, "workers": [worker.address]}
    made: Any = Recording
    async with made(rig.scheduler.address, asynchronous=True) as client:
        assert await client.submit(identity, 1, **options) == 1
        assert await client.gather(client.map(identity, [1, 2], **options)) == [1, 2]
        assert await client.compute(x, **options) == 1
        assert await client.gather(futures_of(client.persist(x, **options))) == [1]
        assert await client.get({"x": (identity, 1)}, "x", sync=False, **options) == 1
        executor = client.get_executor(**options)
        assert await asyncio.wrap_future(executor.submit(identity, 1)) == 1
    asked = [each for each in seen if each[0]]
    assert len(asked) == 6
    assert all(each[:2] == ({"gcam": 1}, [worker.address]) and not each[2] for each in asked)


@on_cluster
async def test_the_code_of_a_computation_is_that_of_the_caller(rig: Rig) -> None:
    """`distributed.Client._get_computation_code`: the innermost frames outside of Dask, with their files."""
    code = Client._get_computation_code(nframes=2)
    assert code[-1].filename == __file__
    assert "_get_computation_code" in code[-1].code
    (this,) = Client._get_computation_code(1, 1)
    assert this.filename == __file__
    with dask.config.set({"distributed.diagnostics.computations.nframes": 1}):
        await rig.add()
        await rig.client.submit(identity, 1)
    ((frame,),) = rig.scheduler.computations[-1].code
    assert frame.filename == __file__


def test_an_executor_uses_a_client() -> None:
    """`distributed.cfexecutor.ClientExecutor`: it calls `submit` and `map` of the object that it is given."""

    class Recording:
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            raise LookupError(args, kwargs)

        map = submit

    executor: Any = ClientExecutor(Recording(), retries=1)
    for call in (executor.submit, executor.map):
        with pytest.raises(LookupError) as caught:
            call(abs, [1])
        assert caught.value.args == ((abs, [1]), {"retries": 1})


def _array() -> Any:
    with annotate(resources={"gcam": 1}):
        return da.ones((4,), chunks=2) + 1


def test_a_collection_has_a_graph_with_layers() -> None:
    """`dask._expr.HLGExpr`: the layers, the optimisation and the keys of a collection; it can be made of all three."""
    (expr,) = collections_to_expr([_array()]).optimize().operands
    assert isinstance(expr, HLGExpr)
    assert expr.low_level_optimizer is not None
    assert {"resources": {"gcam": 1}} in [layer.annotations for layer in expr.hlg.layers.values()]
    keys = [*flatten(expr.__dask_keys__())]
    other = HLGExpr(dsk=expr.hlg, low_level_optimizer=None, output_keys=keys)
    assert {*keys} <= {*other.__dask_graph__()}
    assert other.__dask_annotations__()["resources"] == {
        key: {"gcam": 1} for key in other.__dask_graph__()
    }


def test_several_collections_have_a_graph_each() -> None:
    """`dask._expr._HLGExprSequence`: its operands are the graphs of the collections, by the kind of optimisation."""
    expr = collections_to_expr([_array(), delayed(identity)(1)]).optimize()
    assert isinstance(expr, _HLGExprSequence)
    assert len(expr.operands) == 2
    assert all(isinstance(operand, HLGExpr) for operand in expr.operands)


def test_fused_layers_have_the_annotations_of_all() -> None:
    """`dask.blockwise.optimize_blockwise`: it fuses layers, and merges the resources that they need."""
    array = _array()
    fused = optimize_blockwise(array.dask, keys=[*flatten(array.__dask_keys__())])
    assert [layer.annotations for layer in fused.layers.values()] == [{"resources": {"gcam": 1}}]
    with annotate(resources={"fair": 1}):
        array = array + 1
    fused = optimize_blockwise(array.dask, keys=[*flatten(array.__dask_keys__())])
    assert any(
        (layer.annotations or {}).get("resources") == {"gcam": 1, "fair": 1}
        for layer in fused.layers.values()
    )


def test_a_graph_is_culled_with_its_annotations() -> None:
    """`dask.highlevelgraph.HighLevelGraph`: merging and culling keep the annotations of layers."""
    array, other = _array(), da.arange(4, chunks=2)
    graph = HighLevelGraph.merge(array.dask, other.dask).cull([(array.name, 0)])
    kept = {key: layer.annotations for layer in graph.layers.values() for key in layer}
    assert {*kept} == {*ensure_dict(graph)}
    assert kept[array.name, 0] == {"resources": {"gcam": 1}}
    assert (array.name, 1) not in kept


def test_nested_keys_are_flattened() -> None:
    """`dask.core.flatten`: lists are opened, tuples are keys."""
    assert [*flatten([[("x", 0)], ["y"]])] == [("x", 0), "y"]


@on_cluster
async def test_the_prefix_of_a_task_ends_at_the_first_dash(rig: Rig) -> None:
    """`TaskState.prefix`: a key up to its first dash, so that colons and dots can separate a tag from a function."""
    future = rig.client.submit(identity, 1, key="gcam:7.identity-0123456789abcdef")
    await until(lambda: future.key in rig.scheduler.tasks)
    assert rig.task(future).prefix.name == "gcam:7.identity"


@on_cluster
async def test_a_client_can_do_more_when_it_starts(rig: Rig) -> None:
    """`distributed.Client._start`: awaited once when a client connects; after it, the scheduler can be called."""
    events = []

    class Ours(Client):
        async def _start(self, *args: Any, **kwargs: Any) -> Any:
            started = await super()._start(*args, **kwargs)  # type: ignore[no-untyped-call]
            events.append(await self.get_events("nothing"))
            return started

    async with Ours(  # type: ignore[no-untyped-call]
        rig.scheduler.address, asynchronous=True, set_as_default=False
    ):
        assert [len(found) for found in events] == [0]


@on_cluster
async def test_a_client_is_closed_by_one_coroutine(rig: Rig) -> None:
    """`distributed.Client._close`: awaited when a client is closed, also by the end of its ``with`` block."""
    awaited = []

    class Ours(Client):
        async def _close(self, *args: Any, **kwargs: Any) -> None:
            awaited.append(self.status)
            await super()._close(*args, **kwargs)

    async with Ours(rig.scheduler.address, asynchronous=True, set_as_default=False):  # type: ignore[no-untyped-call]
        assert not awaited
    assert awaited[0] == "running"


@on_cluster
async def test_a_gather_waits_in_coroutines_of_its_own(rig: Rig) -> None:
    """`distributed.Client._gather`: what `gather` awaits; its inner coroutines can be known by their name."""
    calls = []

    class Ours(Client):
        async def _gather(self, *args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            return await super()._gather(*args, **kwargs)  # type: ignore[no-untyped-call]

    async with Ours(  # type: ignore[no-untyped-call]
        rig.scheduler.address, asynchronous=True, set_as_default=False
    ) as client:
        future = client.submit(identity, 1)
        gathering = asyncio.ensure_future(client.gather([future]))
        prefix = f"{Client._gather.__qualname__}.<locals>"

        def waits() -> bool:
            names = [getattr(t.get_coro(), "__qualname__", "") for t in asyncio.all_tasks()]
            return any(name.startswith(prefix) for name in names)

        await until(waits)
        await rig.add()
        assert await gathering == [1]
        assert len(calls) == 1


@on_cluster
async def test_a_client_whose_connection_broke_reconnects_by_one_coroutine(rig: Rig) -> None:
    """`distributed.Client._reconnect`: awaited when the connection to the scheduler breaks; sets the status."""
    awaited = []

    class Ours(Client):
        async def _reconnect(self) -> None:
            awaited.append(self.status)
            await self._close()

    async with Ours(  # type: ignore[no-untyped-call]
        rig.scheduler.address, asynchronous=True, set_as_default=False
    ) as client:
        for comm in [*rig.scheduler.client_comms.values()]:
            comm.abort()
        await until(lambda: client.status == "closed")
    assert awaited == ["connecting"]


@on_cluster
async def test_a_client_sends_all_it_submits_through_one_method(rig: Rig) -> None:
    """`distributed.Client._send_to_scheduler`: called for each message; what it raises comes out of `submit`."""

    class Ours(Client):
        def _send_to_scheduler(self, msg: dict[str, Any]) -> None:
            if msg["op"] == "update-graph":
                raise OSError("refused")
            super()._send_to_scheduler(msg)  # type: ignore[no-untyped-call]

    async with Ours(  # type: ignore[no-untyped-call]
        rig.scheduler.address, asynchronous=True, set_as_default=False
    ) as client:
        with pytest.raises(OSError, match="refused"):
            client.submit(identity, 1)


@on_cluster
async def test_a_client_connects_by_one_coroutine(rig: Rig) -> None:
    """`distributed.Client._ensure_connected`: awaited at the start; then there is a connection for batches."""
    connections = []

    class Ours(Client):
        async def _ensure_connected(self, *args: Any, **kwargs: Any) -> None:
            await super()._ensure_connected(*args, **kwargs)  # type: ignore[no-untyped-call]
            connections.append(self.scheduler_comm)

    async with Ours(  # type: ignore[no-untyped-call]
        rig.scheduler.address, asynchronous=True, set_as_default=False
    ):
        assert [type(each) for each in connections] == [BatchedSend]


@on_cluster
async def test_a_client_has_one_connection_for_its_messages(rig: Rig) -> None:
    """`distributed.Client.scheduler_comm`: what it submits goes this way."""
    batched: Any = rig.client.scheduler_comm
    sent = batched.message_count
    rig.client.submit(identity, 1)
    await until(lambda: batched.message_count > sent)


@on_cluster
async def test_a_connection_for_batches_waits_between_them(rig: Rig) -> None:
    """`BatchedSend.interval`: seconds between two batches, of each connection by itself."""
    worker = await rig.add()
    scheduler, batched = rig.scheduler, rig.client.scheduler_comm
    connections: list[Any] = [batched, worker.batched_stream]
    found = [
        connections[0].interval,
        scheduler.stream_comms[worker.address].interval,
        scheduler.client_comms[rig.client.id].interval,
        worker.batched_stream.interval,
    ]
    assert found == [0.01, 0.005, 0.002, 0.002]
    for each in connections:
        send_sooner(each)
        assert each.interval == 0.002


@on_cluster
async def test_a_message_can_wait_for_the_next_one(rig: Rig) -> None:
    """`BatchedSend.buffer`: the messages of the next batch, in their order."""
    heard = []
    rig.scheduler.stream_handlers["test"] = lambda n, **_: heard.append(n)
    batched: Any = rig.client.scheduler_comm
    await until(lambda: not batched.buffer)  # what a new client sends
    batches = batched.batch_count
    send_with_next(rig.client, {"op": "test", "n": 1}, seconds=3600)
    assert batched.buffer == [{"op": "test", "n": 1}]
    batched.send({"op": "test", "n": 2})
    await until(lambda: len(heard) == 2)
    assert heard == [1, 2]
    assert batched.batch_count == batches + 1


@on_cluster
async def test_a_message_that_waits_is_sent_after_a_while(rig: Rig) -> None:
    """`BatchedSend.waker`: an event that lets the next batch be sent."""
    heard = []
    rig.scheduler.stream_handlers["test"] = lambda **_: heard.append(1)
    send_with_next(rig.client, {"op": "test"}, seconds=0.01)
    await until(lambda: heard)


@on_cluster
async def test_a_client_sends_its_messages_on_its_loop(rig: Rig) -> None:
    """`distributed.Client._send_to_scheduler_safe`: called on the event loop with each message, in their order."""
    sent = []

    class Ours(Client):
        def _send_to_scheduler_safe(self, msg: dict[str, Any]) -> None:
            sent.append(msg["op"])
            super()._send_to_scheduler_safe(msg)  # type: ignore[no-untyped-call]

    await rig.add()
    async with Ours(  # type: ignore[no-untyped-call]
        rig.scheduler.address, asynchronous=True, set_as_default=False
    ) as client:
        future = client.submit(identity, 1)
        assert await future == 1
        del future
        await until(lambda: "client-releases-keys" in sent)
        assert sent.index("update-graph") < sent.index("client-releases-keys")


@on_cluster
async def test_a_client_handles_messages_by_their_operation(rig: Rig) -> None:
    """`distributed.Client._stream_handlers`: called with the fields of a message from the scheduler."""
    heard = []
    rig.client._stream_handlers["test"] = lambda key: heard.append(key)
    send_to_clients(rig.scheduler, [rig.client.id], {"op": "test", "key": ("x", 1)})
    await until(lambda: heard)
    assert heard == [("x", 1)]


@on_cluster
async def test_a_client_hears_that_a_task_has_finished(rig: Rig) -> None:
    """`distributed.Client._handle_key_in_memory`: called with the key whenever the task has finished."""
    heard = []

    class Ours(Client):
        def _handle_key_in_memory(self, key: Any = None, *args: Any, **kwargs: Any) -> None:
            heard.append(key)
            super()._handle_key_in_memory(key, *args, **kwargs)  # type: ignore[no-untyped-call]

    await rig.add()
    async with Ours(  # type: ignore[no-untyped-call]
        rig.scheduler.address, asynchronous=True, set_as_default=False
    ) as client:
        future = client.submit(identity, 1)
        assert await future == 1
        assert heard == [future.key]


@on_cluster
async def test_a_client_releases_what_no_future_has(rig: Rig) -> None:
    """`distributed.Client._release_key`: called when the last future of a key is gone, and when the client closes."""
    released = []

    class Ours(Client):
        def _release_key(self, key: Any) -> None:
            released.append(key)
            super()._release_key(key)  # type: ignore[no-untyped-call]

    await rig.add()
    async with Ours(  # type: ignore[no-untyped-call]
        rig.scheduler.address, asynchronous=True, set_as_default=False
    ) as client:
        one, other = (client.submit(identity, n, key=f"n-{n}") for n in (1, 2))
        await wait([one, other])
        one.release()
        await until(lambda: released == ["n-1"])
    assert released == ["n-1", "n-2"]


@on_cluster
async def test_a_restart_drops_all_futures(rig: Rig) -> None:
    """`distributed.Client._handle_restart`: called when the scheduler is restarted, without `_release_key`."""
    called = []

    class Ours(Client):
        def _handle_restart(self) -> None:
            called.append({*self.futures})
            super()._handle_restart()  # type: ignore[no-untyped-call]
            called.append({*self.futures})

    async with Ours(  # type: ignore[no-untyped-call]
        rig.scheduler.address, asynchronous=True, set_as_default=False
    ) as client:
        future = client.submit(identity, 1, key="n-1")
        await until(lambda: future.key in rig.scheduler.tasks)
        await rig.scheduler.restart(stimulus_id="test", wait_for_workers=False)
        await until(lambda: called)
    assert called == [{"n-1"}, set()]


@on_cluster
async def test_a_gather_asks_for_all_keys_by_one_coroutine(rig: Rig) -> None:
    """`distributed.Client._gather_remote`: returns the results of all keys that are not here, by their key."""
    asked = []

    class Ours(Client):
        async def _gather_remote(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            asked.append(set(self._gather_keys or ()))
            response: dict[str, Any] = await super()._gather_remote(*args, **kwargs)
            return {**response, "data": {**response["data"], "n-2": "ours"}}

    await rig.add()
    async with Ours(  # type: ignore[no-untyped-call]
        rig.scheduler.address, asynchronous=True, set_as_default=False
    ) as client:
        futures = [client.submit(identity, n, key=f"n-{n}") for n in (1, 2)]
        assert await client.gather(futures) == [1, "ours"]
    assert asked == [{"n-1", "n-2"}]


@on_cluster
async def test_the_keys_of_a_gather_can_be_taken_from_it(rig: Rig) -> None:
    """`distributed.Client._gather_keys`: a set of the keys to ask for, or None."""

    class Ours(Client):
        async def _gather_remote(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            here, is_all = take_from_gather(self, lambda keys: {"n-2": "ours"})
            assert not is_all
            response: dict[str, Any] = await super()._gather_remote(*args, **kwargs)
            assert {*response["data"]} == {"n-1"}
            response["data"] |= here
            return response

    await rig.add()
    async with Ours(  # type: ignore[no-untyped-call]
        rig.scheduler.address, asynchronous=True, set_as_default=False
    ) as client:
        futures = [client.submit(identity, n, key=f"n-{n}") for n in (1, 2)]
        assert await client.gather(futures) == [1, "ours"]


@on_cluster
async def test_a_gather_that_is_answered_is_over(rig: Rig) -> None:
    """`distributed.Client._gather_future`: the gather under way, which later ones join until it is None."""

    class Ours(Client):
        async def _gather_remote(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            here, is_all = take_from_gather(self, lambda keys: dict.fromkeys(keys, "ours"))
            assert is_all
            return {"status": "OK", "data": here}

    await rig.add()
    async with Ours(  # type: ignore[no-untyped-call]
        rig.scheduler.address, asynchronous=True, set_as_default=False
    ) as client:
        for n in (1, 2):
            assert await client.gather([client.submit(identity, n)]) == ["ours"]
            assert client._gather_future is None


@on_cluster
async def test_a_client_knows_whether_it_was_told_how_to_read(rig: Rig) -> None:
    """`distributed.Client._deserializers`: None unless serializers or deserializers were given."""
    assert not has_own_deserializers(rig.client)
    options: list[dict[str, Any]] = [{"serializers": ["msgpack"]}, {"deserializers": ["msgpack"]}]
    for told in options:
        async with Client(
            rig.scheduler.address, asynchronous=True, set_as_default=False, **told
        ) as client:
            assert has_own_deserializers(client)


@on_cluster
async def test_the_state_of_a_future_can_be_set_to_an_error(rig: Rig) -> None:
    """`FutureState.set_error`: ends a future in an error, whatever its status was; others wait no longer."""
    await rig.add()
    done, waiting = rig.client.submit(identity, 1), rig.block()
    await done
    fail_futures(rig.client, OSError("lost"))
    for future in (done, waiting):
        with pytest.raises(OSError, match="lost"):
            await future
    assert not rig.client.futures


@on_cluster
async def test_a_future_can_be_finished_that_the_scheduler_does_not_know(rig: Rig) -> None:
    """`distributed.client.FutureState`: `done` and `_get_event` decide whether a future is finished."""
    future: Any = finished_future(rig.client, "kept-1")
    assert future.status == "finished"
    assert distributed.Future("kept-1", rig.client).done()
    await wait([future])
    assert [each async for each in distributed.as_completed([future])] == [future]
    assert "kept-1" not in rig.scheduler.tasks
    await rig.add()
    del future
    assert await rig.client.submit(identity, 1) == 1


@on_cluster
async def test_a_future_stays_while_another_is_made_of_its_key(rig: Rig) -> None:
    """`distributed.Client._refcount_lock`: held while a key is released, and while it gets another future."""
    await rig.add()
    assert existing_future(rig.client, "n-1") is None
    future = rig.client.submit(identity, 1, key="n-1")
    again = existing_future(rig.client, "n-1")
    future.release()
    assert await rig.client.submit(identity, 2) == 2
    assert again is not None
    assert await again == 1
    for method in (Client._inc_ref, Client._dec_ref):
        assert "_refcount_lock" in inspect.getsource(method)


@on_cluster
async def test_a_finished_future_can_wait_again(rig: Rig) -> None:
    """`FutureState.reset`: lets a finished future wait, for a task that is submitted under its key."""
    await rig.add()
    future: Any = finished_future(rig.client, "kept-1")
    await wait([future])
    reset_future(rig.client, "kept-1")
    (again,) = rig.client.map(identity, [5], key=["kept-1"])
    assert await again == await future == 5


def test_a_graph_tells_what_it_depends_on() -> None:
    """`dask._task_spec.GraphNode`: has `dependencies`; the graph of an expression has nothing else."""

    class Seen(Client):
        def __init__(self) -> None:
            self.found: list[Any] = []

        def _graph_to_futures(self, expr: Any, keys: Any, *args: Any, **kwargs: Any) -> Any:
            self.found.append(dependencies_of(expr))
            return dict.fromkeys(keys)

    def key(name: str) -> Any:
        return Task(None, identity, TaskRef(name))

    client: Any = Seen()
    client.futures, client._refcount_lock = {}, contextlib.nullcontext()
    client.submit(identity, key("a"), key="x")
    client.map(identity, [key("a"), [key("b")]], key=["x", "y"])
    assert client.found == [{"a"}, {"a", "b"}]
    graph = HighLevelGraph.from_collections("x", {"x": (identity, TaskRef("c"))})
    assert dependencies_of(HLGExpr(dsk=graph)) in (None, {"c"})
    assert isinstance(key("a"), GraphNode)


def test_pickles_are_by_value_where_needed() -> None:
    """`distributed.protocol.pickle.dumps`: pickles what plain pickle cannot; plain pickle reads it."""
    assert pickle.loads(dumps(lambda x: x + 1))(1) == 2


def test_coroutine_functions_are_known() -> None:
    """`distributed.utils.iscoroutinefunction`: sees through partial functions, as workers do."""

    async def double(x: int) -> int:
        return 2 * x

    assert iscoroutinefunction(double)
    assert iscoroutinefunction(functools.partial(double, 1))
    assert not iscoroutinefunction(abs)


def test_an_event_loop_runs_in_a_thread_of_its_own() -> None:
    """`distributed.utils.LoopRunner`: starts a loop in a new thread, and ends both."""
    runner = LoopRunner(asynchronous=False)
    runner.start()
    try:
        found = asyncio.run_coroutine_threadsafe(
            asyncio.to_thread(threading.get_ident), runner.loop.asyncio_loop
        )
        assert found.result(30) != threading.get_ident()
    finally:
        runner.stop()
    assert not runner.is_started()


def test_logging_to_streams_is_silenced_for_a_while() -> None:
    """`distributed.utils.silence_logging_cmgr`: sets the level of stream handlers, and puts it back."""
    logger = logging.getLogger("distributed")
    handler = logging.StreamHandler(io.StringIO())
    handler.setLevel("INFO")
    logger.addHandler(handler)
    try:
        with silence_logging_cmgr("WARNING"):
            assert handler.level == logging.WARNING
        assert handler.level == logging.INFO
    finally:
        logger.removeHandler(handler)


def test_a_call_to_another_loop_has_a_timeout() -> None:
    """`distributed.utils.sync`: calls a coroutine function on a loop of another thread, with a limit of time."""
    runner = LoopRunner(asynchronous=False)
    runner.start()
    try:
        loop = runner.loop
        assert sync(loop, asyncio.sleep, 0, result=1) == 1
        with pytest.raises(TimeoutError):
            sync(loop, asyncio.sleep, 30, callback_timeout=0.01)
    finally:
        runner.stop()


def test_a_cluster_has_an_rpc_to_its_scheduler() -> None:
    """`Cluster.scheduler_comm`: calls any handler of the scheduler."""

    async def use() -> None:
        async with LocalCluster(
            n_workers=0,
            processes=False,
            asynchronous=True,
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
        ) as cluster:
            assert await cluster.scheduler_comm.events(topic="nothing") == ()

    asyncio.run(use())


@on_cluster
async def test_an_object_with_six_members_is_a_cluster(rig: Rig) -> None:
    """`distributed.Client.cluster`: any object that is awaitable and has an address, status and security."""

    class Ours:
        scheduler_address = rig.scheduler.address
        security = distributed.Security()
        status = Status.running
        dashboard_link = "http://localhost:8787/status"
        closed = False

        def __await__(self) -> Iterator[Any]:
            return iter(())

        async def close(self) -> None:
            self.closed = True

    await rig.add()
    ours = Ours()
    async with Client(ours, asynchronous=True, set_as_default=False) as client:
        assert await client.submit(abs, -1) == 1
        assert client.dashboard_link == ours.dashboard_link
        # The rig's scheduler stays; `shutdown` closes the cluster that a client was given.
        await client.shutdown()
    assert ours.closed


@on_cluster
async def test_a_function_runs_in_the_scheduler(rig: Rig) -> None:
    """`Scheduler.handlers["run_function"]`: runs a pickled function with the scheduler as ``dask_scheduler``."""

    def address(dask_scheduler: Scheduler) -> str:
        return dask_scheduler.address

    async with rpc(rig.scheduler.address) as scheduler:
        answer = await scheduler.run_function(function=dumps(address))
    assert answer == {"status": "OK", "result": rig.scheduler.address}


class Recorder(SchedulerPlugin):
    name = "recorder"

    def __init__(self) -> None:
        self.starts = 0

    async def start(self, scheduler: Scheduler) -> None:
        self.starts += 1


@on_cluster
async def test_a_pickled_plugin_starts_once(rig: Rig) -> None:
    """`Scheduler.handlers["register_scheduler_plugin"]`: takes a pickled plugin, and an idempotent one once."""
    async with rpc(rig.scheduler.address) as scheduler:
        for _ in range(2):
            await scheduler.register_scheduler_plugin(
                plugin=pickle.dumps(Recorder()), name="recorder", idempotent=True
            )
    plugin = rig.scheduler.plugins["recorder"]
    assert isinstance(plugin, Recorder)
    assert plugin.starts == 1


@on_cluster
async def test_an_http_server_can_be_stopped(rig: Rig) -> None:
    """`Scheduler.http_server`: listens on the port that `services` names, until it is stopped."""
    port = rig.scheduler.services["dashboard"].port
    (await asyncio.open_connection("127.0.0.1", port))[1].close()
    stop_http_server(rig.scheduler)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


def test_a_cluster_has_the_port_of_its_dashboard_from_its_start() -> None:
    """`Cluster.scheduler_info`: where the link to the dashboard comes from."""
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster:
        port = cluster.scheduler_info["services"]["dashboard"]
        assert str(port) in cluster.dashboard_link


@on_cluster
async def test_the_log_of_transitions_has_the_new_state(rig: Rig) -> None:
    """`Scheduler.transition_log`: one entry for each change of a task, whose third item is the new state."""
    await rig.add()
    await rig.client.submit(identity, 1)
    states = [entry[2] for entry in rig.scheduler.transition_log]
    assert states.count("processing") == states.count("memory") == 1


@on_cluster
async def test_a_prefix_counts_states(rig: Rig) -> None:
    """`TaskPrefix.state_counts`: how often a state was entered; ``states`` counts the present tasks."""
    await rig.add()
    await rig.client.submit(identity, 1)
    await until(lambda: not rig.scheduler.tasks)
    prefix = rig.scheduler.task_prefixes["identity"]
    assert prefix.state_counts["memory"] == 1
    assert not prefix.states["memory"]


@on_cluster
async def test_only_a_task_that_had_a_result_has_a_size(rig: Rig) -> None:
    """`TaskState.nbytes`: negative until there is a result, and kept when the result is lost."""
    worker = await rig.add()
    future = rig.client.submit(identity, 1)
    waiting = rig.client.submit(identity, 2, resources={"none": 1})
    await future
    await until(lambda: waiting.key in rig.scheduler.tasks)
    assert rig.task(waiting).nbytes < 0
    await worker.close()
    await until(lambda: rig.task(future).state in ("no-worker", "queued"))
    assert rig.task(future).nbytes >= 0


@on_cluster
async def test_a_task_that_failed_has_its_text_and_who_is_to_blame(rig: Rig) -> None:
    """`TaskState.exception_blame`: the task that raised, also of those that depend on it."""
    await rig.add()
    failed = rig.client.submit(operator.truediv, 1, 0)
    dependent = rig.client.submit(identity, failed)
    await wait(dependent)
    assert rig.task(failed).exception_blame is rig.task(failed)
    assert rig.task(dependent).exception_blame is rig.task(failed)


@on_cluster
async def test_a_task_that_failed_has_its_exception_as_text(rig: Rig) -> None:
    """`TaskState.exception_text`: the repr of what was raised."""
    await rig.add()
    failed = rig.client.submit(operator.truediv, 1, 0)
    await wait(failed)
    assert rig.task(failed).exception_text == "ZeroDivisionError('division by zero')"


def test_dask_asks_for_the_current_client() -> None:
    """`distributed.Client.current`: asked by `get_client` and where a collection is computed."""
    asked = []

    def start() -> None:
        asked.append(True)

    with when_client_is_missing(start):
        with pytest.raises(ValueError, match="No clients found"):
            Client.current()
        with pytest.raises(ValueError, match="No global client"):
            get_client()
        assert delayed(operator.add)(1, 2).compute(scheduler=None) == 3
        with pytest.raises(ValueError, match="as_current"):
            Client.current(allow_global=False)
    assert len(asked) == 3


def test_the_prefix_of_a_key_is_the_name_of_its_function() -> None:
    """`dask.utils.key_split`: the name of a task's prefix."""
    assert dask.utils.key_split("gcam.run-1f2e3d4c5b6a79880f1e2d3c4b5a6978") == "gcam.run"


def test_the_command_of_a_worker_can_be_called() -> None:
    """`distributed.cli.dask_worker.main`: the click command behind ``dask worker``."""
    options = {option for each in dask_worker.main.params for option in each.opts}
    assert {"--name", "--nthreads", "--resources", "--death-timeout", "--preload"} <= options
    assert dask_worker.main.make_context("dask worker", ["--no-nanny"]).params["nanny"] is False


def test_the_command_of_a_scheduler_can_be_called() -> None:
    """`distributed.cli.dask_scheduler.main`: the click command behind ``dask scheduler``."""
    options = {option for each in dask_scheduler.main.params for option in each.opts}
    assert {"--port", "--protocol", "--idle-timeout", "--tls-ca-file"} <= options


@on_cluster
async def test_a_server_starts_its_preloads_by_their_manager(rig: Rig) -> None:
    """`distributed.preloading.PreloadManager`: the preloads of a server, whose ``start`` it awaits before it joins."""
    seen = []

    async def start(preloads: PreloadManager) -> None:
        for each in preloads:
            seen.append([*rig.scheduler.aliases])
            await each.start()
            raise OSError("no licence")

    preload = "def dask_setup(worker):\n    worker.prepared = True\n"
    worker = Worker(rig.scheduler.address, name="a", preload=[preload])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreloadManager, "start", start)
        with pytest.raises(RuntimeError) as caught:
            await worker
    assert str(caught.value.__cause__) == "no licence"
    assert seen == [[]]
    assert worker.prepared  # type: ignore[attr-defined]


# -- In the scheduler: its handlers


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


# -- In the scheduler: workers


@on_cluster
async def test_a_worker_is_found_by_its_name(rig: Rig) -> None:
    """`Scheduler.aliases`: the address of each worker, by its name."""
    worker = await rig.add()
    ws = find_worker(rig.scheduler, "a")
    assert ws is not None
    assert ws.address == worker.address
    assert find_worker(rig.scheduler, "b") is None


@on_cluster
async def test_a_draining_worker_gets_no_tasks(rig: Rig) -> None:
    """`Scheduler.handle_worker_status_change`: a worker that closes gracefully gets no tasks from then on."""
    worker = await rig.add()
    ws = rig.scheduler.workers[worker.address]
    rig.scheduler.handle_worker_status_change(Status.closing_gracefully, ws, "test")
    assert ws not in rig.scheduler.running
    future = rig.client.submit(identity, 1)
    await until(lambda: future.key in rig.scheduler.tasks)
    assert rig.task(future).state in ("no-worker", "queued")
    rig.scheduler.handle_worker_status_change(Status.running, ws, "test")
    assert await future == 1


@on_cluster
async def test_a_worker_changes_its_status_when_told(rig: Rig) -> None:
    """`"worker-status-change"`: a draining worker starts nothing it has; told to run, it confirms and starts it."""
    worker = await rig.add()
    ws = rig.scheduler.workers[worker.address]
    running = rig.block()
    waiting = rig.client.submit(identity, 1, key="waiting", workers=["a"])
    await until(lambda: worker.state.executing and "waiting" in worker.state.tasks)
    set_worker_status(rig.scheduler, ws, Status.closing_gracefully)
    await until(lambda: worker.status is Status.closing_gracefully)
    rig.gate.set()
    await running
    assert worker.state.tasks["waiting"].state == "ready"
    assert not worker.state.executing
    send_worker_status(rig.scheduler, ws, Status.running)
    assert await waiting == 1
    assert ws.status is Status.running


@on_cluster
async def test_a_late_heartbeat_ends_no_worker(rig: Rig) -> None:
    """`Scheduler.worker_ttl`: what removes workers whose heartbeat is late is a periodic callback of this name."""
    assert rig.scheduler.worker_ttl  # Dask's default is 5 minutes
    check = rig.scheduler.periodic_callbacks["worker-ttl"]
    await until(check.is_running)
    turn_off_worker_ttl(rig.scheduler)
    assert not check.is_running()
    assert rig.scheduler.worker_ttl is None


@on_cluster
async def test_the_time_of_a_heartbeat_is_known(rig: Rig) -> None:
    """`WorkerState.last_seen`: changes with every heartbeat, and with nothing else."""
    worker = await rig.add()
    ws = rig.scheduler.workers[worker.address]
    worker.periodic_callbacks["heartbeat"].stop()
    before = ws.last_seen
    await rig.client.submit(identity, 1)
    assert ws.last_seen == before
    await worker.heartbeat()
    assert ws.last_seen > before


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has this option")
@on_cluster
async def test_a_connection_waits_for_a_reader_that_is_busy(rig: Rig) -> None:
    """`Comm.stream`: its socket has a limit for unread data, which can be lifted."""
    worker = await rig.add()
    comm: Any = rig.scheduler.stream_comms[worker.address].comm

    def limit() -> int:
        found = comm.stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert isinstance(found, int)
        return found

    assert limit() == 30_000
    lift_send_timeout(comm)
    assert limit() == 0
    assert comm.stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@on_cluster
async def test_an_expected_removal_suspects_no_task(rig: Rig) -> None:
    """`Scheduler.remove_worker`: expected, its tasks run elsewhere without suspicion; the worker closes."""
    worker = await rig.add()
    future = rig.block()
    await until(lambda: worker.state.executing)
    await remove_worker(rig.scheduler, rig.scheduler.workers[worker.address])
    assert not rig.task(future).suspicious
    rig.gate.set()
    await until(lambda: worker.status is Status.closed)


@on_cluster
async def test_a_retirement_can_be_interrupted(rig: Rig) -> None:
    """`distributed.active_memory_manager.RetireWorker`: without recipients, `retire_workers` leaves its worker."""
    first, _ = await rig.add("a"), await rig.add("b")
    bad = rig.client.submit(Unsendable, workers=[first.address])
    await wait(bad)
    assert not interrupt_retirement(rig.scheduler, first.address)
    retiring = asyncio.ensure_future(
        rig.scheduler.retire_workers([first.address], close_workers=True, remove=True)
    )
    await until(lambda: interrupt_retirement(rig.scheduler, first.address))
    assert not await asyncio.wait_for(retiring, 30)
    assert first.address in rig.scheduler.workers


@on_cluster
async def test_the_active_memory_manager_has_policies(rig: Rig) -> None:
    """`Scheduler.extensions["amm"]`: keeps its policies in a set, from which one can be removed."""
    assert isinstance(rig.scheduler.extensions["amm"].policies, set)


@on_cluster
async def test_the_last_event_of_a_worker_is_its_removal(rig: Rig) -> None:
    """`Scheduler.get_events`: has the tasks of a removed worker when plugins learn of its removal."""
    found = []

    class Removals(SchedulerPlugin):
        def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
            found.append([ts.key for ts in tasks_of_dead_worker(scheduler, worker)])

    rig.scheduler.add_plugin(Removals())
    worker = await rig.add()
    running = rig.block(key="running")
    await until(lambda: worker.state.executing)
    await worker.close(executor_wait=False)
    await until(lambda: found)
    second = await rig.add("b")
    await until(lambda: second.state.executing)
    await remove_worker(rig.scheduler, rig.scheduler.workers[second.address])
    assert found == [["running"], []]
    del running


@on_cluster
async def test_a_heartbeat_tells_what_executes(rig: Rig) -> None:
    """`WorkerState.executing`: the seconds that each task has run, as of the last heartbeat."""
    worker = await rig.add()
    future = rig.block()
    await until(lambda: worker.state.executing)
    await worker.heartbeat()
    ws, ts = rig.scheduler.workers[worker.address], rig.task(future)
    # A heartbeat that was under way may arrive after this one, and tell what was executing before.
    await until(lambda: ts in ws.executing)
    assert ws.executing[ts] >= 0
    assert [*ws.executing] == [ts]


@on_cluster
async def test_results_are_copied_to_a_worker(rig: Rig) -> None:
    """`Scheduler.gather_on_worker`: copies results, and returns the keys of those that could not be copied."""
    first, second = await rig.add("a"), await rig.add("b")
    good = rig.client.submit(identity, 1, workers=[first.address])
    bad = rig.client.submit(Unsendable, workers=[first.address])
    await wait([good, bad])
    gather = rig.scheduler.gather_on_worker
    assert await gather(second.address, {good.key: [first.address]}) == set()
    assert await gather(second.address, {bad.key: [first.address]}) == {bad.key}
    assert rig.scheduler.workers[second.address] in (rig.task(good).who_has or ())


# -- In the scheduler: tasks


@on_cluster
async def test_a_waiting_task_can_be_failed(rig: Rig) -> None:
    """`Scheduler.transition`: to ``erred`` with a pickled exception, from every state in which a task waits."""
    resources = rig.client.submit(identity, 1, resources={"none": 1})
    queued = rig.client.submit(identity, 2)
    await until(lambda: len(rig.scheduler.tasks) == 2)
    for future in (resources, queued):
        fail_task(rig.scheduler, rig.task(future), pickle.dumps(LookupError("ours")), "ours")
        with pytest.raises(LookupError, match="ours"):
            await future
    worker = await rig.add()
    running = rig.block()
    waiting = rig.client.submit(identity, 3, workers=[worker.address], key="waiting")
    await until(lambda: "waiting" in worker.state.tasks)
    for future in (waiting, running):
        fail_task(rig.scheduler, rig.task(future), pickle.dumps(LookupError("ours")), "ours")
        with pytest.raises(LookupError, match="ours"):
            await future


@on_cluster
async def test_a_worker_forgets_a_task(rig: Rig) -> None:
    """`"free-keys"`: a worker that has not started a task does not start it any more."""
    worker = await rig.add()
    running = rig.block()
    waiting = rig.client.submit(identity, 1, key="waiting", workers=[worker.address])
    await until(lambda: "waiting" in worker.state.tasks)
    free_key(rig.scheduler, worker.address, "waiting")
    await until(lambda: "waiting" not in worker.state.tasks)
    rig.gate.set()
    await running
    del waiting


@on_cluster
async def test_a_released_task_is_assigned_anew(rig: Rig) -> None:
    """`Scheduler.transitions`: to ``released``, which takes a task from its worker and runs it on another."""
    first = await rig.add("a")
    running = rig.block()
    waiting = rig.client.submit(identity, 1, key="waiting")
    await until(lambda: first.state.executing and "waiting" in first.state.tasks)
    ws = rig.scheduler.workers[first.address]
    set_worker_status(rig.scheduler, ws, Status.closing_gracefully)
    await until(lambda: first.status is Status.closing_gracefully)
    second = await rig.add("b")
    release_tasks(rig.scheduler, [rig.task(waiting)])
    assert await waiting == 1
    assert rig.task(waiting).who_has == {rig.scheduler.workers[second.address]}
    rig.gate.set()
    await wait(running)


@on_cluster
async def test_futures_are_cancelled_with_a_reason(rig: Rig) -> None:
    """`Scheduler.report`: ``cancelled-keys`` cancels the futures of a client, with our message."""
    futures = [rig.client.submit(identity, 1, resources={"none": 1})]
    await until(lambda: rig.scheduler.tasks)
    cancel_all(rig.scheduler, "the cluster was closed")
    with pytest.raises(CancelledError, match="the cluster was closed"):
        await futures[0]


@on_cluster
async def test_released_keys_are_forgotten(rig: Rig) -> None:
    """`Scheduler.client_releases_keys`: tasks that no client has a future of are forgotten at once."""
    first = rig.client.submit(identity, 1, resources={"none": 1})
    last = rig.client.submit(identity, first)
    await until(lambda: len(rig.scheduler.tasks) == 2)
    (client,) = (name for name, cs in rig.scheduler.clients.items() if cs.wants_what)
    rig.scheduler.client_releases_keys([first.key, last.key], client=client)
    assert not rig.scheduler.tasks


@on_cluster
async def test_tasks_of_a_dead_worker_are_suspected(rig: Rig) -> None:
    """`TaskState.suspicious`: counts the deaths of its workers, as its prefix does; it can be lowered."""
    worker = await rig.add()
    running = rig.block(key="running", priority=1)
    waiting = rig.client.submit(wait_for_gate, id(rig), key="waiting", workers=["a"])
    await until(lambda: worker.state.executing and "waiting" in worker.state.tasks)
    tasks = [rig.task(running), rig.task(waiting)]
    await worker.close(executor_wait=False)
    await until(lambda: not rig.scheduler.workers)
    assert [ts.suspicious for ts in tasks] == [1, 1]
    prefixes = {ts.prefix.name: ts.prefix for ts in tasks}
    assert [prefix.suspicious for prefix in prefixes.values()] == [1, 1]
    suspect(tasks[1], -1)
    assert [ts.suspicious for ts in tasks] == [1, 0]
    assert [prefix.suspicious for prefix in prefixes.values()] == [1, 0]


@on_cluster
async def test_tasks_outlive_any_number_of_deaths(rig: Rig) -> None:
    """`Scheduler.allowed_failures`: how many deaths of workers the scheduler allows a task; it can be raised."""
    assert take_over_failures(rig.scheduler) == 3
    running = rig.block()
    for _ in range(5):
        worker = await rig.add()
        await until(functools.partial(operator.attrgetter("state.executing"), worker))
        await worker.close(executor_wait=False)
    await until(lambda: not rig.scheduler.workers)
    assert rig.task(running).suspicious == 5
    assert rig.task(running).state in ("no-worker", "queued")


@on_cluster
async def test_a_held_task_waits_until_it_is_resumed(rig: Rig) -> None:
    """`TaskState.worker_restrictions`: a task whose workers are not there is in state ``no-worker``."""
    first = await rig.add("a")
    blocking = rig.block()
    waiting = rig.client.submit(identity, 1, key="waiting")
    await until(
        lambda: first.state.executing and rig.task(waiting).state in ("processing", "queued")
    )
    ts = rig.task(waiting)
    hold = Hold(rig.scheduler, ts)
    assert ts.state == "no-worker"
    second = await rig.add("b")
    assert ts.state == "no-worker"
    hold.resume()
    assert await waiting == 1
    assert ts.who_has == {rig.scheduler.workers[second.address]}
    assert not ts.worker_restrictions
    rig.gate.set()
    await wait(blocking)


@on_cluster
async def test_workers_know_the_annotations_of_tasks(rig: Rig) -> None:
    """`TaskState.annotations`: what is added in the scheduler reaches the worker with the task."""
    future = rig.block(resources={"r": 1})
    await until(lambda: future.key in rig.scheduler.tasks)
    ts = rig.task(future)
    assert not runs_alone(ts)
    run_alone(ts, 5.0)
    assert runs_alone(ts)
    worker = await rig.add(resources={"r": 1})
    await until(lambda: worker.state.executing)
    assert seconds_alone(worker, future.key) == 5.0
    assert seconds_alone(worker, "unknown") is None
    rig.gate.set()
    await wait(future)
    run_alone(ts, None)
    assert not runs_alone(ts)


@on_cluster
async def test_a_worker_runs_a_task_by_a_method_that_can_be_replaced(rig: Rig) -> None:
    """`Worker.execute`: is looked up for each task, and returns when the task has ended, seceded or not."""
    worker = await rig.add()
    began: list[Any] = []
    ended: list[Any] = []

    async def execute(key: Any, *, stimulus_id: str) -> Any:
        began.append(key)
        event = await original(key, stimulus_id=stimulus_id)
        ended.append(key)
        return event

    original = replace_execute(worker, execute)
    future = rig.client.submit(secede_and_wait_for_gate, id(rig))
    await until(lambda: has_seceded(worker, future.key))
    assert (began, ended) == ([future.key], [])
    rig.gate.set()
    await wait(future)
    assert ended == [future.key]
    assert not has_seceded(worker, future.key)


@on_cluster
async def test_a_worker_receives_results_by_a_method_that_can_be_replaced(rig: Rig) -> None:
    """`Worker.gather_dep`: is called with the other worker and the keys, and looked up each time."""
    holder, receiver = await rig.add("holder"), await rig.add("receiver")
    wanted: list[tuple[str, list[Any]]] = []

    async def gather(worker: str, to_gather: Any, total_nbytes: int, *, stimulus_id: str) -> Any:
        wanted.append((worker, [*to_gather]))
        return await original(worker, to_gather, total_nbytes, stimulus_id=stimulus_id)

    original = replace_gather(receiver, gather)
    made = rig.client.submit(int, 1, key="made", workers=[holder.address])
    assert await rig.client.submit(operator.add, made, 1, workers=[receiver.address]) == 2
    assert wanted == [(holder.address, ["made"])]


@on_cluster
async def test_results_that_cannot_be_received_are_failures(rig: Rig) -> None:
    """`distributed.worker_state_machine.GatherDepFailureEvent`: as the result of ``gather_dep``, fails the results."""
    holder, receiver = await rig.add("holder"), await rig.add("receiver")

    async def gather(worker: str, to_gather: Any, total_nbytes: int, *, stimulus_id: str) -> Any:
        return gather_failure(worker, total_nbytes, OSError("no route"))

    replace_gather(receiver, gather)
    made = rig.client.submit(int, 1, key="made", workers=[holder.address])
    future = rig.client.submit(int, made, workers=[receiver.address])
    tasks = receiver.state.tasks
    await until(lambda: "made" in tasks and tasks["made"].state == "error")
    del future


@on_cluster
async def test_a_task_that_is_taken_back_before_it_starts_does_not_run(rig: Rig) -> None:
    """`distributed.worker_state_machine.RescheduleEvent`: as the result of ``execute``, ends a task that was freed."""
    worker = await rig.add(resources={"r": 1})
    started = asyncio.Event()
    may_start = asyncio.Event()

    async def execute(key: Any, *, stimulus_id: str) -> Any:
        started.set()
        await may_start.wait()
        if was_taken_back(worker, key):
            return not_executed(key)
        return await original(key, stimulus_id=stimulus_id)

    original = replace_execute(worker, execute)
    future = rig.client.submit(operator.truediv, 1, 0, key="never", resources={"r": 1})
    await started.wait()
    assert not was_taken_back(worker, "never")
    ts = rig.task(future)
    hold = Hold(rig.scheduler, ts)
    await until(lambda: was_taken_back(worker, "never"))
    may_start.set()
    await until(lambda: "never" not in worker.state.tasks)
    assert ts.state == "no-worker"
    hold.resume()
    with pytest.raises(ZeroDivisionError):
        await future


@on_cluster
async def test_a_worker_sends_messages_in_order_with_its_own(rig: Rig) -> None:
    """`Worker.batched_send`: goes to `Scheduler.stream_handlers` with the worker's address."""
    messages: list[Any] = []

    def handle(**message: Any) -> None:
        messages.append(message)

    rig.scheduler.stream_handlers["test"] = handle
    worker = await rig.add()
    worker.batched_send({"op": "test", "key": ("tuple", 1)})
    await until(lambda: messages)
    assert messages == [{"key": ("tuple", 1), "worker": worker.address}]


@on_cluster
async def test_the_scheduler_hears_of_tasks_that_secede(rig: Rig) -> None:
    """`Scheduler.stream_handlers["long-running"]`: called with the key when a task secedes."""
    handler, heard = rig.scheduler.stream_handlers["long-running"], []

    def handle(*, key: Any, worker: str, **message: Any) -> None:
        heard.append((key, worker))
        handler(key=key, worker=worker, **message)

    rig.scheduler.stream_handlers["long-running"] = handle
    worker = await rig.add()
    future = rig.client.submit(secede_and_wait_for_gate, id(rig))
    await until(lambda: heard)
    assert heard == [(future.key, worker.address)]
    rig.gate.set()
    await wait(future)


@on_cluster
async def test_tasks_that_no_worker_can_run_are_known(rig: Rig) -> None:
    """`Scheduler.unrunnable`: the tasks in state ``no-worker``."""
    future = rig.client.submit(identity, 1, resources={"none": 1})
    await until(lambda: future.key in rig.scheduler.tasks)
    assert rig.task(future).state == "no-worker"
    assert [*rig.scheduler.unrunnable] == [rig.task(future)]


@on_cluster
async def test_tasks_without_restrictions_are_queued(rig: Rig) -> None:
    """`Scheduler.queued`: the tasks in state ``queued``; without workers, a task is there or unrunnable."""
    future = rig.client.submit(identity, 1)
    await until(lambda: future.key in rig.scheduler.tasks)
    assert rig.task(future) in {*rig.scheduler.queued, *rig.scheduler.unrunnable}
    assert rig.task(future).state in ("queued", "no-worker")


@on_cluster
async def test_a_waiting_task_moves_to_another_worker(rig: Rig) -> None:
    """`Scheduler.extensions["stealing"]`: moves a task that is not started, and lists the move until it is done."""
    first = await rig.add("a", resources={"r": 1})
    running = rig.block(resources={"r": 1})
    waiting = rig.client.submit(identity, 1, resources={"r": 1})
    await until(lambda: first.state.executing and waiting.key in first.state.tasks)
    second = await rig.add("b", resources={"r": 1})
    stealing = Stealing.of(rig.scheduler)
    assert stealing is not None
    victim, thief = (rig.scheduler.workers[w.address] for w in (first, second))
    ts = rig.task(waiting)
    stealing.move(ts, victim, thief)
    assert (stealing.moves[ts]["victim"], stealing.moves[ts]["thief"]) == (victim, thief)
    await wait(waiting)
    assert ts.who_has == {thief}
    assert ts not in stealing.moves
    rig.gate.set()
    await running


@on_cluster
async def test_the_idle_timeout_can_be_turned_off(rig: Rig) -> None:
    """`Scheduler.idle_timeout`: seconds, or None for never, and read anew by each check."""
    rig.scheduler.idle_timeout = 1e-9
    rig.scheduler.check_idle()
    assert rig.scheduler.check_idle() is not None
    rig.scheduler.idle_timeout = None
    rig.scheduler.check_idle()
    assert rig.scheduler.status is Status.running


@on_cluster
async def test_the_timeout_without_workers_can_be_turned_off(rig: Rig) -> None:
    """`Scheduler.no_workers_timeout`: seconds, or None for never, and read by each check."""
    waiting, failing = (rig.client.submit(identity, n) for n in (1, 2))
    await until(lambda: len(rig.scheduler.tasks) == 2)
    assert rig.scheduler.no_workers_timeout is None
    await rig.client.cancel([waiting])
    rig.scheduler.no_workers_timeout = 0.001
    with pytest.raises(distributed.scheduler.NoWorkerError):
        await failing


async def _idle_since_over_http() -> float:
    routes = {"distributed.scheduler.http.routes": ["distributed.http.scheduler.api"]}
    with dask.config.set(routes):
        async with Scheduler(
            host="127.0.0.1", port=0, dashboard=False, dashboard_address="127.0.0.1:0"
        ) as scheduler:
            setattr(scheduler, "check_idle", lambda: 12.5)  # noqa: B010 - a method, as mypy sees it
            url = f"http://127.0.0.1:{scheduler.http_server.port}/api/v1/check_idle"
            answer = await AsyncHTTPClient().fetch(url)
            return float(json.loads(answer.body)["idle_since"])


def test_whoever_asks_by_http_whether_it_is_idle_calls_one_method() -> None:
    """`Scheduler.check_idle`: what ``distributed.http.scheduler.api`` answers with, which the Dask operator asks."""
    assert asyncio.run(_idle_since_over_http()) == 12.5


@on_cluster
async def test_connected_clients_are_known(rig: Rig) -> None:
    """`Scheduler.client_comms`: the connections to clients, which is empty without any."""
    assert len(rig.scheduler.client_comms) == 1
    await rig.client.close()
    await until(lambda: not rig.scheduler.client_comms)


@on_cluster
async def test_a_scheduler_tells_its_versions(rig: Rig) -> None:
    """`Scheduler.handlers["versions"]`: as `get_versions` returns them there, to anybody who is connected."""
    async with rpc(rig.scheduler.address) as scheduler:
        found = await scheduler.versions()
    assert found["host"]["python"] == get_versions()["host"]["python"]
    assert found["packages"]["dask"] == version("dask")


@on_cluster
async def test_a_scheduler_tells_its_id(rig: Rig) -> None:
    """`Scheduler.handlers["identity"]`: has the id, and the number of workers to describe may be 0."""
    async with rpc(rig.scheduler.address) as scheduler:
        assert (await scheduler.identity(n_workers=0))["id"] == rig.scheduler.id


def test_versions_of_an_environment() -> None:
    """`distributed.versions.get_versions`: has Python's version and those of dask and distributed."""
    found = get_versions()
    assert found["host"]["python"].startswith(".".join(map(str, sys.version_info[:2])))
    assert found["packages"]["distributed"] == version("distributed")
    assert found["packages"]["dask"]


# -- In the workers


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


@on_cluster
async def test_a_worker_reads_on_after_a_task_that_it_cannot_unpickle(rig: Rig) -> None:
    """`Comm.read`: calls `from_frames`, a global name, as each comm that sends bytes does."""
    worker = await rig.add()
    read_unreadable_tasks(worker, task_that_raises)
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
    """`distributed.worker.get_data_from_worker`: raises what pickling raises; a busy worker sends nothing."""
    first, second = await rig.add("a"), await rig.add("b")
    good = rig.client.submit(identity, 1, workers=["a"])
    bad = rig.client.submit(Unsendable, workers=["a"])
    await wait([good, bad])
    assert not await is_holder_busy(second, good.key, first.address)
    with pytest.raises(TypeError, match="cannot be pickled"):
        await is_holder_busy(second, bad.key, first.address)
    first.transfer_outgoing_count_limit = 0
    assert await is_holder_busy(second, good.key, first.address)


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
        return answer if error is None else actor_failure(OSError("another"))

    worker.handlers["actor_execute"] = execute
    with pytest.raises(ValueError, match="as it is"):
        await actor.method("sent")
    with pytest.raises(OSError, match="another"):
        await actor.method("unsendable")
    assert {answer["status"] for answer in answers} == {"error"}


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


# -- The list

ROOT = Path(__file__).parents[4]
PAGE = ROOT / "docs/extending/dask.md"
SOURCES = sorted(ROOT.glob("packages/*/src/**/*.py"))

OVERRIDDEN = {
    "_start",
    "_close",
    "_ensure_connected",
    "_gather",
    "_gather_remote",
    "_handle_key_in_memory",
    "_handle_restart",
    "_release_key",
    "_send_to_scheduler_safe",
    "_reconnect",
    "_send_to_scheduler",
    "_graph_to_futures",
    "_get_computation_code",
}
"""Private methods of Dask's client that ours overrides."""

needs_repository = pytest.mark.skipif(not PAGE.exists(), reason="not in the repository")


def listed() -> set[str]:
    """Return the names in the tables of the page: the first cell of each row."""
    return set(re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE))


def imported_at_runtime(tree: ast.AST) -> Iterator[ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom):
            yield node
        yield from imported_at_runtime(node)


def private_imports(tree: ast.AST) -> set[str]:
    """Return what is imported from Dask's modules and not exported by `distributed` itself."""
    return {
        f"{node.module}.{alias.name}"
        for node in imported_at_runtime(tree)
        if node.module and node.module.startswith(("dask.", "distributed.", "dask_jobqueue."))
        for alias in node.names
        if alias.name not in distributed.__all__
    }


def private_attributes(tree: ast.AST) -> set[str]:
    """Return the underscored attributes of anything but ``self``, ``cls`` and the module ``os``.

    Those of named tuples are public: the underscore keeps them apart from the names of fields.
    """
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and re.match(r"_[^_]", node.attr)
        and ast.unparse(node.value) not in ("self", "cls", "os")
        and node.attr not in ("_asdict", "_fields", "_replace")
    }


def own_names(tree: ast.AST) -> set[str]:
    """Return the underscored names that a module defines itself: functions, and attributes of ``self``."""
    return {
        node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self")
    }


@needs_repository
def test_every_private_name_of_dask_is_listed() -> None:
    assert SOURCES
    trees = [ast.parse(path.read_text()) for path in SOURCES]
    last_parts = {name.rpartition(".")[2] for name in listed()}
    # A subclass may define a method of Dask's anew; `super()` is what uses it.
    ours = set().union(*map(own_names, trees)) - OVERRIDDEN
    assert set().union(*map(private_imports, trees)) - listed() == set()
    assert set().union(*map(private_attributes, trees)) - ours - last_parts == set()


@needs_repository
def test_every_listed_name_has_a_test_of_its_own() -> None:
    tested = [
        found[1]
        for path in ROOT.glob("packages/*/tests/**/test_dask_internals.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (found := re.match(r"`([^`]+)`:", ast.get_docstring(node) or ""))
    ]
    assert sorted(tested) == sorted(listed())


def test_the_client_has_no_attribute_of_the_name_of_one_of_dask() -> None:
    """An attribute of ours would replace Dask's without a word."""

    def attributes(cls: type) -> set[str]:
        tree = ast.parse(inspect.getsource(cls))
        return own_names(tree) - {"__init__"}

    theirs = attributes(Client) | {*dir(Client)}
    used = {"status", "asynchronous", "sync", "subscribe_topic", "get_events", "cluster", "loop"}
    used |= {"_stream_handlers", "scheduler_comm", "futures"}
    used |= {"scheduler_info", "log_event", "scheduler", "restart_workers"}
    tagged = {"submit", "map", "compute", "persist", "get", "get_executor"}
    ours = attributes(ScalableClient) | attributes(WatchedClient)
    assert ours & theirs == tagged | OVERRIDDEN | used
