"""A real Slurm cluster of four nodes on this machine, for the tests in this directory."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_site import SlurmSite, wait_until

HERE = Path(__file__).parent


NODES = 4


def _free_ports() -> int:
    """Return the first of the cluster's ports, all of them free and below the range of ephemeral ports."""
    while True:
        first = random.randrange(10_000, 30_000)  # two concurrent runs must not choose the same
        try:
            for port in (first, *range(first + 101, first + 101 + NODES)):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first


@pytest.fixture(scope="session")
def site() -> Iterator[SlurmSite]:
    if sys.platform != "linux":
        pytest.skip("Slurm runs on Linux")
    if shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") is None and os.geteuid():
        pytest.skip("Slurm is not installed, and only root can: apt install slurmctld slurmd munge")
    # Not below pytest's own directory: munge requires its socket to be accessible to all users.
    root = Path(tempfile.mkdtemp(prefix="slurm-"))
    root.chmod(0o755)
    environ = {
        **os.environ,
        "SLURM_TEST_ROOT": str(root),
        "SLURM_TEST_PORT": str(_free_ports()),
        "SLURM_TEST_NODES": str(NODES),
    }
    os.environ["SLURM_CONF"] = f"{root}/slurm.conf"
    try:
        subprocess.run([HERE / "up.sh"], env=environ, check=True, stdin=subprocess.DEVNULL)
        yield SlurmSite()
    finally:
        del os.environ["SLURM_CONF"]
        subprocess.run([HERE / "down.sh"], env=environ, check=True, stdin=subprocess.DEVNULL)
        shutil.rmtree(root)


@pytest.fixture
def work(site: SlurmSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, with every node up; afterwards, no job may be left in the queue."""
    monkeypatch.chdir(tmp_path)
    site.heal()
    yield tmp_path
    wait_until(lambda: not site.jobs(), "the queue is empty")


@pytest.fixture
def slow_epilog(site: SlurmSite, tmp_path: Path) -> Iterator[None]:
    """Make the nodes clean up for 15 s after each job, as many sites do."""
    epilog = tmp_path / "epilog"
    epilog.write_text("#!/bin/sh\nsleep 15\n")
    epilog.chmod(0o755)
    conf = Path(os.environ["SLURM_CONF"])
    usual = conf.read_text()
    conf.write_text(f"{usual}Epilog={epilog}\n")
    site.run("scontrol", "reconfigure")
    yield
    conf.write_text(usual)
    site.run("scontrol", "reconfigure")


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """Return how often one of Slurm's commands has run."""
    log = tmp_path / "calls"
    log.touch()
    directory = tmp_path / "counting"
    directory.mkdir()
    for name in ("sbatch", "scancel", "squeue"):
        script = directory / name
        script.write_text(f'#!/bin/sh\necho {name} >> {log}\nexec {shutil.which(name)} "$@"\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return lambda name: log.read_text().split().count(name)
