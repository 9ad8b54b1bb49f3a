"""Workers that have joined and are of no use at present: paused, silent, without a unit, or about to be preempted."""

from __future__ import annotations

import functools

import pytest

from scalable.cluster.pace import Pace
from scalable.cluster.port import GroupSpec, Reason
from scalable.cluster.retry import RetryPolicy
from scalable.errors import GroupTimeoutError
from scalable.testing.simulation import Simulation, TaskState, UnitBehavior, in_virtual_time

MINUTE, HOUR = 60.0, 3600.0


def is_registered(world: Simulation, name: str) -> bool:
    return name in world.scheduler.workers


def events(world: Simulation) -> list[str]:
    return [event.text for event in world.controller.events]


# -- Paused


@in_virtual_time
async def test_a_worker_that_stays_paused_is_replaced() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 1})
        world.scheduler.pause("gcam-1")
        tasks = world.scheduler.submit("gcam", 2, seconds=5)
        await world.done(tasks, within=40)
        await world.until(lambda: len(world.backend.alive()) == 1)

        assert list(world.scheduler.workers) == ["gcam-2"]
        assert "draining gcam-1, which is paused" in events(world)


@in_virtual_time
async def test_a_pause_that_passes_costs_nothing_and_is_shown() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 2})
        world.scheduler.pause("gcam-1")
        await world.until(lambda: world.groups["gcam"].unavailable == 1, within=2)
        status = world.groups["gcam"]
        why = (await world.controller.explain())["gcam"]
        await world.run(8)
        world.scheduler.unpause("gcam-1")
        await world.until(lambda: world.groups["gcam"].running == 2, within=2)
        await world.run(MINUTE)

        assert (status.running, status.workers) == (1, ("gcam-2",))
        assert (status.reason, why.reason) == (Reason.PAUSED, Reason.PAUSED)
        assert "gcam-1 is paused" in status.detail
        assert "gcam-1 is paused" in why.summary
        assert "memory" in why.remedy
        assert len(world.backend.units) == 2
        assert world.groups["gcam"].reason is None


@in_virtual_time
async def test_nobody_waits_for_a_paused_worker_as_if_it_ran() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 1})
        world.scheduler.pause("gcam-1")
        await world.run(2)
        with pytest.raises(GroupTimeoutError, match="gcam-1 is paused"):
            await world.controller.wait_for_group("gcam", 1, timeout=3)


@in_virtual_time
async def test_under_a_cap_a_paused_worker_leaves_first() -> None:
    async with Simulation("gcam", max_workers=1) as world:
        await world.scale({"gcam": 1})
        world.scheduler.pause("gcam-1")
        tasks = world.scheduler.submit("gcam", 2, seconds=5)
        await world.done(tasks, within=MINUTE)

        assert {name for task in tasks for _, name in task.starts} == {"gcam-2"}


@pytest.mark.parametrize("adaptive", [False, True])
@in_virtual_time
async def test_results_keep_a_paused_worker_only_for_so_long(adaptive: bool) -> None:
    async with Simulation("gcam", max_workers=1, pace=Pace(hold_timeout=300)) as world:
        await world.scale({"gcam": 1})
        kept = world.scheduler.submit("gcam", 3, seconds=1)
        await world.done(kept)
        if adaptive:
            await world.controller.adapt_groups({"gcam": (1, 1)})
        world.scheduler.pause("gcam-1")
        task = world.scheduler.submit("gcam", 1, seconds=1)
        await world.until(lambda: world.groups["gcam"].holding == 3)
        await world.until(lambda: world.groups["gcam"].reason is not None, within=5)

        assert "gcam-1" in world.groups["gcam"].detail
        await world.done([*task, *kept], within=400)
        assert not world.groups["gcam"].failed


@in_virtual_time
async def test_a_paused_worker_whose_slots_are_taken_is_left_in_peace() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 2})
        model, *others = world.scheduler.submit("gcam", 8, seconds=HOUR)
        await world.run(5)
        world.scheduler.pause(model.starts[0][1])
        await world.run(10 * MINUTE)
        shown = world.groups["gcam"]
        await world.until(lambda: model.state is TaskState.DONE, within=HOUR)
        world.scheduler.unpause(model.starts[0][1])
        await world.done(others, within=5 * HOUR)

        assert (shown.running, shown.unavailable) == (1, 1)
        assert len(world.backend.units) == 2


