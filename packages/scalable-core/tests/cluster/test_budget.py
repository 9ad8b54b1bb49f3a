"""Limits on what a run uses: measured by its units, warned of, acted on, and not to be gone round."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalable.cluster.budget import Budget, Meter, OnExceed
from scalable.cluster.pace import Pace
from scalable.cluster.port import Phase
from scalable.cluster.retry import RetryPolicy
from scalable.errors import GroupFailedError, LimitExceededError
from scalable.testing.simulation import (
    Simulation,
    TaskState,
    UnitBehavior,
    in_virtual_time,
    run_in_virtual_time,
)

HOUR = 3600.0


def texts(world: Simulation) -> list[str]:
    return [event.text for event in world.controller.events]


# -- The meter

seconds = st.floats(0, 1e6, allow_nan=False)


@given(
    st.lists(st.tuples(seconds, seconds), min_size=1, max_size=20),
    st.floats(0.01, 500),
    st.floats(0.01, 5000),
)
def test_each_limit_is_warned_of_and_reached_once(
    steps: list[tuple[float, float]], hours: float, cost: float
) -> None:
    budget = Budget(
        max_worker_hours=hours, max_cost=cost, prices={"a": 2.0, "b": 0.0}, fixed_price=1.0
    )
    meter, now, used, notices = Meter(budget, 0.0), 0.0, {"a": 0.0, "b": 0.0}, []
    for a, b in steps:
        now, used = now + max(a, b), {"a": used["a"] + a, "b": used["b"] + b}
        notices += meter.update(used, now)
    shares = (
        sum(used.values()) / HOUR / hours,
        (2 * used["a"] + now) / HOUR / cost,
    )
    assert meter.cost == pytest.approx((2 * used["a"] + now) / HOUR)
    assert sum("is reached" in text for text in notices) == bool(meter.exceeded) <= 1
    if max(shares) > 1 + 1e-9:
        assert meter.exceeded
    if max(shares) < 1 - 1e-9:
        assert not meter.exceeded
        warned = [share for share in shares if share >= 0.8 * (1 + 1e-9)]
        assert len(notices) >= len(warned)
    assert len(notices) == len(set(notices))


def test_what_has_no_known_price_has_no_known_cost() -> None:
    meter = Meter(Budget(prices={"a": 1.0}, fixed_price=0.0), 0.0)

    meter.update({"a": HOUR, "b": 0.0}, HOUR)
    assert meter.cost == 1
    meter.update({"a": HOUR, "b": 1.0}, HOUR)
    assert meter.cost is None
    assert Meter(Budget(prices={"a": 1.0}), 0.0).cost is None


def test_an_unknown_cost_is_never_within_a_limit() -> None:
    meter = Meter(Budget(max_cost=1e9), 0.0)

    (notice,) = meter.update({"a": 1.0}, 1.0)
    assert "limits.max_cost is reached" in notice


# -- Measured by units

behaviors = st.builds(
    UnitBehavior,
    accept=st.sampled_from([0.0, 0.4, 3.0]),
    answer=st.sampled_from([0.0, 0.4, 3.0]),
    naming=st.sampled_from([0.0, 0.7, 5.0]),
    queue=st.sampled_from([0.0, 0.0, 2.0, 300.0]),
    boot=st.sampled_from([0.0, 2.0, 59.0, 70.0]),
    failing_starts=st.sampled_from([0, 0, 1]),
    lifetime=st.sampled_from([math.inf, 3.0, 45.0]),
    walltime=st.sampled_from([math.inf, 150.0]),
    stop_delay=st.sampled_from([0.0, 2.0]),
)
acts = st.one_of(
    st.tuples(st.just("scale"), st.integers(0, 4)),
    st.tuples(st.sampled_from(["kill", "requeue", "blind"]), st.integers(0, 9)),
)
lives = st.lists(
    st.tuples(behaviors, acts, st.sampled_from([0.0, 0.3, 5.0, 100.0])), min_size=1, max_size=12
)


async def measure(life: Iterable[tuple[UnitBehavior, tuple[str, int], float]]) -> None:
    retry = RetryPolicy(max_delay=5.0, healthy_after=2.0, orphan_timeout=3.0)
    async with Simulation("a", pace=Pace(tick=0.5, poll=1.0), retry=retry) as world:
        running: dict[str, float] = {}

        async def watch() -> None:
            """Add up the truth in small steps: `unit_seconds` counts the queue of one that was requeued."""
            while True:
                for name, made in world.backend.units.items():
                    if made.phase is Phase.RUNNING:
                        running[name] = running.get(name, 0.0) + 0.01
                await asyncio.sleep(0.01)

        watching = asyncio.ensure_future(watch())
        for behavior, (act, number), pause in life:
            world.backend.behavior["a"] = behavior
            alive = world.backend.alive()
            if act == "scale":
                await world.controller.scale_groups({"a": number})
            elif act == "blind":
                world.backend.errors["observe"] += [OSError("no answer")] * number
            elif alive:
                getattr(world.backend, act)(alive[number % len(alive)].unit.id)
            await world.run(pause)
        world.backend.errors.clear()
        await world.controller.scale_groups({"a": 0})
        await world.until(lambda: not world.backend.alive())
        await world.run(120)
        watching.cancel()
        group = world.controller.groups["a"]
        assert not group.members
        used, true = group.worker_seconds(world.time), sum(running.values())
        # Each start and each end is seen by the next observation, and observations may have failed for a while.
        ends = len(world.backend.units)
        assert used >= true - 0.02 * ends, (used, true)
        assert used <= true + ends * 100, (used, true)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(lives)
def test_no_time_on_a_machine_is_missed(
    life: list[tuple[UnitBehavior, tuple[str, int], float]],
) -> None:
    run_in_virtual_time(measure(life))


@in_virtual_time
async def test_time_in_a_queue_does_not_count() -> None:
    async with Simulation("a") as world:
        world.backend.behavior["a"].queue = 2 * HOUR
        await world.controller.scale_groups({"a": 3})
        await world.run(HOUR)
        assert world.controller.groups["a"].worker_seconds(world.time) == 0
        await world.run(2 * HOUR)
        used = world.controller.groups["a"].worker_seconds(world.time)
        assert used == pytest.approx(3 * HOUR, rel=0.01)


@in_virtual_time
async def test_a_unit_of_which_nothing_is_known_counts_as_running() -> None:
    async with Simulation("a") as world:
        world.backend.behavior["a"].queue = 2 * HOUR
        await world.controller.scale_groups({"a": 2})
        await world.run(60)
        world.backend.errors["observe"] += [OSError("no answer")] * 10_000
        await world.run(600)
        used = world.controller.groups["a"].worker_seconds(world.time)
        assert used == pytest.approx(2 * 600, rel=0.1)
        world.backend.errors.clear()
        await world.run(60)
        assert world.controller.groups["a"].worker_seconds(world.time) == 0


# -- Acted on


@in_virtual_time
async def test_a_limit_is_warned_of_before_it_is_reached() -> None:
    async with Simulation("a", budget=Budget(max_worker_hours=1.0)) as world:
        await world.scale({"a": 2})
        await world.run(0.45 * HOUR)
        (warning,) = [text for text in texts(world) if "limits." in text]
        assert warning.startswith("80 % of limits.max_worker_hours are used: 0.8 of 1")


@in_virtual_time
async def test_stop_scaling_lets_workers_go_on_and_starts_no_more() -> None:
    async with Simulation("a", "b", budget=Budget(max_worker_hours=1.0)) as world:
        await world.scale({"a": 2})
        long = world.scheduler.submit("a", 2, seconds=2 * HOUR)
        await world.run(0.6 * HOUR)
        assert world.controller.meter.exceeded == "limits.max_worker_hours is reached: 1 of 1"
        with pytest.raises(LimitExceededError, match="max_worker_hours is reached"):
            await world.controller.scale_groups({"a": 3})
        with pytest.raises(LimitExceededError):
            await world.controller.adapt_groups({"b": (0, 1)})
        with pytest.raises(LimitExceededError):
            await world.controller.wait_for_group("a", 3)
        await world.done(long, within=3 * HOUR)
        await world.controller.scale_groups({"a": 1})
        world.scheduler.release(long)
        await world.until(lambda: world.groups["a"].running == 1)
        assert len(world.backend.units) == 2


@in_virtual_time
async def test_stop_scaling_replaces_no_worker_and_fails_what_waits_for_the_last() -> None:
    async with Simulation("a", budget=Budget(max_worker_hours=0.1)) as world:
        await world.scale({"a": 1})
        await world.run(0.2 * HOUR)
        world.backend.kill("a-1")
        (task,) = world.scheduler.submit("a")
        await world.until(lambda: task.state is TaskState.ERRED)
        assert isinstance(task.error, GroupFailedError)
        assert "limits.max_worker_hours is reached" in str(task.error)
        assert len(world.backend.units) == 1


@in_virtual_time
async def test_drain_lets_running_tasks_finish_and_fails_the_others() -> None:
    budget = Budget(max_worker_hours=0.5, on_exceed=OnExceed.DRAIN)
    async with Simulation("a", budget=budget) as world:
        await world.scale({"a": 1})
        tasks = world.scheduler.submit("a", 3, seconds=HOUR)
        await world.until(lambda: any(task.state is TaskState.DONE for task in tasks))
        assert world.time == pytest.approx(HOUR, rel=0.1)
        assert [task.state for task in tasks].count(TaskState.ERRED) == 2
        world.scheduler.release(tasks)
        await world.until(lambda: not world.backend.alive(), within=60)


@in_virtual_time
async def test_abort_removes_workers_at_once() -> None:
    budget = Budget(max_worker_hours=0.5, on_exceed=OnExceed.ABORT)
    async with Simulation("a", budget=budget) as world:
        await world.scale({"a": 1})
        tasks = world.scheduler.submit("a", 3, seconds=HOUR)
        await world.until(lambda: not world.backend.alive(), within=0.52 * HOUR)
        await world.until(lambda: all(task.state is TaskState.ERRED for task in tasks))
        await world.run(HOUR)
        assert len(world.backend.units) == 1


@pytest.mark.parametrize("action", [OnExceed.DRAIN, OnExceed.ABORT])
@in_virtual_time
async def test_units_that_were_being_launched_do_not_stay(action: OnExceed) -> None:
    budget = Budget(max_worker_hours=0.1, on_exceed=action)
    async with Simulation("a", "b", budget=budget) as world:
        await world.scale({"a": 1})
        world.backend.behavior["b"].naming = 200.0
        await world.run(350)
        await world.controller.scale_groups({"b": 2})
        await world.until(lambda: bool(world.controller.meter.exceeded))
        await world.run(1200)
        assert not world.backend.alive()


# -- Not to be gone round


@in_virtual_time
async def test_counts_above_a_limit_are_refused() -> None:
    budget = Budget(
        max_workers=4, max_hourly_cost=5.0, prices={"a": 1.0, "b": 2.0}, fixed_price=0.5
    )
    async with Simulation("a", "b", budget=budget) as world:
        controller = world.controller
        with pytest.raises(LimitExceededError, match=r"5 workers are more than limits.max_workers"):
            await controller.scale_groups({"a": 5})
        with pytest.raises(LimitExceededError, match=r"6.50 an hour"):
            await controller.scale_groups({"b": 3})
        with pytest.raises(LimitExceededError, match=r"6.50 an hour"):
            await controller.adapt_groups({"b": (0, 3)})
        await controller.set_max_workers(100)
        assert controller.max_workers == 4
        with pytest.raises(ValueError, match="limits already"):
            await controller.set_budget(Budget())
        await world.scale({"a": 2, "b": 1})
        with pytest.raises(LimitExceededError):
            await controller.scale_groups({"b": 2})


@in_virtual_time
async def test_the_cost_of_an_hour_holds_also_while_workers_leave() -> None:
    budget = Budget(max_hourly_cost=2.0, prices={"a": 1.0, "b": 2.0}, fixed_price=0.0)
    async with Simulation("a", "b", budget=budget) as world:
        world.backend.behavior["a"].stop_delay = 300.0
        await world.scale({"a": 2})
        await world.controller.scale_groups({"a": 0})
        await world.controller.scale_groups({"b": 1})
        await world.run(200)
        assert not world.backend.alive("b")
        await world.until(lambda: world.groups["b"].running == 1)


@pytest.mark.parametrize("action", OnExceed)
@in_virtual_time
async def test_a_launch_of_unknown_outcome_is_not_repeated_once_a_limit_is_reached(
    action: OnExceed,
) -> None:
    budget = Budget(max_worker_hours=0.5, on_exceed=action)
    async with Simulation("gcam", budget=budget) as world:
        behavior = world.backend.behavior["gcam"]
        behavior.errors.extend(OSError("no answer") for _ in range(1000))
        await world.controller.scale_groups({"gcam": 10})
        await world.until(lambda: bool(world.controller.meter.exceeded))
        behavior.errors.clear()
        await world.run(1200)

        assert world.backend.units == {}
        assert world.controller.groups["gcam"].unnamed == 0
        assert world.groups["gcam"].failed
