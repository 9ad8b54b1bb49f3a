"""How the controller scales in: without losing or repeating anything, and reversibly at any time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from scalable.cluster.pace import Pace
from scalable.cluster.port import GroupSpec, Phase
from scalable.testing.simulation import Simulation, TaskState, UnitBehavior, in_virtual_time

HOUR = 3600.0


@in_virtual_time
async def test_units_that_never_joined_go_first_then_the_idle_then_the_least_busy() -> None:
    async with Simulation(GroupSpec("gcam", slots=4)) as world:
        await world.scale({"gcam": 3})
        world.scheduler.submit("gcam", 3, seconds=500)
        more = world.scheduler.submit("gcam", 2, seconds=500)
        on = [task.starts[0][1] for task in more]
        world.backend.behavior["gcam"] = UnitBehavior(queue=math.inf)
        await world.controller.scale_groups({"gcam": 5})
        await world.run(10)

        await world.controller.scale_groups({"gcam": 3})
        await world.run(10)
        assert {made.unit.id for made in world.backend.alive()} == {"gcam-1", "gcam-2", "gcam-3"}

        await world.controller.scale_groups({"gcam": 2})
        await world.run(1)
        assert set(world.groups["gcam"].workers) == set(on)


@in_virtual_time
async def test_an_idle_worker_goes_before_a_busy_one() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 2})
        (task,) = world.scheduler.submit("gcam", seconds=500)
        await world.run(1)
        await world.controller.scale_groups({"gcam": 1})
        await world.run(10)

        assert world.groups["gcam"].workers == (task.starts[0][1],)
        assert len(world.backend.alive()) == 1


@in_virtual_time
async def test_one_group_shrinks_without_touching_another() -> None:
    async with Simulation("gcam", "gcam-land") as world:
        await world.controller.scale_groups({"gcam": 2, "gcam-land": 2})
        await world.until(lambda: world.groups["gcam-land"].running == 2)
        kept = world.groups["gcam-land"].workers
        await world.controller.scale_groups({"gcam": 0})
        await world.until(lambda: not world.backend.alive("gcam"))

        assert world.groups["gcam-land"].workers == kept


@in_virtual_time
async def test_busy_workers_finish_what_they_run_and_start_nothing_new() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 4})
        tasks = world.scheduler.submit("gcam", 12, seconds=100)
        await world.run(10)
        await world.controller.scale_groups({"gcam": 1})
        await world.run(20)

        assert world.groups["gcam"].draining == 3
        await world.done(tasks)
        # Four at once, and the other eight one after the other.
        assert world.time >= 9 * 100
        assert all(len(task.starts) == 1 for task in tasks)


@in_virtual_time
async def test_results_move_before_their_worker_goes() -> None:
    async with Simulation("gcam", "stitches") as world:
        await world.controller.scale_groups({"gcam": 2, "stitches": 1})
        tasks = world.scheduler.submit("gcam", 10, seconds=5)
        await world.done(tasks)
        await world.controller.scale_groups({"gcam": 0})
        await world.until(lambda: not world.backend.alive("gcam"))

        assert world.scheduler.workers["stitches-1"].results == set(tasks)


@in_virtual_time
async def test_the_last_holder_of_results_stays_until_they_are_released() -> None:
    async with Simulation("gcam", "stitches") as world:
        await world.controller.scale_groups({"gcam": 2, "stitches": 2})
        tasks = world.scheduler.submit("gcam", 5) + world.scheduler.submit("stitches", 5)
        await world.done(tasks)
        await world.controller.scale_groups({"gcam": 0, "stitches": 0})
        await world.run(120)

        (holder,) = world.scheduler.workers.values()
        assert holder.results == set(tasks)
        assert sum(group.holding for group in world.groups.values()) == 10
        assert sum(group.draining for group in world.groups.values()) == 1
        world.scheduler.release(tasks)
        await world.until(lambda: not world.backend.alive())


@in_virtual_time
async def test_the_last_holder_goes_when_another_worker_joins() -> None:
    async with Simulation("gcam", "stitches") as world:
        await world.controller.scale_groups({"gcam": 1})
        tasks = world.scheduler.submit("gcam", 5)
        await world.done(tasks)
        await world.controller.scale_groups({"gcam": 0})
        await world.run(60)
        await world.controller.scale_groups({"stitches": 1})
        await world.until(lambda: not world.backend.alive("gcam"))

        assert world.scheduler.workers["stitches-1"].results == set(tasks)


@in_virtual_time
async def test_results_are_held_for_a_bounded_time() -> None:
    async with Simulation("gcam", pace=Pace(hold_timeout=300)) as world:
        await world.controller.scale_groups({"gcam": 1})
        tasks = world.scheduler.submit("gcam")
        await world.done(tasks)
        began = world.time
        await world.controller.scale_groups({"gcam": 0})
        await world.until(lambda: not world.backend.alive())

        assert 300 <= world.time - began <= 310
        assert any("they are lost now" in event.text for event in world.controller.events)


@in_virtual_time
async def test_a_group_that_adapts_holds_results_for_as_long_as_they_are_wanted() -> None:
    async with Simulation("gcam", pace=Pace(hold_timeout=300)) as world:
        await world.controller.adapt_groups({"gcam": (0, 4)})
        tasks = world.scheduler.submit("gcam", 20, seconds=10)
        await world.done(tasks)
        await world.run(4 * HOUR)

        assert all(len(task.starts) == 1 for task in tasks)
        assert world.groups["gcam"].holding == 20
        world.scheduler.release(tasks)
        await world.until(lambda: not world.backend.alive())


@in_virtual_time
async def test_held_results_move_before_the_walltime_of_their_worker_is_up() -> None:
    async with Simulation(GroupSpec("gcam", handover=120)) as world:
        world.backend.behavior["gcam"] = UnitBehavior(walltime=1000)
        await world.controller.adapt_groups({"gcam": (0, 4)})
        tasks = world.scheduler.submit("gcam", 20, seconds=10)
        await world.done(tasks)
        await world.run(2 * HOUR)

        assert all(len(task.starts) == 1 for task in tasks)
        assert world.groups["gcam"].holding == 20
        assert len(world.backend.alive()) == 1


@in_virtual_time
async def test_a_group_without_room_because_of_held_results_fails_with_that_reason() -> None:
    pace = Pace(hold_timeout=300)
    async with Simulation("gcam", "stitches", max_workers=1, pace=pace) as world:
        await world.controller.adapt_groups({"gcam": (0, 1), "stitches": (0, 1)})
        kept = world.scheduler.submit("gcam", 3)
        await world.done(kept)
        (starved,) = world.scheduler.submit("stitches")
        await world.run(100)
        assert world.groups["stitches"].detail == "waiting for room under max_workers"
        await world.until(lambda: world.groups["stitches"].failed, within=300)

        assert "max_workers is 1, and gcam-1 is holding 3 results" in str(starved.error)
        assert all(len(task.starts) == 1 for task in kept)
        world.scheduler.release(kept)
        await world.controller.adapt_groups({"stitches": (0, 1)})
        await world.done(world.scheduler.submit("stitches"))


@in_virtual_time
async def test_a_group_may_wait_for_room_as_long_as_others_work() -> None:
    async with Simulation("gcam", "stitches", max_workers=1, pace=Pace(hold_timeout=60)) as world:
        await world.scale({"gcam": 1})
        tasks = world.scheduler.submit("gcam", 1, seconds=HOUR)
        await world.run(1)
        await world.controller.scale_groups({"gcam": 0, "stitches": 1})
        await world.run(HOUR / 2)
        assert not world.groups["stitches"].failed

        await world.done(tasks)
        world.scheduler.release(tasks)
        await world.until(lambda: world.groups["stitches"].running == 1)


@in_virtual_time
async def test_room_is_used_as_soon_as_it_is_free() -> None:
    async with Simulation("gcam", "stitches", max_workers=1, pace=Pace(poll=1000)) as world:
        await world.scale({"gcam": 1})
        began = world.time
        await world.scale({"gcam": 0, "stitches": 1})

        # Not only with the next look, which would be due much later.
        assert world.time - began < 100


@in_virtual_time
async def test_draining_workers_are_taken_back_rather_than_new_ones_launched() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 4})
        tasks = world.scheduler.submit("gcam", 8, seconds=60)
        await world.run(5)
        await world.controller.scale_groups({"gcam": 1})
        await world.run(5)
        assert world.groups["gcam"].draining == 3
        await world.controller.scale_groups({"gcam": 3})
        await world.run(5)

        assert world.groups["gcam"].running == 3
        assert world.backend.calls["launch"] == 1
        await world.done(tasks)


@in_virtual_time
async def test_a_stop_that_fails_is_repeated() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 2})
        world.backend.errors["stop"] += [OSError("throttled"), OSError("throttled")]
        await world.controller.scale_groups({"gcam": 0})
        await world.until(lambda: not world.backend.alive(), within=10)

        assert world.backend.calls["stop"] == 3
        assert any("throttled" in event.text for event in world.controller.events)


@in_virtual_time
async def test_the_stop_of_an_unresponsive_unit_is_repeated_at_intervals() -> None:
    async with Simulation("gcam", pace=Pace(stop_retry_interval=60)) as world:
        world.backend.behavior["gcam"] = UnitBehavior(stop_delay=math.inf)
        await world.scale({"gcam": 1})
        await world.controller.scale_groups({"gcam": 0})
        await world.run(630)
        assert world.backend.calls["stop"] == 11

        world.backend.units["gcam-1"].behavior.stop_delay = 0
        await world.until(lambda: not world.backend.alive(), within=70)


@in_virtual_time
async def test_stops_that_are_always_refused_are_told_and_tried_less_often(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As with credentials that have expired, and of machines that cost money."""
    async with Simulation("gcam", max_workers=3) as world:
        await world.scale({"gcam": 3})
        world.backend.errors["stop"] += [PermissionError("the token has expired")] * 1000
        asked = world.backend.calls["stop"]
        await world.controller.scale_groups({"gcam": 1})
        await world.run(60)
        await world.controller.scale_groups({"gcam": 3})
        await world.run(600)

        assert world.backend.calls["stop"] - asked <= 20
        assert caplog.text.count("will try again: the token has expired") == 1
        assert world.groups["gcam"].detail == "waiting for room under max_workers"
        world.backend.errors["stop"].clear()
        await world.until(lambda: world.groups["gcam"].running == 3, within=120)


