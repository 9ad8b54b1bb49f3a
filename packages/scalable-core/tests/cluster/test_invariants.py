"""Invariants of a cluster under random events, in virtual time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from scalable.cluster.pace import Pace
from scalable.cluster.port import GroupSpec, Phase, Reason
from scalable.cluster.retry import RetryPolicy
from scalable.errors import LaunchError, LaunchRefusedError
from scalable.testing.simulation import Simulation, TaskState, UnitBehavior, run_in_virtual_time

GROUPS = (
    GroupSpec("gcam", slots=1, startup_timeout=60),
    GroupSpec("gcam-land", slots=3, startup_timeout=60),
    GroupSpec("stitches", slots=2, startup_timeout=60),
)
CAP = 6
TAGS = [group.tag for group in GROUPS]

Act = Callable[[Simulation], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Step:
    """An event, and a pause after it."""

    name: str
    act: Act = field(repr=False)
    pause: float


tags = st.sampled_from(TAGS)
moments = st.sampled_from([0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 40.0])
short = st.sampled_from([0.0, 0.2, 0.7, 3.0])


def step(name: str, act: Act) -> st.SearchStrategy[Step]:
    return st.builds(Step, st.just(name), st.just(act), moments)


@st.composite
def scalings(draw: st.DrawFn) -> Step:
    # Two counts at the most are above zero, so that they fit under the cap.
    counts = draw(st.dictionaries(tags, st.integers(0, CAP // 3), min_size=1))

    async def scale(world: Simulation) -> None:
        await world.controller.scale_groups(counts)

    return draw(step(f"scale {counts}", scale))


@st.composite
def adaptings(draw: st.DrawFn) -> Step:
    tag, low = draw(tags), draw(st.integers(0, CAP // 3))
    high = draw(st.integers(low, CAP + 2))

    async def adapt(world: Simulation) -> None:
        await world.controller.adapt_groups({tag: (low, high)})

    return draw(step(f"adapt {tag} {low} to {high}", adapt))


@st.composite
def submissions(draw: st.DrawFn) -> Step:
    tag, n = draw(tags), draw(st.integers(1, 8))
    seconds = draw(st.sampled_from([0.0, 0.5, 4.0, 25.0]))

    async def submit(world: Simulation) -> None:
        after = world.scheduler.tasks[-1:] if n % 3 == 0 else []
        if all(task.state is not TaskState.ERRED for task in after):
            world.scheduler.submit(tag, n, seconds=seconds, after=after)

    return draw(step(f"submit {n} of {seconds} s to {tag}", submit))


@st.composite
def accidents(draw: st.DrawFn) -> Step:
    kind = draw(st.sampled_from(["kill", "disconnect", "requeue"]))
    which = draw(st.integers(0, 20))

    async def happen(world: Simulation) -> None:
        alive = world.backend.alive()
        if alive:
            name = alive[which % len(alive)].unit.id
            getattr(world.backend, kind)(name)

    return draw(step(f"{kind} number {which}", happen))


@st.composite
def impairments(draw: st.DrawFn) -> Step:
    kind = draw(st.sampled_from(["pause", "unpause", "freeze", "thaw"]))
    which = draw(st.integers(0, 20))

    async def impair(world: Simulation) -> None:
        names = list(world.scheduler.workers)
        if names:
            getattr(world.scheduler, kind)(names[which % len(names)])

    return draw(step(f"{kind} number {which}", impair))


@st.composite
def notices(draw: st.DrawFn) -> Step:
    which, seconds = draw(st.integers(0, 20)), draw(st.sampled_from([1.0, 30.0, 120.0]))

    async def announce(world: Simulation) -> None:
        running = [made for made in world.backend.alive() if made.phase is Phase.RUNNING]
        if running:
            world.backend.announce_preemption(running[which % len(running)].unit.id, seconds)

    return draw(step(f"preempt number {which} in {seconds} s", announce))


@st.composite
def behaviors(draw: st.DrawFn) -> Step:
    tag = draw(tags)
    behavior = UnitBehavior(
        accept=draw(short),
        answer=draw(short),
        naming=draw(short),
        queue=draw(st.sampled_from([0.0, 2.0, 90.0])),
        boot=draw(st.sampled_from([0.0, 1.0, 8.0, 59.5, 61.0, 70.0])),
        failing_starts=draw(st.sampled_from([0, 0, 1, 2])),
        lifetime=draw(st.sampled_from([math.inf, math.inf, 4.0, 60.0])),
        walltime=draw(st.sampled_from([math.inf, math.inf, 100.0])),
        end_reason=draw(st.sampled_from([Reason.OUT_OF_MEMORY, Reason.PREEMPTED])),
        stop_delay=draw(short),
        capacity=draw(st.sampled_from([math.inf, math.inf, 1, 2])),
    )
    error = draw(
        st.sampled_from([None, None, LaunchError("later"), LaunchRefusedError("never"), OSError()])
    )

    async def behave(world: Simulation) -> None:
        behavior.errors.clear()
        if error is not None:
            behavior.errors.append(error)
        world.backend.behavior[tag] = behavior

    return draw(step(f"{tag} behaves like {behavior}", behave))


@st.composite
def disturbances(draw: st.DrawFn) -> Step:
    call = draw(st.sampled_from(["observe", "stop", "describe"]))
    takes, times = draw(short), draw(st.integers(0, 3))
    latency, transfer = draw(st.sampled_from([0.0, 0.05, 0.6])), draw(short)

    async def disturb(world: Simulation) -> None:
        world.backend.latencies[call] = takes
        world.backend.errors[call] += [OSError(f"cannot {call}")] * times
        world.scheduler.latency, world.scheduler.transfer = latency, transfer

    return draw(step(f"{call} takes {takes} s, fails {times} times; latency {latency}", disturb))


@st.composite
def lies(draw: st.DrawFn) -> Step:
    # Together shorter than the absence that counts as an end: what is absent for longer may well be replaced.
    lag, looks = draw(st.sampled_from([0.0, 0.0, 2.0, 5.0])), draw(st.integers(0, 3))
    which = draw(st.sets(st.integers(0, 5)))

    async def lie(world: Simulation) -> None:
        world.backend.lag = lag
        names = [made.unit.id for made in world.backend.alive()]
        world.backend.omissions += Counter({names[n]: looks for n in which if n < len(names)})

    return draw(step(f"observe is {lag} s old, and omits {sorted(which)} {looks} times", lie))


steps = st.one_of(
    *(scalings(), adaptings(), submissions(), accidents()),
    *(behaviors(), disturbances(), impairments(), notices(), lies()),
)
lives = st.lists(steps, min_size=5, max_size=30)


async def live(life: list[Step]) -> None:
    pace = Pace(tick=0.5, poll=1.0, hold_timeout=1e6)
    retry = RetryPolicy(max_delay=5.0, healthy_after=2.0, orphan_timeout=3.0)
    async with Simulation(*GROUPS, max_workers=CAP, pace=pace, retry=retry) as world:
        for one in life:
            await one.act(world)
            await world.run(one.pause)
        await _recover(world)
        await _settle_down(world)


async def _recover(world: Simulation) -> None:
    """End all disturbances, and request two workers of each group."""
    world.backend.behavior.clear()
    world.backend.errors.clear()
    world.backend.latencies.clear()
    world.backend.omissions.clear()
    world.backend.lag = 0.0
    for name in list(world.scheduler.workers):
        world.scheduler.unpause(name)
        world.scheduler.thaw(name)
    await world.run(200)  # what is under way comes to its end, and may fail a group
    # A group that is made adaptive has its minimum reset first, so that the counts do not exceed the cap.
    await world.controller.adapt_groups(dict.fromkeys(TAGS, (0, 2)))
    await world.controller.scale_groups(dict.fromkeys(TAGS, 2))


async def _settle_down(world: Simulation) -> None:
    """Check that all tasks are done, and that each group has its workers."""
    tasks = world.scheduler.tasks
    over = (TaskState.DONE, TaskState.ERRED)

    def unfinished() -> list[Any]:
        return [
            task
            for task in tasks
            if task.state not in over
            and not any(other.state is TaskState.ERRED for other in task.after)
        ]

    await world.until(lambda: not unfinished())
    world.scheduler.release(tasks)
    await world.until(
        lambda: (
            all(status.running == 2 for status in world.groups.values())
            and len(world.backend.alive()) == 6
        )
    )
    await world.run(100)
    assert {made.unit.id for made in world.backend.alive()} == set(world.scheduler.workers)
    assert len(world.scheduler.workers) == 6
    assert not any(status.draining or status.failed for status in world.groups.values())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(lives)
def test_every_task_runs_once_the_cap_holds_and_the_groups_recover(life: list[Step]) -> None:
    run_in_virtual_time(live(life))
