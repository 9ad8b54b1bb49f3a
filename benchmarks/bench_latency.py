"""The time from submit to result of small tagged tasks, one after the other, compared with Dask.

    python benchmarks/bench_latency.py [--rounds 5] [--calls 300]

Needs scalable-core and scalable-local. One side is a session of the local provider, the other a plain Dask cluster with
worker processes of the same kind. They run alternately. Figures are medians over all calls, and their ratio is that of
the medians; below 1.00, Scalable is quicker. CPU is that of this process, for one call: it runs the scheduler, the
client and the engine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from bench_tasks import plain_dask, scalable_session
from distributed import Client

# Functions of this file, which are pickled by value: workers cannot import `bench_tasks`.
PAYLOADS: dict[str, Callable[[int], Any]] = {
    "an int": lambda x: x,
    "a dict of 1 kB": lambda x: {"member": x, "series": "x" * 1000},
    "64 kB of bytes": lambda x: bytes(64 * 1024),
}


def call(client: Client, func: Callable[[int], Any], calls: int, **options: Any) -> list[float]:
    """Return the seconds of each of several calls, one after the other."""
    seconds = []
    for number in range(calls):
        began = time.perf_counter()
        client.submit(func, number, pure=False, **options).result()
        seconds.append(time.perf_counter() - began)
    return seconds


def compare(
    what: str,
    func: Callable[[int], Any],
    sides: list[tuple[Client, dict[str, Any]]],
    rounds: int,
    calls: int,
) -> None:
    """Call with both clients alternately, and print the medians and their ratio."""
    seconds: list[list[float]] = [[], []]
    cpu = [0.0, 0.0]
    for client, options in sides:
        call(client, func, 50, **options)  # connections and imports
    for _ in range(rounds):
        for side, (client, options) in enumerate(sides):
            began = time.process_time()
            seconds[side] += call(client, func, calls, **options)
            cpu[side] += time.process_time() - began
    ours, theirs = (statistics.median(each) for each in seconds)
    late = [statistics.quantiles(each, n=20)[-1] * 1e3 for each in seconds]
    used = [each / (rounds * calls) * 1e3 for each in cpu]
    print(
        f"{what:16} p50 {ours * 1e3:5.2f} / {theirs * 1e3:5.2f} ms = {ours / theirs:.2f}"
        f"   p95 {late[0]:5.2f} / {late[1]:5.2f} ms   CPU {used[0]:.2f} / {used[1]:.2f} ms",
        flush=True,
    )


def main() -> None:
    """Print a line for each kind of result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=300)
    options = parser.parse_args()
    with ExitStack() as stack:
        client = scalable_session(stack)
        plain = stack.enter_context(plain_dask(stack))
        sides: list[tuple[Client, dict[str, Any]]] = [
            (client, {"tag": "model"}),
            (plain, {"resources": {"model": 1}}),
        ]
        for what, func in PAYLOADS.items():
            compare(what, func, sides, options.rounds, options.calls)


if __name__ == "__main__":
    main()