@in_virtual_time
async def test_what_waits_behind_a_paused_worker_runs_on_another() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 2})
        long, *short = world.scheduler.submit("gcam", 6, seconds=HOUR)
        for task in short:
            task.seconds = 1
        await world.run(1)
        world.scheduler.pause(long.starts[0][1])
        await world.done([task for task in short if not task.starts], within=2 * HOUR)

        assert long.state is TaskState.RUNNING or long.ended_at is not None


@in_virtual_time
async def test_a_group_whose_workers_all_pause_starts_ever_fewer() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 1})
        end = world.time + 2 * HOUR
        while world.time < end:
            for worker in world.scheduler.workers.values():
                worker.paused = True
            await world.run(1)

        # 15 s, 30 s, ... at first, and then one in five minutes.
        assert 10 <= len(world.backend.units) <= 2 * 16


# -- Silent


@in_virtual_time
async def test_a_task_that_holds_the_gil_ends_once() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 2})
        tasks = world.scheduler.submit("gcam", 2, seconds=30)
        await world.run(5)
        name = tasks[0].starts[0][1]
        world.scheduler.freeze(name)
        await world.until(lambda: world.groups["gcam"].unavailable == 1, within=70)
        status = world.groups["gcam"]
        later = world.scheduler.submit("gcam", 4, seconds=5)
        await world.done(later, within=MINUTE)
        await world.run(20 * MINUTE)
        why = (await world.controller.explain())["gcam"]
        world.scheduler.thaw(name)
        await world.done(tasks)
        await world.until(lambda: world.groups["gcam"].running == 2, within=5)

        assert (status.running, status.reason) == (1, Reason.UNRESPONSIVE)
        assert f"{name} has not answered for 1" in why.summary
        assert "unresponsive_timeout" in why.remedy
        assert all(len(task.starts) == 1 for task in (*tasks, *later))
        assert len(world.backend.units) == 2


@in_virtual_time
async def test_a_worker_that_never_answers_again_is_given_up_after_its_timeout() -> None:
    async with Simulation(GroupSpec("gcam", unresponsive_timeout=HOUR / 2)) as world:
        await world.scale({"gcam": 1})
        (task,) = world.scheduler.submit("gcam", seconds=30)
        await world.run(5)
        world.scheduler.freeze("gcam-1")
        await world.run(HOUR / 2 - 10)
        assert [made.unit.id for made in world.backend.alive()] == ["gcam-1"]
        await world.done([task], within=2 * MINUTE)

        assert [name for _, name in task.starts] == ["gcam-1", "gcam-2"]
        assert [made.unit.id for made in world.backend.alive()] == ["gcam-2"]
        assert any("not answered" in text and "run again" in text for text in events(world))


@in_virtual_time
async def test_a_silent_worker_with_nothing_to_lose_is_replaced_at_once() -> None:
    async with Simulation("gcam", max_workers=2) as world:
        await world.scale({"gcam": 2})
        world.scheduler.freeze("gcam-1")
        await world.until(lambda: "gcam-3" in world.scheduler.workers, within=80)

        assert [made.unit.id for made in world.backend.alive()] == ["gcam-2", "gcam-3"]


@in_virtual_time
async def test_a_silent_worker_with_free_slots_is_replaced_and_keeps_its_task() -> None:
    async with Simulation(GroupSpec("gcam", slots=2)) as world:
        await world.scale({"gcam": 1})
        (task,) = world.scheduler.submit("gcam", seconds=30)
        await world.run(5)
        world.scheduler.freeze("gcam-1")
        await world.until(lambda: "gcam-2" in world.scheduler.workers, within=80)
        await world.run(10 * MINUTE)
        world.scheduler.thaw("gcam-1")
        await world.done([task], within=40)
        await world.until(lambda: len(world.backend.alive()) == 1, within=30)

        assert len(task.starts) == 1


