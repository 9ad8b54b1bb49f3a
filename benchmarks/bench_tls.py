"""What TLS costs between processes of one machine: tasks that do nothing, and results that move.

    python benchmarks/bench_tls.py [--rounds 5]

Needs scalable-core and scalable-local. Each side is a scheduler of this process with two worker processes: a session
of the local provider, which is under TLS; Dask under TLS; and Dask without. They run alternately; a ratio is the median
over the rounds, to the side without, and below 1.00, TLS is slower.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench_tasks import plain_dask, scalable_session
from distributed import Client

from scalable.providers.tls import make_credentials, tls_arguments

TASKS = 3_000
MEGABYTES = 160


def dask_under_tls(stack: ExitStack) -> Client:
    """Start a plain Dask cluster whose connections are under TLS."""
    credentials = make_credentials()
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    arguments = tls_arguments(credentials.write(directory / "tls"))
    return plain_dask(stack, arguments, protocol="tls", security=credentials.security())


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
        sides = [scalable_session(stack), dask_under_tls(stack), plain_dask(stack)]
        compare("tasks/s", tasks, sides, rounds)
        compare("MB/s between workers", between_workers, sides, rounds)
        compare("MB/s to the client", to_client, sides, rounds)


if __name__ == "__main__":
    main()
