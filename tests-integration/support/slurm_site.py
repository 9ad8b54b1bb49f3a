"""Real Slurm clusters for tests, on this machine, and as their users see them."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "slurm"
NODES = 4
TIMEOUT = 120.0


@contextlib.contextmanager
def provide(*, accounting: bool = False) -> Iterator[SlurmSite]:
    """Bring up a cluster of four nodes, which ``SLURM_CONF`` then names; skip where Slurm cannot be installed.

    Parameters
    ----------
    accounting : bool
        Whether it has accounts with limits, and a second cluster: see ``up.sh``.
    """
    if sys.platform != "linux":
        pytest.skip("Slurm runs on Linux")
    daemon = "slurmdbd" if accounting else "slurmctld"
    if shutil.which(daemon, path=f"{os.environ['PATH']}:/usr/sbin") is None and os.geteuid():
        pytest.skip(
            f"{daemon} is not installed, and only root can: see tests-integration/slurm/up.sh"
        )
    # Not below pytest's own directory: munge requires its socket to be accessible to all users.
    root = Path(tempfile.mkdtemp(prefix="slurm-"))
    root.chmod(0o755)
    environ = {
        **os.environ,
        "SLURM_TEST_ROOT": str(root),
        "SLURM_TEST_PORT": str(_free_ports()),
        "SLURM_TEST_NODES": str(NODES),
        "SLURM_TEST_ACCOUNTING": "yes" if accounting else "",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", f"{root}/slurm.conf")
        try:
            subprocess.run([SCRIPTS / "up.sh"], env=environ, check=True, stdin=subprocess.DEVNULL)
            yield SlurmSite()
        finally:
            subprocess.run([SCRIPTS / "down.sh"], env=environ, check=True, stdin=subprocess.DEVNULL)
            shutil.rmtree(root)


def _free_ports() -> int:
    """Return the first of the cluster's ports, all of them free and below the range of ephemeral ports."""
    nodes = [100 + i for i in range(1, NODES + 1)]
    while True:
        first = random.randrange(10_000, 30_000)  # two concurrent runs must not choose the same
        try:
            for offset in (0, 1, *nodes, 200, 301):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", first + offset))
        except OSError:
            continue
        return first


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
