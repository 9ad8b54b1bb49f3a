from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from scalable.cluster.port import Leftover, Reason
from scalable.providers.slurm.backend import SlurmBackend
from scalable.providers.slurm.commands import Slurm
from scalable.providers.slurm.script import JobRequest

if TYPE_CHECKING:
    from conftest import Say


def made(*, patience: float = 30.0) -> SlurmBackend:
    return SlurmBackend(Slurm(), "run-1", "tls://10.0.0.1:8786", {}, patience=patience)


def test_a_job_that_slurm_has_forgotten_is_not_said_to_run(say: Say) -> None:
    """A controller forgets what ended MinJobAge ago, and many sites have no accounting."""
    known = made()
    known.requests["gcam"] = JobRequest("gcam", "/nonexistent")
    say("squeue", stdout="7|0|RUNNING|None|1:30|node1|scalable run=run-1 tag=gcam request=f00\n")
    (state,) = asyncio.run(known.observe()).values()
    say("scontrol", stderr="slurm_load_jobs error: Invalid job id specified\n", status=1)
    say("sacct", stderr="Slurm accounting storage is disabled\n", status=1)
    explained = asyncio.run(known.describe(state.unit))
    assert explained.reason is Reason.UNKNOWN
    assert explained.summary == "Slurm says nothing of job 7_0, which was RUNNING when last seen"


def test_what_cannot_be_swept_now_can_be_reaped_later(say: Say) -> None:
    say("squeue", stderr="squeue: error: Unable to contact slurm controller\n", status=1)
    (left,) = asyncio.run(made().sweep())
    assert left.name == "scalable-run-1"
    assert "Unable to contact slurm controller; when Slurm answers" in left.error
    assert "`scalable reap run-1`" in left.error


def test_a_sweep_ends_although_slurm_does_not_answer(say: Say) -> None:
    say("squeue", then="exec sleep 60")
    (left,) = asyncio.run(made(patience=0.2).sweep())
    assert "does not answer" in left.error


def test_jobs_that_stay_are_named(say: Say) -> None:
    say("squeue", stdout="7|0|RUNNING|None|1:30|node1|mine\n")
    say("scancel")
    assert asyncio.run(made(patience=1.0).sweep()) == [Leftover("Slurm job", "7_0", "RUNNING")]
