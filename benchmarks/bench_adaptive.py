"""What adaptive groups pay for, and how long they take, where a worker starts in 2, 30, 120 and 600 seconds.

    python benchmarks/bench_adaptive.py [--starts 2 30 120 600] [--only steps]

Needs scalable-core. The controller is the real one; workers, tasks and time are simulated. The durations of tasks are
not known at first, and the provider has no guess of the time that a start takes. Three figures are printed for each
workload, once where the start is time to boot and once where it is time in a queue:

* paid: machine-seconds, from when units have their machines until all have left, over those that tasks ran;
* makespan: over that of a group that has all its workers from the first task on, one start after it is submitted;
* units launched.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from scalable.cluster.pace import Pace
from scalable.cluster.port import GroupSpec
from scalable.testing.simulation import Simulation, UnitBehavior, run_in_virtual_time

DAY = 86_400.0


@dataclass(frozen=True)
class Workload:
    """Steps of tasks, each submitted some seconds after the one before has ended, for a number of workers at most."""

    name: str
    tasks: int
    seconds: float
    maximum: int
    steps: int = 1
    rest: float = 0.0

    @property
    def useful(self) -> float:
        """Seconds that all tasks run."""
        return self.steps * self.tasks * self.seconds

    def fastest(self, start: float) -> float:
        """Return the makespan with all workers, which start once and are kept."""
        rounds = -(-self.tasks // self.maximum)
        return start + self.steps * rounds * self.seconds + (self.steps - 1) * self.rest


WORKLOADS = (
    Workload("steps: 5 x 8 x 1 min", 8, 60, 4, steps=5, rest=20),
    Workload("short: 60 x 10 s", 60, 10, 60),
    Workload("many: 1,000 x 1 s", 1000, 1, 50),
    Workload("long: 100 x 1 h", 100, 3600, 100),
    Workload("calls: 5 s, 1/min, 1 h", 1, 5, 10, steps=60, rest=55),
)


@dataclass(frozen=True)
class Measured:
    """The three figures of one workload."""

    paid: float
    makespan: float
    units: int


async def run(workload: Workload, queue: float, boot: float) -> Measured:
    """Run one workload in virtual time."""
    long = workload.seconds > 1000
    spec = GroupSpec("gcam", startup_timeout=2 * boot + 300)
    async with Simulation(spec, pace=Pace(tick=5.0, poll=5.0) if long else None) as world:
        world.backend.behavior["gcam"] = UnitBehavior(queue=queue, boot=boot)
        await world.controller.adapt_groups({"gcam": (0, workload.maximum)})
        began = ended = world.time
        for _ in range(workload.steps):
            tasks = world.scheduler.submit("gcam", workload.tasks, seconds=workload.seconds)
            await world.done(tasks, within=DAY)
            ended = world.time
            world.scheduler.release(tasks)
            await world.run(workload.rest)
        await world.until(lambda: not world.backend.alive(), within=DAY)
        return Measured(
            paid=world.backend.unit_seconds() / workload.useful,
            makespan=(ended - began) / workload.fastest(queue + boot),
            units=len(world.backend.units),
        )


def print_table(starts: Sequence[float], workloads: Sequence[Workload]) -> None:
    """Print a line for each workload and start."""
    print(
        f"{'':24} {'start':>7}   {'boot: paid makespan units':>27}   {'queue: paid makespan units':>28}"
    )
    for workload in workloads:
        for start in starts:
            booted = run_in_virtual_time(run(workload, 0.0, start))
            # Once a job has its node, a worker joins within 2 s.
            queued = run_in_virtual_time(run(workload, start, 2.0))
            cells = (f"{m.paid:13.2f} {m.makespan:8.2f} {m.units:5}" for m in (booted, queued))
            print(f"{workload.name:24} {start:5.0f} s   {'   '.join(cells)}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=float, nargs="+", default=[2.0, 30.0, 120.0, 600.0])
    parser.add_argument("--only", default="", help="workloads whose names begin with this")
    options = parser.parse_args()
    chosen = [workload for workload in WORKLOADS if workload.name.startswith(options.only)]
    print_table(options.starts, chosen)


if __name__ == "__main__":
    main()
