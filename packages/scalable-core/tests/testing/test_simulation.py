"""The simulation keeps time, and reports every violation of a rule."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from scalable.cluster.port import GroupSpec, LaunchResult, Phase, Reason
from scalable.errors import LaunchError
from scalable.testing.simulation import (
    DeadlockError,
    Simulation,
    UnitBehavior,
    in_virtual_time,
    run_in_virtual_time,
)

GCAM = GroupSpec("gcam")


@in_virtual_time
async def test_a_day_is_over_at_once() -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(23 * 3600)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(loop.create_future(), 1800)

    assert loop.time() == 23.5 * 3600


def test_a_wait_for_what_never_happens_raises() -> None:
    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    async def poll() -> None:
        while True:
            await asyncio.sleep(1000)

    with pytest.raises(DeadlockError, match="all tasks wait, and no timer is scheduled"):
        run_in_virtual_time(wait())
    with pytest.raises(DeadlockError, match="did not end within 86400 s"):
        run_in_virtual_time(poll())


@in_virtual_time
async def test_a_unit_queues_boots_and_ends_on_time() -> None:
    world = Simulation(GCAM)
    world.backend.behavior["gcam"] = UnitBehavior(naming=5, queue=10, boot=20, lifetime=30)
    await world.scheduler.start({"gcam": 1})
    assert await world.backend.launch(GCAM, 1, "r1") == LaunchResult([], unnamed=1)
    seen: dict[str, int] = {}
    for second in range(70):
        for name, state in (await world.backend.observe()).items():
            phase = "joined" if name in world.scheduler.workers else state.phase
            seen.setdefault(phase, second)
        await world.run(1)

    assert seen == {Phase.PENDING: 5, Phase.RUNNING: 10, "joined": 30, Phase.GONE: 60}
    assert await world.backend.observe() == {}
    assert world.backend.unit_seconds() == 50


@in_virtual_time
async def test_the_same_request_creates_units_once() -> None:
    world = Simulation(GCAM)
    first = await world.backend.launch(GCAM, 2, "r1")

    assert await world.backend.launch(GCAM, 2, "r1") == first
    assert len(world.backend.units) == 2


async def _over_the_cap(world: Simulation) -> None:
    await world.backend.launch(GCAM, 3, "r1")


async def _twice_in_a_turn(world: Simulation) -> None:
    await world.backend.launch(GCAM, 1, "r1")
    await world.backend.launch(GCAM, 1, "r2")


async def _stopped_at_work(world: Simulation) -> None:
    units = (await world.backend.launch(GCAM, 1, "r1")).units
    world.scheduler.submit("gcam", seconds=100)
    await world.run(10)
    await world.backend.stop(units)


async def _stopped_with_results(world: Simulation) -> None:
    units = (await world.backend.launch(GCAM, 1, "r1")).units
    world.scheduler.submit("gcam", seconds=1)
    await world.run(10)
    await world.backend.stop(units)


async def _called_after_sweep(world: Simulation) -> None:
    await world.backend.sweep()
    await world.backend.observe()


async def _started_twice(world: Simulation) -> None:
    units = (await world.backend.launch(GCAM, 2, "r1")).units
    (task,) = world.scheduler.submit("gcam", seconds=100)
    await world.run(10)
    task.allowed_restarts -= 1
    world.backend.kill(units[0].id)


async def _left_behind(world: Simulation) -> None:
    await world.backend.launch(GCAM, 1, "r1")
    world.backend.errors["sweep"].append(OSError())
    await world.close()


@pytest.mark.parametrize(
    ("violate", "violation"),
    [
        (_over_the_cap, "3 units of gcam were launched where 0 exist, and the cap is 2"),
        (_twice_in_a_turn, "two launches for gcam in one turn"),
        (_stopped_at_work, "gcam-1 was stopped while its worker had 1 tasks and 0 results"),
        (_stopped_with_results, "gcam-1 was stopped while its worker had 0 tasks and 1 results"),
        (_called_after_sweep, "observe was called after sweep"),
        (_started_twice, "gcam-1 was started again needlessly"),
        (_left_behind, "close left gcam-1 without naming it"),
    ],
)
def test_the_invariant_checker_reports(
    violate: Callable[[Simulation], Awaitable[None]], violation: str
) -> None:
    async def run() -> None:
        world = Simulation(GCAM, max_workers=2)
        await world.scheduler.start({"gcam": 1})
        world.invariants.check()
        await violate(world)
        with pytest.raises(AssertionError, match=violation):
            world.invariants.check()

    run_in_virtual_time(run())


@in_virtual_time
async def test_a_task_may_start_again_after_its_worker_was_killed() -> None:
    world = Simulation(GCAM)
    await world.scheduler.start({"gcam": 1})
    units = (await world.backend.launch(GCAM, 2, "r1")).units
    (task,) = world.scheduler.submit("gcam", seconds=100)
    await world.run(10)
    world.backend.kill(units[0].id)
    await world.done([task])

    assert [name for _, name in task.starts] == ["gcam-1", "gcam-2"]
    world.invariants.check()


@in_virtual_time
async def test_a_group_gets_no_more_units_than_its_capacity() -> None:
    world = Simulation(GCAM)
    world.backend.behavior["gcam"] = UnitBehavior(capacity=2)
    await world.scheduler.start({"gcam": 1})
    result = await world.backend.launch(GCAM, 3, "r1")

    assert result.shortfall is not None
    assert (len(result.units), result.shortfall.reason) == (2, Reason.CAPACITY)
    assert await world.backend.launch(GCAM, 3, "r1") == result
    with pytest.raises(LaunchError, match="no machine is left"):
        await world.backend.launch(GCAM, 1, "r2")
    world.backend.kill("gcam-1")
    assert len((await world.backend.launch(GCAM, 1, "r3")).units) == 1


@in_virtual_time
async def test_observations_are_as_old_as_a_test_specifies() -> None:
    world = Simulation(GCAM)
    world.backend.behavior["gcam"] = UnitBehavior(boot=100)
    await world.scheduler.start({"gcam": 1})
    await world.backend.launch(GCAM, 1, "r1")
    await world.run(1)
    seen = [(await world.backend.observe())["gcam-1"].phase]
    world.backend.lag = 3
    world.backend.kill("gcam-1")
    for _ in range(4):
        seen.append((await world.backend.observe())["gcam-1"].phase)
        await world.run(1)

    assert seen == [Phase.RUNNING] * 4 + [Phase.GONE]
    assert await world.backend.observe() == {}


@in_virtual_time
async def test_observations_omit_units_as_often_as_a_test_specifies() -> None:
    world = Simulation(GCAM)
    await world.scheduler.start({"gcam": 1})
    await world.backend.launch(GCAM, 2, "r1")
    world.backend.omissions["gcam-1"] = 2
    seen = [list(await world.backend.observe()) for _ in range(3)]

    assert seen == [["gcam-2"], ["gcam-2"], ["gcam-1", "gcam-2"]]
