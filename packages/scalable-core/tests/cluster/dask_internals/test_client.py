"""What we need of Dask beyond its public interface: in the client's process.

The docstring of each test begins with the name that it is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import io
import logging
import operator
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import dask
import dask.array as da
import distributed
import pytest
from dask._expr import HLGExpr, LLGExpr, _AnnotationsTombstone, _HLGExprSequence
from dask._task_spec import GraphNode, Task, TaskRef
from dask.base import annotate, collections_to_expr, tokenize
from dask.blockwise import optimize_blockwise
from dask.core import flatten
from dask.delayed import delayed
from dask.highlevelgraph import HighLevelGraph
from dask.sizeof import sizeof
from dask.utils import ensure_dict, funcname
from dask_rig import Rig, identity, on_cluster, until
from distributed import (
    Client,
    LocalCluster,
    Scheduler,
    SchedulerPlugin,
    Status,
    Worker,
    as_completed,
    futures_of,
    get_client,
    wait,
)
from distributed.batched import BatchedSend
from distributed.cfexecutor import ClientExecutor
from distributed.cli import dask_scheduler, dask_worker
from distributed.core import PooledRPCCall, rpc
from distributed.preloading import PreloadManager
from distributed.protocol.pickle import dumps
from distributed.utils import LoopRunner, iscoroutinefunction, silence_logging_cmgr, sync

from scalable.client.maps import LARGE
from scalable.cluster.dask_internals import (
    as_expression,
    defer_unpickling,
    dependencies_of,
    existing_future,
    fail_futures,
    finished_future,
    has_own_deserializers,
    is_error_of_lost_actor,
    is_result_without_raising,
    reset_future,
    send_with_next,
    take_from_gather,
    when_client_is_missing,
)
from scalable.cluster.plugin.dask_internals import keep_no_log, send_sooner, send_to_clients
from scalable.providers.servers import stop_http_server


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


def test_the_size_of_an_argument_is_that_of_its_contents() -> None:
    """`dask.sizeof.sizeof`: by it, Dask makes tasks of keyword arguments of a map above 100 kB."""
    assert sizeof(bytes(200_000)) > LARGE > sizeof(bytes(90_000))
    assert sizeof({"data": [bytes(200_000)]}) > LARGE


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


def test_annotations_of_delayed_objects_in_a_list_are_functions_of_the_key() -> None:
    """`dask._expr._AnnotationsTombstone`: what the functions return for keys without; what is None is left out, too."""
    with annotate(resources={"gcam": 1}):
        annotated: Any = delayed(identity)(1)
    (expr,) = collections_to_expr([delayed(sum)([annotated, delayed(identity)(2)])]).operands
    layer = next(each for each in expr.hlg.layers.values() if annotated.key in each)
    of_key = layer.annotations["resources"]
    assert of_key(annotated.key) == {"gcam": 1}
    assert isinstance(of_key("another"), _AnnotationsTombstone)
    # A method of a dictionary does as well, which the scheduler can unpickle whatever it has installed.
    layer.annotations = {"resources": {annotated.key: {"gcam": 2}}.get}
    found = HLGExpr(dsk=HighLevelGraph({"x": layer}, {"x": set()})).__dask_annotations__()
    assert found["resources"] == {annotated.key: {"gcam": 2}}


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
async def test_a_client_scatters_by_one_coroutine(rig: Rig) -> None:
    """`distributed.Client._scatter`: awaited with the options by name."""
    options: list[dict[str, Any]] = []

    class Ours(Client):
        async def _scatter(self, *args: Any, **kwargs: Any) -> Any:
            options.append(kwargs)
            return await super()._scatter(*args, **kwargs)  # type: ignore[no-untyped-call]

    await rig.add()
    async with Ours(  # type: ignore[no-untyped-call]
        rig.scheduler.address, asynchronous=True, set_as_default=False
    ) as client:
        await client.scatter([1], timeout=60)
    assert {"workers": None, "timeout": 60}.items() <= options[0].items()


@on_cluster
async def test_a_client_calls_its_scheduler_through_one_object(rig: Rig) -> None:
    """`distributed.core.PooledRPCCall`: each call of `Client.scheduler` is an attribute, also without connections."""
    called = []

    class Ours(PooledRPCCall):
        def __getattr__(self, name: str) -> Any:
            called.append(name)
            return super().__getattr__(name)  # type: ignore[no-untyped-call]

    async with Client(rig.scheduler.address, asynchronous=True, set_as_default=False) as client:
        calls: Any = client.scheduler
        assert type(calls) is PooledRPCCall
        new: Any = Ours
        client.scheduler = new(calls.addr, calls.pool, calls.serializers, calls.deserializers)
        await client.who_has()
        await client.rpc.close()  # any number of times
        with pytest.raises(RuntimeError, match="closed"):
            await client.who_has()
    assert called.count("who_has") == 2


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
async def test_a_connection_keeps_what_it_has_sent(rig: Rig) -> None:
    """`BatchedSend.recent_message_log`: the last batches, whatever is in them, of each connection by itself."""
    worker = await rig.add()
    connections: list[Any] = [
        worker.batched_stream,
        rig.scheduler.client_comms[rig.client.id],
    ]
    await rig.client.submit(identity, 1)
    assert all(each.recent_message_log for each in connections)
    for each in connections:
        keep_no_log(each)
    await rig.client.submit(identity, 2)
    assert not any(each.recent_message_log for each in connections)


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
async def test_a_client_learns_of_failures(rig: Rig) -> None:
    """`distributed.Client._handle_task_erred`: called with the key and the exception, pickled, or as an object."""
    received = []

    class Ours(Client):
        def _handle_task_erred(
            self, key: Any = None, exception: Any = None, traceback: Any = None
        ) -> None:
            received.append(exception)
            super()._handle_task_erred(key, LookupError("ours"), traceback)  # type: ignore[no-untyped-call]

    await rig.add()
    async with Ours(  # type: ignore[no-untyped-call]
        rig.scheduler.address, asynchronous=True, set_as_default=False
    ) as client:
        with pytest.raises(LookupError, match="ours"):
            await client.submit(operator.truediv, 1, 0)
    assert isinstance(pickle.loads(received[0]), ZeroDivisionError)


@on_cluster
async def test_a_lost_actor_has_an_error_of_its_own(rig: Rig) -> None:
    """`Scheduler._transition_memory_released`: makes the error of an actor whose worker has ended."""
    worker = await rig.add()
    future: Any = rig.client.submit(list, actor=True)
    await future
    await rig.scheduler.remove_worker(worker.address, stimulus_id="gone")
    await until(lambda: future.status == "error")
    assert is_error_of_lost_actor(await future.exception())
    assert not is_error_of_lost_actor(RuntimeError("Worker holding Actor was lost, they say"))


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
async def test_who_takes_errors_as_values_says_so(rig: Rig) -> None:
    """`Future._result`: calls `_gather`, and has a variable `raiseit`, false for who takes errors as values."""
    told: list[bool] = []

    class Ours(Client):
        def _gather(self, *args: Any, **kwargs: Any) -> Any:
            told.append(is_result_without_raising())
            gather: Any = super()._gather
            return gather(*args, **kwargs)

    await rig.add()
    made: Any = Ours
    async with made(rig.scheduler.address, asynchronous=True, set_as_default=False) as client:
        assert await client.submit(identity, 1) == 1
        assert await client.gather([client.submit(identity, 2)]) == [2]
        assert told == [False, False]
        futures = [client.submit(identity, 3)]
        completed: Any = as_completed(futures, client.loop, with_results=True)
        assert [value async for _, value in completed] == [3]
        assert await asyncio.wrap_future(client.get_executor().submit(identity, 4)) == 4
        assert told == [False, False, True, True]


@on_cluster
async def test_a_graph_is_an_expression(rig: Rig) -> None:
    """`dask._expr.LLGExpr`: a plain graph, also one without tasks whose keys the scheduler has already."""
    await rig.add()
    future = rig.client.submit(identity, 1, key="x")
    assert await future == 1
    futures = rig.client._graph_to_futures(as_expression({}), ["x"], span_metadata={})
    assert await rig.client.gather(futures) == {"x": 1}
    assert as_expression(LLGExpr({})).operands == [{}]


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
    await until(lambda: rig.state(future) in ("no-worker", "queued"))
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
