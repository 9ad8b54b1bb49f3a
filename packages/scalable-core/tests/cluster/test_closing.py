"""How the controller closes: at any time, past every error, in bounded time, with nothing left."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable

import pytest

from scalable.cluster.pace import Pace
from scalable.cluster.port import GroupSpec, Leftover
from scalable.errors import ClusterClosedError, LaunchRefusedError
from scalable.testing.simulation import (
    Simulation,
    TaskState,
    UnitBehavior,
    in_virtual_time,
    run_in_virtual_time,
)

BOUND = 5 * Pace().close_timeout + 10
"""The limit for every close: five steps, and time to cancel each."""


async def full_life(world: Simulation) -> None:
    """Launch, work, fail, drain and adapt, with a native system that is slow in everything."""
    backend = world.backend
    backend.behavior["gcam"] = UnitBehavior(accept=1.3, answer=0.7, queue=2, boot=1, stop_delay=3)
    backend.behavior["stitches"] = UnitBehavior(naming=2, failing_starts=1, boot=2)
    backend.latencies.update(observe=0.3, stop=1.1, describe=0.7, sweep=0.9)
    await world.controller.adapt_groups({"stitches": (0, 3)})
    for n in (4, 1, 3, 0):
        world.scheduler.submit("gcam", 3, seconds=2)
        world.scheduler.submit("stitches", 3, seconds=2)
        await world.controller.scale_groups({"gcam": n})
        await world.run(6)


async def close_after(moment: float) -> None:
    async with Simulation("gcam", "stitches", pace=Pace(tick=0.2, poll=0.5)) as world:
        life = asyncio.create_task(full_life(world))
        await world.run(moment)
        life.cancel()
        began = world.time

        assert await world.close() == [], f"closed after {moment} s"
        assert world.time - began < 15


def test_whenever_it_is_closed_nothing_is_left() -> None:
    for eighth in range(8 * 25):
        run_in_virtual_time(close_after(eighth / 8))


@in_virtual_time
async def test_tasks_end_when_the_cluster_does() -> None:
    async with Simulation("gcam") as world:
        await world.controller.scale_groups({"gcam": 1})
        tasks = world.scheduler.submit("gcam", 3, seconds=100)
        await world.run(10)
        await world.close()

        assert {task.state for task in tasks} == {TaskState.CANCELLED}


@in_virtual_time
async def test_a_wait_ends_in_an_error_when_the_cluster_is_closed() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(queue=math.inf)
        await world.controller.scale_groups({"gcam": 1})
        wait = asyncio.create_task(world.controller.wait_for_group("gcam"))
        await world.run(10)
        await world.close()

        with pytest.raises(ClusterClosedError, match="cluster 'cluster' is closed"):
            await wait


@in_virtual_time
async def test_a_launch_under_way_is_awaited_so_that_its_units_are_known() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(accept=10)
        await world.controller.scale_groups({"gcam": 3})
        await world.run(3)
        await world.close()

        assert len(world.backend.units) == 3
        assert world.backend.calls["stop"] == 1


@pytest.mark.parametrize("behavior", [UnitBehavior(accept=math.inf), UnitBehavior(answer=math.inf)])
@in_virtual_time
async def test_a_launch_that_hangs_does_not_block_close(behavior: UnitBehavior) -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = behavior
        await world.controller.scale_groups({"gcam": 3})
        await world.run(3)
        began = world.time

        (leftover,) = await world.close()
        # It cannot be known what such a call still does.
        assert str(leftover).startswith("launch of 3 gcam workers (the native system has not")
        assert world.time - began < BOUND


async def _hang(world: Simulation, call: str) -> None:
    world.backend.latencies[call] = math.inf


async def _raise(world: Simulation, call: str) -> None:
    world.backend.errors[call] += [OSError(f"cannot {call}")] * 50


@pytest.mark.parametrize("disturb", [_hang, _raise])
@pytest.mark.parametrize("call", ["observe", "stop", "describe"])
@in_virtual_time
async def test_problems_of_the_native_system_do_not_prevent_close(
    call: str, disturb: Callable[[Simulation, str], Awaitable[None]]
) -> None:
    async with Simulation("gcam", "stitches") as world:
        await world.controller.scale_groups({"gcam": 2, "stitches": 2})
        await world.run(10)
        await disturb(world, call)
        world.backend.kill("gcam-1")
        await world.controller.scale_groups({"stitches": 1})
        await world.run(3)
        began = world.time

        assert await world.close() == []
        assert world.time - began < BOUND


@pytest.mark.parametrize("disturb", [_hang, _raise])
@in_virtual_time
async def test_possible_leftovers_are_named_when_nothing_can_be_known(
    disturb: Callable[[Simulation, str], Awaitable[None]],
) -> None:
    async with Simulation("gcam") as world:
        await world.controller.scale_groups({"gcam": 2})
        await world.run(10)
        for call in ("stop", "sweep"):
            await disturb(world, call)
        began = world.time
        leftovers = await world.close()

        assert world.time - began < BOUND
        assert [(leftover.kind, leftover.name) for leftover in leftovers] == [
            ("step of closing", "stopping workers"),
            ("step of closing", "sweeping"),
            ("worker", "gcam-1"),
            ("worker", "gcam-2"),
        ]


@in_virtual_time
async def test_what_was_never_launched_is_not_left() -> None:
    async def sweep() -> list[Leftover]:
        return [
            Leftover("jobs named", "x", "no squeue", is_certain=False),
            Leftover("volume", "v", "in use"),
        ]

    async with Simulation("gcam") as world:
        refused: deque[BaseException] = deque([LaunchRefusedError("there is no sbatch")] * 50)
        world.backend.behavior["gcam"] = UnitBehavior(errors=refused)
        await world.controller.scale_groups({"gcam": 2})
        await world.run(10)
        world.backend.sweep = sweep  # type: ignore[method-assign]
        assert [leftover.name for leftover in await world.close()] == ["v"]

    async with Simulation("gcam") as world:
        await world.controller.scale_groups({"gcam": 2})
        await world.run(10)
        world.backend.sweep = sweep  # type: ignore[method-assign]
        assert [leftover.name for leftover in await world.close()] == ["x", "v"]


@in_virtual_time
async def test_closing_in_a_hurry_gives_each_step_two_seconds() -> None:
    async with Simulation("gcam") as world:
        await world.controller.scale_groups({"gcam": 1})
        await world.run(10)
        for call in ("stop", "sweep"):
            await _hang(world, call)
        began = world.time
        world.controller.closing.hurry()
        assert [leftover.kind for leftover in await world.close()][-1] == "worker"
        assert world.time - began < 15


@in_virtual_time
async def test_a_unit_that_does_not_end_is_named() -> None:
    async with Simulation("gcam") as world:
        await world.controller.scale_groups({"gcam": 1})
        await world.run(10)
        world.backend.behavior["gcam"] = UnitBehavior(stop_delay=math.inf)
        await world.controller.scale_groups({"gcam": 2})
        await world.run(10)

        (leftover,) = await world.close()
        assert str(leftover) == "unit gcam-2 (it does not end)"


@in_virtual_time
async def test_an_unreachable_scheduler_does_not_prevent_close() -> None:
    async with Simulation("gcam") as world:
        await world.controller.scale_groups({"gcam": 1})
        await world.run(10)
        world.scheduler.latency = math.inf
        await world.run(3)
        began = world.time

        assert await world.close() == []
        assert world.time - began < BOUND


@in_virtual_time
async def test_held_results_do_not_prevent_close() -> None:
    async with Simulation("gcam") as world:
        await world.controller.scale_groups({"gcam": 1})
        await world.done(world.scheduler.submit("gcam", 3))
        await world.controller.scale_groups({"gcam": 0})
        await world.run(30)
        assert world.groups["gcam"].holding == 3

        assert await world.close() == []


@in_virtual_time
async def test_nothing_happens_after_close() -> None:
    async with Simulation(GroupSpec("gcam")) as world:
        await world.controller.scale_groups({"gcam": 1})
        await world.run(10)
        await world.close()
        calls, turns = dict(world.backend.calls), world.scheduler.turns
        await world.controller.scale_groups({"gcam": 5})
        await world.run(1000)

        assert dict(world.backend.calls) == calls
        assert world.scheduler.turns == turns
