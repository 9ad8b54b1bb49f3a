"""What runs in the scheduler, driven through its link on a real scheduler, without a controller."""

from __future__ import annotations

import asyncio
import operator
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from distributed import CancelledError, Client, Event, KilledWorker, Worker, wait
from distributed.core import Status
from distributed.versions import get_versions

from scalable.cluster.link import DrainProgress, Report, RpcLink, Stage
from scalable.cluster.plugin.admission import version_mismatch
from scalable.cluster.plugin.dask_internals import set_worker_status
from scalable.cluster.plugin.demand import Backlog
from scalable.cluster.port import Explanation, GroupSpec, Reason
from scalable.errors import GroupFailedError, WalltimeError

T = TypeVar("T")
Until = Callable[..., None]

SLOTS = {"a": 1, "b-c": 2}


class Rig:
    """A scheduler with the plugin, and workers at hand."""

    def __init__(self, host: Any, workers: Any, client: Client) -> None:
        self.host, self.client, self.workers = host, client, workers
        self.link = RpcLink(host)
        self.run(self.link.start(SLOTS))

    @property
    def scheduler(self) -> Any:
        return self.host.scheduler

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coro, self.host.loop.asyncio_loop).result(30)

    def add(self, *tags: str) -> list[str]:
        """Add a worker for each tag, and wait until the scheduler and it know each other."""

        async def add() -> list[str]:
            units = [
                unit
                for tag in tags
                for unit in await self.workers.launch(GroupSpec(tag, SLOTS[tag]), 1, "request")
            ]
            await asyncio.gather(*self.workers.starts)
            return [unit.id for unit in units]

        return self.run(add())

    def worker(self, name: str) -> Worker:
        _, worker = self.workers.workers[name]
        assert isinstance(worker, Worker)
        return worker

    def report(self) -> Report:
        return self.run(self.link.report())

    def drain(self, *names: str, force: bool = False) -> dict[str, DrainProgress]:
        return dict(self.run(self.link.drain(names, force=force)))

    def resume(self, *names: str) -> list[str]:
        return [*self.run(self.link.resume(names))]

    def close(self, name: str) -> None:
        self.run(self.worker(name).close(executor_wait=False))

    def drained(self, name: str) -> Callable[[], bool]:
        return lambda: self.drain(name)[name].stage is Stage.GONE


@pytest.fixture
def rig(host: Any, threads: Any) -> Iterator[Rig]:
    with Client(host) as client:
        rig = Rig(host, threads, client)
        yield rig
        rig.run(threads.sweep())


@pytest.fixture
def gate(rig: Rig) -> Iterator[Event]:
    """An event of the cluster that tasks wait for; opened at the end, so that no thread stays."""
    gate = Event("gate", client=rig.client)
    yield gate
    gate.set()


def wait_at_gate(x: Any = None) -> Any:
    Event("gate").wait()
    return x


def identity(x: Any) -> Any:
    return x


def first_of(x: Any, *_: Any) -> Any:
    return x


class Unsendable:
    """As a handle, a lock or a generator is."""

    def __reduce__(self) -> Any:
        raise TypeError("it stays where it is")


class Unreadable:
    """As an object of a package that the other worker has not got is."""

    def __reduce__(self) -> Any:
        return _fail_to_load, ()


def _fail_to_load() -> None:
    raise ModuleNotFoundError("it stays where it is")


# -- Demand


def test_demand_counts_what_no_worker_can_run_yet(rig: Rig, until: Until) -> None:
    futures = rig.client.map(identity, range(3), resources={"b-c": 2})
    until(lambda: rig.report().demand["b-c"].slots == 6)
    demand = rig.report().demand["b-c"]
    assert (demand.seconds, demand.unknown, demand.waiting) == (0, 6, 0)
    assert not rig.report().demand["a"].slots
    del futures
    until(lambda: not rig.report().demand["b-c"].slots)


def test_tasks_without_a_tag_count_for_the_first_group(rig: Rig, until: Until) -> None:
    future = rig.client.submit(identity, 1)
    until(lambda: rig.report().demand["a"].slots == 1)
    assert not rig.report().demand["b-c"].slots
    rig.add("a")
    assert future.result(timeout=30) == 1


