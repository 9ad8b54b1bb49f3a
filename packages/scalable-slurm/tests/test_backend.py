from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scalable.cluster.port import GroupSpec, LaunchResult, Leftover, Phase, ReadsLogs, Reason, Unit
from scalable.errors import LaunchError, LaunchRefusedError
from scalable.providers.slurm.backend import SlurmBackend
from scalable.providers.slurm.commands import Slurm
from scalable.providers.slurm.request import JobRequest

if TYPE_CHECKING:
    from conftest import Calls, FakeCommand

MINE = "scalable run=r tag=gcam request=q"


def make_backend(directory: Path, *, sweep_timeout: float) -> SlurmBackend:
    logs = str(directory / "logs")
    requests = {"gcam": JobRequest("gcam", logs), "big": JobRequest("big", logs, memory=8 * 10**9)}
    return SlurmBackend(Slurm(), "r", "tls://10.0.0.1:8786", requests, sweep_timeout=sweep_timeout)


@pytest.fixture
def backend(tmp_path: Path) -> SlurmBackend:
    return make_backend(tmp_path, sweep_timeout=30.0)


def unit(element: int, request_id: str = "q") -> Unit:
    return Unit(f"gcam-7_{element}", "gcam", request_id, f"7_{element}")


def test_all_workers_of_a_launch_are_one_array(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls
) -> None:
    fake_command("sbatch", stdout="7\n")
    units = asyncio.run(backend.launch(GroupSpec("gcam"), 3, "q"))
    assert units == LaunchResult([unit(0), unit(1), unit(2)])
    (call,) = calls("sbatch")
    assert f"--job-name=scalable-r --comment={MINE} --array=0-2 " in call


def refusing(fake_command: FakeCommand, directory: Path, condition: str, text: str) -> None:
    """Let ``sbatch`` number what it accepts, and refuse arrays of ``$n`` with ``$all`` jobs where a condition holds."""
    fake_command(
        "sbatch",
        then=f"""
for word; do case $word in --array=0-*) n=$((${{word#--array=0-}} + 1));; esac; done
all=$(cat {directory}/all 2>/dev/null || echo 0)
if {condition}; then echo 'sbatch: error: {text}' >&2; exit 1; fi
echo $((all + n)) >{directory}/all
echo $((1000 + all))""",
    )


def test_arrays_are_as_large_as_the_site_takes_them(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls, tmp_path: Path
) -> None:
    refusing(fake_command, tmp_path, "[ $n -gt 4 ]", "Invalid job array specification")
    launched = asyncio.run(backend.launch(GroupSpec("gcam"), 20, "q"))
    assert (len(launched.units), launched.shortfall) == (20, None)
    assert len({unit.id for unit in launched.units}) == 20
    before = len(calls("sbatch"))
    assert len(asyncio.run(backend.launch(GroupSpec("gcam"), 1, "q1")).units) == 1
    assert len(asyncio.run(backend.launch(GroupSpec("gcam"), 8, "q2")).units) == 8
    assert len(calls("sbatch")) - before <= 5


def test_as_many_jobs_as_the_site_takes_are_a_part_of_the_launch(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls, tmp_path: Path
) -> None:
    limit = "Job violates accounting/QOS policy (job submit limit, user size and/or time limits)"
    refusing(fake_command, tmp_path, "[ $((all + n)) -gt 4 ]", limit)
    launched = asyncio.run(backend.launch(GroupSpec("gcam"), 20, "q"))
    assert len(launched.units) == 4
    assert launched.shortfall is not None
    assert launched.shortfall.reason is Reason.QUOTA
    before = len(calls("sbatch"))
    with pytest.raises(LaunchError, match="job submit limit") as error:
        asyncio.run(backend.launch(GroupSpec("gcam"), 16, "q2"))
    assert not isinstance(error.value, LaunchRefusedError)
    assert len(calls("sbatch")) - before == 1
    (tmp_path / "all").unlink()
    assert len(asyncio.run(backend.launch(GroupSpec("gcam"), 3, "q2")).units) == 3


SEVERAL = "scalable run=r tag=gcam request=q workers=5 room=4"


