from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from slurm_units import MINE, answer_by_state, make_backend

from scalable.cluster.port import GroupSpec, Leftover
from scalable.providers.slurm.backend import SlurmBackend

if TYPE_CHECKING:
    from conftest import Calls, FakeCommand


def test_a_sweep_cancels_the_run_once_and_waits_until_it_is_gone(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls, tmp_path: Path
) -> None:
    fake_command("squeue", stdout=f"7|0|RUNNING|None|1:30|node1|scalable-r|{MINE}\n")
    fake_command("scancel", then=f": > {tmp_path}/squeue.out")
    assert asyncio.run(backend.sweep()) == []
    assert calls("scancel") == ["--quiet --name=scalable-r"]


@pytest.mark.parametrize("shown", ["", f"7|0|PENDING|Priority|NOT_SET||scalable-r|{MINE}\n"])
def test_a_sweep_believes_the_controller_and_no_cached_squeue(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls, tmp_path: Path, shown: str
) -> None:
    """Neither jobs that a cache does not have yet are left, nor those that it still has reported."""
    fake_command("sbatch", stdout="7\n")
    fake_command("squeue", stdout=shown)
    answer_by_state(fake_command, tmp_path)
    (tmp_path / "state").write_text("PENDING")

    async def launch_and_close() -> Sequence[Leftover]:
        await backend.launch(GroupSpec("gcam"), 1, "q")
        return await backend.sweep()

    assert asyncio.run(launch_and_close()) == []
    assert calls("scancel") == ["--quiet --name=scalable-r"]


def test_a_sweep_cancels_jobs_that_the_site_has_given_another_name(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls, tmp_path: Path
) -> None:
    fake_command("sbatch", stdout="7\n")
    fake_command("squeue")
    answer_by_state(fake_command, tmp_path)
    by_id = f'case "$*" in *7_0*) echo CANCELLED >{tmp_path}/state;; esac'
    fake_command("scancel", then=by_id)
    (tmp_path / "state").write_text("RUNNING")

    async def launch_and_close() -> Sequence[Leftover]:
        await backend.launch(GroupSpec("gcam"), 1, "q")
        return await backend.sweep()

    assert asyncio.run(launch_and_close()) == []
    assert calls("scancel") == ["--quiet --name=scalable-r", "--quiet 7_0"]
    assert not backend.has_left_jobs


def test_a_sweep_leaves_another_job_that_got_the_number_of_one_of_ours(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls
) -> None:
    """The user's own, after the controller has lost its state."""
    fake_command("sbatch", stdout="7\n")
    fake_command("squeue", stdout=f"7|0|RUNNING|None|1:30|node1|scalable-r|{MINE}\n")
    fake_command("scancel")
    line = "JobId=7 ArrayJobId=7 ArrayTaskId={} JobName=wrf JobState=RUNNING Reason=None NodeList=n"
    fake_command("scontrol", stdout="\n".join(map(line.format, range(2))))

    async def launch_and_close() -> Sequence[Leftover]:
        await backend.launch(GroupSpec("gcam"), 1, "q")
        await backend.observe()
        fake_command("squeue", stdout="7|0|RUNNING|None|1:30|node1|wrf|mine\n")
        return await backend.sweep()

    assert asyncio.run(launch_and_close()) == []
    assert calls("scancel") == ["--quiet --name=scalable-r"]


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED"])
def test_a_sweep_ignores_jobs_that_are_already_ending(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls, state: str
) -> None:
    fake_command("squeue", stdout=f"7|0|{state}|None|1:30|node1|scalable-r|{MINE}\n")
    assert asyncio.run(backend.sweep()) == []
    assert calls("scancel") == []


def test_a_sweep_reports_jobs_that_do_not_end(fake_command: FakeCommand, tmp_path: Path) -> None:
    fake_command("squeue", stdout=f"7|0|RUNNING|None|1:30|node1|scalable-r|{MINE}\n")
    fake_command("scancel")
    (leftover,) = asyncio.run(make_backend(tmp_path, sweep_timeout=3.0).sweep())
    assert str(leftover) == "Slurm job 7_0 (RUNNING)"


def test_what_cannot_be_swept_now_can_be_reaped_later(
    backend: SlurmBackend, fake_command: FakeCommand
) -> None:
    fake_command("squeue", stderr="squeue: error: Unable to contact slurm controller\n", status=1)
    (leftover,) = asyncio.run(backend.sweep())
    assert leftover.name == "scalable-r"
    assert "Unable to contact slurm controller; when Slurm answers" in leftover.error
    assert "`scalable reap r`" in leftover.error


def test_a_sweep_ends_although_slurm_does_not_answer(
    fake_command: FakeCommand, tmp_path: Path
) -> None:
    fake_command("squeue", then="exec sleep 60")
    (leftover,) = asyncio.run(make_backend(tmp_path, sweep_timeout=0.2).sweep())
    assert "does not answer" in leftover.error