def test_demand_takes_off_what_a_running_task_has_done(rig: Rig, gate: Event, until: Until) -> None:
    (name,) = rig.add("a")
    rig.client.submit(time.sleep, 0.5, key="gcam-0", resources={"a": 1}).result(timeout=30)
    running = rig.client.submit(wait_at_gate, key="gcam-1", resources={"a": 1})
    waiting = rig.client.submit(wait_at_gate, key="gcam-2", resources={"a": 1})
    until(lambda: rig.report().demand["a"].slots == 2)
    # The heartbeat says how long it has run; then only the other one's seconds are left.
    until(lambda: rig.report().demand["a"].seconds == pytest.approx(0.5, rel=0.3))
    assert not rig.report().demand["a"].unknown
    assert rig.report().workers[name].tasks == 2
    gate.set()
    rig.client.gather([running, waiting])


def test_tasks_that_wait_for_others_are_counted_apart(rig: Rig, until: Until) -> None:
    first = rig.client.submit(identity, 1, key="first", resources={"a": 1})
    then = rig.client.submit(identity, first, resources={"b-c": 1})
    last = rig.client.submit(identity, then)
    until(lambda: {tag: d.waiting for tag, d in rig.report().demand.items()} == {"a": 1, "b-c": 1})
    assert {tag: d.slots for tag, d in rig.report().demand.items()} == {"a": 1, "b-c": 0}
    rig.add("a")
    until(lambda: rig.report().demand["b-c"].slots == 1)
    assert {tag: d.waiting for tag, d in rig.report().demand.items()} == {"a": 1, "b-c": 0}
    rig.add("b-c")
    assert last.result(timeout=30) == 1
    until(lambda: not any(d.slots or d.waiting for d in rig.report().demand.values()))


def test_demand_is_exact_after_all_that_can_happen_to_tasks(rig: Rig, until: Until) -> None:
    def fail() -> None:
        raise ValueError

    plugin = rig.scheduler.plugins["scalable-groups"]
    first = rig.add("a", "b-c")
    futures = [
        *rig.client.map(identity, range(20), resources={"a": 1}),
        *rig.client.map(identity, range(20, 40), resources={"b-c": 0.1}),
        rig.client.submit(fail, retries=2, resources={"a": 1}),
        rig.client.submit(fail),
        *rig.client.map(identity, range(40, 50)),
    ]
    rig.add("a", "b-c")
    for name in first:
        rig.close(name)
    futures += rig.client.map(identity, futures[:5], resources={"b-c": 2})
    rig.client.cancel(futures[5:10])
    del futures[5:10]
    wait(futures, timeout=30)
    futures += rig.client.map(identity, range(50, 55), resources={"a": 9})
    futures += rig.client.map(identity, futures[-5:], resources={"b-c": 1})
    until(lambda: rig.report().demand["b-c"].waiting == 5)
    # A plugin that starts now learns by counting what this one has learned from changes.
    recounted = Backlog()
    for ts in rig.scheduler.tasks.values():
        if ts.state in Backlog.STATES:
            recounted.add(ts)
    assert sorted(recounted.tasks.values()) == [5, 5]
    assert plugin.backlog.tasks == recounted.tasks
    futures.clear()
    until(lambda: not rig.scheduler.tasks)
    assert not plugin.backlog.tasks
    assert not plugin.backlog._counted


def test_tasks_from_before_are_counted(host: Any, until: Until) -> None:
    with Client(host) as client:
        future = client.submit(identity, 1, resources={"b-c": 2})
        until(lambda: host.scheduler.tasks)
        rig = Rig(host, None, client)
        assert rig.report().demand["b-c"].slots == 2
        del future


# -- Draining


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