def shared(job: str, number: int, request_id: str = "q") -> Unit:
    return Unit(f"gcam-{job}.{number}", "gcam", request_id, job)


@pytest.fixture
def packed(tmp_path: Path) -> SlurmBackend:
    """A backend whose jobs have room for four workers each."""
    (tmp_path / "logs" / "jobs").mkdir(parents=True)
    request = JobRequest("gcam", str(tmp_path / "logs"), cpus=2, memory=2**30, workers_per_job=4)
    return SlurmBackend(Slurm(), "r", "tls://h:1", {"gcam": request}, sweep_timeout=30.0)


def asked(directory: Path, job: str) -> str:
    file = directory / "logs" / "jobs" / f"{job}.asked"
    return file.read_text() if file.exists() else ""


def running(fake_command: FakeCommand, *jobs: str, left: str = "30:00") -> None:
    lines = [f"{job.replace('_', '|')}|RUNNING|None|{left}|node1|{SEVERAL}\n" for job in jobs]
    fake_command("squeue", stdout="".join(lines))


def test_a_job_has_room_for_several_workers_each_a_unit(
    packed: SlurmBackend, fake_command: FakeCommand, calls: Calls
) -> None:
    fake_command("sbatch", stdout="7\n")
    units = asyncio.run(packed.launch(GroupSpec("gcam"), 5, "q"))
    expected = [*(shared("7_0", number) for number in range(4)), shared("7_1", 0)]
    assert units == LaunchResult(expected)
    (call,) = calls("sbatch")
    assert "--cpus-per-task=8 --mem=4096M " in call
    assert f"--comment={SEVERAL} --array=0-1 " in call


def test_workers_of_a_launch_without_an_answer_are_found_by_their_jobs(
    packed: SlurmBackend, fake_command: FakeCommand
) -> None:
    running(fake_command, "7_0", "7_1")
    states = asyncio.run(packed.observe())
    expected = [*(shared("7_0", number) for number in range(4)), shared("7_1", 0)]
    assert [state.unit for state in states.values()] == expected


def test_a_launch_fills_jobs_that_have_room_first(
    packed: SlurmBackend, fake_command: FakeCommand, calls: Calls, tmp_path: Path
) -> None:
    running(fake_command, "7_0", "7_1")
    asyncio.run(packed.observe())
    more = asyncio.run(packed.launch(GroupSpec("gcam"), 2, "q2"))
    assert more == LaunchResult([shared("7_1", number, "q2") for number in (1, 2)])
    assert asked(tmp_path, "7_1") == "+1\n+2\n"
    (tmp_path / "logs" / "jobs" / "7_0.ended").write_text("2 -9 500 exited\n")
    fake_command("sbatch", stdout="8\n")
    more = asyncio.run(packed.launch(GroupSpec("gcam"), 3, "q3"))
    expected = [shared("7_0", 4, "q3"), shared("7_1", 3, "q3"), shared("8_0", 0, "q3")]
    assert more == LaunchResult(expected)
    assert len(calls("sbatch")) == 1


@pytest.mark.parametrize("why", ["failing", "late", "suspended"])
def test_no_workers_are_added_to_a_job_that_is_of_no_use(
    packed: SlurmBackend, fake_command: FakeCommand, tmp_path: Path, why: str
) -> None:
    running(fake_command, "7_1")
    asyncio.run(packed.observe())
    assert asyncio.run(packed.launch(GroupSpec("gcam"), 2, "q2")).units[0].native == "7_1"
    if why == "failing":
        (tmp_path / "logs" / "jobs" / "7_1.ended").write_text("1 1 2 exited\n2 1 2 exited\n")
    elif why == "late":
        running(fake_command, "7_1", left="14:00")
    else:
        state = f"7|1|SUSPENDED|None|30:00|node1|{SEVERAL}\n"
        fake_command("squeue", stdout=state)
    asyncio.run(packed.observe())
    fake_command("sbatch", stdout="8\n")
    assert asyncio.run(packed.launch(GroupSpec("gcam"), 1, "q3")).units[0].native == "8_0"


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
    fake_command("squeue", stdout=f"7|0|PENDING|Priority|30:00||{SEVERAL}\n")
    asyncio.run(packed.observe())
    asyncio.run(packed.stop([shared("7_0", 3)]))
    states = asyncio.run(packed.observe())
    assert states["gcam-7_0.3"].phase is Phase.GONE
    assert states["gcam-7_0.0"].phase is Phase.PENDING
    assert asked(tmp_path, "7_0") == "-3\n"


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


