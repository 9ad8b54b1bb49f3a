"""48 workers on Slurm: calls of ``sbatch``, and the time until all have joined, compared with dask-jobqueue.

Needs a Slurm cluster; ``tests-integration/slurm/up.sh`` brings one up on this machine. Both sides run alternately on
the same cluster, with workers without nanny and with one thread each.

    python benchmarks/bench_slurm.py [--workers 48] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from scalable.cluster import Pace
from scalable.providers.slurm import SlurmCluster


def count_calls(directory: Path) -> Callable[[str], int]:
    """Put wrapper scripts on PATH that log each call of Slurm's commands; return a function that counts them."""
    log = directory / "calls"
    for name in ("sbatch", "scancel"):
        script = directory / name
        script.write_text(f'#!/bin/sh\necho {name} >> {log}\nexec {shutil.which(name)} "$@"\n')
        script.chmod(0o755)
    os.environ["PATH"] = f"{directory}:{os.environ['PATH']}"

    def calls(name: str) -> int:
        return log.read_text().split().count(name) if log.exists() else 0

    return calls


def ours(workers: int) -> tuple[float, float]:
    """Return the seconds until all workers have joined, and until all are closed, with Scalable."""
    pace = Pace(tick=0.1, poll=1.0)
    with SlurmCluster(queue="short", interface="lo", security=False, pace=pace) as cluster:
        cluster.add_container("bench", memory="200M")
        start = time.perf_counter()
        cluster.add_workers(workers, "bench")
        cluster.wait_for_group("bench", workers, timeout=300)
        up = time.perf_counter() - start
        start = time.perf_counter()
    return up, time.perf_counter() - start


def theirs(workers: int) -> tuple[float, float]:
    """Return the same for dask-jobqueue."""
    from dask_jobqueue import SLURMCluster

    with SLURMCluster(
        queue="short",
        cores=1,
        processes=1,
        memory="200MiB",
        interface="lo",
        python=sys.executable,
        nanny=False,
        log_directory="logs",
        scheduler_options={"dashboard_address": "127.0.0.1:0"},
    ) as cluster:
        start = time.perf_counter()
        cluster.scale(workers)
        cluster.wait_for_workers(workers, timeout=300)
        up = time.perf_counter() - start
        start = time.perf_counter()
    return up, time.perf_counter() - start


def main() -> None:
    """Run both alternately and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)
        calls = count_calls(Path(work))
        seconds: dict[str, list[tuple[float, float]]] = {"scalable": [], "dask-jobqueue": []}
        submissions: dict[str, int] = {}
        cancellations: dict[str, int] = {}
        for _ in range(arguments.rounds):
            for name, measure in (("scalable", ours), ("dask-jobqueue", theirs)):
                submitted, cancelled = calls("sbatch"), calls("scancel")
                seconds[name].append(measure(arguments.workers))
                submissions[name] = calls("sbatch") - submitted
                cancellations[name] = calls("scancel") - cancelled
    up = {name: statistics.median(pair[0] for pair in pairs) for name, pairs in seconds.items()}
    down = {name: statistics.median(pair[1] for pair in pairs) for name, pairs in seconds.items()}
    for what, figures in (("sbatch calls", submissions), ("scancel calls", cancellations)):
        print(f"{what}: scalable {figures['scalable']}, dask-jobqueue {figures['dask-jobqueue']}")
    for what, medians in (("registered", up), ("closed", down)):
        ratio = medians["scalable"] / medians["dask-jobqueue"]
        print(
            f"{arguments.workers} workers {what}: scalable {medians['scalable']:.2f} s, "
            f"dask-jobqueue {medians['dask-jobqueue']:.2f} s, ratio {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
