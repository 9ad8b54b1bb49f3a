"""Clusters on Slurm: RPCs of its controller and CPU time of the client, compared with dask-jobqueue.

Needs a Slurm cluster without other users; ``tests-integration/slurm/up.sh`` brings one up on this machine. Both run in
turn on it, each in a process of its own, with workers of one thread: first idle with a fixed number of them, then
adaptive, with bursts of tasks between pauses. RPCs are what ``sdiag`` has counted meanwhile, but for those of the
daemons on nodes: a REQUEST_SUBMIT_BATCH_JOB is an ``sbatch``, a REQUEST_KILL_JOB an array or a job that ``scancel``
ends, a REQUEST_JOB_INFO an ``squeue``, of which dask-jobqueue has none. CPU time is that of the client with the
commands that it has run. In the same time, the one that starts workers sooner gets through more bursts.

    python benchmarks/bench_slurm_load.py [--workers 48] [--seconds 60] [--queue short] [--account A]
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from distributed import Client

from scalable.client import ScalableClient
from scalable.providers.slurm import SlurmCluster
from scalable.providers.slurm.options import SlurmOptions

NOT_COUNTED = {
    "MESSAGE_NODE_REGISTRATION_STATUS",
    "MESSAGE_EPILOG_COMPLETE",
    "REQUEST_COMPLETE_BATCH_SCRIPT",
    "REQUEST_COMPLETE_PROLOG",
    "REQUEST_STATS_INFO",  # of sdiag itself
}


def rpcs() -> Counter[str]:
    """Return the RPCs that the controller has counted, by type, but for those of nodes."""
    told = subprocess.run(["sdiag"], capture_output=True, text=True, check=True).stdout
    by_type = told.partition("by message type")[2].partition("Remote Procedure Call")[0]
    found = re.findall(r"^\s+(\S+)\s+\(\s*\d+\)\s+count:(\d+)", by_type, re.MULTILINE)
    return Counter({name: int(count) for name, count in found if name not in NOT_COUNTED})


def cpu() -> tuple[float, float]:
    """Return the CPU seconds of this process, and of the commands that it has waited for."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    own, commands = (usage.ru_utime + usage.ru_stime for usage in usages)
    return own, commands


@contextmanager
def ours(queue: str, account: str | None, work: str) -> Iterator[tuple[Any, Any]]:
    """Provide a cluster of Scalable, and a client of it."""
    with SlurmCluster(
        SlurmOptions(queue=queue, account=account, interface="lo", logs_location=work)
    ) as cluster:
        cluster.add_container("bench", memory="200M")
        with ScalableClient(cluster) as client:
            yield cluster, client


@contextmanager
def theirs(queue: str, account: str | None, work: str) -> Iterator[tuple[Any, Any]]:
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
            log_directory=work,
            scheduler_options={"dashboard_address": "127.0.0.1:0"},
        ) as cluster,
        Client(cluster) as client,
    ):
        yield cluster, client


def stay_idle(cluster: Any, client: Any, workers: int, seconds: float) -> dict[str, Any]:
    """Return what idle time with this number of workers takes."""
    if isinstance(cluster, SlurmCluster):
        cluster.add_workers(workers, "bench")
    else:
        cluster.scale(workers)
    client.wait_for_workers(workers, timeout=600)
    time.sleep(10)  # until what follows a start is done
    return spent(lambda: time.sleep(seconds))


def adapt(cluster: Any, client: Any, workers: int, seconds: float) -> dict[str, Any]:
    """Return the same of a time in which bursts of tasks start workers, which pauses stop."""
    if isinstance(cluster, SlurmCluster):
        cluster.adapt_groups({"bench": (0, workers)})
    else:
        cluster.adapt(minimum=0, maximum=workers)

    def bursts() -> int:
        end = time.monotonic() + seconds
        count = 0
        while time.monotonic() < end:
            client.gather(client.map(time.sleep, [1.0] * 4 * workers, pure=False))
            time.sleep(20)
            count += 1
        return count

    return spent(bursts)


ACTIONS = {"idle": stay_idle, "adaptive": adapt}
PROVIDERS = {"ours": ours, "theirs": theirs}


def spent(act: Callable[[], int | None]) -> dict[str, Any]:
    """Return the RPCs by type, the CPU seconds and the result of an action."""
    called, (own, commands) = rpcs(), cpu()
    count = act()
    now_own, now_commands = cpu()
    return {
        "rpcs": rpcs() - called,
        "own": now_own - own,
        "commands": now_commands - commands,
        "count": count or 1,
    }


def measure(what: str, whose: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what one of the two takes for an action, in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only", what, whose]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(told.splitlines()[-1])
    types = ", ".join(f"{name} {count}" for name, count in sorted(found["rpcs"].items()))
    print(
        f"{what}, {arguments.workers} workers, {whose}: {sum(found['rpcs'].values())} RPCs ({types}), "
        f"CPU {found['own']:.1f} s and {found['commands']:.1f} s of commands, bursts: {found['count']}",
        flush=True,
    )
    return found


def main() -> None:
    """Print RPCs and CPU seconds of each, and our ratios to dask-jobqueue."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--queue", default="short")
    parser.add_argument("--account")
    parser.add_argument("--what", choices=ACTIONS, action="append")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        what, whose = arguments.only
        with (
            tempfile.TemporaryDirectory(dir=".") as work,
            PROVIDERS[whose](arguments.queue, arguments.account, work) as (cluster, client),
        ):
            found = ACTIONS[what](cluster, client, arguments.workers, arguments.seconds)
            print(json.dumps(found), flush=True)
        return
    for what in arguments.what or ACTIONS:
        one, other = (measure(what, whose, arguments) for whose in PROVIDERS)
        calls = [sum(found["rpcs"].values()) for found in (one, other)]
        used = [found["own"] + found["commands"] for found in (one, other)]
        bursts = [found["count"] for found in (one, other)]
        print(
            f"{what}, {arguments.workers} workers: RPCs {calls[0]}, dask-jobqueue {calls[1]}; "
            f"CPU s {used[0]:.1f}, dask-jobqueue {used[1]:.1f}, ratio {used[0] / used[1]:.2f}, "
            f"or {used[0] / bursts[0] / used[1] * bursts[1]:.2f} for each burst",
            flush=True,
        )


if __name__ == "__main__":
    main()