def test_workers_end_with_their_job(packed: SlurmBackend, fake_command: FakeCommand) -> None:
    fake_command("squeue", stdout=f"7|0|TIMEOUT|TimeLimit|INVALID|node1|{SEVERAL}\n")
    states = asyncio.run(packed.observe())
    assert {(s.phase, s.reason) for s in states.values()} == {(Phase.GONE, Reason.WALLTIME)}
    assert len(states) == 4


EXCLUSIVE = "short*|NO|16|64000|(null)|(null)\nwhole|EXCLUSIVE|16|64000|(null)|(null)\n"


@pytest.mark.parametrize(
    ("partition", "config", "workers"),
    [("whole", "cons_tres", 16), (None, "cons_tres", 1), (None, "linear", 16)],
)
def test_jobs_that_get_whole_nodes_run_as_many_workers_as_fit(
    tmp_path: Path,
    fake_command: FakeCommand,
    calls: Calls,
    partition: str | None,
    config: str,
    workers: int,
) -> None:
    request = JobRequest("gcam", str(tmp_path), partition=partition, workers_per_job="auto")
    backend = SlurmBackend(Slurm(), "r", "tls://h:1", {"gcam": request}, sweep_timeout=30.0)
    fake_command("sinfo", stderr="Unable to contact slurm controller", status=1)
    fake_command("sbatch", stdout="7\n")
    asyncio.run(backend.launch(GroupSpec("gcam"), 2, "q"))
    fake_command("sinfo", stdout=EXCLUSIVE)
    fake_command("scontrol", stdout=f"SelectType              = select/{config}\n")
    for request_id in ("q1", "q2"):
        asyncio.run(backend.launch(GroupSpec("gcam"), 16, request_id))
    last = 16 // workers - 1
    arrays = [call.partition("--array=")[2].split()[0] for call in calls("sbatch")]
    assert arrays == ["0-1", f"0-{last}", f"0-{last}"]
    assert len(calls("sinfo")) == 2  # one that was not answered, and no more than one that was


def fail_on(node: str, fake_command: FakeCommand, *elements: int) -> None:
    lines = [f"7|{element}|FAILED|NonZeroExitCode|INVALID|{node}|{MINE}" for element in elements]
    fake_command("squeue", stdout="\n".join(lines) + "\n")


def test_a_node_on_which_workers_do_not_start_is_left_out_and_named(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls
) -> None:
    fake_command("sbatch", stdout="8\n")
    fail_on("node1", fake_command, 0)
    asyncio.run(backend.observe())
    asyncio.run(backend.observe())  # the same end
    asyncio.run(backend.launch(GroupSpec("gcam"), 1, "q1"))
    fail_on("node1", fake_command, 0, 1)
    asyncio.run(backend.observe())
    asyncio.run(backend.launch(GroupSpec("gcam"), 1, "q2"))
    assert ["--exclude=node1" in call for call in calls("sbatch")] == [False, True]
    fake_command("scontrol", stdout="JobState=FAILED ExitCode=127:0 NodeList=node1\n")
    assert "kept off it for 600 s" in asyncio.run(backend.describe(unit(1))).remedy


@pytest.mark.parametrize(
    ("state", "left_out"), [("CANCELLED", True), ("COMPLETED", True), ("TIMEOUT", False)]
)
def test_a_node_on_which_jobs_end_at_once_is_left_out_however_they_end(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls, state: str, left_out: bool
) -> None:
    """Jobs are cancelled where the prolog of a node fails, and completed where their interpreter ends at once."""
    fake_command("sbatch", stdout="8\n")
    lines = [f"7|{element}|{state}|None|INVALID|node1|{MINE}\n" for element in range(2)]
    fake_command("squeue", stdout="".join(lines))
    asyncio.run(backend.observe())
    asyncio.run(backend.launch(GroupSpec("gcam"), 1, "q2"))
    assert ["--exclude=node1" in call for call in calls("sbatch")] == [left_out]