def test_a_task_that_nobody_wants_any_more_keeps_its_worker_until_it_ends(
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


def test_a_worker_that_was_never_seen_is_gone_and_refused_when_it_comes(rig: Rig) -> None:
    assert rig.drain("a-1") == {"a-1": DrainProgress(Stage.GONE, 0)}
    assert rig.add("a") == ["a-1"]
    assert rig.worker("a-1").status in (Status.failed, Status.closed)
    assert not rig.report().workers
    assert not rig.report().refused, "it is no trouble of its group"


def test_results_go_to_a_running_worker_of_any_group(rig: Rig, until: Until) -> None:
    first, other = rig.add("a", "b-c")
    futures = rig.client.map(identity, range(10), resources={"a": 1})
    rig.client.gather(futures)
    until(rig.drained(first))
    assert set(rig.client.who_has(futures).values()) == {(rig.worker(other).address,)}
    assert rig.client.gather(futures) == [*range(10)]


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


@pytest.mark.parametrize("kind", [Unsendable, Unreadable])
def test_a_task_whose_input_cannot_be_sent_ends_and_no_other_does(rig: Rig, kind: type) -> None:
    rig.add("a", "b-c")
    good = rig.client.map(identity, range(10), resources={"a": 1})
    bad = rig.client.submit(kind, resources={"a": 1})
    wait([*good, bad], timeout=30)
    needs_bad = rig.client.map(first_of, good, [bad] * 10, resources={"b-c": 1})
    needs_good = rig.client.map(identity, good, resources={"b-c": 1})
    for future in needs_bad:
        with pytest.raises(RuntimeError, match=r"cannot be sent to worker b-c-2: .*stays where it"):
            future.result(timeout=30)
    assert rig.client.gather(needs_good) == [*range(10)]


@pytest.mark.parametrize("kind", [Unsendable, Unreadable])
def test_a_result_that_cannot_be_sent_keeps_its_worker_and_no_other_result(
    rig: Rig, until: Until, kind: type
) -> None:
    goes, stays = rig.add("a", "b-c")
    good = rig.client.map(identity, range(20), resources={"a": 1})
    bad = rig.client.submit(kind, resources={"a": 1})
    wait([*good, bad], timeout=30)
    until(lambda: rig.drain(goes)[goes] == DrainProgress(Stage.HOLDING, 1))
    there = rig.scheduler.workers[rig.worker(stays).address]
    assert all(there in rig.scheduler.tasks[future.key].who_has for future in good)

    bad.release()
    until(rig.drained(goes))
    assert rig.client.gather(good) == [*range(20)]


@pytest.mark.parametrize("kind", [Unsendable, Unreadable])
def test_a_result_that_cannot_be_sent_is_held_beside_the_results_of_all(
    rig: Rig, until: Until, kind: type
) -> None:
    goes, keeper = rig.add("a", "b-c")
    bad = rig.client.submit(kind, resources={"a": 1})
    good = rig.client.submit(identity, 1, resources={"a": 1})
    most = rig.client.submit(bytes, 10**6, resources={"b-c": 1})
    wait([bad, good, most], timeout=30)
    until(
        lambda: (
            rig.drain(goes, keeper)
            == {goes: DrainProgress(Stage.HOLDING, 1), keeper: DrainProgress(Stage.HOLDING, 2)}
        )
    )
    bad.release()
    until(lambda: rig.drain(goes, keeper)[goes].stage is Stage.GONE)
    assert good.result(timeout=30) == 1


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
    (keeper,) = rig.report().workers
    until(lambda: rig.drain(keeper, force=True)[keeper].stage is Stage.GONE)


def test_a_held_result_that_nobody_wants_any_more_holds_no_worker(rig: Rig, until: Until) -> None:
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
    """A stream to a worker on which messages are late."""

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
        # It drains, and has not been asked yet what it has not started.
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

    # Had it been drained as well, its answer would have been that of a draining worker, and the task taken back from
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


def test_a_worker_that_has_not_got_its_plugin_yet_is_busy(rig: Rig, until: Until) -> None:
    (name,) = rig.add("a")
    handler = rig.worker(name).handlers.pop("scalable_unstarted_tasks")
    assert rig.drain(name)[name] == DrainProgress(Stage.BUSY, 1)
    rig.worker(name).handlers["scalable_unstarted_tasks"] = handler
    until(rig.drained(name))


# -- Workers that die


def test_tasks_that_only_waited_are_not_suspected(rig: Rig, gate: Event, until: Until) -> None:
    running = rig.client.submit(wait_at_gate, key="running", resources={"a": 1}, priority=1)
    waiting = rig.client.map(wait_at_gate, range(5), resources={"a": 1})
    deaths = rig.scheduler.allowed_failures + 1
    for _ in range(deaths):
        (name,) = rig.add("a")
        until(lambda name=name: rig.report().workers[name].tasks >= 5)
        until(lambda name=name: rig.worker(name).state.executing)
        rig.close(name)
    with pytest.raises(KilledWorker):
        running.result(timeout=30)
    gate.set()
    rig.add("a")
    assert rig.client.gather(waiting) == [*range(5)]
    assert rig.scheduler.task_prefixes["wait_at_gate"].suspicious == 0


def test_a_task_that_ran_is_suspected_whatever_is_more_urgent(
    rig: Rig, gate: Event, until: Until
) -> None:
    (name,) = rig.add("a")
    running = rig.client.submit(wait_at_gate, key="running", resources={"a": 1})
    (ws,) = rig.scheduler.workers.values()
    until(lambda: ws.executing)
    urgent = rig.client.map(wait_at_gate, range(5), resources={"a": 1}, priority=10)
    until(lambda: rig.report().workers[name].tasks == 6)
    rig.close(name)
    until(lambda: not rig.report().workers)
    assert rig.scheduler.tasks["running"].suspicious == 1
    gate.set()
    rig.add("a")
    rig.client.gather([running, *urgent])


def test_workers_that_have_left_are_reported_once(rig: Rig, until: Until) -> None:
    (name,) = rig.add("a")
    rig.close(name)
    reported: list[str] = []

    def is_reported() -> bool:
        reported.extend(rig.report().removed)
        return bool(reported)

    until(is_reported)
    assert (reported, [*rig.report().removed]) == ([name], [])


# -- Workers whose time is up


def expire(rig: Rig, name: str, seconds: float) -> None:
    rig.run(rig.link.expire({name: (seconds, WalltimeError("a", name, 3600))}))


def test_a_task_that_takes_all_of_its_workers_life_is_not_tried_again(
    rig: Rig, gate: Event, until: Until
) -> None:
    (name,) = rig.add("a")
    endless = rig.client.submit(wait_at_gate, key="endless", resources={"a": 1}, priority=1)
    waiting = rig.client.submit(identity, 1, key="waiting", resources={"a": 1})
    until(lambda: rig.worker(name).state.executing)
    expire(rig, name, 0)
    with pytest.raises(WalltimeError, match=rf"{name} of group 'a' reached its walltime.* 60 min"):
        endless.result(timeout=30)
    # It cannot be interrupted, but its worker does not wait for it.
    until(lambda: rig.worker(name).state.tasks["endless"].state == "cancelled")
    gate.set()
    assert waiting.result(timeout=30) == 1


def test_a_task_that_began_late_is_tried_once_more(rig: Rig, gate: Event, until: Until) -> None:
    plugin = rig.scheduler.plugins["scalable-groups"]
    late = rig.client.submit(wait_at_gate, key="late", resources={"a": 1}, priority=1)
    waiting = rig.client.submit(identity, 1, key="waiting", resources={"a": 1})

    def grow_old(seconds: float) -> str:
        (name,) = rig.add("a")
        (ws,) = rig.scheduler.workers.values()
        until(lambda: ws.executing)
        plugin.members[ws.address] = ws, time.time() - 3600
        expire(rig, name, seconds)
        return name

    rig.close(grow_old(0))
    until(lambda: not rig.report().workers)
    assert plugin.walltimes._interrupted == {"late"}  # the other one had not begun
    rig.close(grow_old(60))  # of something else
    until(lambda: not rig.report().workers)
    last = grow_old(0)
    with pytest.raises(WalltimeError, match=last):
        late.result(timeout=30)
    assert not plugin.walltimes._interrupted
    gate.set()
    assert waiting.result(timeout=30) == 1


# -- Failed groups


def failure(tag: str) -> GroupFailedError:
    return GroupFailedError(tag, Explanation(Reason.IMAGE, "no such image", log_tail="pull: 404"))


def test_tasks_of_a_failed_group_end_in_its_error_and_no_others(rig: Rig, until: Until) -> None:
    failing = rig.client.submit(identity, 1, key="failing", resources={"a": 1})
    dependent = rig.client.submit(identity, failing, key="dependent", resources={"b-c": 1})
    other = rig.client.submit(identity, 2, key="other", resources={"b-c": 1})
    untagged = rig.client.submit(identity, 3, key="untagged")
    rig.run(rig.link.fail("a", failure("a")))
    for future in (failing, dependent):
        with pytest.raises(GroupFailedError, match=r"worker group 'a' failed: no such image\n"):
            future.result(timeout=30)
    late = rig.client.submit(identity, 4, key="late", resources={"a": 1})
    with pytest.raises(GroupFailedError) as caught:
        late.result(timeout=30)
    assert caught.value.tag == "a"
    assert caught.value.explanation.log_tail == "pull: 404"
    assert (other.status, untagged.status) == ("pending", "pending")
    rig.run(rig.link.fail("a", None))
    rig.add("a", "b-c")
    assert rig.client.gather([other, untagged]) == [2, 3]
    failing.retry()
    assert rig.client.gather([failing, dependent]) == [1, 1]


def test_a_failed_group_lets_its_last_worker_finish(rig: Rig, gate: Event, until: Until) -> None:
    (name,) = rig.add("a")
    futures = rig.client.map(wait_at_gate, range(3), resources={"a": 1})
    until(lambda: rig.worker(name).state.executing)
    rig.run(rig.link.fail("a", failure("a")))
    gate.set()
    assert rig.client.gather(futures) == [0, 1, 2]


def test_cancelling_all_tells_every_client_and_leaves_no_task(rig: Rig, until: Until) -> None:
    (name,) = rig.add("b-c")
    failed = rig.client.submit(operator.truediv, 1, 0, resources={"b-c": 1})
    until(failed.done)
    rig.close(name)
    first = rig.client.submit(identity, 1, key="first", resources={"a": 1})
    between = rig.client.submit(identity, first, key="between", resources={"a": 1})
    last = rig.client.submit(identity, between, key="last", resources={"b-c": 1})
    # Nobody wants what is between them, but it is needed.
    between.release()
    with Client(rig.host) as other:
        same = other.submit(identity, 1, key="first", resources={"a": 1})
        until(lambda: {"first", "last"} <= rig.scheduler.tasks.keys())
        until(lambda: len(rig.scheduler.tasks["first"].who_wants) == 2)
        rig.run(rig.link.cancel_all("the cluster was closed"))
        for future in (first, last, same):
            with pytest.raises(CancelledError, match="the cluster was closed"):
                future.result(timeout=30)
    with pytest.raises(ZeroDivisionError):
        failed.result()
    assert not rig.scheduler.tasks


# -- Spreading


def test_waiting_tasks_move_to_workers_that_come_later(
    rig: Rig, gate: Event, until: Until, tmp_path: Path
) -> None:
    log = tmp_path / "starts"

    def start(number: int) -> int:
        with log.open("a") as file:
            file.write(f"{number}\n")
        Event("gate").wait()
        return number

    (first,) = rig.add("a")
    futures = rig.client.map(start, range(6), resources={"a": 1})
    until(lambda: rig.report().workers[first].tasks == 6)
    names = [first, *rig.add("a", "a")]
    until(lambda: [rig.report().workers[name].tasks for name in names] == [2, 2, 2])
    gate.set()
    assert rig.client.gather(futures) == [*range(6)]
    assert sorted(log.read_text().split()) == [str(number) for number in range(6)]


def test_tasks_that_fill_a_worker_move_too(rig: Rig, gate: Event, until: Until) -> None:
    (first,) = rig.add("b-c")
    futures = rig.client.map(wait_at_gate, range(2), resources={"b-c": 2})
    until(lambda: rig.report().workers[first].tasks == 2)
    (second,) = rig.add("b-c")
    until(lambda: [rig.report().workers[name].tasks for name in (first, second)] == [1, 1])
    gate.set()
    rig.client.gather(futures)


def test_tasks_that_are_bound_to_a_worker_stay_there(rig: Rig, gate: Event, until: Until) -> None:
    (first,) = rig.add("a")
    bound = rig.client.map(wait_at_gate, range(4), resources={"a": 1}, workers=[first])
    until(lambda: rig.report().workers[first].tasks == 4)
    free = rig.client.map(wait_at_gate, range(4, 8), resources={"a": 1})
    until(lambda: rig.report().workers[first].tasks == 8)
    others = rig.add("a", "a")
    until(lambda: [rig.report().workers[name].tasks for name in others] == [2, 2])
    gate.set()
    rig.client.gather([*bound, *free])
    assert {*rig.client.who_has(bound).values()} == {(rig.worker(first).address,)}


# -- Versions


def versions(**changes: str) -> dict[str, Any]:
    found = get_versions()
    for name, version in changes.items():
        where = found["host"] if name == "python" else found["packages"]
        where[name] = version
    return found


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ""),
        ({"python": "3.12.1.final.0"}, "the worker has Python 3.12, the scheduler 3.99"),
        ({"dask": "2025.1.0"}, "the worker has dask 2025.1.0, the scheduler 2026.1.0"),
        ({"numpy": "1.0"}, ""),
        ({"python": "3.99.7.final.0"}, ""),
        ({"distributed": None}, "the worker has distributed None, the scheduler 2026.1.0"),
    ],
)
def test_versions_that_matter(changes: dict[str, str], problem: str) -> None:
    ours = {"python": "3.99.1.final.0", "dask": "2026.1.0", "distributed": "2026.1.0"}
    assert version_mismatch(versions(**ours), versions(**{**ours, **changes})) == problem
