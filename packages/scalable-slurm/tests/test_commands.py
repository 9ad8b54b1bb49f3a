from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from slurm_units import SCRIPT, read_scripts

from scalable.errors import LaunchError, LaunchRefusedError
from scalable.providers.slurm import commands
from scalable.providers.slurm.commands import Slurm, SlurmCommandError

if TYPE_CHECKING:
    from conftest import FakeCommand


def submit() -> str | None:
    return asyncio.run(Slurm().submit(["sbatch"], SCRIPT, {})).job


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


def test_of_several_numbers_the_job_is_the_one_with_this_script(fake_command: FakeCommand) -> None:
    fake_command("sbatch", stdout="2000\n4711\n12\n")
    read_scripts(
        fake_command,
        {"2000": "#!/bin/sh\n", "4711": SCRIPT, "12": SCRIPT.replace("request=q", "request=p")},
    )
    assert submit() == "4711"


def test_an_sbatch_that_goes_on_after_it_has_submitted_is_not_waited_for(
    fake_command: FakeCommand,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As with --wait. A number of its banner, or the beginning of another one, is not taken for the job."""
    monkeypatch.setattr(commands, "_LOOK_EVERY", 0.1)
    slow = f"echo 2000; echo $$ >> {tmp_path}/running; sleep 1; echo 4711; exec sleep 600"
    fake_command("sbatch", then=slow)
    read_scripts(fake_command, {"2000": "#!/bin/sh\n", "4711": SCRIPT})

    async def scenario() -> None:
        slurm = Slurm()
        for _ in range(2):
            assert (await slurm.submit(["sbatch"], SCRIPT, {})).job == "4711"
        processes = [psutil.Process(int(pid)) for pid in (tmp_path / "running").read_text().split()]
        assert len(processes) == 2
        assert all(process.is_running() for process in processes)
        await slurm.end_commands()
        assert psutil.wait_procs(processes, timeout=30)[1] == []

    asyncio.run(scenario())
    (warning,) = caplog.messages
    assert "submitted job 4711, and does not end" in warning
    assert "--wait" in warning


def test_the_user_is_told_of_an_sbatch_that_hangs(
    fake_command: FakeCommand,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(commands, "_LOOK_EVERY", 0.1)
    monkeypatch.setattr(commands, "_SLOW_AFTER", 0.5)
    fake_command("sbatch", stderr="contacting the portal\n", then=f"cat {tmp_path}/go")
    os.mkfifo(tmp_path / "go")
    told = asyncio.Event()

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.set()

    async def scenario() -> str | None:
        call = asyncio.create_task(Slurm().submit(["sbatch"], SCRIPT, {}))
        await asyncio.wait_for(told.wait(), 60)
        await asyncio.sleep(0.5)  # it is told once
        await asyncio.to_thread((tmp_path / "go").write_text, "4711\n")
        return (await call).job

    handler = Told()
    logging.getLogger("scalable.providers.slurm").addHandler(handler)
    try:
        assert asyncio.run(scenario()) == "4711"
    finally:
        logging.getLogger("scalable.providers.slurm").removeHandler(handler)
    (warning,) = caplog.messages
    assert "has printed no job id; its last words: contacting the portal" in warning
    assert "sbatch --wrap true" in warning


@pytest.mark.parametrize("holds", ["", "2>/dev/null", ">/dev/null"])
def test_what_a_command_leaves_running_does_not_hold_it(
    fake_command: FakeCommand, tmp_path: Path, holds: str
) -> None:
    """A site's script may start others in the background, which hold its output for as long as they live."""
    fake_command("sbatch", stdout="4711\n", then=f"sleep 600 {holds} & echo $! > {tmp_path}/left")
    fake_command("squeue", stdout="7|0|RUNNING|None|1:30|node1|x|mine\n", then="sleep 30 & :")
    began = time.monotonic()
    assert submit() == "4711"
    assert [job.id for job in asyncio.run(Slurm().list_jobs("x"))] == ["7_0"]
    assert time.monotonic() - began < 25
    os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)


def test_a_command_gets_a_script_of_any_size(fake_command: FakeCommand, tmp_path: Path) -> None:
    script = SCRIPT + "# 0123456789\n" * 100_000
    fake_command("sbatch", stdout="4711\n", then=f"cat > {tmp_path}/script")
    assert asyncio.run(Slurm().submit(["sbatch"], script, {})).job == "4711"
    assert (tmp_path / "script").read_text() == script
    fake_command("sbatch", stdout="4711\n")  # which does not read it
    assert asyncio.run(Slurm().submit(["sbatch"], script, {})).job == "4711"


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
        "QOSMaxCpuPerNode Job violates accounting/QOS policy (job submit limit, user's size)",
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


