"""What TLS costs between processes of one machine: tasks that do nothing, and results that move.

    python benchmarks/bench_tls.py [--rounds 5]

Each side is a scheduler of this process with two worker processes: one under TLS and with a client that connects to the
workers, as the local provider has it; one under TLS as Dask has it; one without. They run alternately; a ratio is the
median over the rounds, to the side without, and below 1.00, TLS is slower.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from distributed import Client, LocalCluster

from scalable.providers.tls import make_credentials, tls_arguments

TASKS = 3_000
MEGABYTES = 160


def start(stack: ExitStack, *, tls: bool, direct: bool | None = None) -> Client:
    """Start a scheduler and two workers, and return a client, which may connect to the workers."""
    credentials = make_credentials() if tls else None
    options = {"protocol": "tls", "security": credentials.security()} if credentials else {}
    cluster = LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", **options)
    stack.enter_context(cluster)
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    extra = tls_arguments(credentials.write(directory / "tls")) if credentials else []
    for number in range(2):
        command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address]
        command += ["--name", str(number), "--nthreads", "1", "--host", "127.0.0.1", *extra]
        worker = subprocess.Popen(
            [*command, "--no-nanny", "--no-dashboard", "--memory-limit", "0"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(worker.wait)
        stack.callback(worker.terminate)
    client: Client = stack.enter_context(
        Client(cluster, set_as_default=False, direct_to_workers=direct)
    )
    client.wait_for_workers(2, timeout=60)
    return client


def identity(x: int) -> int:
    """Return the argument."""
    return x


def make(megabytes: int) -> bytearray:
    """Return so much memory."""
    return bytearray(megabytes * 10**6)


def tasks(client: Client) -> float:
    """Return tasks per second."""
    began = time.perf_counter()
    client.gather(client.map(identity, range(TASKS), pure=False))
    return TASKS / (time.perf_counter() - began)


def between_workers(client: Client) -> float:
    """Return megabytes per second from one worker to the other."""
    one, other = client.scheduler_info(n_workers=-1)["workers"]
    made = client.submit(make, MEGABYTES, workers=[one], pure=False)
    made.exception()  # waits for it
    began = time.perf_counter()
    client.submit(len, made, workers=[other], pure=False).result()
    return MEGABYTES / (time.perf_counter() - began)


def to_client(client: Client) -> float:
    """Return megabytes per second from a worker to the client."""
    made = client.submit(make, MEGABYTES, pure=False)
    made.exception()  # waits for it
    began = time.perf_counter()
    made.result()
    return MEGABYTES / (time.perf_counter() - began)


def compare(
    what: str, measure: Callable[[Client], float], sides: list[Client], rounds: int
) -> None:
    """Measure all sides alternately, and print them with the ratios to the last."""
    for side in sides:
        measure(side)  # connections and imports
    turns = [[measure(side) for side in sides] for _ in range(rounds)]
    figures = [statistics.median(turn) for turn in zip(*turns, strict=True)]
    ours, dask = (statistics.median(turn[i] / turn[-1] for turn in turns) for i in (0, 1))
    shown = " / ".join(f"{figure:7.0f}" for figure in figures)
    print(f"{what:24} {shown}  {ours:.2f} (Dask's {dask:.2f})", flush=True)


def main() -> None:
    """Print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with ExitStack() as stack:
        sides = [
            start(stack, tls=True, direct=True),
            start(stack, tls=True),
            start(stack, tls=False),
        ]
        compare("tasks/s", tasks, sides, rounds)
        compare("MB/s between workers", between_workers, sides, rounds)
        compare("MB/s to the client", to_client, sides, rounds)


if __name__ == "__main__":
    main()
