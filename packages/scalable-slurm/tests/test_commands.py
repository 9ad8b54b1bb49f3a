from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from scalable.errors import LaunchError, LaunchRefusedError
from scalable.providers.slurm.commands import Slurm, SlurmCommandError

if TYPE_CHECKING:
    from conftest import FakeCommand


def submit() -> str | None:
    return asyncio.run(Slurm().submit(["sbatch"], "#!/bin/sh\n", {}))


def test_the_job_id_is_found_among_banners(fake_command: FakeCommand) -> None:
    fake_command("sbatch", stdout="2 accounts expire in 14 days\n4711;cluster\n")
    assert submit() == "4711"


def test_a_job_that_was_accepted_without_its_id_is_not_refused(fake_command: FakeCommand) -> None:
    fake_command(
        "sbatch", stdout="2 accounts expire in 14 days\nSubmitted with the blessing of HR\n"
    )
    assert submit() is None


@pytest.mark.parametrize(
    ("stdout", "job"),
    [
        ("Submitted batch job 4711 on cluster two\n", "4711"),
        ("core hours left:\n2000\nSubmitted batch job 4711\n", None),
        ("2000\n4711\n", None),
    ],
)
def test_of_several_numbers_none_is_taken_for_the_job(
    fake_command: FakeCommand, stdout: str, job: str | None
) -> None:
    """Another number may be that of another job of the user, which would be cancelled."""
    fake_command("sbatch", stdout=stdout)
    assert submit() == job


def test_a_job_with_an_id_was_accepted_whatever_fails_afterwards(fake_command: FakeCommand) -> None:
    fake_command("sbatch", stdout="4711\n", stderr="usage: invalid option -- 'q'\n", status=2)
    assert submit() == "4711"


@pytest.mark.parametrize(
    "text",
    [
        "Invalid account or account/partition combination specified",
        "Requested node configuration is not available",
        "Requested time limit is invalid (missing or exceeds some limit)",
        "Memory specification can not be satisfied",
        "User's group not permitted to use this partition",
        "Invalid generic resource (gres) specification",
        "sbatch: unrecognized option '--exclusiv'",
        "--mem, --mem-per-cpu, and --mem-per-gpu are mutually exclusive.",
        "QOSMaxWallDurationPerJobLimit Job violates accounting/QOS policy (job submit limit, user's size)",
        "QOSMinCpuNotSatisfied Job violates accounting/QOS policy (job submit limit, user's size)",
    ],
)
def test_a_refusal_that_will_be_the_same_is_final(fake_command: FakeCommand, text: str) -> None:
    fake_command("sbatch", stderr=f"sbatch: error: Batch job submission failed: {text}\n", status=1)
    with pytest.raises(LaunchRefusedError):
        submit()


def test_an_sbatch_that_says_nothing_is_told_with_its_status(fake_command: FakeCommand) -> None:
    fake_command("sbatch", status=7)
    with pytest.raises(LaunchError, match="status 7, without a message"):
        submit()


def test_a_refusal_is_final_and_has_slurms_message(fake_command: FakeCommand) -> None:
    text = "sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed\n"
    fake_command("sbatch", stderr=text, status=1)
    with pytest.raises(LaunchRefusedError) as caught:
        submit()
    assert "invalid partition specified: x; Batch" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "Unable to contact slurm controller (connect failure)",
        "Slurm temporarily unable to accept job, sleeping and retrying",
        "Batch job submission failed: Socket timed out on send/recv operation",
        "AssocGrpSubmitJobsLimit",
        "QOSMaxSubmitJobPerUserLimit",
        "Batch job submission failed: Protocol authentication error",
        "Batch job submission failed: Slurm backup controller in standby mode",
        "Batch job submission failed: Connection timed out",
        "Batch job submission failed: Something that nobody has read before",
    ],
)
def test_a_refusal_that_may_be_temporary_is_not_final(fake_command: FakeCommand, text: str) -> None:
    fake_command("sbatch", stderr=f"sbatch: error: {text}\n", status=1)
    with pytest.raises(LaunchError) as caught:
        submit()
    assert not isinstance(caught.value, LaunchRefusedError)


def test_sbatch_is_found_by_our_own_path_whatever_the_jobs_path(fake_command: FakeCommand) -> None:
    fake_command("sbatch", stdout="4711\n")
    env = {"PATH": "/opt/gcam/bin:/usr/bin:/bin"}
    assert asyncio.run(Slurm().submit(["sbatch"], "#!/bin/sh\n", env)) == "4711"


