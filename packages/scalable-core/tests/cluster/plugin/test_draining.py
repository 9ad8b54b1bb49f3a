"""How workers leave without losing or repeating anything."""

from __future__ import annotations

import asyncio
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from distributed import Event, wait
from distributed.active_memory_manager import RetireWorker
from distributed.core import Status
from task_functions import identity, wait_at_gate

from scalable.cluster.link import DrainProgress, Stage
from scalable.cluster.plugin.dask_internals import free_key, set_worker_status

if TYPE_CHECKING:
    from cluster.conftest import Until
    from cluster.plugin.conftest import Rig


def test_a_draining_worker_gives_back_what_it_has_not_started(
    rig: Rig, gate: Event, until: Until
) -> None:
    (first,) = rig.add("a")
    running = rig.client.submit(wait_at_gate, "running", resources={"a": 1})
    until(lambda: rig.worker(first).state.executing)
    waiting = rig.client.map(identity, range(5), resources={"a": 1})
    until(lambda: rig.report().workers[first].tasks == 6)
    until(lambda: rig.drain(first)[first] == DrainProgress(Stage.BUSY, 1))
    (second,) = rig.add("a")
    assert rig.client.gather(waiting) == [*range(5)]
    assert set(rig.client.who_has(waiting).values()) == {(rig.worker(second).address,)}
    gate.set()
    until(rig.drained(first))
    assert running.result(timeout=30) == "running"


def test_a_cancelled_task_keeps_its_worker_until_it_ends(
    rig: Rig, gate: Event, until: Until
) -> None:
    name, _ = rig.add("a", "b-c")
    running = rig.client.submit(wait_at_gate, resources={"a": 1})
    until(lambda: rig.worker(name).state.executing)
    running.cancel()
    until(lambda: not rig.report().workers[name].tasks)
    rig.drain(name)
    until(lambda: rig.worker(name).status is Status.closing_gracefully)
    # The scheduler knows of no task there; the worker does.
    assert [rig.drain(name)[name] for _ in range(2)] == [DrainProgress(Stage.BUSY, 1)] * 2
    gate.set()
    until(rig.drained(name))


def test_a_worker_that_is_being_retired_cannot_be_resumed(rig: Rig) -> None:
    name, _ = rig.add("a", "b-c")
    address = rig.worker(name).address

    async def drain_and_resume() -> list[str]:
        plugin = rig.scheduler.plugins["scalable-groups"]
        while address not in plugin.draining._retirements:
            leaving = asyncio.ensure_future(plugin.drain([name]))
            while not leaving.done() and address not in plugin.draining._retirements:
                await asyncio.sleep(0)
        resumed: list[str] = plugin.resume([name])
        await leaving
        return resumed

    assert rig.run(drain_and_resume()) == []
    assert name not in rig.report().workers


def test_a_worker_that_is_busy_anyway_keeps_the_results_of_all(
    rig: Rig, gate: Event, until: Until
) -> None:
    busy, full = rig.add("a", "b-c")
    running = rig.client.submit(wait_at_gate, resources={"a": 1})
    until(lambda: rig.worker(busy).state.executing)
    result = rig.client.submit(bytes, 10**6, resources={"b-c": 1})
    wait(result, timeout=30)
    until(lambda: rig.drain(busy, full)[full].stage is Stage.GONE)
    assert len(result.result(timeout=30)) == 10**6
    gate.set()
    running.result(timeout=30)


def test_results_go_to_a_running_worker_of_any_group(rig: Rig, until: Until) -> None:
    first, other = rig.add("a", "b-c")
    futures = rig.client.map(identity, range(10), resources={"a": 1})
    rig.client.gather(futures)
    until(rig.drained(first))
    assert set(rig.client.who_has(futures).values()) == {(rig.worker(other).address,)}
    assert rig.client.gather(futures) == [*range(10)]


