"""The overhead of tags and of the engine: tasks that do nothing, with and without them.

    python benchmarks/bench_tasks.py [--rounds 3]

Needs scalable-core and scalable-local. Both sides run alternately, on worker processes of the same kind. A ratio is
the median over the rounds; below 1.00, Scalable is slower. CPU seconds are those of this process, which runs the
scheduler, the clients and the engine: unlike the clock, they do not depend on other load on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from distributed import Client, LocalCluster

from scalable.client import ScalableClient
from scalable.manifest.parser import parse_manifest
from scalable.session import ScalableSession

WORKERS = 2
MANIFEST = {
    "version": 1,
    "project": {"name": "bench"},
    "targets": {"here": {"provider": "local", "n_workers": WORKERS}},
    "components": {"model": {}},
}

Side = Callable[[int], None]


def identity(x: int) -> int:
    """Return the argument."""
    return x


def run(client: Client, **options: Any) -> Side:
    """Return a function that maps a number of tasks and gathers their results."""

    def side(tasks: int) -> None:
        client.gather(client.map(identity, range(tasks), pure=False, **options))

    return side


def measure(side: Side, tasks: int) -> tuple[float, float]:
    """Return wall-clock seconds and CPU seconds."""
    clock, cpu = time.perf_counter(), time.process_time()
    side(tasks)
    return time.perf_counter() - clock, time.process_time() - cpu


def compare(what: str, tasks: int, rounds: int, ours: Side, theirs: Side) -> None:
    """Run both sides alternately, and print the rates and their ratio."""
    for side in (ours, theirs):  # warm up connections, imports and durations
        side(500)
    turns = [(measure(ours, tasks), measure(theirs, tasks)) for _ in range(rounds)]
    rates = [statistics.median(tasks / turn[side][0] for turn in turns) for side in (0, 1)]
    clock, cpu = (statistics.median(b[i] / a[i] for a, b in turns) for i in (0, 1))
    print(
        f"{what:60} {rates[0]:6.0f} / {rates[1]:6.0f} tasks/s  {clock:.2f}  (by CPU {cpu:.2f})",
        flush=True,
    )


def scalable_session(stack: ExitStack) -> ScalableClient:
    """Start a session of the local provider, and return its client when all workers are there."""
    client = stack.enter_context(ScalableSession(parse_manifest(MANIFEST), target="here"))
    cluster: Any = client.cluster
    cluster.wait_for_group("model", WORKERS, timeout=60)
    return client


def plain_dask(stack: ExitStack, arguments: Sequence[str] = (), **options: Any) -> Client:
    """Start a scheduler in this process and workers like those of the local provider, without the engine.

    Parameters
    ----------
    arguments : sequence of str
        More arguments of `dask worker`.
    **options
        More options of `LocalCluster`.
    """
    cluster = LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", **options)
    stack.enter_context(cluster)
    for number in range(WORKERS):
        command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address]
        command += ["--name", str(number), "--nthreads", "1", "--resources", "model=1", *arguments]
        worker = subprocess.Popen(
            [*command, "--no-nanny", "--no-dashboard", "--memory-limit", "0"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(worker.wait)
        stack.callback(worker.terminate)
    client = Client(cluster, set_as_default=False)
    client.wait_for_workers(WORKERS, timeout=60)
    return client


def main() -> None:
    """Print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with ExitStack() as stack:
        client = scalable_session(stack)
        plain = stack.enter_context(Client(client.cluster, set_as_default=False))
        compare(
            "5,000 tasks, tagged against Dask's client, same cluster",
            5_000,
            rounds,
            run(client, tag="model"),
            run(plain),
        )
        without = stack.enter_context(plain_dask(stack))
        compare(
            "20,000 tagged tasks, with the engine against without",
            20_000,
            rounds,
            run(client, tag="model"),
            run(without, resources={"model": 1}),
        )
        compare(
            "20,000 tasks without a tag, with the engine against without",
            20_000,
            rounds,
            run(client),
            run(without),
        )


if __name__ == "__main__":
    main()
