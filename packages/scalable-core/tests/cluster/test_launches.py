"""How the controller starts workers, and handles launches that are slow, late or lost."""

from __future__ import annotations

import math
from dataclasses import replace

from scalable.cluster.pace import Pace
from scalable.cluster.port import Explanation, GroupSpec, LaunchResult, Reason
from scalable.errors import LaunchError
from scalable.testing.simulation import Simulation, UnitBehavior, in_virtual_time

HOUR = 3600.0


@in_virtual_time
async def test_all_units_that_a_group_lacks_are_one_launch() -> None:
    async with Simulation("gcam", "stitches") as world:
        await world.controller.scale_groups({"gcam": 50, "stitches": 3})
        await world.until(lambda: world.groups["gcam"].running == 50)

        assert world.groups["stitches"].running == 3
        assert world.backend.calls["launch"] == 2


@in_virtual_time
async def test_scaling_out_leaves_existing_workers_alone() -> None:
    async with Simulation("gcam", "stitches") as world:
        await world.controller.scale_groups({"gcam": 2, "stitches": 1})
        await world.until(lambda: world.groups["stitches"].running == 1)
        before = set(world.scheduler.workers)

        await world.scale({"gcam": 5})

        assert before < set(world.scheduler.workers)
        assert world.backend.calls["stop"] == 0


@in_virtual_time
async def test_a_slow_launch_blocks_no_other_group() -> None:
    async with Simulation("gcam", "stitches") as world:
        world.backend.behavior["gcam"] = UnitBehavior(accept=100, boot=2)
        await world.controller.scale_groups({"gcam": 2, "stitches": 2})
        await world.until(lambda: world.groups["stitches"].running == 2, within=5)
        world.backend.kill("stitches-1")
        await world.until(lambda: world.groups["stitches"].running == 1, within=5)
        await world.until(lambda: world.groups["stitches"].running == 2, within=5)

        assert world.groups["gcam"].pending == 2
        await world.until(lambda: world.groups["gcam"].running == 2, within=110)


@in_virtual_time
async def test_groups_that_launch_in_one_turn_share_what_the_cap_leaves() -> None:
    async with Simulation("gcam", "stitches", "tell", max_workers=4) as world:
        await world.scale({"gcam": 3})
        world.scheduler.submit("gcam", 3, seconds=100)
        await world.run(1)
        await world.controller.scale_groups({"gcam": 0, "stitches": 2, "tell": 2})
        await world.run(50)

        # The invariant checker would report a launch above the cap.
        assert [len(world.backend.alive(tag)) for tag in world.groups] == [3, 1, 0]
        await world.until(lambda: world.groups["tell"].running == 2)


@in_virtual_time
async def test_a_higher_cap_is_used_at_once() -> None:
    async with Simulation("gcam", max_workers=1, pace=Pace(tick=1000)) as world:
        world.scheduler.submit("gcam", 4, seconds=10_000)
        await world.controller.adapt_groups({"gcam": (0, 4)})
        await world.run(5)
        await world.controller.set_max_workers(2)
        await world.run(5)

        assert len(world.backend.units) == 2


@in_virtual_time
async def test_requests_during_a_launch_are_one_further_launch() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(accept=30)
        for n in range(1, 6):
            await world.controller.scale_groups({"gcam": n})
            await world.run(5)
        await world.until(lambda: world.groups["gcam"].running == 5)

        assert world.backend.calls["launch"] == 2


@in_virtual_time
async def test_units_that_are_named_late_are_waited_for() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(naming=40, queue=60)
        await world.controller.scale_groups({"gcam": 3})
        await world.run(20)

        assert world.groups["gcam"].pending == 3
        await world.until(lambda: world.groups["gcam"].running == 3)
        assert world.backend.calls["launch"] == 1


@in_virtual_time
async def test_a_launch_whose_answer_is_lost_is_not_repeated() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(answer=math.inf, queue=200)
        await world.scale({"gcam": 3})

        assert len(world.backend.units) == 3


@in_virtual_time
async def test_a_launch_whose_units_never_appear_is_a_failed_start() -> None:
    async with Simulation(GroupSpec("gcam", startup_timeout=60)) as world:
        world.backend.behavior["gcam"] = UnitBehavior(accept=math.inf)
        await world.controller.scale_groups({"gcam": 1})
        await world.until(lambda: world.groups["gcam"].failed, within=1800)

        assert world.backend.calls["launch"] == 3
        assert world.groups["gcam"].reason is Reason.NETWORK
        assert "has not answered for 120 s" in world.groups["gcam"].detail