@in_virtual_time
async def test_a_slow_stop_blocks_no_other_group() -> None:
    async with Simulation("gcam", "stitches") as world:
        await world.scale({"gcam": 1})
        world.backend.latencies["stop"] = 100
        await world.controller.scale_groups({"gcam": 0})
        await world.run(5)
        await world.controller.scale_groups({"stitches": 1})
        await world.controller.wait_for_group("stitches", timeout=5)
        assert world.backend.units["gcam-1"].phase is Phase.RUNNING
        await world.until(lambda: not world.backend.alive("gcam"))

        assert world.backend.calls["stop"] == 1


@in_virtual_time
async def test_a_worker_that_dies_while_it_drains_is_not_replaced() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 2})
        tasks = world.scheduler.submit("gcam", 2, seconds=60)
        await world.run(5)
        await world.controller.scale_groups({"gcam": 1})
        await world.run(5)
        (leaving,) = (w.name for w in world.scheduler.workers.values() if w.draining)
        world.backend.kill(leaving)
        await world.done(tasks)

        assert len(world.backend.units) == 2
        assert sorted(len(task.starts) for task in tasks) == [1, 2]


@in_virtual_time
async def test_repeated_scaling_ends_at_the_last_count() -> None:
    async with Simulation("gcam") as world:
        tasks = []
        for n in [3, 0, 5, 1, 4, 0, 2]:
            tasks += world.scheduler.submit("gcam", 3, seconds=7)
            await world.controller.scale_groups({"gcam": n})
            await world.run(3.3)
        await world.done(tasks)
        await world.run(30)

        assert world.groups["gcam"].running == 2
        assert all(task.state is TaskState.DONE for task in tasks)
        assert len(world.backend.alive()) == 2


@pytest.mark.parametrize("count", [1.5, 2.0, math.nan, "2", None])
@in_virtual_time
async def test_a_count_that_is_no_whole_number_is_refused(count: Any) -> None:
    async with Simulation("gcam", max_workers=10) as world:
        await world.scale({"gcam": 1})
        for change in (
            world.controller.scale_groups({"gcam": count}),
            world.controller.adapt_groups({"gcam": (0, count)}),
            world.controller.adapt_groups({"gcam": (count, 3)}),
            world.controller.wait_for_group("gcam", count),
            world.controller.wait_for_workers(count),
        ):
            with pytest.raises(TypeError, match="whole number"):
                await change
        if count is not None:
            with pytest.raises(TypeError, match="whole number"):
                await world.controller.set_max_workers(count)
        await world.scale({"gcam": np.int64(2)})  # type: ignore[dict-item] # an integer all the same
