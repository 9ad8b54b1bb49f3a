from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from slurm_units import (
    MINE,
    SCRIPT,
    SEVERAL,
    answer_by_state,
    read_scripts,
    running,
    shared,
    unit,
)

from scalable.cluster.port import GroupSpec, Phase, Reason
from scalable.providers.slurm.backend import SlurmBackend

if TYPE_CHECKING:
    from conftest import Calls, FakeCommand


def test_one_squeue_shows_the_state_of_every_job(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls
) -> None:
    lines = [
        f"7|0|RUNNING|None|1:30|node1|scalable-r|{MINE}",
        f"7|1|PENDING|QOSMaxCpuPerUserLimit|30:00||scalable-r|{MINE}",
        f"7|2|PENDING|None|30:00||scalable-r|{MINE}",
        f"7|3|TIMEOUT|TimeLimit|INVALID|node1|scalable-r|{MINE}",
    ]
    fake_command("squeue", stdout="\n".join(lines) + "\n")
    states = asyncio.run(backend.observe())
    assert {name: state.unit for name, state in states.items()} == {
        f"gcam-7_{element}": unit(element) for element in range(4)
    }
    running, limited, fresh, ended = states.values()
    assert (running.phase, running.seconds_left, running.detail) == (Phase.RUNNING, 90, "on node1")
    assert (limited.phase, limited.reason) == (Phase.PENDING, Reason.QUOTA)
    assert limited.detail == "QOSMaxCpuPerUserLimit"
    assert (fresh.phase, fresh.detail) == (Phase.PENDING, "just submitted")
    assert (ended.phase, ended.reason) == (Phase.GONE, Reason.WALLTIME)
    assert len(calls("squeue")) == 1
    assert [(job.id, job.state) for job in backend.jobs[2:]] == [
        ("7_2", "PENDING"),
        ("7_3", "TIMEOUT"),
    ]


def test_workers_of_a_launch_without_an_answer_are_found_by_their_jobs(
    packed: SlurmBackend, fake_command: FakeCommand
) -> None:
    running(fake_command, "7_0", "7_1")
    states = asyncio.run(packed.observe())
    expected = [*(shared("7_0", number) for number in range(4)), shared("7_1", 0)]
    assert [state.unit for state in states.values()] == expected


def test_jobs_whose_number_is_not_told_are_found_later(
    backend: SlurmBackend, fake_command: FakeCommand
) -> None:
    fake_command("sbatch", stdout="Welcome!\n")
    launched = asyncio.run(backend.launch(GroupSpec("gcam"), 2, "q"))
    assert (launched.units, launched.unnamed) == ([], 2)
    assert launched.awaited is not None
    assert "2 workers, and told no job id" in launched.awaited.summary
    assert "--parsable" in launched.awaited.remedy


OTHER = SCRIPT.replace("run=r ", "run=other ")
"""The script of a job of another run."""


@pytest.mark.parametrize("name", ["scalable-r", "climate-job"])
def test_jobs_whose_number_and_comment_are_not_told_are_found_by_their_script(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls, name: str
) -> None:
    """A site's plugin rewrites comments, and perhaps names. Other jobs of the user are not taken for ours."""
    fake_command("sbatch", stdout="Welcome!\n")
    lines = [f"{array}|0|RUNNING|None|1:30|node1|{name}|climate" for array in (5, 6, 7, 8)]
    by_name = "" if name == "scalable-r" else "exit;"
    shown = "".join(
        f"echo '{line}'; " for line in [*lines, f"9|N/A|RUNNING|None|1:30|node1|{name}|"]
    )
    fake_command("squeue", then=f'case "$*" in *--name=*) {by_name} ;; esac; {shown} :')
    read_scripts(fake_command, {"5": "#!/bin/sh\n", "6": OTHER, "7": SCRIPT})
    asyncio.run(backend.launch(GroupSpec("gcam"), 1, "q"))
    states = asyncio.run(backend.observe())
    assert [state.unit for state in states.values()] == [unit(0)]
    looked_at = {call.split()[2] for call in calls("scontrol") if call.startswith("write")}
    assert looked_at == {"5", "6", "7", "8"}


def test_a_job_that_has_ended_without_its_comment_is_that_of_the_only_launch(
    backend: SlurmBackend, fake_command: FakeCommand
) -> None:
    """The script of a job that has ended is gone; its name is that of the run."""
    fake_command("sbatch", stdout="Welcome!\n")
    lines = [f"7|{i}|FAILED|NonZeroExitCode|INVALID|node1|scalable-r|climate\n" for i in range(2)]
    fake_command("squeue", stdout="".join(lines))
    read_scripts(fake_command, {})
    asyncio.run(backend.launch(GroupSpec("gcam"), 2, "q"))
    states = asyncio.run(backend.observe()).values()
    assert [state.unit for state in states] == [unit(0), unit(1)]
    assert {state.phase for state in states} == {Phase.GONE}


def test_another_job_that_gets_the_number_of_one_of_ours_is_not_that(
    backend: SlurmBackend, fake_command: FakeCommand
) -> None:
    """A controller that has lost its state counts from the beginning again."""
    fake_command("squeue", stdout=f"7|0|RUNNING|None|1:30|node1|scalable-r|{MINE}\n")
    assert len(asyncio.run(backend.observe())) == 1
    fake_command("squeue")
    line = "JobId=7 ArrayJobId=7 ArrayTaskId=0 JobName={} JobState=RUNNING Reason=None NodeList=n\n"
    fake_command("scontrol", stdout=line.format("scalable-r"))
    assert len(asyncio.run(backend.observe())) == 1
    fake_command("scontrol", stdout=line.format("wrf"))
    assert asyncio.run(backend.observe()) == {}


