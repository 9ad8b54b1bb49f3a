"""How the controller replaces lost workers, fails groups that cannot start, and waits for those that can."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from scalable.cluster.pace import Pace
from scalable.cluster.port import GroupSpec, NotesLateStarts, Phase, Reason, Unit, UnitState
from scalable.cluster.retry import RetryPolicy
from scalable.errors import (
    GroupFailedError,
    GroupTimeoutError,
    LaunchError,
    LaunchRefusedError,
    WorkerDiedError,
)
from scalable.testing.simulation import Simulation, TaskState, UnitBehavior, in_virtual_time

HOUR = 3600.0

CALM = Pace(tick=5, poll=10)
"""For scenarios of many hours."""


@in_virtual_time
async def test_a_killed_worker_is_replaced_under_a_new_name() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 2})
        await world.run(60)
        tasks = world.scheduler.submit("gcam", 4, seconds=30)
        world.backend.kill("gcam-1")
        await world.done(tasks)

        assert set(world.scheduler.workers) == {"gcam-2", "gcam-3"}


@in_virtual_time
async def test_the_loss_of_many_is_one_launch_and_one_explanation() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 100})
        await world.run(60)
        for name in list(world.scheduler.workers):
            world.backend.kill(name)
        await world.until(lambda: len(world.backend.units) == 200)
        await world.until(lambda: world.groups["gcam"].running == 100)

        assert world.backend.calls["launch"] == 2
        assert world.backend.calls["describe"] == 1


@in_virtual_time
async def test_units_that_do_not_change_are_observed_rarely() -> None:
    async with Simulation("gcam", pace=Pace(poll=5, steady_poll=20)) as world:
        world.backend.behavior["gcam"] = UnitBehavior(queue=HOUR)
        await world.controller.scale_groups({"gcam": 2})
        await world.run(300)
        before = world.backend.calls["observe"]
        await world.run(200)
        assert world.backend.calls["observe"] - before <= 11

        await world.until(lambda: world.groups["gcam"].running == 2, within=2 * HOUR)
        await world.run(60)
        before = world.backend.calls["observe"]
        await world.run(200)
        assert world.backend.calls["observe"] - before <= 11


@in_virtual_time
async def test_units_that_were_observed_rarely_are_again_often_once_one_changes() -> None:
    async with Simulation("gcam", pace=Pace(poll=5, steady_poll=1000)) as world:
        await world.scale({"gcam": 2})
        await world.run(60)
        world.backend.behavior["gcam"] = UnitBehavior(queue=10)
        world.backend.kill("gcam-1")
        await world.until(lambda: "gcam-3" in world.scheduler.workers, within=60)


@in_virtual_time
async def test_a_unit_that_ends_although_its_connection_stays_is_replaced_after_the_next_observation() -> (
    None
):
    async with Simulation("gcam", pace=Pace(poll=5, steady_poll=20)) as world:
        await world.scale({"gcam": 1})
        await world.run(60)
        world.backend.lose_node("gcam-1")
        await world.until(lambda: "gcam-2" in world.scheduler.workers, within=60)


@in_virtual_time
async def test_a_unit_without_its_worker_is_replaced_and_ended() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 1})
        world.backend.disconnect("gcam-1")
        await world.until(lambda: "gcam-2" in world.scheduler.workers, within=10)
        await world.run(30)

        assert [made.unit.id for made in world.backend.alive()] == ["gcam-2"]


@in_virtual_time
async def test_a_worker_that_comes_back_is_taken_back() -> None:
    async with Simulation("gcam", retry=RetryPolicy(orphan_timeout=30)) as world:
        await world.scale({"gcam": 1})
        await world.run(60)
        world.backend.behavior["gcam"] = UnitBehavior(queue=HOUR)
        world.backend.disconnect("gcam-1")
        await world.run(5)
        assert await world.scheduler.add_worker(world.backend.units["gcam-1"].unit, 1)
        await world.run(60)

        assert world.groups["gcam"].workers == ("gcam-1",)
        assert len(world.backend.alive()) == 1


@in_virtual_time
async def test_a_unit_that_is_absent_from_one_observation_is_not_forgotten() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 1})
        world.backend.units["gcam-1"].named = False
        await world.run(1.6)
        world.backend.units["gcam-1"].named = True
        await world.run(60)

        assert len(world.backend.alive()) == 1
        assert len(world.scheduler.workers) == 1


@in_virtual_time
async def test_workers_that_keep_dying_early_are_replaced_with_back_off_and_finally_not() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(lifetime=3, end_reason=Reason.OUT_OF_MEMORY)
        await world.controller.scale_groups({"gcam": 1})
        await world.run(60)
        in_one_minute = world.backend.calls["launch"]
        await world.run(HOUR)

        assert in_one_minute <= 7
        tried_again = 2  # ten and thirty minutes after it has failed
        assert world.backend.calls["launch"] <= RetryPolicy().max_early_losses + tried_again
        assert world.groups["gcam"].failed
        assert world.groups["gcam"].reason is Reason.OUT_OF_MEMORY


@in_virtual_time
async def test_units_that_outlive_their_workers_again_and_again_fail_their_group_too() -> None:
    async with Simulation("gcam") as world:
        await world.controller.scale_groups({"gcam": 1})
        while not world.groups["gcam"].failed and world.time < HOUR:
            for name in list(world.scheduler.workers):
                world.backend.disconnect(name)
            await world.run(3)

        assert world.groups["gcam"].failed
        assert world.backend.calls["launch"] < 20
        await world.run(60)
        assert world.backend.alive() == []


@in_virtual_time
async def test_workers_that_die_healthy_are_always_replaced_at_once() -> None:
    async with Simulation("gcam", pace=CALM) as world:
        world.backend.behavior["gcam"] = UnitBehavior(lifetime=300, end_reason=Reason.PREEMPTED)
        await world.controller.scale_groups({"gcam": 1})
        await world.run(6 * HOUR)

        assert not world.groups["gcam"].failed
        assert len(world.backend.units) > 6 * HOUR / 310


@in_virtual_time
async def test_a_worker_is_replaced_before_its_time_is_up() -> None:
    async with Simulation(GroupSpec("gcam", handover=120), pace=CALM) as world:
        world.backend.behavior["gcam"] = UnitBehavior(walltime=1000)
        await world.controller.scale_groups({"gcam": 2})
        tasks = world.scheduler.submit("gcam", 300, seconds=20)
        await world.done(tasks)

        assert all(len(task.starts) == 1 for task in tasks)
        assert not any(m.reason is Reason.WALLTIME for m in world.backend.units.values())
        # Each had most of its time.
        assert len(world.backend.units) <= 2 + 2 * world.time / 850


@in_virtual_time
async def test_the_scheduler_knows_in_time_when_a_worker_will_be_ended() -> None:
    async with Simulation(GroupSpec("gcam", handover=120)) as world:
        world.backend.behavior["gcam"] = UnitBehavior(walltime=1000)
        await world.scale({"gcam": 2})
        world.scheduler.submit("gcam", 2, seconds=HOUR)
        await world.controller.scale_groups({"gcam": 1})
        await world.run(900)

        # The one that drains already, too.
        for name in ("gcam-1", "gcam-2"):
            deadline = world.backend.units[name].deadline
            assert world.scheduler.deadlines[name] == pytest.approx(deadline, abs=1)


@in_virtual_time
async def test_failed_starts_fail_a_group_with_reason_and_log() -> None:
    async with Simulation("gcam", "stitches") as world:
        world.backend.behavior["gcam"] = UnitBehavior(
            failing_starts=math.inf, end_reason=Reason.OUT_OF_MEMORY
        )
        await world.controller.scale_groups({"gcam": 10, "stitches": 1})
        task, other = world.scheduler.submit("gcam") + world.scheduler.submit("stitches")
        with pytest.raises(GroupFailedError) as failure:
            await world.controller.wait_for_group("gcam", 10)

        assert failure.value.explanation.reason is Reason.OUT_OF_MEMORY
        assert "last words of gcam-" in failure.value.explanation.log_tail
        assert world.groups["gcam"].failed
        assert task.state is TaskState.ERRED
        assert isinstance(task.error, GroupFailedError)
        await world.done([other])
        await world.run(HOUR)
        # One of the other group, some in half a minute, and then one at times.
        assert world.backend.calls["launch"] <= 1 + 8 + 3
        assert world.scheduler.submit("gcam")[0].state is TaskState.ERRED


@in_virtual_time
async def test_a_group_is_known_to_have_failed_within_a_minute() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(failing_starts=math.inf, boot=1)
        await world.controller.scale_groups({"gcam": 1})
        await world.until(lambda: world.groups["gcam"].failed, within=60)


@pytest.mark.parametrize(
    "error", [LaunchRefusedError("no such account"), LaunchRefusedError("no such image")]
)
@in_virtual_time
async def test_a_refused_launch_fails_a_group_at_once(error: LaunchRefusedError) -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"].errors.append(error)
        await world.controller.scale_groups({"gcam": 1})
        with pytest.raises(GroupFailedError, match=str(error)):
            await world.controller.wait_for_group("gcam")
        assert world.backend.calls["launch"] == 1


@in_virtual_time
async def test_workers_of_another_environment_fail_a_group_at_once() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(
            mismatch="the worker has Python 3.9, the scheduler 3.11"
        )
        await world.controller.scale_groups({"gcam": 3})
        await world.run(30)

        assert world.groups["gcam"].reason is Reason.MISMATCH
        assert "Python 3.9, the scheduler 3.11" in world.groups["gcam"].detail
        assert world.backend.calls["launch"] == 1
        assert world.backend.alive() == []


@in_virtual_time
async def test_a_group_that_failed_is_tried_again_when_it_is_scaled() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(failing_starts=math.inf)
        await world.controller.scale_groups({"gcam": 1})
        await world.until(lambda: world.groups["gcam"].failed)
        assert world.scheduler.submit("gcam")[0].state is TaskState.ERRED

        world.backend.behavior["gcam"].failing_starts = 0
        await world.controller.scale_groups({"gcam": 1})
        tasks = world.scheduler.submit("gcam")
        await world.done(tasks)

        assert not world.groups["gcam"].failed


@in_virtual_time
async def test_only_failures_in_a_row_count() -> None:
    async with Simulation("gcam") as world:
        for n in range(1, 6):
            world.backend.behavior["gcam"].failing_starts = 2
            await world.controller.scale_groups({"gcam": n})
            await world.controller.wait_for_group("gcam", n)

        assert not world.groups["gcam"].failed
        assert world.backend.calls["launch"] == 15


@in_virtual_time
async def test_launches_that_raise_are_repeated_and_fail_a_group_once_that_has_lasted() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"].errors += [OSError(f"broken {n}") for n in range(99)]
        await world.controller.scale_groups({"gcam": 1})
        with pytest.raises(GroupFailedError, match="broken"):
            await world.controller.wait_for_group("gcam")
        assert 30 <= world.time <= 60
        assert 3 <= world.backend.calls["launch"] <= 9


@in_virtual_time
async def test_launches_that_cannot_be_made_now_are_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Simulation("gcam") as world:
        errors = world.backend.behavior["gcam"].errors
        errors += [LaunchError(f"throttled {n}") for n in range(99)]
        await world.controller.scale_groups({"gcam": 1})
        await world.run(HOUR)

        group = world.groups["gcam"]
        assert (group.failed, group.reason) == (False, Reason.BACKOFF)
        assert f"throttled {98 - len(errors)}" in group.detail
        # Asked ever more seldom, and told once: a script by itself has nothing else to show.
        assert world.backend.calls["launch"] < 100
        told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert told == ["gcam: cannot launch yet, will try again: throttled 0"]

        errors.clear()
        await world.controller.wait_for_group("gcam", timeout=120)


@in_virtual_time
async def test_a_group_with_a_healthy_worker_does_not_fail_for_one_that_cannot_start() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 1})
        await world.run(30)
        world.backend.behavior["gcam"] = UnitBehavior(
            failing_starts=math.inf, end_reason=Reason.OUT_OF_MEMORY
        )
        await world.controller.scale_groups({"gcam": 2})
        await world.run(HOUR)

        assert not world.groups["gcam"].failed
        assert "gcam-" in world.groups["gcam"].detail
        assert "out_of_memory" in world.groups["gcam"].detail
        assert world.backend.calls["launch"] < 30
        await world.done(world.scheduler.submit("gcam", 3))


@in_virtual_time
async def test_a_place_that_kills_its_workers_early_is_backed_off_beside_healthy_ones() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 1})
        await world.run(30)
        world.backend.behavior["gcam"] = UnitBehavior(lifetime=1)
        await world.controller.scale_groups({"gcam": 2})
        await world.run(HOUR)

        assert not world.groups["gcam"].failed
        assert world.backend.calls["launch"] < 30


@in_virtual_time
async def test_a_short_disturbance_fails_no_group() -> None:
    async with Simulation("gcam") as world:
        await world.controller.adapt_groups({"gcam": (0, 4)})
        world.backend.behavior["gcam"].failing_starts = math.inf
        tasks = world.scheduler.submit("gcam", 8, seconds=60)
        await world.run(15)
        world.backend.behavior["gcam"].failing_starts = 0
        await world.done(tasks)

        assert not world.groups["gcam"].failed


@in_virtual_time
async def test_a_failed_group_that_should_have_workers_is_tried_again_later() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"].failing_starts = math.inf
        await world.controller.scale_groups({"gcam": 3})
        await world.until(lambda: world.groups["gcam"].failed)
        launched = world.backend.calls["launch"]
        await world.run(300)
        assert world.backend.calls["launch"] == launched

        world.backend.behavior["gcam"].failing_starts = 0
        await world.until(lambda: world.groups["gcam"].running == 1, within=900)
        assert world.backend.calls["launch"] == launched + 1
        await world.until(lambda: world.groups["gcam"].running == 3)
        assert not world.groups["gcam"].failed


@in_virtual_time
async def test_a_wait_in_a_queue_is_never_limited() -> None:
    async with Simulation("gcam", pace=CALM) as world:
        world.backend.behavior["gcam"] = UnitBehavior(
            queue=10 * HOUR, pending_reason=Reason.PRIORITY
        )
        await world.controller.scale_groups({"gcam": 2})
        tasks = world.scheduler.submit("gcam", 2)
        await world.run(9.9 * HOUR)

        assert world.groups["gcam"].reason is Reason.PRIORITY
        assert world.groups["gcam"].pending == 2
        explained = await world.controller.explain()
        assert explained["gcam"].reason is Reason.PRIORITY
        assert explained["gcam"].summary == "0 of 2 workers run; the others: priority"
        await world.done(tasks)
        assert world.backend.calls["launch"] == 1


@in_virtual_time
async def test_the_startup_timeout_counts_from_the_start_of_the_machine() -> None:
    async with Simulation(GroupSpec("gcam", startup_timeout=100), pace=CALM) as world:
        world.backend.behavior["gcam"] = UnitBehavior(queue=HOUR, boot=math.inf)
        await world.controller.scale_groups({"gcam": 1})
        await world.until(lambda: world.groups["gcam"].failed, within=5 * HOUR)

        assert world.groups["gcam"].reason is Reason.STARTUP_TIMEOUT
        assert 3 * (HOUR + 100) <= world.time <= 3 * (HOUR + 130)
        assert world.backend.alive() == []


@in_virtual_time
async def test_a_requeued_unit_may_wait_again() -> None:
    async with Simulation(GroupSpec("gcam", startup_timeout=100)) as world:
        world.backend.behavior["gcam"] = UnitBehavior(boot=50)
        await world.controller.scale_groups({"gcam": 1})
        await world.run(20)
        world.backend.units["gcam-1"].behavior.queue = HOUR
        world.backend.requeue("gcam-1")
        await world.until(lambda: world.groups["gcam"].running == 1, within=2 * HOUR)

        assert list(world.backend.units) == ["gcam-1"]


@in_virtual_time
async def test_a_worker_that_joins_while_it_is_given_up_keeps_its_tasks() -> None:
    async with Simulation(GroupSpec("gcam", startup_timeout=100)) as world:
        world.backend.behavior["gcam"] = UnitBehavior(boot=102)
        world.backend.latencies["describe"] = 5
        await world.controller.scale_groups({"gcam": 1})
        tasks = world.scheduler.submit("gcam", 5, seconds=50)
        await world.done(tasks)

        assert all(len(task.starts) == 1 for task in tasks)


@in_virtual_time
async def test_a_wait_that_times_out_gives_the_reason() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(queue=HOUR, pending_reason=Reason.QUOTA)
        await world.controller.scale_groups({"gcam": 2})
        with pytest.raises(GroupTimeoutError, match="0 of 2 workers after 60 s: quota") as late:
            await world.controller.wait_for_group("gcam", 2, timeout=60)

        assert isinstance(late.value, TimeoutError)
        assert world.time == 60


@in_virtual_time
async def test_a_wait_for_more_than_the_wanted_count_is_an_error() -> None:
    async with Simulation("gcam") as world:
        await world.controller.scale_groups({"gcam": 1})
        with pytest.raises(ValueError, match="is to have 1 workers; scale it"):
            await world.controller.wait_for_group("gcam", 2)


@in_virtual_time
async def test_a_wait_ends_in_an_error_when_the_group_is_scaled_below_it() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(queue=HOUR)
        await world.controller.scale_groups({"gcam": 3})
        wait = asyncio.create_task(world.controller.wait_for_group("gcam", 3))
        await world.run(10)
        await world.controller.scale_groups({"gcam": 1})

        with pytest.raises(ValueError, match="is to have 1 workers"):
            await wait


@in_virtual_time
async def test_a_native_system_that_does_not_answer_does_no_harm() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 2})
        asked = world.backend.calls["observe"]
        world.backend.errors["observe"] += [OSError("slurmctld is away")] * 120
        tasks = world.scheduler.submit("gcam", 20, seconds=10)
        await world.done(tasks)

        assert len(world.backend.units) == 2
        assert any("slurmctld is away" in event.text for event in world.controller.events)
        assert world.groups["gcam"].reason is Reason.NETWORK
        assert "slurmctld is away" in world.groups["gcam"].detail
        # It is asked ever more rarely.
        assert world.backend.calls["observe"] - asked <= 10


@in_virtual_time
async def test_a_slow_observation_does_not_slow_launches() -> None:
    async with Simulation("gcam", "stitches") as world:
        await world.scale({"gcam": 1})
        world.backend.latencies["observe"] = 60
        await world.run(5)
        await world.controller.scale_groups({"stitches": 1})
        await world.controller.wait_for_group("stitches", timeout=5)


@in_virtual_time
async def test_an_explanation_that_fails_is_replaced_by_its_error() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(
            failing_starts=math.inf, end_reason=Reason.OUT_OF_MEMORY
        )
        world.backend.errors["describe"] += [OSError("sacct is away")] * 99
        await world.controller.scale_groups({"gcam": 1})
        with pytest.raises(GroupFailedError, match="sacct is away") as failure:
            await world.controller.wait_for_group("gcam")

        assert failure.value.explanation.reason is Reason.OUT_OF_MEMORY


@in_virtual_time
async def test_slow_explanations_block_no_other_group_for_long() -> None:
    async with Simulation("gcam", "stitches", "xanthos", "demeter") as world:
        for tag in ("gcam", "stitches", "xanthos"):
            world.backend.behavior[tag] = UnitBehavior(
                failing_starts=math.inf, end_reason=Reason.OUT_OF_MEMORY
            )
        world.backend.latencies["describe"] = HOUR
        await world.controller.scale_groups({"gcam": 1, "stitches": 1, "xanthos": 1})
        await world.run(2)
        await world.controller.scale_groups({"demeter": 1})
        await world.controller.wait_for_group("demeter", timeout=15)
        with pytest.raises(
            GroupFailedError,
            match="cannot be explained: the native system has not answered for 10 s",
        ):
            await world.controller.wait_for_group("gcam", timeout=120)


@in_virtual_time
async def test_a_group_may_be_added_while_others_are_explained() -> None:
    async with Simulation("gcam", "stitches") as world:
        for tag in ("gcam", "stitches"):
            world.backend.behavior[tag] = UnitBehavior(queue=math.inf)
        world.backend.latencies["describe"] = 5.0
        await world.controller.scale_groups({"gcam": 1, "stitches": 1})
        await world.run(10)
        asked = world.time
        explaining = asyncio.create_task(world.controller.explain())
        await world.run(1)
        await world.controller.add_group(GroupSpec("xanthos"))

        assert set(await explaining) == {"gcam", "stitches"}
        assert world.time - asked < 10  # all at once


@in_virtual_time
async def test_a_group_may_be_added_in_the_middle_of_a_turn() -> None:
    async with Simulation("gcam", "stitches") as world:
        world.scheduler.latency = 1.0
        await world.scale({"gcam": 2, "stitches": 2})
        world.scheduler.submit("gcam", 2, seconds=100)
        world.scheduler.submit("stitches", 2, seconds=100)
        await world.controller.scale_groups({"gcam": 0, "stitches": 0})
        await world.until(lambda: world.groups["stitches"].draining == 2)
        await world.controller.scale_groups({"gcam": 2, "stitches": 2})
        # A turn takes some seconds now: some of these run while it resumes workers.
        for n in range(50):
            await world.controller.add_group(GroupSpec(f"plots-{n}"))
            await world.run(0.1)

        assert world.groups["stitches"].running == 2
        assert not [event for event in world.controller.events if "failed" in event.text]


@in_virtual_time
async def test_one_worker_without_a_log_hides_no_other_log() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 2})
        world.backend.errors["describe"].append(OSError("gone"))

        assert list((await world.controller.logs()).values()) == ["", "last words of gcam-2"]


@in_virtual_time
async def test_a_turn_that_fails_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Simulation("gcam") as world:
        with monkeypatch.context() as patch:
            patch.setattr(world.scheduler, "workers", None)
            await world.controller.scale_groups({"gcam": 1})
            await world.run(5)
        await world.until(lambda: world.groups["gcam"].running == 1)


@in_virtual_time
async def test_tasks_that_kill_workers_end_in_errors_and_their_group_lives() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 4})
        bad = [
            task
            for _ in range(50)
            for task in (
                *world.scheduler.submit("gcam", 1, kills=True),
                *world.scheduler.submit("gcam", 3),
            )
            if task.kills
        ]
        await world.until(lambda: all(task.ended for task in world.scheduler.tasks))

        assert {type(task.error) for task in bad} == {WorkerDiedError}
        assert {len(task.starts) for task in bad} == {4}
        assert {task.state for task in world.scheduler.tasks if task not in bad} == {TaskState.DONE}
        assert not world.groups["gcam"].failed


@in_virtual_time
async def test_two_hundred_tasks_that_kill_workers_at_once_do_not_launch_more_than_they_kill() -> (
    None
):
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 1})
        world.scheduler.submit("gcam", 200, seconds=0.01, kills=True)
        await world.until(lambda: all(t.ended for t in world.scheduler.tasks), within=3 * HOUR)

        assert world.backend.calls["launch"] <= 1 + 4 * 200
        assert not world.groups["gcam"].failed
        # It backs off, as no worker ever finishes anything.
        assert world.time >= 4 * 199 * RetryPolicy().max_task_delay
        good = world.scheduler.submit("gcam", 1)
        await world.done(good)


@in_virtual_time
async def test_workers_that_die_early_with_tasks_are_described_each_by_itself() -> None:
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 3})
        world.scheduler.submit("gcam", 3, seconds=100)
        await world.run(1)
        for name in list(world.scheduler.workers):
            world.backend.kill(name, Reason.OUT_OF_MEMORY)
        await world.run(5)

        assert world.backend.calls["describe"] == 3
        await world.until(lambda: world.groups["gcam"].running == 3)
        assert not (await world.scheduler.report()).deaths


@pytest.mark.parametrize("reason", [Reason.CANCELLED, Reason.PREEMPTED])
@in_virtual_time
async def test_launches_that_are_taken_away_every_time_become_fewer(reason: Reason) -> None:
    """An administrator cancels all jobs of a user every 10 s, or a zone takes every machine back while it boots."""
    async with Simulation("gcam", pace=CALM) as world:
        world.backend.behavior["gcam"] = UnitBehavior(boot=math.inf)
        await world.controller.scale_groups({"gcam": 4})
        for _ in range(360):
            await world.run(10)
            for made in world.backend.alive():
                world.backend.kill(made.unit.id, reason)

        assert not world.groups["gcam"].failed
        assert world.backend.calls["launch"] <= 80
        world.backend.behavior["gcam"] = UnitBehavior()
        await world.until(lambda: world.groups["gcam"].running == 4, within=100)


@pytest.mark.parametrize("boot", [2, 60])
@in_virtual_time
async def test_idle_workers_that_never_live_long_are_replaced_less_and_less_often(
    boot: float,
) -> None:
    """A machine ends its workers soon after they have joined, beside one that is well."""
    async with Simulation("gcam", pace=CALM) as world:
        await world.scale({"gcam": 1})
        await world.run(600)
        world.backend.behavior["gcam"] = UnitBehavior(boot=boot, lifetime=15)
        await world.controller.scale_groups({"gcam": 2})
        await world.run(2 * HOUR)

        assert not world.groups["gcam"].failed
        assert world.backend.calls["launch"] <= 40
        world.backend.behavior["gcam"] = UnitBehavior()
        await world.until(lambda: world.groups["gcam"].running == 2, within=400)


@in_virtual_time
async def test_workers_that_end_with_their_tasks_are_replaced_at_once() -> None:
    """Such as those of tasks that end their process, each a minute after it has begun."""
    async with Simulation("gcam") as world:
        await world.scale({"gcam": 1})
        for _ in range(20):
            world.scheduler.submit("gcam", 1, seconds=10 * HOUR)
            await world.run(60)
            (name,) = world.scheduler.workers
            world.backend.kill(name, Reason.EXITED)
            began = world.time
            await world.until(lambda: world.groups["gcam"].running == 1)

            assert world.time - began < 10


@pytest.mark.parametrize("seconds_left", [30.0, 0.0])
@in_virtual_time
async def test_units_that_are_announced_to_end_before_their_workers_join_become_fewer(
    seconds_left: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A zone announces the end of each machine of spare capacity as soon as it has started."""
    async with Simulation("gcam", pace=CALM) as world:
        observe = world.backend.observe

        async def announce() -> dict[str, UnitState]:
            seen = await observe()
            return {
                name: replace(state, reason=Reason.PREEMPTED, seconds_left=seconds_left)
                if state.phase is Phase.RUNNING
                else state
                for name, state in seen.items()
            }

        monkeypatch.setattr(world.backend, "observe", announce)
        world.backend.behavior["gcam"] = UnitBehavior(boot=60, accept=0.2)
        await world.controller.scale_groups({"gcam": 4})
        await world.run(HOUR)

        assert not world.groups["gcam"].failed
        assert world.backend.calls["launch"] <= 80
        monkeypatch.undo()
        await world.until(lambda: world.groups["gcam"].running == 4, within=200)


@in_virtual_time
async def test_a_backend_is_told_of_workers_that_never_join_while_others_are_connected() -> None:
    async with Simulation(GroupSpec("gcam", startup_timeout=100)) as world:
        told: list[tuple[list[str], list[str]]] = []

        def note(late: Sequence[Unit], connected: Sequence[Unit]) -> None:
            told.append(([unit.id for unit in late], [unit.id for unit in connected]))

        setattr(world.backend, "note_late_starts", note)  # noqa: B010 - an ability that it has not
        assert isinstance(world.backend, NotesLateStarts)
        await world.scale({"gcam": 1})
        world.backend.behavior["gcam"] = UnitBehavior(boot=math.inf)
        await world.controller.scale_groups({"gcam": 3})
        await world.run(90)
        assert told == []
        await world.run(20)
        assert told == [(["gcam-2", "gcam-3"], ["gcam-1"])]
