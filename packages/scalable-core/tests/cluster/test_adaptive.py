"""How many workers adaptive groups get: the arithmetic, and how the controller applies it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalable.cluster.adaptive import AdaptivePolicy, share_out, target_workers
from scalable.cluster.link import Demand
from scalable.cluster.port import GroupSpec
from scalable.errors import LaunchRefusedError
from scalable.testing.simulation import Simulation, UnitBehavior, in_virtual_time

counts = st.integers(0, 200)
tags = st.sampled_from("abcdef")


@st.composite
def allocations(draw: st.DrawFn) -> tuple[dict[str, int], dict[str, int], int]:
    wanted = draw(st.dictionaries(tags, counts))
    floor = {tag: draw(st.integers(0, n)) for tag, n in wanted.items()}
    cap = draw(st.integers(0, 600)) + sum(floor.values())
    return wanted, floor, cap


@given(allocations())
def test_a_cap_is_shared_out_whole_and_never_exceeded(
    allocation: tuple[dict[str, int], dict[str, int], int],
) -> None:
    wanted, floor, cap = allocation
    shares = share_out(wanted, floor, cap)

    assert sum(shares.values()) == min(cap, sum(wanted.values()))
    assert all(floor[tag] <= shares[tag] <= wanted[tag] for tag in wanted)


@given(allocations())
def test_no_group_gets_nothing_while_another_has_more_than_its_floor_and_one(
    allocation: tuple[dict[str, int], dict[str, int], int],
) -> None:
    wanted, floor, cap = allocation
    shares = share_out(wanted, floor, cap)

    if any(wanted[tag] and not shares[tag] for tag in wanted):
        assert all(shares[tag] <= max(1, floor[tag]) for tag in wanted)


@given(allocations())
def test_a_group_that_wants_more_gets_no_less(
    allocation: tuple[dict[str, int], dict[str, int], int],
) -> None:
    wanted, _, cap = allocation
    shares = share_out(wanted, {}, cap)

    for one in wanted:
        for other in wanted:
            # One worker each comes first, in the manifest's order; so do the remainders of rounding.
            assert wanted[one] > wanted[other] or shares[one] <= shares[other] + 1


@given(st.dictionaries(tags, counts), st.dictionaries(tags, counts))
def test_without_a_cap_every_group_gets_what_it_wants(
    wanted: dict[str, int], floor: dict[str, int]
) -> None:
    assert share_out(wanted, floor, None) == {
        tag: max(n, floor.get(tag, 0)) for tag, n in wanted.items()
    }


@given(
    slots_wanted=st.integers(0, 10_000),
    mean=st.floats(0, 1e6),
    slots=st.integers(1, 64),
    duration=st.floats(0.1, 1e4),
)
def test_there_are_never_more_workers_than_work_for_them(
    slots_wanted: int, mean: float, slots: int, duration: float
) -> None:
    for demand in (
        Demand(slots_wanted, slots_wanted * mean),
        Demand(slots_wanted, unknown=slots_wanted),
    ):
        target = target_workers(demand, slots, duration)
        assert target <= math.ceil(slots_wanted / slots)
        assert (target > 0) == (slots_wanted > 0)


@in_virtual_time
async def test_a_group_scales_from_zero_and_back() -> None:
    async with Simulation("gcam", "stitches") as world:
        await world.controller.adapt_groups({"gcam": (0, 4), "stitches": (0, 4)})
        await world.run(60)
        assert world.backend.units == {}

        tasks = world.scheduler.submit("gcam", 8, seconds=30)
        await world.done(tasks)
        world.scheduler.release(tasks)
        await world.until(lambda: not world.backend.alive(), within=30)

        assert len(world.backend.units) == 4
        assert world.backend.calls["launch"] == 1


@in_virtual_time
async def test_a_group_stays_between_its_minimum_and_its_maximum() -> None:
    async with Simulation("gcam") as world:
        await world.controller.adapt_groups({"gcam": (2, 5)})
        await world.until(lambda: world.groups["gcam"].running == 2)
        await world.run(60)
        assert len(world.backend.units) == 2

        tasks = world.scheduler.submit("gcam", 50, seconds=20)
        await world.done(tasks)
        assert len(world.backend.units) == 5
        await world.run(60)
        assert len(world.backend.alive()) == 2


@in_virtual_time
async def test_a_lower_maximum_holds_although_there_is_work_for_more() -> None:
    async with Simulation("gcam") as world:
        await world.controller.scale_groups({"gcam": 8})
        world.scheduler.submit("gcam", 1000, seconds=60)
        await world.until(lambda: world.groups["gcam"].running == 8)
        await world.controller.adapt_groups({"gcam": (0, 3)})
        await world.run(120)

        assert len(world.backend.alive()) == 3


@in_virtual_time
async def test_learned_durations_limit_the_workers_that_are_started() -> None:
    policy = AdaptivePolicy(target_duration=60)
    async with Simulation(GroupSpec("gcam", slots=2), policy=policy) as world:
        await world.controller.adapt_groups({"gcam": (0, 50)})
        await world.done(world.scheduler.submit("gcam", seconds=3))
        # 100 tasks of 3 s are 300 slot-seconds: 2.5 workers of 2 slots can do that in a minute.
        await world.done(world.scheduler.submit("gcam", 100, seconds=3))

        assert len(world.backend.units) == 3


@in_virtual_time
async def test_a_group_does_not_shrink_while_its_workers_are_busy() -> None:
    async with Simulation("gcam") as world:
        await world.controller.adapt_groups({"gcam": (0, 4)})
        tasks = world.scheduler.submit("gcam", 4, seconds=1000)
        await world.run(900)
        # Dask has learned how long they run: little is left to do.
        more = world.scheduler.submit("gcam", 4, seconds=1000)
        await world.done(tasks + more)

        assert len(world.backend.units) == 4


@in_virtual_time
async def test_workers_wait_for_tasks_that_wait_for_others() -> None:
    async with Simulation("gcam", "stitches", policy=AdaptivePolicy(waiting_delay=60)) as world:
        await world.controller.adapt_groups({"gcam": (0, 4), "stitches": (0, 4)})
        first = world.scheduler.submit("gcam", 4, seconds=10)
        between = world.scheduler.submit("stitches", 1, seconds=30, after=first)
        last = world.scheduler.submit("gcam", 4, seconds=10, after=between)
        await world.done(last)

        assert [made.unit.tag for made in world.backend.units.values()].count("gcam") == 4


@in_virtual_time
async def test_a_cap_serves_whichever_group_has_work() -> None:
    async with Simulation("gcam", "stitches", max_workers=4) as world:
        await world.controller.adapt_groups({"gcam": (0, 4), "stitches": (0, 4)})
        for tag in ("gcam", "stitches", "gcam", "stitches"):
            began = world.time
            await world.done(world.scheduler.submit(tag, 40, seconds=10))
            # 40 tasks of 10 s on 4 workers, with some time to change over.
            assert world.time - began < 100 + 20


@in_virtual_time
async def test_groups_with_equal_work_share_a_cap_in_equal_parts() -> None:
    async with Simulation("gcam", "stitches", "tell", max_workers=6) as world:
        await world.controller.adapt_groups(dict.fromkeys(("gcam", "stitches", "tell"), (0, 6)))
        for tag in ("gcam", "stitches", "tell"):
            world.scheduler.submit(tag, 100, seconds=10)
        await world.run(60)

        assert [status.running for status in world.groups.values()] == [2, 2, 2]


@in_virtual_time
async def test_a_group_that_has_everything_makes_room_for_one_that_has_nothing() -> None:
    async with Simulation("gcam", "stitches", max_workers=4) as world:
        await world.controller.adapt_groups({"gcam": (0, 4), "stitches": (0, 4)})
        many = world.scheduler.submit("gcam", 400, seconds=10)
        await world.until(lambda: world.groups["gcam"].running == 4)
        few = world.scheduler.submit("stitches", 3, seconds=10)
        began = world.time
        await world.done(few)

        assert world.time - began < 60
        assert all(len(task.starts) <= 1 for task in many)


@in_virtual_time
async def test_fixed_groups_keep_their_part_of_the_cap() -> None:
    async with Simulation("gcam", "stitches", max_workers=4) as world:
        await world.controller.scale_groups({"stitches": 3})
        await world.controller.adapt_groups({"gcam": (0, 4)})
        world.scheduler.submit("gcam", 100, seconds=10)
        await world.run(60)

        assert world.groups["gcam"].running == 1
        assert world.groups["stitches"].running == 3


@in_virtual_time
async def test_workers_that_drain_count_under_the_cap() -> None:
    async with Simulation("gcam", "stitches", max_workers=4) as world:
        await world.scale({"gcam": 4})
        world.scheduler.submit("gcam", 4, seconds=300)
        await world.run(1)
        await world.controller.scale_groups({"gcam": 0, "stitches": 4})
        await world.run(100)

        # The invariant checker would report a launch above the cap.
        assert world.groups["gcam"].draining == 4
        assert world.backend.alive("stitches") == []
        await world.until(lambda: world.groups["stitches"].running == 4)


@in_virtual_time
async def test_a_lower_cap_is_reached_without_harm() -> None:
    async with Simulation("gcam", max_workers=8) as world:
        await world.controller.adapt_groups({"gcam": (0, 8)})
        tasks = world.scheduler.submit("gcam", 80, seconds=10)
        await world.until(lambda: world.groups["gcam"].running == 8)
        await world.controller.set_max_workers(2)
        await world.run(40)

        assert len(world.backend.alive()) == 2
        await world.done(tasks)


@in_virtual_time
async def test_impossible_counts_are_refused_and_change_nothing() -> None:
    async with Simulation("gcam", "stitches", max_workers=4) as world:
        controller = world.controller
        await controller.scale_groups({"gcam": 2, "stitches": 2})
        with pytest.raises(ValueError, match="5 workers are more than max_workers, which is 4"):
            await controller.scale_groups({"gcam": 3})
        with pytest.raises(ValueError, match="6 workers are more than max_workers"):
            await controller.adapt_groups({"gcam": (4, 4)})
        with pytest.raises(ValueError, match="4 workers are more than max_workers, which is 3"):
            await controller.set_max_workers(3)
        with pytest.raises(ValueError, match="give 0 <= minimum <= maximum"):
            await controller.adapt_groups({"gcam": (0, 1), "stitches": (3, 2)})
        with pytest.raises(ValueError, match="ask for 0 or more"):
            await controller.scale_groups({"stitches": 1, "gcam": -1})
        with pytest.raises(KeyError, match="did you mean 'gcam'"):
            await controller.scale_groups({"stitches": 1, "gcma": 1})

        assert controller.max_workers == 4
        assert {tag: (s.wanted, s.maximum) for tag, s in world.groups.items()} == {
            "gcam": (2, None),
            "stitches": (2, None),
        }


@in_virtual_time
async def test_a_pinned_group_is_not_adaptive_any_more() -> None:
    async with Simulation("gcam") as world:
        await world.controller.adapt_groups({"gcam": (0, 8)})
        await world.controller.scale_groups({"gcam": 1})
        world.scheduler.submit("gcam", 100)
        await world.run(20)

        assert world.groups["gcam"].wanted == 1
        assert len(world.backend.units) == 1


@in_virtual_time
async def test_a_group_that_was_pinned_keeps_its_workers_for_a_while() -> None:
    async with Simulation("gcam", policy=AdaptivePolicy(scale_in_delay=30)) as world:
        await world.controller.adapt_groups({"gcam": (0, 4)})
        await world.done(world.scheduler.submit("gcam", 4, seconds=10))
        await world.run(10)
        await world.controller.scale_groups({"gcam": 4})
        await world.run(60)
        await world.controller.adapt_groups({"gcam": (0, 4)})
        await world.run(20)

        assert world.groups["gcam"].running == 4
        await world.until(lambda: world.groups["gcam"].running == 0, within=60)


@in_virtual_time
async def test_bursts_do_not_make_a_group_thrash() -> None:
    async with Simulation("gcam", max_workers=10) as world:
        world.backend.behavior["gcam"] = UnitBehavior(boot=20)
        await world.controller.adapt_groups({"gcam": (0, 10)})
        # For an hour, 8 tasks of 3 s come every 4 s: work for eight at times, for none at others.
        for _ in range(900):
            tasks = world.scheduler.submit("gcam", 8, seconds=3)
            await world.run(4)
            world.scheduler.release(tasks)

        # A group that followed every burst would have launched 900 times.
        assert world.backend.calls["launch"] <= 20
        assert world.backend.calls["stop"] <= 20


@in_virtual_time
async def test_groups_that_compete_do_not_exchange_workers_back_and_forth() -> None:
    async with Simulation("gcam", "stitches", max_workers=8) as world:
        world.backend.behavior["gcam"] = world.backend.behavior["stitches"] = UnitBehavior(boot=20)
        await world.controller.adapt_groups({"gcam": (0, 8), "stitches": (0, 8)})
        for _ in range(120):
            world.scheduler.submit("gcam", 40, seconds=4)
            world.scheduler.submit("stitches", 8, seconds=20)
            await world.run(30)

        assert len(world.backend.units) <= 60


@in_virtual_time
async def test_the_part_of_a_group_that_failed_goes_to_others_until_it_is_tried_again() -> None:
    async with Simulation("gcam", "stitches", max_workers=4) as world:
        world.backend.behavior["stitches"].errors.append(LaunchRefusedError("no such account"))
        await world.controller.scale_groups({"stitches": 3})
        await world.controller.adapt_groups({"gcam": (0, 4)})
        world.scheduler.submit("gcam", 1000, seconds=10)
        await world.until(lambda: world.groups["gcam"].running == 4, within=30)
        await world.run(60)
        assert len(world.backend.units) == 4

        await world.controller.scale_groups({"stitches": 3})
        await world.until(lambda: world.groups["stitches"].running == 3, within=60)
        assert world.groups["gcam"].running == 1