def test_a_result_that_arrives_while_its_worker_is_retired_is_not_lost_with_it(
    rig: Rig, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, goes, stays = (rig.worker(name) for name in rig.add("a", "a", "a"))
    future = rig.client.submit(uuid.uuid4, pure=False, workers=[first.address])
    value = future.result(timeout=30)
    rig.run(rig.scheduler.gather_on_worker(goes.address, {future.key: [first.address]}))
    holders = {address: rig.scheduler.workers[address] for address in (first.address, goes.address)}
    done = RetireWorker.done

    def has_arrived(policy: RetireWorker) -> bool:
        ts, is_done = rig.scheduler.tasks[future.key], done(policy)
        if is_done and ts.who_has == {holders[first.address]}:
            # As of a worker that was chosen to run a task of which this is an input; the other one has left since.
            rig.scheduler.add_replica(ts, holders[goes.address])
            rig.scheduler.remove_replica(ts, holders[first.address])
            free_key(rig.scheduler, first.address, future.key)
        return is_done

    async def forget_replica() -> None:
        rig.scheduler.remove_replica(rig.scheduler.tasks[future.key], holders[goes.address])

    monkeypatch.setattr(RetireWorker, "done", has_arrived)
    rig.run(forget_replica())
    until(rig.drained(str(goes.name)))
    assert future.result(timeout=30) == value
    assert stays.address in rig.scheduler.workers


def test_data_on_its_way_to_a_worker_is_not_lost_with_it(rig: Rig, until: Until) -> None:
    stays, goes = rig.add("a", "a")
    receiver = rig.worker(goes)
    receive = receiver.handlers["update_data"]
    arrived, go_on = threading.Event(), threading.Event()

    async def receive_slowly(**message: Any) -> Any:
        arrived.set()
        await asyncio.to_thread(go_on.wait, 30)
        return receive(**message)

    receiver.handlers["update_data"] = receive_slowly
    with ThreadPoolExecutor(1) as thread:
        scattering = thread.submit(rig.client.scatter, 7, workers=[receiver.address])
        assert arrived.wait(30)
        assert rig.drain(goes)[goes].stage is Stage.MOVING
        # What comes later goes elsewhere, and is not waited for.
        assert rig.client.scatter(8).result(timeout=30) == 8
        go_on.set()
        future = scattering.result(timeout=30)
    until(rig.drained(goes))
    assert future.result(timeout=30) == 7
    assert rig.scheduler.tasks[future.key].who_has == {
        rig.scheduler.workers[rig.worker(stays).address]
    }


def test_the_last_worker_holds_the_results_of_all(rig: Rig, until: Until) -> None:
    names = rig.add("a", "a", "b-c")
    futures = [
        *rig.client.map(identity, range(6), resources={"a": 1}),
        *rig.client.map(identity, range(6, 9), resources={"b-c": 1}),
    ]
    rig.client.gather(futures)

    def one_is_left() -> bool:
        left = {n: x for n, x in rig.drain(*names).items() if x.stage is not Stage.GONE}
        return [*left.values()] == [DrainProgress(Stage.HOLDING, 9)]

    until(one_is_left)
    assert rig.client.gather(futures) == [*range(9)]
    (holder,) = rig.report().workers
    until(lambda: rig.drain(holder, force=True)[holder].stage is Stage.GONE)


def test_a_released_result_holds_no_worker(rig: Rig, until: Until) -> None:
    (name,) = rig.add("a")
    future = rig.client.submit(identity, 1, resources={"a": 1})
    future.result(timeout=30)
    until(lambda: rig.drain(name)[name] == DrainProgress(Stage.HOLDING, 1))
    del future
    until(rig.drained(name))


def test_an_actor_holds_its_worker(rig: Rig, until: Until) -> None:
    first, _ = rig.add("a", "b-c")
    actor: Any = rig.client.submit(Counter, actor=True, resources={"a": 1}).result(timeout=30)
    until(lambda: rig.drain(first)[first] == DrainProgress(Stage.HOLDING, 1))
    assert actor.increment().result() == 1


class Counter:
    count = 0

    def increment(self) -> int:
        self.count += 1
        return self.count


def test_a_resumed_worker_works_again(rig: Rig, until: Until) -> None:
    (name,) = rig.add("a")
    future = rig.client.submit(identity, 1, resources={"a": 1})
    future.result(timeout=30)
    until(lambda: rig.drain(name)[name].stage is Stage.HOLDING)
    assert rig.resume(name, "a-99") == [name]
    # It may register anew, should its connection break.
    assert name not in rig.scheduler.plugins["scalable-groups"].admission.blocked
    assert rig.client.submit(identity, 2, resources={"a": 1}).result(timeout=30) == 2
    assert rig.report().workers[name].status == "running"


class Delayed:
    """A stream to a worker that delays its messages."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.late: list[Any] = []

    def send(self, *messages: Any) -> None:
        self.late.extend(messages)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def test_a_drain_waits_until_the_preceding_resume_has_arrived(
    rig: Rig, gate: Event, until: Until
) -> None:
    (name,) = rig.add("a")
    worker = rig.worker(name)
    running = rig.client.submit(wait_at_gate, resources={"a": 1})
    until(lambda: worker.state.executing)
    comms = rig.scheduler.stream_comms
    waiting = rig.client.submit(identity, 1, key="waiting", resources={"a": 1})
    until(lambda: "waiting" in worker.state.tasks)

    async def drain_resume_and_drain() -> list[str]:
        plugin = rig.scheduler.plugins["scalable-groups"]
        # It drains, and has not been queried yet.
        state = rig.scheduler.workers[worker.address]
        set_worker_status(rig.scheduler, state, Status.closing_gracefully)
        while worker.status is not Status.closing_gracefully:
            await asyncio.sleep(0.001)
        comms[worker.address] = slow = Delayed(comms[worker.address])
        assert plugin.resume([name]) == [name]
        await plugin.drain([name])
        orders = [message["op"] for message in slow.late]
        comms[worker.address] = slow.stream
        slow.stream.send(*slow.late)
        return orders

    # Had it been drained as well, its reply would have been that of a draining worker, and the task taken back from
    # it after it was free to start it.
    assert rig.run(drain_resume_and_drain()) == ["worker-status-change"]
    gate.set()
    assert waiting.result(timeout=30) == 1
    del running


def test_a_worker_that_does_not_reply_is_busy_and_delays_no_other(rig: Rig, until: Until) -> None:
    unresponsive, other = rig.add("a", "b-c")

    async def never_reply() -> None:
        await asyncio.Event().wait()

    rig.worker(unresponsive).handlers["scalable_unstarted_tasks"] = never_reply
    until(lambda: rig.drain(unresponsive, other)[other].stage is Stage.GONE)
    assert rig.drain(unresponsive)[unresponsive] == DrainProgress(Stage.BUSY, 1)
    until(lambda: rig.drain(unresponsive, force=True)[unresponsive].stage is Stage.GONE)


def test_a_worker_that_is_resumed_while_others_are_asked_stays(rig: Rig) -> None:
    """The controller does not wait for a drain that takes long, and may take workers back meanwhile."""
    name, unresponsive = rig.add("a", "b-c")
    address = rig.worker(name).address

    async def never_reply() -> None:
        await asyncio.Event().wait()

    rig.worker(unresponsive).handlers["scalable_unstarted_tasks"] = never_reply

    async def resume_meanwhile() -> tuple[str, int]:
        drain = asyncio.ensure_future(rig.plugin.drain([name, unresponsive]))
        queries = rig.plugin.draining._queries
        while address not in queries or not queries[address].done():
            await asyncio.sleep(0)
        assert rig.plugin.resume([name]) == [name]
        stages: dict[str, tuple[str, int]] = await drain
        return stages[name]

    assert rig.run(resume_meanwhile()) == ("busy", 1)
    assert rig.client.submit(identity, 1, resources={"a": 1}).result(timeout=30) == 1
    assert name in rig.report().workers


def test_a_worker_that_has_not_got_its_plugin_yet_is_busy(rig: Rig, until: Until) -> None:
    (name,) = rig.add("a")
    handler = rig.worker(name).handlers.pop("scalable_unstarted_tasks")
    assert rig.drain(name)[name] == DrainProgress(Stage.BUSY, 1)
    rig.worker(name).handlers["scalable_unstarted_tasks"] = handler
    until(rig.drained(name))
