"""Two components whose bursts alternate, under a cap of four workers: adaptive groups against two workers each.

    python benchmarks/bench_adaptive.py [--bursts 4] [--tasks 16] [--seconds 2]

Needs scalable-core and scalable-local. A burst begins when the previous one has ended, like the phases of a workflow.
Worker-seconds count every unit from its launch to its end, busy or idle. Below 1.00, adaptive groups are better.
"""

from __future__ import annotations

import argparse
import threading
import time
from typing import Any

from scalable.manifest.parser import parse_manifest
from scalable.session import ScalableSession

COMPONENTS = ("gcam", "stitches")
STATIC = {"workers": dict.fromkeys(COMPONENTS, 2)}
ADAPTIVE = {"adaptive": {"minimum": 0, "maximum": 4}, "max_workers": 4}


def work(seconds: float) -> None:
    """Sleep for some seconds."""
    time.sleep(seconds)


class Meter:
    """Measures the worker-seconds of a cluster inside a ``with`` block."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.seconds = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        before = time.perf_counter()
        while not self._over.wait(0.05):
            now = time.perf_counter()
            units = sum(
                group.pending + group.starting + group.running + group.draining
                for group in self.cluster.groups.values()
            )
            self.seconds += units * (now - before)
            before = now

    def __enter__(self) -> Meter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def run(target: dict[str, Any], bursts: int, tasks: int, seconds: float) -> tuple[float, float]:
    """Run all bursts; return the seconds from start to end, and worker-seconds."""
    manifest = {
        "version": 1,
        "project": {"name": "bench"},
        "targets": {"here": {"provider": "local", **target}},
        "components": {tag: {} for tag in COMPONENTS},
    }
    with (
        ScalableSession(parse_manifest(manifest), target="here") as client,
        Meter(client.cluster) as meter,
    ):
        start = time.perf_counter()
        for burst in range(bursts):
            tag = COMPONENTS[burst % len(COMPONENTS)]
            client.gather(client.map(work, [seconds] * tasks, pure=False, tag=tag))
        return time.perf_counter() - start, meter.seconds


def main() -> None:
    """Print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bursts", type=int, default=4)
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    adaptive, static = (
        run(target, options.bursts, options.tasks, options.seconds) for target in (ADAPTIVE, STATIC)
    )
    for name, ours, theirs in zip(
        ("makespan, adaptive against 2 + 2", "worker-seconds"), adaptive, static, strict=True
    ):
        print(f"{name:34} {ours:6.1f} / {theirs:6.1f} s  {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
