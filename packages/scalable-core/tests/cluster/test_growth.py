"""The work of the engine grows with the workers, and hardly faster, whatever the native system answers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from scalable.cluster.pace import Pace
from scalable.cluster.retry import RetryPolicy
from scalable.testing.simulation import Simulation, UnitBehavior, run_in_virtual_time

Fault = Callable[[Simulation, int], None]


def truthful(world: Simulation, turn: int) -> None:
    pass


def lying(world: Simulation, turn: int) -> None:
    """Let every observation omit a third of the units."""
    for made in world.backend.alive()[turn % 3 :: 3]:
        world.backend.omissions[made.unit.id] = 1


def slow(world: Simulation, turn: int) -> None:
    """Let every answer come late, and be out of date."""
    world.backend.lag = 3
    world.backend.latencies["observe"] = 0.7


def partial(world: Simulation, turn: int) -> None:
    """Give half of what is asked for, and take some of it away again."""
    alive = world.backend.alive()
    world.backend.behavior["gcam"].capacity = world.groups["gcam"].wanted // 2
    for made in alive[turn % 20 :: 20]:
        world.backend.kill(made.unit.id)


@contextmanager
def counting() -> Iterator[list[int]]:
    """Count the lines of Python that this thread executes."""
    lines = [0]

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        lines[0] += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)


async def count_work(workers: int, fault: Fault) -> int:
    """Return the lines executed in some turns with so many workers, from their launch on."""
    retry = RetryPolicy(max_early_losses=10**6, delay=0.0)
    async with Simulation("gcam", pace=Pace(), retry=retry) as world:
        world.backend.behavior["gcam"] = UnitBehavior(boot=1)
        with counting() as lines:
            await world.controller.scale_groups({"gcam": workers})
            for turn in range(20):
                fault(world, turn)
                if turn % 5 == 0:
                    world.scheduler.submit("gcam", workers, seconds=2)
                await world.run(1)
        world.backend.lag = 0.0
        return lines[0]


@pytest.mark.parametrize("fault", [truthful, lying, slow, partial])
def test_the_work_grows_at_most_twice_as_fast_as_the_workers(fault: Fault) -> None:
    few, many = (run_in_virtual_time(count_work(workers, fault)) for workers in (25, 100))

    assert many <= 2 * 4 * few
