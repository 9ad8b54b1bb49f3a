"""An ensemble whose client is killed, on this machine or on Slurm, goes on where it stopped, on a real Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_site import SlurmSite, wait_until

from scalable.results.store.storage import Store

MANIFEST = """\
version: 1
project: {name: ensemble, results: kept}
targets:
  laptop: {provider: local}
  hpc:
    provider: slurm
    queue: short
    walltime: 00:10:00
    interface: lo
    workers: {model: 2}
components:
  model: {memory: 400M, slots: 2}
tasks:
  simulate: {component: model, cache: true}
"""

WORKFLOW = """\
from model import simulate
from scalable.session import ScalableSession

with ScalableSession.from_yaml() as client:
    print(sum(client.gather(client.map(simulate, range(400), task="simulate"))))
"""

MODEL = """\
import os
import time

from scalable.results.store.storage import Store


def simulate(member):
    if member >= 30 and os.path.isdir({hold!r}):
        open(os.path.join({hold!r}, str(os.getpid())), "w").close()
        time.sleep(600)
    with open({starts!r}, "a") as file:
        file.write(f"{{member}}\\n")
    return 2 * member
"""


@pytest.mark.parametrize("first", ["laptop", "hpc"])
def test_a_killed_ensemble_of_400_members_starts_only_the_370_that_are_missing(
    work: Path, site: SlurmSite, first: str
) -> None:
    starts, hold = work / "starts", work / "hold"
    (work / "scalable.yaml").write_text(MANIFEST)
    (work / "workflow.py").write_text(WORKFLOW)
    (work / "model.py").write_text(MODEL.format(starts=str(starts), hold=str(hold)))
    hold.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "scalable.cli", "run", "-w", "workflow.py", "--target", first],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as run:
        kept = Store(str(work / "kept"))
        wait_until(lambda: len([*kept.results()]) == 30, "30 members are kept")
        os.killpg(run.pid, signal.SIGKILL)
    wait_until(lambda: not site.jobs(), "the jobs of the dead client have ended")
    held = [Path("/proc", path.name) for path in hold.iterdir()]
    wait_until(lambda: not any(path.exists() for path in held), "their workers are gone")
    hold.rename(work / "held")
    starts.unlink()
    (record,) = (work / ".scalable" / "runs").iterdir()
    resumed = subprocess.run(
        [sys.executable, "-m", "scalable.cli", "resume", record.name, "--target", "hpc"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.splitlines()[-1] == str(2 * sum(range(400)))
    assert "simulate: 30 kept, 370 to do" in resumed.stderr
    members = [int(line) for line in starts.read_text().splitlines()]
    assert sorted(members) == [*range(30, 400)]