@in_virtual_time
async def test_what_is_awaited_is_told_until_the_units_have_names() -> None:
    async with Simulation(GroupSpec("gcam", startup_timeout=100)) as world:
        awaited = Explanation(Reason.STARTING, "waiting for the names", remedy="ask the site")
        launch, world.backend.behavior["gcam"] = world.backend.launch, UnitBehavior(naming=50)

        async def unnamed(group: GroupSpec, n: int, request_id: str) -> LaunchResult:
            return replace(await launch(group, n, request_id), awaited=awaited)

        world.backend.launch = unnamed  # type: ignore[method-assign]
        await world.controller.scale_groups({"gcam": 2})
        await world.run(10)
        assert world.groups["gcam"].detail == "waiting for the names"
        assert await world.controller.explain() == {"gcam": awaited}
        await world.until(lambda: world.groups["gcam"].running == 2)
        assert await world.controller.explain() == {}

        await world.scale({"gcam": 0})
        world.backend.behavior["gcam"] = UnitBehavior(naming=HOUR, boot=2 * HOUR)
        await world.controller.scale_groups({"gcam": 1})
        await world.until(lambda: world.groups["gcam"].failed, within=HOUR)
        (why,) = (await world.controller.explain()).values()
        assert why.summary == "1 workers were launched, but did not appear in 100 s"
        assert why.remedy == "ask the site"


@in_virtual_time
async def test_what_a_launch_did_not_create_is_requested_again_with_the_reason() -> None:
    async with Simulation("gcam") as world:
        launch = world.backend.launch
        capacity = 3

        async def limited(group: GroupSpec, n: int, request_id: str) -> LaunchResult:
            room = capacity - len(world.backend.alive())
            if room <= 0:
                raise LaunchError("", Explanation(Reason.CAPACITY, "no capacity in zone a"))
            result = await launch(group, min(n, room), request_id)
            shortfall = Explanation(Reason.CAPACITY, "no capacity in zone a")
            return LaunchResult(result.units, shortfall=shortfall if room < n else None)

        world.backend.launch = limited  # type: ignore[method-assign]
        await world.controller.scale_groups({"gcam": 5})
        await world.until(lambda: world.groups["gcam"].running == 3, within=30)
        await world.run(600)

        group = world.groups["gcam"]
        assert (group.failed, group.reason) == (False, Reason.CAPACITY)
        assert "no capacity in zone a" in group.detail
        capacity = 5
        await world.until(lambda: world.groups["gcam"].running == 5, within=90)


@in_virtual_time
async def test_a_group_of_which_a_launch_may_ask_for_few_takes_several() -> None:
    async with Simulation(GroupSpec("gcam", max_launch=10)) as world:
        await world.scale({"gcam": 25})
        assert world.backend.calls["launch"] == 3


@in_virtual_time
async def test_units_that_end_before_they_were_observed_are_failed_starts() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(
            naming=20, failing_starts=math.inf, end_reason=Reason.OUT_OF_MEMORY
        )
        await world.controller.scale_groups({"gcam": 2})
        await world.until(lambda: world.groups["gcam"].failed, within=120)

        assert world.groups["gcam"].reason is Reason.OUT_OF_MEMORY


@in_virtual_time
async def test_units_that_appear_long_after_they_were_given_up_do_no_harm() -> None:
    async with Simulation(GroupSpec("gcam", startup_timeout=60)) as world:
        world.backend.behavior["gcam"] = UnitBehavior(naming=100)
        await world.controller.scale_groups({"gcam": 2})
        await world.run(90)
        world.backend.behavior["gcam"] = UnitBehavior()
        await world.run(200)

        assert world.groups["gcam"].running == 2
        assert len(world.backend.alive()) == 2


@in_virtual_time
async def test_a_launch_that_is_refused_for_now_is_tried_again_later() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"].errors += [OSError("no route"), OSError("no route")]
        await world.controller.scale_groups({"gcam": 1})
        await world.run(0.2)

        assert world.groups["gcam"].reason is Reason.BACKOFF
        assert "no route" in world.groups["gcam"].detail
        await world.until(lambda: world.groups["gcam"].running == 1)
        assert world.backend.calls["launch"] == 3


@in_virtual_time
async def test_a_new_unit_is_not_taken_for_gone_by_an_observation_that_began_before_it() -> None:
    async with Simulation("gcam", "stitches") as world:
        await world.scale({"stitches": 1})
        world.backend.latencies["observe"] = 3
        world.backend.behavior["gcam"] = UnitBehavior(accept=1.3)
        await world.scale({"gcam": 4})

        assert len(world.backend.units) == 5
