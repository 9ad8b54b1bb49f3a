from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from slurm_units import MINE, running, shared, unit

from scalable.cluster.port import Phase, Reason, Unit
from scalable.providers.slurm.backend import SlurmBackend

if TYPE_CHECKING:
    from conftest import FakeCommand


@pytest.mark.parametrize(
    ("record", "reason", "summary", "remedy"),
    [
        (
            "JobState=TIMEOUT Reason=TimeLimit ExitCode=0:15 NodeList=node1",
            Reason.WALLTIME,
            "job 7_0 reached its walltime on node1",
            "request a longer walltime",
        ),
        (
            "JobState=OUT_OF_MEMORY Reason=OutOfMemory ExitCode=0:125 NodeList=node1",
            Reason.OUT_OF_MEMORY,
            "job 7_0 used more memory than it requested on node1",
            "give the component more memory",
        ),
        (
            "JobState=FAILED Reason=NonZeroExitCode ExitCode=3:0 NodeList=node1",
            Reason.EXITED,
            "job 7_0 ended with exit code 3 on node1",
            "",
        ),
        (
            "JobState=FAILED Reason=RaisedSignal:11(Segmentation_fault) ExitCode=0:11 NodeList=node1",
            Reason.EXITED,
            "job 7_0 crashed with SIGSEGV on node1",
            "",
        ),
        (
            "JobState=FAILED Reason=JobLaunchFailure ExitCode=0:53 NodeList=node1",
            Reason.EXITED,
            "job 7_0 could not be started on node1",
            "check that logs_location is on a file system that the nodes share",
        ),
        (
            "JobState=FAILED Reason=JobLaunchFailure ExitCode=0:9 NodeList=node1",
            Reason.EXITED,
            "job 7_0 was ended by SIGKILL on node1",
            "",
        ),
        (
            "JobState=PENDING Reason=Priority ExitCode=0:0",
            Reason.PRIORITY,
            "job 7_0 waits: Priority",
            "",
        ),
        (
            "JobState=RUNNING Reason=None ExitCode=0:0 NodeList=node1",
            Reason.STARTING,
            "job 7_0 runs on node1",
            "",
        ),
    ],
)
def test_a_job_is_explained_from_its_record(
    backend: SlurmBackend,
    fake_command: FakeCommand,
    record: str,
    reason: Reason,
    summary: str,
    remedy: str,
) -> None:
    fake_command("scontrol", stdout=f"JobId=7 ArrayJobId=7 ArrayTaskId=0 {record}\n")
    why = asyncio.run(backend.describe(unit(0)))
    assert (why.reason, why.summary, why.remedy) == (reason, summary, remedy)


def test_a_job_that_used_too_much_memory_is_told_how_much_it_had(
    backend: SlurmBackend, fake_command: FakeCommand
) -> None:
    record = "JobState=OUT_OF_MEMORY Reason=OutOfMemory ExitCode=0:125 NodeList=node1"
    fake_command("scontrol", stdout=f"JobId=7 ArrayJobId=7 ArrayTaskId=0 {record}\n")
    why = asyncio.run(backend.describe(Unit("big-7_0", "big", "q", "7_0")))
    assert why.summary == "job 7_0 used more memory than its 8G on node1"


def test_the_log_of_a_job_is_part_of_its_explanation(
    backend: SlurmBackend, fake_command: FakeCommand, tmp_path: Path
) -> None:
    fake_command("scontrol", stdout="JobId=7 JobState=FAILED ExitCode=1:0 NodeList=node1\n")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "7_0.log").write_text("No module named gcam\n")
    why = asyncio.run(backend.describe(unit(0)))
    assert why.log_tail == "No module named gcam"
    assert why.remedy == f"its log is {tmp_path}/logs/7_0.log"


def test_a_job_without_a_record_ended_as_it_was_last_seen(
    backend: SlurmBackend, fake_command: FakeCommand
) -> None:
    for command in ("scontrol", "sacct"):
        fake_command(command, stderr="Invalid job id specified\n", status=1)
    assert asyncio.run(backend.describe(unit(0))).reason is Reason.UNKNOWN
    fake_command("squeue", stdout=f"7|0|NODE_FAIL|NodeDown|INVALID|node1|scalable-r|{MINE}\n")
    asyncio.run(backend.observe())
    assert asyncio.run(backend.describe(unit(0))).reason is Reason.NODE_FAILURE


def test_a_running_job_without_a_record_is_not_reported_as_running(
    backend: SlurmBackend, fake_command: FakeCommand
) -> None:
    """The controller drops the record of a job MinJobAge after its end, and many sites have no accounting."""
    fake_command("squeue", stdout=f"7|0|RUNNING|None|1:30|node1|scalable-r|{MINE}\n")
    asyncio.run(backend.observe())
    for command in ("scontrol", "sacct"):
        fake_command(command, stderr="Invalid job id specified\n", status=1)
    why = asyncio.run(backend.describe(unit(0)))
    assert why.reason is Reason.UNKNOWN
    assert why.summary == "Slurm has no record of job 7_0, which was RUNNING when last seen"


@pytest.mark.parametrize(
    ("line", "reason", "summary"),
    [
        ("1 -9 61 memory", Reason.OUT_OF_MEMORY, "used more memory than its 1Gi"),
        ("1 3 61 exited", Reason.EXITED, "ended with exit code 3"),
        ("1 -11 61 exited", Reason.EXITED, "crashed with SIGSEGV"),
    ],
)
def test_the_end_of_one_worker_of_several_is_explained(
    packed: SlurmBackend,
    fake_command: FakeCommand,
    tmp_path: Path,
    line: str,
    reason: Reason,
    summary: str,
) -> None:
    running(fake_command, "7_0")
    (tmp_path / "logs" / "jobs" / "7_0.ended").write_text(f"{line}\n")
    (tmp_path / "logs" / "7_0.1.log").write_text("Out of luck\n")
    states = asyncio.run(packed.observe())
    assert (states["gcam-7_0.1"].phase, states["gcam-7_0.1"].reason) == (Phase.GONE, reason)
    why = asyncio.run(packed.describe(shared("7_0", 1)))
    assert (why.reason, why.summary) == (reason, f"worker gcam-7_0.1 {summary} on node1")
    assert why.log_tail == "Out of luck"
    assert f"{tmp_path}/logs/7_0.1.log" in why.remedy
