"""The engine between a native system that goes on and a scheduler that does not answer, in virtual time."""

from __future__ import annotations

import asyncio
import logging
import math

import pytest

from scalable.cluster.host import SchedulerState
from scalable.cluster.port import Explanation, GroupSpec, Phase, Reason
from scalable.errors import (
    GroupTimeoutError,
    SchedulerLostError,
    SchedulerStartError,
    VersionMismatchError,
)
from scalable.testing.simulation import Simulation, TaskState, UnitBehavior, in_virtual_time


@in_virtual_time
async def test_native_work_goes_on_while_the_scheduler_does_not_answer() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 1})
        world.scheduler.latency = math.inf
        await world.run(1)
        observed = world.backend.calls["observe"]
        await world.controller.scale_groups({"gcam": 3})
        await world.until(lambda: len(world.backend.alive()) == 3, within=10)
        await world.run(20)
        assert world.backend.calls["observe"] >= observed + 10
        world.scheduler.latency = 0
        await world.until(lambda: world.groups["gcam"].running == 3, within=60)


@in_virtual_time
async def test_a_late_scheduler_is_told_by_each_group_and_nothing_counts_as_running() -> None:
    async with Simulation("gcam", "stitches") as world:
        await world.scale({"gcam": 2, "stitches": 1})
        world.scheduler.latency = math.inf
        await world.run(30)
        for tag, workers in {"gcam": 2, "stitches": 1}.items():
            status = world.groups[tag]
            assert (status.running, status.unavailable, status.workers) == (0, workers, ())
            assert status.reason is Reason.NETWORK
            assert "has not answered for" in status.detail
            assert not status.failed
        assert {e.reason for e in (await world.controller.explain()).values()} == {Reason.NETWORK}
        with pytest.raises(GroupTimeoutError, match="has not answered"):
            await world.controller.wait_for_group("gcam", 1, timeout=60)
        world.scheduler.latency = 0
        await world.until(lambda: world.groups["gcam"].running == 2, within=60)
        assert world.groups["gcam"].unavailable == 0
        assert world.backend.calls["launch"] == 2


@in_virtual_time
async def test_each_state_of_the_link_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="scalable.cluster")
    world = Simulation("gcam")
    await world.controller.start()
    await world.scale({"gcam": 1})
    caplog.clear()
    for latency, seconds in ((math.inf, 100), (0, 100), (math.inf, 400)):
        world.scheduler.latency = latency
        await world.run(seconds)
    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert [("lost" in line, "not answered" in line) for line in lines] == [
        (False, True),
        (False, True),
        (True, True),
    ]
    assert sum("answers again" in event.text for event in world.controller.events) == 1
    assert not any(record.exc_info for record in caplog.records)
    await world.close()


@in_virtual_time
async def test_a_scheduler_that_stays_silent_is_lost_and_its_units_are_stopped() -> None:
    world = Simulation("gcam")
    await world.controller.start()
    world.backend.behavior["gcam"] = UnitBehavior(queue=600)
    await world.controller.scale_groups({"gcam": 2})
    await world.run(60)
    world.scheduler.error = OSError("Timed out trying to connect to tcp://10.0.0.1:8786")
    waiter = asyncio.ensure_future(world.controller.wait_for_group("gcam"))
    told: list[SchedulerLostError] = []
    world.controller.on_scheduler_lost(told.append)
    silent_at = world.time
    await world.until(lambda: waiter.done(), within=400)
    assert 290 <= world.time - silent_at <= 330
    with pytest.raises(SchedulerLostError, match=r"10\.0\.0\.1"):
        await waiter
    with pytest.raises(SchedulerLostError):
        await world.controller.scale_groups({"gcam": 3})
    await world.until(lambda: not world.backend.alive(), within=30)
    assert len(told) == 1
    assert world.groups["gcam"].failed
    assert (await world.controller.explain())["gcam"].reason is Reason.NETWORK
    launches = world.backend.calls["launch"]
    await world.run(3600)
    assert world.backend.calls["launch"] == launches
    closed_at = world.time
    assert await world.close() == []
    assert world.time - closed_at < 5


@in_virtual_time
async def test_another_scheduler_at_its_address_is_not_taken_for_it() -> None:
    world = Simulation("gcam")
    await world.controller.start()
    await world.scale({"gcam": 1})
    world.scheduler.id = "scheduler-2"

    async def not_installed() -> None:
        await asyncio.get_running_loop().create_future()

    world.scheduler.report = not_installed  # type: ignore[assignment,method-assign]
    await world.until(lambda: world.groups["gcam"].failed, within=30)
    assert "another scheduler" in world.groups["gcam"].detail
    await world.until(lambda: not world.backend.alive())
    await world.close()


@in_virtual_time
async def test_the_host_knows_first() -> None:
    world = Simulation("gcam")
    await world.controller.start()
    await world.scale({"gcam": 1})
    world.scheduler.latency = math.inf
    gone = Explanation(Reason.OUT_OF_MEMORY, "it used more than 2 GB", log_tail="Killed")
    world.scheduler.state = SchedulerState(Phase.GONE, gone)
    waiter = asyncio.ensure_future(world.controller.wait_for_group("gcam", 2))
    await world.controller.scale_groups({"gcam": 2})
    await world.until(lambda: waiter.done(), within=30)
    with pytest.raises(SchedulerLostError, match=r"it used more than 2 GB[^|]*\| Killed") as lost:
        await waiter
    assert lost.value.explanation == gone
    await world.close()


@in_virtual_time
async def test_an_end_is_judged_once_the_scheduler_answers() -> None:
    async with Simulation(GroupSpec("gcam", startup_timeout=50)) as world:
        await world.scale({"gcam": 2})
        (task,) = world.scheduler.submit("gcam", 1, seconds=500)
        world.backend.behavior["gcam"] = UnitBehavior(boot=30)
        await world.controller.scale_groups({"gcam": 3})
        await world.until(lambda: len(world.backend.alive()) == 3)
        world.scheduler.latency = math.inf
        world.backend.kill("gcam-1")
        await world.run(200)
        # Neither a replacement, which could not join, nor a failure for what could not join.
        assert world.backend.calls["launch"] == 2
        world.scheduler.latency = 0
        await world.until(lambda: world.groups["gcam"].running == 3, within=120)
        assert not any("did not start" in event.text for event in world.controller.events)
        await world.done([task])


@in_virtual_time
async def test_a_failed_group_is_told_to_the_scheduler_once_it_answers() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(
            failing_starts=math.inf, end_reason=Reason.IMAGE
        )
        (task,) = world.scheduler.submit("gcam", 1)
        world.scheduler.latency = 20
        await world.controller.scale_groups({"gcam": 1})
        await world.until(lambda: task.state is TaskState.ERRED, within=300)
        world.scheduler.latency = 0


@in_virtual_time
async def test_a_scheduler_of_another_version_is_refused_before_anything_is_sent() -> None:
    world = Simulation("gcam")

    async def start(slots: object) -> None:
        raise VersionMismatchError("the scheduler has Python 3.12, the client 3.11", "an image")

    world.scheduler.start = start  # type: ignore[method-assign]
    with pytest.raises(VersionMismatchError, match=r"3\.12.*3\.11"):
        await world.controller.start()


@in_virtual_time
async def test_a_scheduler_that_does_not_answer_at_the_start_is_an_error_in_time() -> None:
    world = Simulation("gcam")
    world.scheduler.latency = math.inf
    with pytest.raises(SchedulerStartError, match="does not answer"):
        await world.controller.start()
    assert world.time < 120
