"""CPU seconds of one turn of the controller, with 1,000 workers in 20 groups: idle, busy, and with workers dying.

    python benchmarks/bench_controller.py [--groups 20] [--workers 50] [--turns 400]

Workers, tasks and the native system are simulated in virtual time; the figures include the simulation.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections import deque
from collections.abc import Callable

from scalable.cluster import Pace, RetryPolicy
from scalable.testing.simulation import SimulatedTask, Simulation, UnitBehavior, run_in_virtual_time

LIMIT = 0.050
"""Seconds that a turn may take: a tenth of the time between two turns."""


async def take_turns(world: Simulation, turns: int, between: Callable[[int], None]) -> list[float]:
    """Run turns of the controller, each after a call of `between`; return the seconds of each."""
    seconds = []
    for turn in range(turns):
        between(turn)
        began = time.process_time()
        await world.controller.step()
        seconds.append(time.process_time() - began)
        await world.run(world.controller.pace.tick)
    return seconds


async def measure(groups: int, workers: int, turns: int) -> dict[str, list[float]]:
    """Measure turns with this number of groups and of workers in each, in three situations."""
    tags = [f"component-{n}" for n in range(groups)]
    # The workers that this benchmark kills must not make their group fail.
    world = Simulation(*tags, pace=Pace(), retry=RetryPolicy(max_early_losses=10**6, delay=0.0))
    chance = random.Random(0)
    for tag in tags:
        world.backend.behavior[tag] = UnitBehavior(boot=1)
    await world.scheduler.start(dict.fromkeys(tags, 1))
    await world.controller.scale_groups(dict.fromkeys(tags, workers))
    await take_turns(world, 10, lambda turn: None)
    assert len(world.scheduler.workers) == groups * workers

    held: deque[list[SimulatedTask]] = deque()

    def busy(turn: int) -> None:
        held.append(world.scheduler.submit(chance.choice(tags), workers, seconds=5))
        if len(held) > 100:
            world.scheduler.release(held.popleft())

    def with_losses(turn: int) -> None:
        busy(turn)
        for made in chance.sample(world.backend.alive(), k=workers // 10):
            world.backend.kill(made.unit.id)

    idle = await take_turns(world, turns, lambda turn: None)
    await world.controller.adapt_groups(dict.fromkeys(tags, (workers // 2, workers)))
    work = await take_turns(world, turns, busy)
    losses = await take_turns(world, turns, with_losses)
    assert await world.close() == []
    world.invariants.check()
    return {"idle": idle, "busy, adaptive": work, "with workers dying": losses}


def main() -> None:
    """Print a line for each situation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=20)
    parser.add_argument("--workers", type=int, default=50, help="of each group")
    parser.add_argument("--turns", type=int, default=400, help="in each situation")
    options = parser.parse_args()
    measured = run_in_virtual_time(measure(options.groups, options.workers, options.turns))
    print(
        f"{options.groups} groups of {options.workers} workers; a turn may take {LIMIT * 1e3:g} ms"
    )
    for situation, seconds in measured.items():
        median, late = statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1]
        print(
            f"{situation:20} median {median * 1e3:5.1f} ms, 95 % below {late * 1e3:5.1f} ms"
            f" = {late / LIMIT:.2f} of the limit"
        )


if __name__ == "__main__":
    main()
