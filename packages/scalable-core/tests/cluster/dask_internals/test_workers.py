"""What we need of Dask beyond its public interface: workers, as the scheduler sees them.

The docstring of each test begins with the name that it is for.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from dask_rig import Rig, Unsendable, identity, on_cluster, until
from distributed import Scheduler, SchedulerPlugin, Status, wait

from scalable.cluster.plugin.dask_internals import (
    find_worker,
    interrupt_retirement,
    lift_send_timeout,
    remove_worker,
    results_of_dead_worker,
    send_worker_status,
    set_worker_status,
    tasks_of_dead_worker,
    turn_off_worker_ttl,
)


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
    assert rig.state(future) in ("no-worker", "queued")
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
            of_death = (tasks_of_dead_worker, results_of_dead_worker)
            found.append([[ts.key for ts in each(scheduler, worker)] for each in of_death])

    rig.scheduler.add_plugin(Removals())
    worker = await rig.add()
    made = rig.client.submit(identity, 1, key="made")
    await wait(made)
    running = rig.block(key="running")
    await until(lambda: worker.state.executing)
    await worker.close(executor_wait=False)
    await until(lambda: found)
    second = await rig.add("b")
    await until(lambda: second.state.executing)
    await remove_worker(rig.scheduler, rig.scheduler.workers[second.address])
    assert found == [[["running"], ["made"]], [[], []]]
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
