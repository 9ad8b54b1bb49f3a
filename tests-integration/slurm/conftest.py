"""A real Slurm cluster of four nodes on this machine, for the tests in this directory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from slurm_site import SlurmSite, provide, wait_until

from scalable.providers.slurm import cluster


@pytest.fixture(scope="session")
def site() -> Iterator[SlurmSite]:
    with provide() as site:
        yield site


@pytest.fixture
def work(site: SlurmSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, with every node up; afterwards, no job may be left in the queue."""
    monkeypatch.chdir(tmp_path)
    site.heal()
    yield tmp_path
    wait_until(lambda: not site.jobs(), "the queue is empty")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have groups that cannot start fail after three tries, and not only after half a minute of them."""
    monkeypatch.setattr(cluster, "_RETRY", replace(cluster._RETRY, fail_after=2.0))


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