@in_virtual_time
async def test_the_tasks_of_a_lost_machine_run_again_within_a_minute() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 2})
        tasks = world.scheduler.submit("gcam", 2, seconds=50)
        await world.run(5)
        world.backend.lose_node("gcam-1")
        await world.until(lambda: "gcam-3" in world.scheduler.workers, within=10)
        await world.until(lambda: "gcam-1" not in world.scheduler.workers, within=20)
        await world.done(tasks, within=2 * MINUTE)

        assert sorted(len(task.starts) for task in tasks) == [1, 2]


@in_virtual_time
async def test_the_machine_of_a_draining_worker_may_be_lost_too() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 2})
        tasks = world.scheduler.submit("gcam", 2, seconds=50)
        await world.run(5)
        await world.controller.scale_groups({"gcam": 1})
        await world.until(lambda: world.groups["gcam"].draining == 1)
        (name,) = (w.name for w in world.scheduler.workers.values() if w.draining)
        world.backend.lose_node(name)
        await world.done(tasks, within=3 * MINUTE)

        assert name not in world.scheduler.workers


# -- About to be preempted


@in_virtual_time
async def test_notice_of_preemption_drains_and_replaces_at_once() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 1})
        kept = world.scheduler.submit("gcam", 2, seconds=1)
        await world.done(kept)
        (short,) = world.scheduler.submit("gcam", seconds=60)
        await world.run(5)
        world.backend.announce_preemption("gcam-1", 120)
        await world.until(lambda: world.groups["gcam"].draining == 1, within=3)
        waiting = world.scheduler.submit("gcam", 2, seconds=1)
        await world.until(lambda: "gcam-2" in world.scheduler.workers, within=10)
        await world.done([short, *waiting])
        await world.run(3 * MINUTE)

        assert all(len(task.starts) == 1 for task in (*kept, *waiting, short))
        assert {name for task in waiting for _, name in task.starts} == {"gcam-2"}
        assert any(
            text.startswith("gcam-1 is about to be preempted in 1") and text.endswith("s; draining")
            for text in events(world)
        )
        assert world.scheduler.preempted == {"gcam-1"}
        assert len(world.backend.units) == 2


@in_virtual_time
async def test_what_a_preempted_worker_cannot_finish_runs_again() -> None:
    async with Simulation("gcam", max_workers=1) as world:
        await world.scale({"gcam": 1})
        (long,) = world.scheduler.submit("gcam", seconds=300)
        await world.run(5)
        world.backend.announce_preemption("gcam-1", 30)
        await world.done([long], within=400)

        assert [name for _, name in long.starts] == ["gcam-1", "gcam-2"]
        assert not any("did not start" in text or "lost" in text for text in events(world))


@in_virtual_time
async def test_many_preemptions_never_fail_a_group() -> None:
    retry = RetryPolicy(max_early_losses=2, max_start_failures=2, fail_after=0)
    async with Simulation("gcam", retry=retry) as world:
        await world.controller.scale_groups({"gcam": 1})
        for n in range(1, 8):
            name = f"gcam-{n}"
            await world.until(functools.partial(is_registered, world, name), within=10)
            world.backend.announce_preemption(name, 5)
        await world.until(lambda: "gcam-8" in world.scheduler.workers, within=10)

        assert not world.groups["gcam"].failed


@in_virtual_time
async def test_a_unit_that_is_preempted_before_its_worker_joins_is_replaced() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(boot=60)
        await world.controller.scale_groups({"gcam": 1})
        await world.until(lambda: world.groups["gcam"].starting == 1)
        world.backend.announce_preemption("gcam-1", 120)
        await world.until(lambda: "gcam-2" in world.backend.units, within=5)
        await world.until(lambda: world.groups["gcam"].running == 1, within=70)

        assert [made.unit.id for made in world.backend.alive()] == ["gcam-2"]


@in_virtual_time
async def test_notice_takes_precedence_over_walltime() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(walltime=1000)
        await world.scale({"gcam": 1})
        world.scheduler.submit("gcam", seconds=2000)
        await world.until(lambda: "gcam-1" in world.scheduler.deadlines)
        assert not world.scheduler.preempted
        world.backend.announce_preemption("gcam-1", 60)
        await world.until(lambda: world.scheduler.preempted == {"gcam-1"}, within=5)
        # The time until the preemption is not taken for the walltime.
        assert world.controller.groups["gcam"].members["gcam-1"].lifetime == pytest.approx(
            1000, abs=5
        )
