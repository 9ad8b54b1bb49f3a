"""How adaptive groups follow the time that a start takes: the arithmetic, and what comes of it in virtual time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalable.cluster.adaptive import AdaptivePolicy, Peaks, workers_to_keep, workers_worth_a_start
from scalable.cluster.link import Demand
from scalable.cluster.member import Member
from scalable.cluster.pace import Pace
from scalable.cluster.port import GroupSpec, Phase, Reason, Unit, UnitState
from scalable.cluster.starts import StartTime, StartTimes
from scalable.testing.simulation import Simulation, TaskState, UnitBehavior, in_virtual_time

HOUR = 3600.0

starts = st.builds(
    StartTime, queue=st.floats(0, 4000), boot=st.none() | st.floats(0, 2000, allow_subnormal=False)
)
policies = st.builds(
    AdaptivePolicy,
    target_duration=st.none() | st.floats(1, 1000),
    scale_in_delay=st.none() | st.floats(0, 1000),
)


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    known, unknown = draw(st.integers(0, 2000)), draw(st.integers(0, 2000))
    return Demand(
        slots=known + unknown,
        seconds=known * draw(st.floats(0, 1e5)),
        unknown=unknown,
        proven=unknown * draw(st.floats(0, 1e5)),
    )


# -- How many workers work is worth


@given(demands(), demands(), st.integers(1, 16), policies, starts, st.data())
def test_more_work_is_never_worth_fewer_workers(
    one: Demand,
    more: Demand,
    slots: int,
    policy: AdaptivePolicy,
    start: StartTime,
    data: st.DataObject,
) -> None:
    have = data.draw(st.integers(0, 500))
    joined = data.draw(st.integers(0, have))
    both = Demand(
        one.slots + more.slots,
        one.seconds + more.seconds,
        one.unknown + more.unknown,
        proven=one.proven + more.proven,
    )
    before, after = (
        workers_worth_a_start(work, slots, policy, start, have=have, joined=joined)
        for work in (one, both)
    )
    assert after >= before


@given(demands(), st.integers(1, 16), policies, starts, st.data())
def test_any_work_is_worth_one_worker_and_no_more_than_its_tasks_can_use(
    work: Demand, slots: int, policy: AdaptivePolicy, start: StartTime, data: st.DataObject
) -> None:
    have = data.draw(st.integers(0, 500))
    joined = data.draw(st.integers(0, have))
    workers = workers_worth_a_start(work, slots, policy, start, have=have, joined=joined)
    assert min(1, work.slots) <= workers <= math.ceil(work.slots / slots)


@given(demands(), st.integers(1, 16), policies, starts, st.data())
def test_the_same_work_is_worth_the_same_workers_once_they_are_there(
    work: Demand, slots: int, policy: AdaptivePolicy, start: StartTime, data: st.DataObject
) -> None:
    count = workers_worth_a_start(work, slots, policy, start, have=0, joined=0)
    joined = data.draw(st.integers(0, count))
    assert workers_worth_a_start(work, slots, policy, start, have=count, joined=joined) == count


@given(st.integers(1, 500), st.floats(10, 2000), st.floats(1, 4))
def test_tasks_that_have_run_for_as_long_as_a_start_are_worth_one_each(
    tasks: int, boot: float, times: float
) -> None:
    work = Demand(tasks, unknown=tasks, proven=tasks * boot * times)
    start = StartTime(boot=boot)
    assert workers_worth_a_start(work, 1, AdaptivePolicy(), start, have=1, joined=1) == tasks


@given(st.integers(1, 500), st.floats(10, 2000), st.floats(0, 1e4))
def test_booting_takes_no_more_than_known_work(tasks: int, boot: float, seconds: float) -> None:
    work = Demand(tasks, seconds=tasks * seconds)
    start = StartTime(boot=boot)
    workers = workers_worth_a_start(work, 1, AdaptivePolicy(), start, have=0, joined=0)
    assert (workers - 1) * boot <= work.seconds + 1e-6


# -- How long workers are kept


@given(st.integers(1, 300), st.floats(0, 2000), st.data())
def test_idle_workers_cost_a_start_and_a_little_more(
    n: int, boot: float, data: st.DataObject
) -> None:
    start, policy, peaks = StartTime(boot=boot), AdaptivePolicy(), Peaks()
    peaks.record(n, now=0.0)
    have, idle, step = n, 0.0, max(1.0, boot / 100)
    for turn in range(10_000):
        now = turn * step
        peaks.record(0, now)
        keep = workers_to_keep(0, have, peaks, peaks, policy, start, waiting=False, now=now)
        assert 0 <= keep <= have
        have, idle = keep, idle + keep * step
        if not have:
            break
    assert have == 0
    # The harmonic series, for one start; and the shortest delay for each.
    assert idle <= boot * (1 + math.log(n)) + n * (5.0 + step) + step


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=60),
    st.floats(6, 2000),
    st.sampled_from([1.0, 7.0, 30.0]),
)
def test_no_worker_goes_sooner_than_in_proportion_to_its_start(
    counts: list[int], boot: float, step: float
) -> None:
    start, policy, peaks = StartTime(boot=boot), AdaptivePolicy(), Peaks()
    have = 0
    for turn, share in enumerate(counts):
        now = turn * step
        peaks.record(share, now)
        if share >= have:
            have = share
            continue
        keep = workers_to_keep(share, have, peaks, peaks, policy, start, waiting=False, now=now)
        assert share <= keep <= have
        if keep < have:
            since = [turn - i for i in range(turn + 1) if counts[i] > keep]
            assert min(since) * step >= boot / (keep + 1 - share)
        have = keep


# -- How long starts take


def starting(launched: float, phase: Phase | None, running_since: float | None = None) -> Member:
    unit = Unit("gcam-1", "gcam", "request")
    state = UnitState(unit, phase) if phase else None
    return Member(unit, launched, state=state, running_since=running_since)


def test_the_first_guess_holds_until_a_start_was_measured() -> None:
    times = StartTimes(GroupSpec("gcam", expected_queue=60.0, expected_boot=10.0))
    assert times.estimate([], 0.0) == StartTime(60.0, 10.0)
    times.record_joined(starting(0.0, Phase.RUNNING, running_since=300.0), 340.0)
    assert times.estimate([], 340.0) == StartTime(300.0, 40.0)


def test_the_most_recent_starts_count_and_no_single_one_of_them() -> None:
    times = StartTimes(GroupSpec("gcam"))
    for _ in range(20):
        times.record_joined(starting(0.0, Phase.RUNNING, running_since=600.0), 630.0)
    for _ in range(9):
        times.record_joined(starting(0.0, Phase.RUNNING, running_since=1.0), 3.0)
    assert times.estimate([], 0.0) == StartTime(600.0, 30.0)
    for _ in range(9):
        times.record_joined(starting(0.0, Phase.RUNNING, running_since=1.0), 3.0)
    assert times.estimate([], 0.0) == StartTime(1.0, 2.0)


def test_a_worker_that_joins_before_its_machine_was_seen_has_waited_or_booted() -> None:
    queued, unseen = StartTimes(GroupSpec("gcam")), StartTimes(GroupSpec("gcam"))
    queued.record_joined(starting(0.0, Phase.PENDING), 50.0)
    unseen.record_joined(starting(0.0, None), 2.0)
    assert queued.estimate([], 0.0) == StartTime(50.0, 0.0)
    assert unseen.estimate([], 0.0) == StartTime(0.0, 2.0)


def test_starts_under_way_show_that_one_takes_longer() -> None:
    times = StartTimes(GroupSpec("gcam", expected_boot=30.0))
    pending = starting(0.0, Phase.PENDING)
    assert times.estimate([pending], 9.0) == StartTime(0.0, 30.0)
    assert times.estimate([pending], 100.0) == StartTime(100.0, 30.0)
    booting = starting(0.0, Phase.RUNNING, running_since=10.0)
    assert times.estimate([booting], 100.0) == StartTime(0.0, 90.0)


# -- In virtual time, through the controller


async def run_steps(
    world: Simulation, steps: int, tasks: int, seconds: float, rest: float = 0.0
) -> float:
    """Run steps of some tasks of one duration, with a rest after each; return the seconds that all took."""
    began = world.time
    for _ in range(steps):
        step = world.scheduler.submit("gcam", tasks, seconds=seconds)
        await world.done(step, within=24 * HOUR)
        world.scheduler.release(step)
        await world.run(rest)
    return world.time - began


@pytest.mark.parametrize("boot", [2.0, 30.0])
@in_virtual_time
async def test_workers_that_have_queued_serve_the_next_step(boot: float) -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(queue=600, boot=boot)
        await world.controller.adapt_groups({"gcam": (0, 4)})

        assert await run_steps(world, 5, 8, 60, rest=20) <= 1400
        assert len(world.backend.units) <= 6
        await world.until(lambda: not world.backend.alive())


@in_virtual_time
async def test_short_tasks_get_few_machines_that_boot_for_long() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(boot=120)
        await world.controller.adapt_groups({"gcam": (0, 100)})

        assert await run_steps(world, 1, 60, 10) <= 300
        await world.until(lambda: not world.backend.alive())
        # All that is paid for, also while idle at the end.
        assert world.backend.unit_seconds() <= 1500


@in_virtual_time
async def test_the_first_workers_time_the_tasks_before_others_boot_for_them() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(boot=120)
        await world.controller.adapt_groups({"gcam": (0, 50)})

        await run_steps(world, 1, 1000, 1)
        assert len(world.backend.units) <= 6


@pytest.mark.parametrize(("queue", "boot"), [(600.0, 2.0), (0.0, 120.0), (600.0, 120.0)])
@pytest.mark.parametrize("guess", [None, 120.0])
@in_virtual_time
async def test_long_tasks_end_nearly_as_soon_as_is_possible(
    queue: float, boot: float, guess: float | None
) -> None:
    spec = GroupSpec("gcam", expected_boot=guess)
    async with Simulation(spec, pace=Pace(tick=5.0, poll=5.0)) as world:
        world.backend.behavior["gcam"] = UnitBehavior(queue=queue, boot=boot)
        await world.controller.adapt_groups({"gcam": (0, 400)})

        assert await run_steps(world, 1, 400, HOUR) <= 1.1 * (queue + boot + HOUR)
        assert world.backend.calls["launch"] <= 20


@in_virtual_time
async def test_a_worker_that_took_long_to_boot_waits_for_the_next_task() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(boot=120)
        await world.controller.adapt_groups({"gcam": (0, 10)})
        for _ in range(60):
            world.scheduler.release(world.scheduler.submit("gcam", seconds=5))
            await world.run(60)

        assert world.backend.calls["launch"] <= 3
        assert all(task.state is TaskState.DONE for task in world.scheduler.tasks)


@in_virtual_time
async def test_where_a_start_is_cheap_each_task_gets_a_worker_at_once() -> None:
    async with Simulation(GroupSpec("gcam", expected_boot=2.0)) as world:
        await world.controller.adapt_groups({"gcam": (0, 100)})

        assert await run_steps(world, 1, 60, 10) < 13
        assert world.backend.calls["launch"] == 1
        await world.until(lambda: not world.backend.alive())
        # A start, the task and the shortest delay.
        assert world.backend.unit_seconds() <= 60 * (2 + 10 + 6)


@in_virtual_time
async def test_one_task_that_takes_long_does_not_prove_that_others_do() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(boot=120)
        await world.controller.adapt_groups({"gcam": (0, 100)})
        await world.done(world.scheduler.submit("gcam", 8, seconds=10))
        world.scheduler.submit("gcam", 1, seconds=HOUR)
        await world.done(world.scheduler.submit("gcam", 50, seconds=10))

        assert len(world.backend.units) <= 6


@in_virtual_time
async def test_jobs_that_are_not_needed_are_withdrawn_while_they_wait() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(queue=600)
        await world.controller.adapt_groups({"gcam": (0, 50)})
        first = world.scheduler.submit("gcam", 1, seconds=1)
        await world.done(first)
        world.backend.behavior["gcam"] = UnitBehavior(queue=5000)
        tasks = world.scheduler.submit("gcam", 20, seconds=60)
        await world.until(lambda: world.groups["gcam"].pending == 19)
        # The one worker does them, before another one could start.
        await world.done(tasks)
        world.scheduler.release(first + tasks)
        await world.until(lambda: not world.backend.alive(), within=900)
        status = world.groups["gcam"]
        assert not status.failed
        assert world.controller.groups["gcam"].failures.last_problem is None
        # Withdrawn jobs are not asked for again.
        assert len(world.backend.units) <= 21
        assert sum(made.started_at is not None for made in world.backend.units.values()) <= 2


@in_virtual_time
async def test_a_group_that_starts_no_more_workers_says_for_what_it_waits() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(boot=120)
        await world.controller.adapt_groups({"gcam": (0, 100)})
        world.scheduler.submit("gcam", 60, seconds=10)
        await world.run(125)

        status = world.groups["gcam"]
        assert (status.running, status.reason) == (4, Reason.DEMAND)
        assert status.detail == "more workers wait until the work is worth a start of 120 s"
        why = (await world.controller.explain())["gcam"]
        assert why.summary == status.detail
        assert "target_duration" in why.remedy


@in_virtual_time
async def test_a_group_with_enough_workers_waits_for_nothing() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(boot=120)
        await world.controller.adapt_groups({"gcam": (0, 100)})
        await world.done(world.scheduler.submit("gcam", 4, seconds=10))
        world.scheduler.submit("gcam", 4, seconds=10)
        await world.run(5)

        assert world.groups["gcam"].reason is None
        assert await world.controller.explain() == {}


@in_virtual_time
async def test_a_policy_of_its_own_takes_precedence_and_stays_with_the_group() -> None:
    eager = AdaptivePolicy(target_duration=10, scale_in_delay=30)
    async with Simulation("gcam", "stitches") as world:
        for tag in world.groups:
            world.backend.behavior[tag] = UnitBehavior(boot=120)
        await world.controller.adapt_groups(dict.fromkeys(world.groups, (0, 100)), {"gcam": eager})
        await world.controller.adapt_groups({"gcam": (0, 60)})
        tasks = [
            task for tag in world.groups for task in world.scheduler.submit(tag, 60, seconds=10)
        ]
        await world.run(60)
        assert {tag: status.starting for tag, status in world.groups.items()} == {
            "gcam": 60,
            "stitches": 4,
        }
        await world.done(tasks[:60])
        world.scheduler.release(tasks)
        began = world.time
        await world.until(lambda: not world.backend.alive("gcam"))
        assert 29 <= world.time - began <= 33

        await world.controller.adapt_groups({"gcam": (0, 60)}, {})
        world.scheduler.submit("gcam", 60, seconds=10)
        await world.run(60)
        assert world.groups["gcam"].starting < 60


@in_virtual_time
async def test_groups_share_a_cap_although_their_workers_are_dear() -> None:
    async with Simulation("gcam", "stitches", max_workers=8) as world:
        for tag in world.groups:
            world.backend.behavior[tag] = UnitBehavior(boot=120)
        await world.scale({"gcam": 8})
        await world.controller.adapt_groups(dict.fromkeys(world.groups, (0, 8)))
        few = world.scheduler.submit("stitches", 2, seconds=10)
        await world.run(10)
        # The group makes room for what the other needs, and no more.
        assert world.groups["gcam"].running == 6
        assert world.groups["stitches"].starting == 2
        await world.done(few)


@in_virtual_time
async def test_jobs_keep_their_place_in_the_queue_for_work_that_comes_again() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(queue=600)
        await world.controller.adapt_groups({"gcam": (0, 4)})
        first = world.scheduler.submit("gcam", 4, seconds=60)
        await world.run(300)
        world.scheduler.withdraw(first)
        await world.run(30)
        assert world.groups["gcam"].pending == 4
        await world.done(world.scheduler.submit("gcam", 4, seconds=60))

        assert len(world.backend.units) == 4
        assert world.time < 700


@in_virtual_time
async def test_jobs_that_nobody_needs_any_more_are_withdrawn() -> None:
    async with Simulation("gcam") as world:
        world.backend.behavior["gcam"] = UnitBehavior(queue=HOUR)
        await world.controller.adapt_groups({"gcam": (0, 4)})
        tasks = world.scheduler.submit("gcam", 4)
        await world.run(60)
        world.scheduler.withdraw(tasks)
        await world.until(lambda: not world.backend.alive(), within=70)

        assert world.backend.unit_seconds() == 0
        assert not world.groups["gcam"].failed
