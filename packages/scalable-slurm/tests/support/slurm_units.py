"""Units of a run named r with a group named gcam, as its backend and Slurm's commands show them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from scalable.cluster.port import Unit
from scalable.providers.slurm.backend import SlurmBackend
from scalable.providers.slurm.commands import Slurm
from scalable.providers.slurm.request import JobRequest

if TYPE_CHECKING:
    from conftest import FakeCommand

MINE = "scalable run=r tag=gcam request=q"
"""The comment of jobs with one worker each."""

SCRIPT = f"#!/bin/sh\n# {MINE}\n"
"""A script of such a job, as far as it tells whose it is."""

SEVERAL = "scalable run=r tag=gcam request=q workers=5 room=4"
"""The comment of jobs with room for four workers each, of an array of five workers."""


def make_backend(directory: Path, *, sweep_timeout: float) -> SlurmBackend:
    logs = str(directory / "logs")
    requests = {"gcam": JobRequest("gcam", logs), "big": JobRequest("big", logs, memory=8 * 10**9)}
    return SlurmBackend(Slurm(), "r", "tls://10.0.0.1:8786", requests, sweep_timeout=sweep_timeout)


def unit(element: int, request_id: str = "q") -> Unit:
    """Return the unit that is an element of array 7."""
    return Unit(f"gcam-7_{element}", "gcam", request_id, f"7_{element}")


def shared(job: str, number: int, request_id: str = "q") -> Unit:
    """Return one unit of a job with several."""
    return Unit(f"gcam-{job}.{number}", "gcam", request_id, job)


def asked(directory: Path, job: str) -> str:
    """Return what a job with several workers was asked."""
    file = directory / "logs" / "jobs" / f"{job}.asked"
    return file.read_text() if file.exists() else ""


def running(fake_command: FakeCommand, *jobs: str, left: str = "30:00") -> None:
    """Let ``squeue`` show jobs with several workers that run."""
    lines = [
        f"{job.replace('_', '|')}|RUNNING|None|{left}|node1|scalable-r|{SEVERAL}\n" for job in jobs
    ]
    fake_command("squeue", stdout="".join(lines))


def answer_by_state(fake_command: FakeCommand, directory: Path, array: str = "7") -> None:
    """Let ``scontrol`` know one job of an array in the state that a file has, and ``scancel`` cancel it."""
    line = f"JobId={array} ArrayJobId={array} ArrayTaskId=0 JobState=$state Reason=None NodeList="
    line += " RunTime=00:01:00 TimeLimit=00:10:00"
    fake_command(
        "scontrol",
        then=f'state=$(cat {directory}/state) && [ "${{4}}" = {array} ] && echo "{line}" && exit 0;'
        "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
    )
    fake_command("scancel", then=f"echo CANCELLED >{directory}/state")


def read_scripts(fake_command: FakeCommand, scripts: Mapping[str, str]) -> None:
    """Let ``scontrol`` know the scripts of jobs, by id."""
    cases = "".join(f"{job}) printf '{script}'; exit 0;; " for job, script in scripts.items())
    unknown = "echo 'job script retrieval failed: Invalid job id specified' >&2; exit 0"
    fake_command("scontrol", then=f'[ "$1" != write ] || case $3 in {cases} esac; {unknown}')