def test_the_error_of_a_missing_command_names_the_place_to_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchRefusedError, match="login node"):
        submit()
    with pytest.raises(SlurmCommandError, match="not found"):
        asyncio.run(Slurm().list_jobs("x"))


def test_hidden_partitions_are_listed(fake_command: FakeCommand, tmp_path: Path) -> None:
    fake_command("sinfo")
    (tmp_path / "sinfo").write_text(
        '#!/bin/sh\necho "short|up"\ncase "$*" in *--all*) echo "hidden|up";; esac\n'
    )
    assert asyncio.run(Slurm().partitions()) == {"short": "up", "hidden": "up"}


def test_banners_in_the_output_are_ignored(fake_command: FakeCommand) -> None:
    banner = "** Maintenance on Friday **\n"
    fake_command("squeue", stdout=f"{banner}7|0|PENDING|Priority|NOT_SET||mine\n")
    fake_command("sinfo", stdout=f"{banner}short|up\n")
    fake_command("scontrol", stdout=banner, stderr="Invalid job id specified\n", status=1)
    fake_command("sacct", stdout=f"{banner}TIMEOUT|0:0|node7\n")
    slurm = Slurm()
    assert [entry.id for entry in asyncio.run(slurm.list_jobs("x"))] == ["7_0"]
    assert asyncio.run(slurm.partitions()) == {"short": "up"}
    assert asyncio.run(slurm.find_record("7_0"))["JobState"] == "TIMEOUT"


def test_accounting_has_records_that_the_controller_has_dropped(fake_command: FakeCommand) -> None:
    fake_command("scontrol", stderr="slurm_load_jobs error: Invalid job id specified\n", status=1)
    fake_command("sacct", stdout="TIMEOUT|0:0|node7\n")
    assert asyncio.run(Slurm().find_record("7_0")) == {
        "JobState": "TIMEOUT",
        "ExitCode": "0:0",
        "NodeList": "node7",
    }


def test_a_missing_record_is_not_an_error(fake_command: FakeCommand) -> None:
    fake_command("scontrol", stderr="slurm_load_jobs error: Invalid job id specified\n", status=1)
    fake_command("sacct", stderr="Slurm accounting storage is disabled\n", status=1)
    assert asyncio.run(Slurm().find_record("7_0")) == {}


def test_option_variables_of_the_user_do_not_affect_queries(
    fake_command: FakeCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQUEUE_PARTITION alone would hide a run's jobs, and the engine would launch them again and again."""
    fake_command("squeue")
    (tmp_path / "squeue").write_text("#!/bin/sh\nenv >&2\nexit 1\n")
    monkeypatch.setenv("SQUEUE_PARTITION", "long")
    with pytest.raises(SlurmCommandError) as caught:
        asyncio.run(Slurm().list_jobs("x"))
    assert "PATH=" in caught.value.stderr
    assert "SQUEUE_PARTITION" not in caught.value.stderr


def test_a_cancelled_call_leaves_no_process(fake_command: FakeCommand, tmp_path: Path) -> None:
    """Not even one that was started by a site's script around the command."""
    os.mkfifo(tmp_path / "started")
    fake_command("squeue", then=f"sleep 600 & echo $! > {tmp_path}/started; wait")

    async def give_up() -> int:
        call = asyncio.create_task(Slurm().list_jobs("x"))
        child = int(await asyncio.to_thread((tmp_path / "started").read_text))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return child

    child = asyncio.run(give_up())
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(child)
        assert process.status() == psutil.STATUS_ZOMBIE or process.wait(10) is None


def test_a_call_that_is_cancelled_as_it_starts_leaves_no_process(
    fake_command: FakeCommand, tmp_path: Path
) -> None:
    """A busy event loop may be told that the command runs after that has started others."""
    started = tmp_path / "started"
    fake_command(
        "squeue", then=f"sleep 60 & echo $! > {started}.new; mv {started}.new {started}; wait"
    )

    async def give_up() -> bool:
        call = asyncio.create_task(Slurm().list_jobs("x"))
        for _ in range(2):
            await asyncio.sleep(0)
        # It has started the command, and waits for the loop to say so, which is busy until then.
        deadline = time.monotonic() + 30
        while not started.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert started.exists()
        call.cancel()
        await asyncio.wait({call}, timeout=30)
        return call.cancelled()

    assert asyncio.run(give_up())
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(int(started.read_text()))
        assert process.status() == psutil.STATUS_ZOMBIE or process.wait(10) is None
