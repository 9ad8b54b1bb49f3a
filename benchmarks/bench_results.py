"""What it costs to keep results, and what a second run saves: tasks that do nothing.

    python benchmarks/bench_results.py [--tasks 5000] [--rounds 3]

Needs scalable-core and scalable-local. All sides run in turn on the same worker processes, each round with a store of
its own on the local disk. A ratio is the median over the rounds: of elapsed times, and of the CPU times of all
processes together, which other load on the machine changes less.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from scalable.manifest.parser import parse_manifest
from scalable.results.naming import TaskRule
from scalable.results.reuse import open_results
from scalable.session import ScalableSession

WORKERS = 2
MANIFEST = {
    "version": 1,
    "project": {"name": "bench"},
    "targets": {"here": {"provider": "local", "n_workers": WORKERS}},
    "components": {"model": {}},
    "tasks": {"step": {"component": "model"}},
}


def identity(x: int, number: int) -> int:
    """Return the first argument."""
    return x


class Cost(NamedTuple):
    """What a turn took: seconds on the clock, and of the CPUs."""

    wall: float
    cpu: float


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """Return the CPU time that processes have used."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def seconds(client: Any, tasks: int, number: int) -> Cost:
    """Return what it takes to map a number of tasks and gather their results."""
    # Those of the turn before are released beside the program, by the client and by the scheduler.
    while client.futures or client.run_on_scheduler(
        lambda dask_scheduler: len(dask_scheduler.tasks)
    ):
        time.sleep(0.01)
    gc.collect()
    processes = [psutil.Process(), *map(psutil.Process, client.run(os.getpid).values())]
    start, cpu = time.perf_counter(), cpu_seconds(processes)
    futures = client.map(identity, range(tasks), number=number, task="step")
    assert client.gather(futures) == [*range(tasks)]
    cost = Cost(time.perf_counter() - start, cpu_seconds(processes) - cpu)
    del futures
    return cost


def measure(client: Any, tasks: int, number: int, directory: Path) -> tuple[Cost, Cost, Cost]:
    """Return what it takes without keeping results, in a first run that keeps them, and in a second one."""
    client.keep_results(None)
    without = seconds(client, tasks, 3 * number)
    runs = []
    for _ in range(2):
        client.keep_results(open_results(str(directory), {"step": TaskRule()}, report=silent))
        runs.append(seconds(client, tasks, 3 * number + 1))
    return without, runs[0], runs[1]


def silent(text: str, is_problem: bool) -> None:
    """Print problems only."""
    if is_problem:
        print(text)


def main() -> None:
    """Print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        client = stack.enter_context(ScalableSession(parse_manifest(MANIFEST), target="here"))
        cluster: Any = client.cluster
        cluster.wait_for_group("model", WORKERS, timeout=60)
        measure(client, 200, -1, scratch / "warm")  # connections, imports and durations
        turns = [
            measure(client, options.tasks, number, scratch / str(number))
            for number in range(options.rounds)
        ]
    rates = [
        options.tasks / statistics.median(cost.wall for cost in each)
        for each in zip(*turns, strict=True)
    ]
    print(
        f"{options.tasks} tasks: not kept {rates[0]:.0f}/s, first run {rates[1]:.0f}/s, second run {rates[2]:.0f}/s"
    )
    for name, index in (("elapsed", 0), ("CPU", 1)):
        first = statistics.median(first[index] / without[index] for without, first, _ in turns)
        second = statistics.median(first[index] / second[index] for _, first, second in turns)
        print(f"{f'first run against one that keeps nothing, {name}':52} {first:.2f} x the time")
        print(f"{f'second run against the first, {name}':52} {second:.1f} x as fast")


if __name__ == "__main__":
    main()