def test_jobs_that_were_to_end_say_nothing_about_their_node(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls
) -> None:
    fake_command("sbatch", stdout="7\n")
    for command in ("squeue", "scancel"):
        fake_command(command)
    launched = asyncio.run(backend.launch(GroupSpec("gcam"), 2, "q"))
    asyncio.run(backend.stop(launched.units))
    lines = [f"7|{element}|CANCELLED|None|INVALID|node1|{MINE}\n" for element in range(2)]
    fake_command("squeue", stdout="".join(lines))
    asyncio.run(backend.observe())
    asyncio.run(backend.launch(GroupSpec("gcam"), 1, "q2"))
    assert not any("--exclude" in call for call in calls("sbatch"))


def test_a_site_without_job_arrays_is_told(
    backend: SlurmBackend, fake_command: FakeCommand, tmp_path: Path
) -> None:
    refusing(fake_command, tmp_path, "true", "Invalid job array specification")
    with pytest.raises(LaunchRefusedError, match="no job arrays"):
        asyncio.run(backend.launch(GroupSpec("gcam"), 4, "q"))


def test_the_only_node_is_not_left_out(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls
) -> None:
    why = "Batch job submission failed: Requested node configuration is not available"
    fake_command("sbatch", then=f"case $* in *--exclude*) echo '{why}' >&2; exit 1;; esac; echo 8")
    fail_on("node1", fake_command, 0, 1)
    asyncio.run(backend.observe())
    for request_id in ("q1", "q2"):
        assert len(asyncio.run(backend.launch(GroupSpec("gcam"), 1, request_id)).units) == 1
    assert ["--exclude=node1" in call for call in calls("sbatch")] == [True, False, False]


def test_jobs_whose_number_is_not_told_are_found_later(
    backend: SlurmBackend, fake_command: FakeCommand
) -> None:
    fake_command("sbatch", stdout="Welcome!\n")
    launched = asyncio.run(backend.launch(GroupSpec("gcam"), 2, "q"))
    assert launched == LaunchResult(unnamed=2, units=[])


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


def test_a_sweep_cancels_what_a_launch_that_was_given_up_submits(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls, tmp_path: Path
) -> None:
    """Its job appears in the queue while ``sweep`` waits for sbatch, and never later."""
    go, submitting, queue = tmp_path / "go", tmp_path / "submitting", tmp_path / "squeue.out"
    fake_command("squeue")
    fake_command("scancel", then=f": > {queue}")
    submit = f"echo '7|0|PENDING|Priority|1:30||{MINE}' > {queue}"
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


def test_the_record_of_an_array_whose_waiting_elements_were_cancelled_is_no_unit(
    backend: SlurmBackend, packed: SlurmBackend, fake_command: FakeCommand
) -> None:
    for each, comment in ((backend, MINE), (packed, SEVERAL)):
        lines = [
            f"7|N/A|CANCELLED|Resources|10:00||{comment}",
            f"7|0|RUNNING|None|1:30|node1|{comment}",
        ]
        fake_command("squeue", stdout="\n".join(lines) + "\n")
        assert {state.unit.native for state in asyncio.run(each.observe()).values()} == {"7_0"}


