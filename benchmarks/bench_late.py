"""Six 2 s tasks on a worker with one slot, and two more workers that join when it has begun.

    python benchmarks/bench_late.py [--rounds 3]

Needs scalable-core and scalable-local. The ideal is greedy scheduling: each worker takes the next task as soon as it
has joined and is free. Dask's own cluster is measured in alternation. 1.00 is ideal.
"""

from __future__ import annotations

import argparse
import heapq
import statistics
import time
from collections.abc import Callable
from typing import Any

from distributed import Client, LocalCluster

from scalable.manifest.parser import parse_manifest
from scalable.session import ScalableSession

TASKS, SECONDS = 6, 2.0
MANIFEST = {
    "version": 1,
    "project": {"name": "bench"},
    "targets": {"here": {"provider": "local", "n_workers": 1}},
    "components": {"model": {}},
}


def work(number: int) -> tuple[float, float]:
    """Sleep for some seconds; return when the task began and ended."""
    began = time.time()
    time.sleep(SECONDS)
    return began, time.time()


def ideal(arrivals: list[float]) -> float:
    """Return the seconds until all tasks are done, on workers that join at these seconds.

    Examples
    --------
    >>> ideal([0.0, 0.0, 0.0]), ideal([0.0, 1.0, 1.0]), ideal([0.0])
    (4.0, 5.0, 12.0)
    """
    free, end = list(arrivals), 0.0
    heapq.heapify(free)
    for _ in range(TASKS):
        end = heapq.heappop(free) + SECONDS
        heapq.heappush(free, end)
    return end


def ratio(client: Client, grow: Callable[[], None], **options: Any) -> float:
    """Start two workers late; return the makespan relative to the ideal."""
    present = set(client.scheduler_info(n_workers=-1)["workers"])
    futures = client.map(work, range(TASKS), pure=False, **options)
    start = time.time()
    grow()
    arrivals = [0.0]
    while len(arrivals) < 3:
        seen = set(client.scheduler_info(n_workers=-1)["workers"])
        arrivals += [time.time() - start] * len(seen - present)
        present |= seen
        time.sleep(0.02)
    ended = max(end for _, end in client.gather(futures))
    return float((ended - start) / ideal(arrivals))


def ours() -> float:
    """Measure Scalable."""
    with ScalableSession(parse_manifest(MANIFEST), target="here") as client:
        cluster: Any = client.cluster
        return ratio(client, lambda: cluster.scale_groups({"model": 3}), tag="model")


def theirs(threads: int) -> float:
    """Measure Dask alone, with workers of one slot and this number of threads."""
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=threads,
            resources={"model": 1},
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        return ratio(client, lambda: cluster.scale(3), resources={"model": 1})


def main() -> None:
    """Print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    turns = [(ours(), theirs(1), theirs(4)) for _ in range(rounds)]
    names = ("Scalable", "Dask, 1 thread per worker", "Dask, 4 threads per worker")
    for name, found in zip(names, zip(*turns, strict=True), strict=True):
        print(f"six late tasks, {name:27} {statistics.median(found):.2f} x ideal")


if __name__ == "__main__":
    main()
