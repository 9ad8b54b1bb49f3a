from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from slurm_units import MINE, SEVERAL, asked, make_backend, running, shared, unit

from scalable.cluster.port import GroupSpec, LaunchResult, Leftover, Phase, ReadsLogs
from scalable.errors import LaunchRefusedError
from scalable.providers.slurm.backend import SlurmBackend
from scalable.providers.slurm.commands import SlurmCommandError

if TYPE_CHECKING:
    from conftest import Calls, FakeCommand


def test_a_launch_that_is_repeated_submits_nothing(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls
) -> None:
    fake_command("sbatch", stdout="7\n")
    first = asyncio.run(backend.launch(GroupSpec("gcam"), 2, "q"))
    assert asyncio.run(backend.launch(GroupSpec("gcam"), 2, "q")) == first
    assert len(calls("sbatch")) == 1


async def give_up_on_a_launch(backend: SlurmBackend, submitting: Path) -> None:
    """Launch, and cancel that once ``sbatch`` runs."""
    launch = asyncio.create_task(backend.launch(GroupSpec("gcam"), 1, "q"))
    async with asyncio.timeout(60):
        while not submitting.exists():
            await asyncio.sleep(0.01)
    launch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launch


def test_a_launch_that_was_given_up_is_waited_for_when_it_is_repeated(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls, tmp_path: Path
) -> None:
    go, submitting = tmp_path / "go", tmp_path / "submitting"
    fake_command("sbatch", stdout="7\n", then=f": > {submitting}; cat {go} > {tmp_path}/gone")
    os.mkfifo(go)

    async def scenario() -> LaunchResult:
        await give_up_on_a_launch(backend, submitting)
        again = asyncio.create_task(backend.launch(GroupSpec("gcam"), 1, "q"))
        await asyncio.to_thread(go.write_text, "")
        return await again

    assert asyncio.run(scenario()) == LaunchResult([unit(0)])
    assert len(calls("sbatch")) == 1


