"""What it costs to keep the record of a run: tasks that do nothing, and tasks of 10 ms, with and without it.

    python benchmarks/bench_records.py [--tasks 5000] [--rounds 5]

Needs scalable-core and scalable-local. Both sides run in turn on the same workers of one session: with the counting of
tasks on the scheduler, the rows that are written each second, and the measuring on workers; and without all of that. A
figure is the median over the rounds of what the record adds: to the clock, which other load on
the machine changes, and to the CPU seconds of this process, which runs the scheduler, the client and the record. The
last figure is what the record's own code takes of these CPU seconds, which other load changes least.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from typing import Any

from scalable.manifest.parser import parse_manifest
from scalable.session import ScalableSession

WORKERS = 2
MANIFEST = {
    "version": 1,
    "project": {"name": "bench"},
    "targets": {"here": {"provider": "local", "n_workers": WORKERS}},
    "components": {"model": {}},
}


def work(x: int, seconds: float) -> int:
    """Return the argument after some time."""
    time.sleep(seconds)
    return x


def measure_on_worker(on: bool, dask_worker: Any) -> None:
    """Let a worker measure its tasks, or not."""
    usage = dask_worker.plugins["scalable-groups-worker"].record.usage
    for name in ("begin", "end"):
        if on:
            usage.__dict__.pop(name, None)
        else:
            setattr(usage, name, lambda key: None)


def measure(client: Any, tasks: int, seconds: float) -> tuple[float, float]:
    """Return wall-clock seconds and CPU seconds of some tasks."""
    clock, cpu = time.perf_counter(), time.process_time()
    client.gather(client.map(work, range(tasks), seconds=seconds, pure=False, tag="model"))
    return time.perf_counter() - clock, time.process_time() - cpu


def switched(session: Any, plugin: Any, on: bool) -> None:
    """Turn the record on or off."""

    def switch(dask_scheduler: Any) -> None:
        dask_scheduler.plugins.pop(plugin.name, None)
        if on:
            dask_scheduler.plugins[plugin.name] = plugin

    session.cluster.loop.add_callback(switch, session.cluster._host.scheduler)
    session.client.run(measure_on_worker, on)
    session.recorder.writing = on


def compare(session: Any, plugin: Any, tasks: int, seconds: float, rounds: int) -> None:
    """Print what the record adds."""
    turns = []
    for number in range(-1, rounds):
        turn = {}
        for on in (True, False) if number % 2 else (False, True):
            switched(session, plugin, on)
            turn[on] = measure(session.client, tasks, seconds)
        if number >= 0:  # the first one is to warm up
            turns.append(turn)

    def added(i: int) -> float:
        return statistics.median(100 * (turn[True][i] / turn[False][i] - 1) for turn in turns)

    took = statistics.median(turn[False][0] for turn in turns)
    print(
        f"{tasks} tasks of {1000 * seconds:g} ms, {took:5.1f} s: "
        f"the record adds {added(0):+.1f} % to the clock, {added(1):+.1f} % to the CPU",
        flush=True,
    )


def share(session: Any, plugin: Any, tasks: int, rounds: int) -> None:
    """Print what the record's own code takes of the CPU seconds of this process."""
    switched(session, plugin, True)
    spent, transition, write = [0.0], plugin.transition, session.recorder.write
    clock = 0.0

    def timed(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            result = function(*args, **kwargs)
            spent[0] += time.thread_time() - began - clock
            return result

        return call

    # What looking at the clock takes of itself, which is no part of the record.
    empty, many = timed(lambda: None), 100_000
    for _ in range(many):
        empty()
    clock = spent[0] / many
    plugin.transition, session.recorder.write = timed(transition), timed(write)
    # Rows are made on the scheduler, when it is asked for them.
    handlers = session.cluster._host.scheduler.handlers
    run_function = handlers["run_function"]

    async def timed_function(comm: Any, *args: Any, **kwargs: Any) -> Any:
        began = time.thread_time()
        result = await run_function(comm, *args, **kwargs)
        spent[0] += time.thread_time() - began
        return result

    handlers["run_function"] = timed_function
    parts, each = [], []
    for _ in range(rounds):
        spent[0], began = 0.0, time.process_time()
        measure(session.client, tasks, 0.0)
        time.sleep(1.5)  # until all rows are written
        parts.append(100 * spent[0] / (time.process_time() - began))
        each.append(1e6 * spent[0] / tasks)
    del plugin.transition, session.recorder.write
    handlers["run_function"] = run_function
    print(
        f"{tasks} tasks of 0 ms: the record takes {statistics.median(each):.0f} µs of each task, "
        f"{statistics.median(parts):.1f} % of the CPU",
        flush=True,
    )


def main() -> None:
    """Run the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        os.environ["SCALABLE_RUNS_DIR"] = directory
        session = ScalableSession(parse_manifest(MANIFEST, target_name="here"), target="here")
        with session:
            host: Any = session.cluster._host
            plugin = host.scheduler.plugins["scalable-tally"]
            share(session, plugin, arguments.tasks, arguments.rounds)
            for seconds in (0.0, 0.01):
                compare(session, plugin, arguments.tasks, seconds, arguments.rounds)


if __name__ == "__main__":
    main()