@pytest.mark.parametrize(
    "banner",
    ["ARRAY_JOB_ID|ARRAY_TASK_ID|STATE|REASON|LEFT|NODELIST|NAME|COMMENT", "|7|8|9|a|b|c|d|e|"],
    ids=["header", "box"],
)
def test_lines_around_the_jobs_and_blanks_before_them_are_ignored(
    backend: SlurmBackend, fake_command: FakeCommand, banner: str
) -> None:
    fake_command("squeue", stdout=f"{banner}\n  7|0|RUNNING|None|1:30|node1|scalable-r|{MINE}\n")
    assert [state.unit for state in asyncio.run(backend.observe()).values()] == [unit(0)]


def test_a_job_that_was_refused_is_no_worker_that_has_failed(
    backend: SlurmBackend, fake_command: FakeCommand
) -> None:
    """Slurm keeps a record of it, with our name and comment; less may have been accepted in its place."""
    lines = ["6|0|FAILED|BadConstraints|INVALID|", "7|0|RUNNING|None|1:30|node1"]
    fake_command("squeue", stdout="".join(f"{line}|scalable-r|{MINE}\n" for line in lines))
    assert [state.unit for state in asyncio.run(backend.observe()).values()] == [unit(0)]


@pytest.mark.parametrize("state", ["EXPEDITING", "LEVITATING", "?"])
def test_a_state_that_is_not_known_is_not_the_end(
    backend: SlurmBackend, fake_command: FakeCommand, state: str
) -> None:
    fake_command("squeue", stdout=f"7|0|{state}|None|1:30|node1|scalable-r|{MINE}\n")
    (seen,) = asyncio.run(backend.observe()).values()
    assert seen.phase is not Phase.GONE


def test_the_user_is_told_once_of_a_launch_that_shows_no_jobs(
    backend: SlurmBackend,
    fake_command: FakeCommand,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake_command("sbatch", stdout="Submitted with the blessing of HR\n")
    fake_command("squeue")
    asyncio.run(backend.launch(GroupSpec("gcam"), 2, "q"))
    asyncio.run(backend.observe())
    assert caplog.messages == []
    monkeypatch.setattr("scalable.providers.slurm.observation._AWAITED_QUIETLY", 0.0)
    for _ in range(2):
        asyncio.run(backend.observe())
    (warning,) = caplog.messages
    assert "gcam: sbatch has accepted 2 workers without a job id" in warning
    assert "It printed: Submitted with the blessing of HR." in warning


def test_the_record_of_an_array_whose_waiting_elements_were_cancelled_is_no_unit(
    backend: SlurmBackend, packed: SlurmBackend, fake_command: FakeCommand
) -> None:
    for each, comment in ((backend, MINE), (packed, SEVERAL)):
        lines = [
            f"7|N/A|CANCELLED|Resources|10:00||scalable-r|{comment}",
            f"7|0|RUNNING|None|1:30|node1|scalable-r|{comment}",
        ]
        fake_command("squeue", stdout="\n".join(lines) + "\n")
        assert {state.unit.native for state in asyncio.run(each.observe()).values()} == {"7_0"}


def test_workers_end_with_their_job(packed: SlurmBackend, fake_command: FakeCommand) -> None:
    fake_command("squeue", stdout=f"7|0|TIMEOUT|TimeLimit|INVALID|node1|scalable-r|{SEVERAL}\n")
    states = asyncio.run(packed.observe())
    assert {(s.phase, s.reason) for s in states.values()} == {(Phase.GONE, Reason.WALLTIME)}
    assert len(states) == 4


def test_jobs_that_squeue_leaves_out_are_as_the_controller_has_them(
    backend: SlurmBackend,
    fake_command: FakeCommand,
    calls: Calls,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_command("sbatch", stdout="7\n")
    fake_command("squeue")
    answer_by_state(fake_command, tmp_path)

    async def observe(state: str) -> list[tuple[Phase, str]]:
        (tmp_path / "state").write_text(state)
        return [(each.phase, each.detail) for each in (await backend.observe()).values()]

    asyncio.run(backend.launch(GroupSpec("gcam"), 1, "q"))
    assert asyncio.run(observe("PENDING")) == [(Phase.PENDING, "just submitted")]
    assert asyncio.run(observe("RUNNING")) == [(Phase.RUNNING, "on ")]
    (state,) = asyncio.run(backend.observe()).values()
    assert state.seconds_left == 540  # or it would not be drained before its walltime
    fake_command("scontrol", stderr="Unable to contact slurm controller\n", status=1)
    assert asyncio.run(observe("")) == [(Phase.RUNNING, "on ")]
    with monkeypatch.context() as later:
        later.setattr("scalable.providers.slurm.observation._UNLISTED_AT_MOST", -1.0)
        assert asyncio.run(observe("")) == []
    answer_by_state(fake_command, tmp_path, "8")
    assert asyncio.run(observe("")) == []
    before = len(calls("scontrol"))
    assert asyncio.run(observe("")) == []
    assert len(calls("scontrol")) == before
