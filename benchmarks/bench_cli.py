"""CPU seconds of the commands that only read a manifest, compared with starting Python and importing Dask.

    python benchmarks/bench_cli.py [--rounds 5]

Needs scalable-core and scalable-local. The minimum of several rounds is printed, because other load on the machine can
only add to it. Modules are compiled once, as pip does.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path


def manifest(components: int) -> str:
    """Return a manifest with this number of components, and a task for each."""
    lines = [
        "version: 1",
        "project: {name: bench}",
        "targets: {local: {provider: local, adaptive: {maximum: 4}}}",
    ]
    lines += ["components:"]
    lines += [f"  c{n}: {{cpus: 2, memory: 4G, env: {{A: x, B: y}}}}" for n in range(components)]
    lines += ["tasks:", *(f"  t{n}: {{component: c{n}}}" for n in range(components))]
    return "\n".join(lines)


def cpu_seconds(command: list[str], rounds: int) -> float:
    """Run a command several times; return the minimum user and system time of a run."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    seconds = []
    for _ in range(rounds + 1):  # the first round compiles the modules
        before = used()
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        seconds.append(used() - before)
    return min(seconds)


def main() -> None:
    """Print a line for each command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    python, scalable = [sys.executable, "-c"], [sys.executable, "-m", "scalable.cli"]
    with tempfile.TemporaryDirectory() as directory:
        small, large = Path(directory) / "small.yaml", Path(directory) / "large.yaml"
        small.write_text(manifest(3))
        large.write_text(manifest(2000))
        measured = {
            "python -c pass": [*python, "pass"],
            "import distributed": [*python, "import distributed"],
            "scalable --help": [*scalable, "--help"],
            "scalable validate, 3 components": [*scalable, "validate", str(small)],
            "scalable validate, 2,000 components and tasks": [*scalable, "validate", str(large)],
            "scalable plan, 3 components": [*scalable, "plan", str(small)],
        }
        for name, command in measured.items():
            print(f"{name:46} {cpu_seconds(command, rounds):.3f} s")


if __name__ == "__main__":
    main()