def test_a_command_that_fails_without_a_word_is_told_with_its_status(
    fake_command: FakeCommand,
) -> None:
    for nothing_whole in ("", "7|0|RUNNING|None|1:30|node1|x|mi", "Maintenance on Friday!\n"):
        fake_command("squeue", stdout=nothing_whole, status=3)
        with pytest.raises(SlurmCommandError, match="it ended with status 3, without a message"):
            asyncio.run(Slurm().list_jobs("x"))


def test_a_command_that_fails_once_it_has_answered_has_answered(
    fake_command: FakeCommand, caplog: pytest.LogCaptureFixture
) -> None:
    """As the scripts do around Slurm's own that are some sites' commands."""
    answers = {
        "squeue": "7|0|RUNNING|None|1:30|node1|x|mine\n",
        "scontrol": "JobId=7 ArrayJobId=7 ArrayTaskId=0 JobState=RUNNING Reason=None NodeList=node1\n",
        "sinfo": "short|up\n",
    }
    for name, answer in answers.items():
        fake_command(name, stdout=answer, stderr=f"{name}: error: usage.log is full\n", status=1)
    slurm = Slurm()
    for _ in range(2):
        assert [job.id for job in asyncio.run(slurm.list_jobs("x"))] == ["7_0"]
        assert [job.id for job in asyncio.run(slurm.list_user_jobs())] == ["7_0"]
        assert [job.id for job in asyncio.run(slurm.find_elements("7")) or ()] == ["7_0"]
        assert asyncio.run(slurm.find_record("7_0"))["NodeList"] == "node1"
        assert asyncio.run(slurm.partitions()) == {"short": "up"}
    assert len(caplog.messages) == len(answers)  # each command is told of once
    for name, text in zip(answers, caplog.messages, strict=True):
        assert f"{name} has answered, and ended with status 1: usage.log is full" in text
    fake_command("scontrol", stdout=SCRIPT, status=1)
    assert (asyncio.run(slurm.find_label("7")) or {})["request"] == "q"
    fake_command("scontrol", stderr="Invalid job id specified\n", status=1)
    fake_command("sacct", stdout="TIMEOUT|0:0|node7\n", status=1)
    assert asyncio.run(slurm.find_record("7_0"))["JobState"] == "TIMEOUT"
    assert "sacct has answered" in caplog.messages[-1]


def test_a_query_that_was_killed_has_not_answered(fake_command: FakeCommand) -> None:
    fake_command("squeue", stdout="7|0|RUNNING|None|1:30|node1|x|mine\n", then="kill -9 $$")
    with pytest.raises(SlurmCommandError, match="it ended with status -9"):
        asyncio.run(Slurm().list_jobs("x"))


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
    assert asyncio.run(Slurm().submit(["sbatch"], SCRIPT, env)).job == "4711"


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
    fake_command("squeue", stdout=f"{banner}7|0|PENDING|Priority|NOT_SET||x|mine\n")
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
    for name in ("SQUEUE_PARTITION", "SCONTROL_LOCAL", "SACCT_LOCAL"):
        monkeypatch.setenv(name, "long")
    with pytest.raises(SlurmCommandError) as caught:
        asyncio.run(Slurm().list_jobs("x"))
    assert "PATH=" in caught.value.stderr
    assert "=long" not in caught.value.stderr


def test_scontrol_names_all_elements_that_wait(
    fake_command: FakeCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it cuts their list, and those that it leaves out would be taken for ended."""
    monkeypatch.setenv("SLURM_BITSTR_LEN", "8")
    line = "JobId=7 ArrayJobId=7 ArrayTaskId=$elements JobState=PENDING Reason=Priority NodeList="
    cut = '[ "$SLURM_BITSTR_LEN" = 0 ] && elements=0,2,4,6,8 || elements=0,2,4,...'
    fake_command("scontrol", then=f'{cut}; echo "{line}"')
    found = asyncio.run(Slurm().find_elements("7"))
    assert found is not None
    assert [job.id for job in found] == [f"7_{number}" for number in range(0, 10, 2)]
    fake_command("scontrol", stdout=line.replace("$elements", "0,2,4,...") + "\n")
    assert asyncio.run(Slurm().find_elements("7")) is None


def test_a_command_that_hangs_is_ended_and_named(
    fake_command: FakeCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_ANSWER_WITHIN", 0.2)
    for name in ("sinfo", "sbatch"):
        fake_command(name, then="exec sleep 600")
    with pytest.raises(SlurmCommandError, match=r"sinfo --version: no answer for 0\.2 s"):
        asyncio.run(Slurm().version())
    with pytest.raises(SlurmCommandError, match=r"no answer for 0\.2 s"):
        asyncio.run(Slurm().test_only(["sbatch"]))


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
