"""Workers on Slurm: the time until all have joined, and calls of Slurm's commands, compared with dask-jobqueue.

Needs a Slurm cluster; ``tests-integration/slurm/up.sh`` brings one up on this machine. All ways run in turns on the
same cluster, with workers of one thread: Scalable as users get it (TLS, its own pace), with one worker in each job and
with as many as fit on nodes that jobs have for themselves, and dask-jobqueue with its nanny, the default, and without.

    python benchmarks/bench_slurm.py [--workers 24] [--rounds 3] [--shared short] [--whole whole] [--account A]
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
from functools import partial
from pathlib import Path

from scalable.providers.slurm import SlurmCluster
from scalable.providers.slurm.options import SlurmOptions

COMMANDS = ("sbatch", "scancel", "squeue")


def count_calls(directory: Path) -> Callable[[str], int]:
    """Put wrapper scripts on PATH that log each call of Slurm's commands; return a function that counts them."""
    log = directory / "calls"
    for name in COMMANDS:
        script = directory / name
        script.write_text(f'#!/bin/sh\necho {name} >> {log}\nexec {shutil.which(name)} "$@"\n')
        script.chmod(0o755)
    os.environ["PATH"] = f"{directory}:{os.environ['PATH']}"

    def calls(name: str) -> int:
        return log.read_text().split().count(name) if log.exists() else 0

    return calls


def ours(workers: int, *, queue: str, account: str | None) -> tuple[float, float]:
    """Return the seconds until all workers have joined, and until all are closed, with Scalable."""
    options = SlurmOptions(queue=queue, account=account, interface="lo")
    with SlurmCluster(options) as cluster:
        cluster.add_container("bench", memory="200M")
        start = time.perf_counter()
        cluster.add_workers(workers, "bench")
        cluster.wait_for_group("bench", workers, timeout=300)
        up = time.perf_counter() - start
        start = time.perf_counter()
    return up, time.perf_counter() - start


def theirs(workers: int, *, queue: str, account: str | None, nanny: bool) -> tuple[float, float]:
    """Return the same for dask-jobqueue."""
    from dask_jobqueue.slurm import SLURMCluster

    with SLURMCluster(
        queue=queue,
        account=account,
        cores=1,
        processes=1,
        memory="200MiB",
        interface="lo",
        python=sys.executable,
        nanny=nanny,
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
    """Run all ways in turns and print the medians, and our ratios to the faster way of dask-jobqueue."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shared", default="short", help="a partition whose nodes jobs share")
    parser.add_argument("--whole", default="whole", help="a partition whose nodes they do not")
    parser.add_argument("--account")
    arguments = parser.parse_args()
    shared = {"queue": arguments.shared, "account": arguments.account}
    ways = {
        "scalable, whole nodes": partial(ours, **shared | {"queue": arguments.whole}),
        "scalable, one per job": partial(ours, **shared),
        "dask-jobqueue": partial(theirs, **shared, nanny=True),
        "dask-jobqueue, no nanny": partial(theirs, **shared, nanny=False),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    counts: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory(dir=".") as work:
        os.chdir(work)
        calls = count_calls(Path.cwd())
        for _ in range(arguments.rounds):
            for name, measure in ways.items():
                before = [calls(command) for command in COMMANDS]
                seconds[name].append(measure(arguments.workers))
                counts[name] = [
                    calls(command) - b for command, b in zip(COMMANDS, before, strict=True)
                ]
        os.chdir("..")
    medians = {name: statistics.median(up for up, _ in pairs) for name, pairs in seconds.items()}
    best = min(median for name, median in medians.items() if name.startswith("dask"))
    print(f"{arguments.workers} workers, {arguments.rounds} rounds in turns")
    for name, median in medians.items():
        closed = statistics.median(down for _, down in seconds[name])
        called = ", ".join(f"{n} {c}" for n, c in zip(counts[name], COMMANDS, strict=True))
        print(
            f"{name}: registered {median:.2f} s, ratio {median / best:.2f}; closed {closed:.2f} s; {called}"
        )


if __name__ == "__main__":
    main()
