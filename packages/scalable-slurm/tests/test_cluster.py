from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scalable.cluster import Pace
from scalable.errors import LeftoverError
from scalable.providers.slurm import SlurmCluster

if TYPE_CHECKING:
    from conftest import FakeCommand


def test_a_job_that_cannot_be_cancelled_is_reported_by_close(
    tmp_path: Path, fake_command: FakeCommand
) -> None:
    fake_command("sbatch", stdout="7\n")
    fake_command("squeue", stdout="7|0|RUNNING|None|1:30|node1|scalable run=r tag=gcam request=q\n")
    fake_command("scancel")
    pace = Pace(tick=0.05, poll=0.1, close_timeout=4.0)
    cluster = SlurmCluster(logs_location=str(tmp_path), interface="lo", security=False, pace=pace)
    cluster.add_container("gcam")
    cluster.add_workers(1, "gcam")
    with pytest.raises(LeftoverError) as caught:
        cluster.close()
    assert [str(each) for each in caught.value.leftovers] == ["Slurm job 7_0 (RUNNING)"]
