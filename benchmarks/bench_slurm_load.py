"""Clusters on Slurm: RPCs of its controller and CPU time of the client, compared with dask-jobqueue.

Needs a Slurm cluster; ``tests-integration/slurm/up.sh`` brings one up on this machine. Both run in turn on it, with
workers of one thread: first idle with a fixed number of them, then adaptive, with bursts of tasks between pauses. RPCs
are what ``sdiag`` has counted meanwhile of this user, those of the jobs included. CPU time is that of the client with
the commands that it has run.

    python benchmarks/bench_slurm_load.py [--workers 48] [--seconds 60] [--queue short] [--account A]
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from distributed import Client

from scalable.client import ScalableClient
from scalable.providers.slurm import SlurmCluster
from scalable.providers.slurm.options import SlurmOptions


def rpcs() -> int:
    """Return the RPCs of this user that the controller has counted."""
    told = subprocess.run(["sdiag"], capture_output=True, text=True, check=True).stdout
    users = re.findall(r"^\s+\S+\s+\(\s*(\d+)\)\s+count:(\d+)", told, re.MULTILINE)
    return sum(int(count) for user, count in users if int(user) == os.getuid())


def cpu() -> float:
    """Return the CPU seconds of this process and of the commands that it has waited for."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@contextmanager
def ours(queue: str, account: str | None) -> Iterator[tuple[Any, Any]]:
    """Provide a cluster of Scalable, and a client of it."""
    with SlurmCluster(SlurmOptions(queue=queue, account=account, interface="lo")) as cluster:
        cluster.add_container("bench", memory="200M")
        with ScalableClient(cluster) as client:
            yield cluster, client


@contextmanager
def theirs(queue: str, account: str | None) -> Iterator[tuple[Any, Any]]:
    """Provide a cluster of dask-jobqueue, and a client of it."""
    from dask_jobqueue.slurm import SLURMCluster

    with (
        SLURMCluster(
            queue=queue,
            account=account,
            cores=1,
            processes=1,
            memory="200MiB",
            interface="lo",
            python=sys.executable,
            log_directory="logs",
            scheduler_options={"dashboard_address": "127.0.0.1:0"},
        ) as cluster,
        Client(cluster) as client,
    ):
        yield cluster, client


def stay_idle(cluster: Any, client: Any, workers: int, seconds: float) -> tuple[int, float]:
    """Return the RPCs and CPU seconds of idle time with this number of workers."""
    if isinstance(cluster, SlurmCluster):
        cluster.add_workers(workers, "bench")
    else:
        cluster.scale(workers)
    client.wait_for_workers(workers, timeout=600)
    return spent(lambda: time.sleep(seconds))


def adapt(cluster: Any, client: Any, workers: int, seconds: float) -> tuple[int, float]:
    """Return the same of a time in which bursts of tasks start workers, which pauses stop."""
    if isinstance(cluster, SlurmCluster):
        cluster.adapt_groups({"bench": (0, workers)})
    else:
        cluster.adapt(minimum=0, maximum=workers)

    def bursts() -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            client.gather(client.map(time.sleep, [1.0] * 4 * workers, pure=False))
            time.sleep(20)

    return spent(bursts)


def spent(act: Callable[[], object]) -> tuple[int, float]:
    """Return the RPCs and CPU seconds of an action."""
    called, used = rpcs(), cpu()
    act()
    return rpcs() - called, cpu() - used


def main() -> None:
    """Print RPCs and CPU seconds of each, and our ratios to dask-jobqueue."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--queue", default="short")
    parser.add_argument("--account")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as work:
        os.chdir(work)
        for what in (stay_idle, adapt):
            found = []
            for provide in (ours, theirs):
                with provide(arguments.queue, arguments.account) as (cluster, client):
                    found.append(what(cluster, client, arguments.workers, arguments.seconds))
            for name, (one, other) in zip(("RPCs", "CPU s"), zip(*found, strict=True), strict=True):
                print(
                    f"{what.__name__}, {arguments.workers} workers: {name} {one:.1f}, dask-jobqueue {other:.1f}, "
                    f"ratio {one / other:.2f}"
                )
        os.chdir("..")


if __name__ == "__main__":
    main()
