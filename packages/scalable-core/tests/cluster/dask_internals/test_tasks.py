"""What we need of Dask beyond its public interface: tasks, as the scheduler sees them.

The docstring of each test begins with the name that it is for.
"""

from __future__ import annotations

import asyncio
import functools
import json
import operator
import pickle
import sys
from importlib.metadata import version
from typing import Any

import dask
import distributed
import pytest
from dask_rig import Rig, identity, on_cluster, secede_and_wait_for_gate, until, wait_for_gate
from distributed import CancelledError, Client, Scheduler, Status, get_client, wait
from distributed.core import rpc
from distributed.versions import get_versions
from tornado.httpclient import AsyncHTTPClient

from scalable.cluster.plugin.dask_internals import (
    Hold,
    Stealing,
    cancel_all,
    fail_task,
    free_key,
    has_seceded,
    not_executed,
    release_tasks,
    replace_execute,
    report_error,
    run_alone,
    runs_alone,
    seconds_alone,
    set_worker_status,
    suspect,
    take_over_failures,
    was_taken_back,
)


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
async def test_the_error_of_a_task_can_be_reported_anew(rig: Rig) -> None:
    """`Scheduler.report_on_key`: futures of the task, and of those that it has failed, get the other exception."""
    await rig.add()
    failed = rig.client.submit(operator.truediv, 1, 0)
    dependent = rig.client.submit(identity, failed)
    await until(lambda: dependent.status == "error")
    states = [rig.client.futures[future.key] for future in (failed, dependent)]
    report_error(rig.scheduler, rig.task(failed), pickle.dumps(LookupError("the reason")), "")
    await until(lambda: all(isinstance(state.exception, LookupError) for state in states))
    for future in (failed, dependent):
        with pytest.raises(LookupError, match="the reason"):
            await future


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
    await until(lambda: first.state.executing and rig.state(waiting) in ("processing", "queued"))
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


def submit_another() -> None:
    get_client().submit(identity, 1, key="another")


@on_cluster
async def test_who_has_submitted_a_task_is_known(rig: Rig) -> None:
    """`Scheduler.stream_handlers["update-graph"]`: a coroutine, called with the keys and the task that submits them."""
    handler, heard = rig.scheduler.stream_handlers["update-graph"], []

    async def handle(*, keys: Any, submitting_task: Any, **message: Any) -> None:
        heard.append(({*keys}, submitting_task))
        await handler(keys=keys, submitting_task=submitting_task, **message)

    rig.scheduler.stream_handlers["update-graph"] = handle
    await rig.add()
    future = rig.client.submit(submit_another)
    await wait(future)
    await until(lambda: len(heard) == 2)
    assert heard == [({future.key}, None), ({"another"}, future.key)]


@on_cluster
async def test_tasks_that_no_worker_can_run_are_known(rig: Rig) -> None:
    """`Scheduler.unrunnable`: the tasks in state ``no-worker``."""
    future = rig.client.submit(identity, 1, resources={"none": 1})
    await until(lambda: future.key in rig.scheduler.tasks)
    assert rig.state(future) == "no-worker"
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
    """`Scheduler.client_comms`: the connections to clients."""
    connections = rig.scheduler.client_comms
    async with Client(rig.scheduler.address, asynchronous=True, set_as_default=False):
        assert len(connections) == 2
    await until(lambda: len(connections) == 1)


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
