"""A real Slurm cluster for tests, as its users see it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

TIMEOUT = 120.0


def wait_until(condition: Callable[[], object], what: str, timeout: float = TIMEOUT) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.1)


class SlurmSite:
    """The Slurm cluster, through its commands."""

    def run(self, *argv: str) -> str:
        """Run one of Slurm's commands."""
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    def jobs(self, name: str = "") -> list[str]:
        """List the ids of the elements that have not ended, of all jobs or of those with one name."""
        only = [f"--name={name}"] if name else []
        states = "--states=PENDING,RUNNING,CONFIGURING,SUSPENDED"
        return self.run("squeue", "-h", "-r", states, *only, "-o", "%F_%K").split()

    def heal(self) -> None:
        """Resume every node that is down or drained."""
        for node in self.run("sinfo", "-h", "-N", "-t", "down,drain", "-o", "%N").split():
            # An error on a node that has come back by itself since sinfo ran.
            subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=False)