def test_an_sbatch_that_hangs_is_not_waited_for_once_its_jobs_are_seen(
    backend: SlurmBackend,
    fake_command: FakeCommand,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("scalable.providers.slurm.commands._LOOK_EVERY", 0.1)
    submitting = tmp_path / "submitting"
    fake_command("sbatch", then=f": > {submitting}; exec sleep 600")
    for command in ("scancel", "scontrol"):
        fake_command(command)
    lines = [f"7|{i}|PENDING|Priority|30:00||scalable-r|{MINE}\n" for i in range(2)]
    fake_command("squeue", stdout="".join(lines))

    async def scenario() -> LaunchResult:
        launch = asyncio.create_task(backend.launch(GroupSpec("gcam"), 2, "q"))
        async with asyncio.timeout(60):
            while not submitting.exists():
                await asyncio.sleep(0.01)
        await backend.observe()
        try:
            return await launch
        finally:
            fake_command("squeue")
            assert await backend.sweep() == []

    assert asyncio.run(scenario()) == LaunchResult([unit(0), unit(1)])


def test_an_sbatch_that_hangs_is_told_and_asked_for_again(
    backend: SlurmBackend,
    fake_command: FakeCommand,
    calls: Calls,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("scalable.providers.slurm.backend._ANSWER_WITHIN", 0.2)
    go = tmp_path / "go"
    fake_command("sbatch", stdout="7\n", then=f"cat {go} > {tmp_path}/gone")
    os.mkfifo(go)

    async def scenario() -> LaunchResult:
        for _ in range(2):
            with pytest.raises(SlurmCommandError, match=r"no answer for .*; see by hand"):
                await backend.launch(GroupSpec("gcam"), 1, "q")
        monkeypatch.setattr("scalable.providers.slurm.backend._ANSWER_WITHIN", 60.0)
        await asyncio.to_thread(go.write_text, "")
        return await backend.launch(GroupSpec("gcam"), 1, "q")

    assert asyncio.run(scenario()) == LaunchResult([unit(0)])
    assert len(calls("sbatch")) == 1


def test_a_sweep_cancels_what_a_launch_that_was_given_up_submits(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls, tmp_path: Path
) -> None:
    """Its job appears in the queue while ``sweep`` waits for sbatch, and never later."""
    go, submitting, queue = tmp_path / "go", tmp_path / "submitting", tmp_path / "squeue.out"
    fake_command("squeue")
    fake_command("scancel", then=f": > {queue}")
    submit = f"echo '7|0|PENDING|Priority|1:30||scalable-r|{MINE}' > {queue}"
    fake_command(
        "sbatch", stdout="7\n", then=f": > {submitting}; cat {go} > {tmp_path}/gone; {submit}"
    )
    os.mkfifo(go)

    async def scenario() -> Sequence[Leftover]:
        await give_up_on_a_launch(backend, submitting)
        sweep = asyncio.create_task(backend.sweep())
        await asyncio.sleep(0)
        await asyncio.to_thread(go.write_text, "")
        left = await sweep
        with pytest.raises(LaunchRefusedError, match="is closed"):
            await backend.launch(GroupSpec("gcam"), 1, "q2")
        return left

    assert asyncio.run(scenario()) == []
    assert calls("scancel") == ["--quiet --name=scalable-r"]
    assert queue.read_text() == ""


def test_an_sbatch_without_an_answer_is_killed_and_named(
    fake_command: FakeCommand, tmp_path: Path
) -> None:
    backend, submitting = make_backend(tmp_path, sweep_timeout=2.0), tmp_path / "submitting"
    for command in ("squeue", "scancel"):
        fake_command(command)
    fake_command("sbatch", then=f"echo $$ > {submitting}; exec sleep 600")

    async def scenario() -> Sequence[Leftover]:
        await give_up_on_a_launch(backend, submitting)
        return await backend.sweep()

    (leftover,) = asyncio.run(scenario())
    assert str(leftover) == (
        "sbatch of request q (no answer; if it has submitted jobs after all, `scalable reap r` cancels them)"
    )
    with pytest.raises(ProcessLookupError):
        os.kill(int(submitting.read_text()), 0)


def test_many_units_are_cancelled_by_one_scancel(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls
) -> None:
    fake_command("scancel")
    asyncio.run(backend.stop([unit(element) for element in (0, 1, 2, 4)]))
    assert calls("scancel") == ["--quiet 7_[0-2,4]"]


def test_a_job_is_cancelled_with_its_last_worker(
    packed: SlurmBackend, fake_command: FakeCommand, calls: Calls, tmp_path: Path
) -> None:
    fake_command("scancel")
    running(fake_command, "7_0", "7_1")
    asyncio.run(packed.observe())
    asyncio.run(packed.stop([shared("7_0", 1), shared("7_0", 2), shared("7_1", 0)]))
    assert asked(tmp_path, "7_0") == "-1\n-2\n"
    assert calls("scancel") == ["--quiet 7_1"]
    (tmp_path / "logs" / "jobs" / "7_0.ended").write_text("1 0 5 stopped\n2 0 5 stopped\n")
    states = asyncio.run(packed.observe())
    assert [state.phase for state in states.values()][:4] == [
        Phase.RUNNING,
        Phase.GONE,
        Phase.GONE,
        Phase.RUNNING,
    ]
    asyncio.run(packed.stop([shared("7_0", 0), shared("7_0", 3)]))
    assert calls("scancel")[1:] == ["--quiet 7_0"]


def test_a_worker_of_a_job_that_waits_is_gone_at_once(
    packed: SlurmBackend, fake_command: FakeCommand, tmp_path: Path
) -> None:
    fake_command("squeue", stdout=f"7|0|PENDING|Priority|30:00||scalable-r|{SEVERAL}\n")
    asyncio.run(packed.observe())
    asyncio.run(packed.stop([shared("7_0", 3)]))
    states = asyncio.run(packed.observe())
    assert states["gcam-7_0.3"].phase is Phase.GONE
    assert states["gcam-7_0.0"].phase is Phase.PENDING
    assert asked(tmp_path, "7_0") == "-3\n"


def test_the_log_of_a_job_is_read_after_its_end(backend: SlurmBackend, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "7_0.log").write_text("one\ntwo\n")
    assert isinstance(backend, ReadsLogs)
    assert backend.logs_outlive_units
    assert asyncio.run(backend.read_log(unit(0), 4)) == "two\n"
    assert asyncio.run(backend.read_log(unit(1), 4)) == ""
