"""What a session costs before its first task and after its last: CPU seconds of a start, and memory after many tasks.

    python benchmarks/bench_footprint.py [--starts 5] [--rounds 10] [--tasks 20000]

Needs scalable-core and scalable-local. A start is `scalable run` of a workflow that calls one function on one worker,
compared with a script that does so with plain Dask and a worker of the same kind, also where that script uses the
libraries for manifests, command lines and TLS that a session needs, and nothing else of ours; CPU seconds are those
of all processes, and the least of several starts, because other load on the machine can only add to them. Memory is
the resident memory of the process with scheduler and client, and of a worker, after rounds of tasks whose results
were gathered and released. Both sides run in processes of their own, alternately. Above 1.00, Scalable takes more.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

MANIFEST = """\
version: 1
project: {name: bench}
targets: {here: {provider: local}}
components: {model: {}}
"""

HELLO = """\
from scalable.session import ScalableSession


def hello(name):
    return f"hello {name}"


if __name__ == "__main__":
    with ScalableSession.from_yaml() as client:
        print(client.submit(hello, "world", tag="model").result())
"""

# The worker is a process of its own, without a nanny, as those of the local provider are.
PLAIN = """\
import subprocess, sys
from distributed import Client, LocalCluster


def hello(name):
    return f"hello {name}"


def start(cluster):
    command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address]
    command += ["--nthreads", "1", "--resources", "model=1", "--no-nanny", "--no-dashboard"]
    return subprocess.Popen([*command, "--memory-limit", "0"], stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster:
        worker = start(cluster)
        with Client(cluster) as client:
            print(client.submit(hello, "world", resources={"model": 1}).result())
        worker.terminate()
        worker.wait()
"""

# What a session uses before any code of ours: a validated manifest, a command line, keys of its own for TLS.
LIBRARIES = """\
import click, yaml
from pydantic import BaseModel
from scalable.providers.tls import make_credentials


class Model(BaseModel):
    counts: dict[str, int]


if __name__ == "__main__":
    Model(counts={"model": 1})
    make_credentials().security()
"""

MEMORY = """
import json, os, sys


def resident():
    import psutil
    return psutil.Process().memory_info().rss


def measure(client, rounds, tasks, **options):
    for _ in range(rounds):
        client.gather(client.map(lambda x: x, range(tasks), pure=False, **options))
    (worker,) = client.run(resident).values()
    print(json.dumps({"scheduler and client": resident(), "worker": worker}))


if __name__ == "__main__":
    rounds, tasks = map(int, sys.argv[1:])
"""

SCALABLE_MEMORY = (
    MEMORY
    + """
    from scalable.session import ScalableSession
    with ScalableSession.from_yaml(target="here") as client:
        measure(client, rounds, tasks, tag="model")
"""
)

PLAIN_MEMORY = (
    MEMORY
    + """
    from plain import Client, LocalCluster, start
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster:
        worker = start(cluster)
        with Client(cluster) as client:
            client.wait_for_workers(1)
            measure(client, rounds, tasks, resources={"model": 1})
        worker.terminate()
        worker.wait()
"""
)


def run(command: list[str], directory: Path) -> tuple[float, str]:
    """Run a command; return the CPU seconds of all its processes, and what it printed."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def compare_starts(directory: Path, starts: int) -> None:
    """Start all sides alternately, and print the CPU seconds and their ratios."""
    scalable = [sys.executable, "-m", "scalable.cli", "run", "scalable.yaml", "--target", "here"]
    sides = {
        "a start": [*scalable, "--workflow", "hello.py"],
        "plain, with our libraries": [sys.executable, "libraries.py"],
        "plain": [sys.executable, "plain.py"],
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(starts + 1):  # the first compiles the modules
        for side, command in sides.items():
            used, printed = run(command, directory)
            assert "hello world" in printed
            if number:
                seconds[side].append(used)
    least = {side: min(used) for side, used in seconds.items()}
    theirs = least.pop("plain")
    for side, ours in least.items():
        print(f"{side:25} {ours:6.2f} / {theirs:6.2f} s of CPU  {ours / theirs:.2f}", flush=True)


def compare_memory(directory: Path, rounds: int, tasks: int) -> None:
    """Run rounds of tasks on both sides, and print the memory of each process and the ratio."""
    used = [
        json.loads(run([sys.executable, name, str(rounds), str(tasks)], directory)[1])
        for name in ("scalable_memory.py", "plain_memory.py")
    ]
    for process in used[0]:
        ours, theirs = (each[process] / 2**20 for each in used)
        print(f"{process:25} {ours:6.0f} / {theirs:6.0f} MiB       {ours / theirs:.2f}", flush=True)


def main() -> None:
    """Print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tasks", type=int, default=20_000)
    options = parser.parse_args()
    files = {
        "scalable.yaml": MANIFEST,
        "hello.py": HELLO,
        "plain.py": PLAIN,
        "libraries.py": LIBRARIES + PLAIN,
        "scalable_memory.py": SCALABLE_MEMORY,
        "plain_memory.py": PLAIN_MEMORY,
    }
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for file, text in files.items():
            (directory / file).write_text(text)
        compare_starts(directory, options.starts)
        compare_memory(directory, options.rounds, options.tasks)


if __name__ == "__main__":
    main()