def test_one_squeue_shows_the_state_of_every_job(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls
) -> None:
    lines = [
        f"7|0|RUNNING|None|1:30|node1|{MINE}",
        f"7|1|PENDING|QOSMaxCpuPerUserLimit|30:00||{MINE}",
        f"7|2|PENDING|None|30:00||{MINE}",
        f"7|3|TIMEOUT|TimeLimit|INVALID|node1|{MINE}",
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


def test_many_units_are_cancelled_by_one_scancel(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls
) -> None:
    fake_command("scancel")
    asyncio.run(backend.stop([unit(element) for element in (0, 1, 2, 4)]))
    assert calls("scancel") == ["--quiet 7_[0-2,4]"]


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


def test_the_log_of_a_job_is_read_after_its_end(backend: SlurmBackend, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "7_0.log").write_text("one\ntwo\n")
    assert isinstance(backend, ReadsLogs)
    assert backend.logs_outlive_units
    assert asyncio.run(backend.read_log(unit(0), 4)) == "two\n"
    assert asyncio.run(backend.read_log(unit(1), 4)) == ""


def test_a_job_without_a_record_ended_as_it_was_last_seen(
    backend: SlurmBackend, fake_command: FakeCommand
) -> None:
    for command in ("scontrol", "sacct"):
        fake_command(command, stderr="Invalid job id specified\n", status=1)
    assert asyncio.run(backend.describe(unit(0))).reason is Reason.UNKNOWN
    fake_command("squeue", stdout=f"7|0|NODE_FAIL|NodeDown|INVALID|node1|{MINE}\n")
    asyncio.run(backend.observe())
    assert asyncio.run(backend.describe(unit(0))).reason is Reason.NODE_FAILURE


def test_a_running_job_without_a_record_is_not_reported_as_running(
    backend: SlurmBackend, fake_command: FakeCommand
) -> None:
    """The controller drops the record of a job MinJobAge after its end, and many sites have no accounting."""
    fake_command("squeue", stdout=f"7|0|RUNNING|None|1:30|node1|{MINE}\n")
    asyncio.run(backend.observe())
    for command in ("scontrol", "sacct"):
        fake_command(command, stderr="Invalid job id specified\n", status=1)
    why = asyncio.run(backend.describe(unit(0)))
    assert why.reason is Reason.UNKNOWN
    assert why.summary == "Slurm has no record of job 7_0, which was RUNNING when last seen"


def test_a_sweep_cancels_the_run_once_and_waits_until_it_is_gone(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls, tmp_path: Path
) -> None:
    fake_command("squeue", stdout=f"7|0|RUNNING|None|1:30|node1|{MINE}\n")
    fake_command("scancel", then=f": > {tmp_path}/squeue.out")
    assert asyncio.run(backend.sweep()) == []
    assert calls("scancel") == ["--quiet --name=scalable-r"]


def answer_by_state(fake_command: FakeCommand, directory: Path, array: str = "7") -> None:
    """Let ``scontrol`` know one job of an array in the state that a file has, and ``scancel`` cancel it."""
    line = f"JobId={array} ArrayJobId={array} ArrayTaskId=0 JobState=$state Reason=None NodeList="
    fake_command(
        "scontrol",
        then=f'state=$(cat {directory}/state) && [ "${{4}}" = {array} ] && echo "{line}" && exit 0;'
        "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
    )
    fake_command("scancel", then=f"echo CANCELLED >{directory}/state")


@pytest.mark.parametrize("shown", ["", f"7|0|PENDING|Priority|NOT_SET||{MINE}\n"])
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
    fake_command("scontrol", stderr="Unable to contact slurm controller\n", status=1)
    assert asyncio.run(observe("")) == [(Phase.RUNNING, "on ")]
    with monkeypatch.context() as later:
        later.setattr("scalable.providers.slurm.backend._UNLISTED_AT_MOST", -1.0)
        assert asyncio.run(observe("")) == []
    answer_by_state(fake_command, tmp_path, "8")
    assert asyncio.run(observe("")) == []
    before = len(calls("scontrol"))
    assert asyncio.run(observe("")) == []
    assert len(calls("scontrol")) == before


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


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED"])
def test_a_sweep_ignores_jobs_that_are_already_ending(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls, state: str
) -> None:
    fake_command("squeue", stdout=f"7|0|{state}|None|1:30|node1|{MINE}\n")
    assert asyncio.run(backend.sweep()) == []
    assert calls("scancel") == []


def test_a_sweep_reports_jobs_that_do_not_end(fake_command: FakeCommand, tmp_path: Path) -> None:
    fake_command("squeue", stdout=f"7|0|RUNNING|None|1:30|node1|{MINE}\n")
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
