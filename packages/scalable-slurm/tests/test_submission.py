from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from slurm_units import MINE, SEVERAL, asked, running, shared, unit

from scalable.cluster.port import GroupSpec, LaunchResult, Reason
from scalable.errors import LaunchError, LaunchRefusedError
from scalable.providers.slurm.backend import SlurmBackend
from scalable.providers.slurm.commands import Slurm
from scalable.providers.slurm.request import JobRequest
from scalable.providers.slurm.rundir import RunDirectory

if TYPE_CHECKING:
    from conftest import Calls, FakeCommand


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


def test_a_cluster_that_is_nearly_full_of_jobs_gets_as_many_as_it_takes(
    backend: SlurmBackend, fake_command: FakeCommand, tmp_path: Path
) -> None:
    refusing(fake_command, tmp_path, "[ $n -gt 4 ]", "Resource temporarily unavailable")
    assert len(asyncio.run(backend.launch(GroupSpec("gcam"), 20, "q")).units) == 20


def test_a_site_without_job_arrays_is_told(
    backend: SlurmBackend, fake_command: FakeCommand, tmp_path: Path
) -> None:
    refusing(fake_command, tmp_path, "true", "Invalid job array specification")
    with pytest.raises(LaunchRefusedError, match="no job arrays"):
        asyncio.run(backend.launch(GroupSpec("gcam"), 4, "q"))


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
        state = f"7|1|SUSPENDED|None|30:00|node1|scalable-r|{SEVERAL}\n"
        fake_command("squeue", stdout=state)
    asyncio.run(packed.observe())
    fake_command("sbatch", stdout="8\n")
    assert asyncio.run(packed.launch(GroupSpec("gcam"), 1, "q3")).units[0].native == "8_0"


ACCEPT_12 = """
for word; do case $word in --mem=*) mem=${word#--mem=};; esac; done
[ ${mem%M} -le 48000 ] || { echo 'sbatch: error: Requested node configuration is not available' >&2; exit 1; }
case $* in *--test-only*) ;; *) wc -l <"$0.calls";; esac"""
"""What ``sbatch`` does where nodes have less memory for jobs than ``sinfo`` shows, as by MemSpecLimit."""


def packing_by_itself(directory: Path, fake_command: FakeCommand, *, memory: int) -> SlurmBackend:
    request = JobRequest("gcam", str(directory), partition="whole", memory=memory * 2**20)
    requests = {"gcam": replace(request, workers_per_job="auto")}
    fake_command("sinfo", stdout=EXCLUSIVE)
    fake_command("scontrol")
    return SlurmBackend(Slurm(), "r", "tls://h:1", requests, sweep_timeout=30.0)


def test_as_many_workers_get_into_a_job_as_slurm_accepts(
    tmp_path: Path, fake_command: FakeCommand, calls: Calls
) -> None:
    backend = packing_by_itself(tmp_path, fake_command, memory=4000)
    fake_command("sbatch", then=ACCEPT_12)
    for request_id in ("q", "q2"):
        launched = asyncio.run(backend.launch(GroupSpec("gcam"), 24, request_id))
        assert len(launched.units) == 24
    arrays = [call for call in calls("sbatch") if "--test-only" not in call]
    assert len(arrays) == 3  # of which the first was refused
    assert f"--cpus-per-task=12 --mem={12 * 4000}M" in arrays[-1]
    assert "--array=0-1 " in arrays[-1]


def test_workers_of_which_not_even_one_gets_into_a_job_are_refused(
    tmp_path: Path, fake_command: FakeCommand
) -> None:
    backend = packing_by_itself(tmp_path, fake_command, memory=30000)
    fake_command("sbatch", stderr="Requested node configuration is not available", status=1)
    with pytest.raises(LaunchRefusedError, match="node configuration is not available"):
        asyncio.run(backend.launch(GroupSpec("gcam"), 16, "q"))


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


def test_nothing_is_submitted_once_the_keys_of_the_run_are_gone(
    tmp_path: Path, fake_command: FakeCommand, calls: Calls
) -> None:
    """Somebody has removed the directory: jobs would fail on one healthy node after the other."""
    run = RunDirectory(tmp_path / "scratch" / "run")
    _, tls = run.write_keys()
    request = JobRequest("gcam", run.logs, tls=tls)
    backend = SlurmBackend(Slurm(), "r", "tls://h:1", {"gcam": request}, sweep_timeout=30.0)
    fake_command("sbatch", stdout="7\n")
    assert len(asyncio.run(backend.launch(GroupSpec("gcam"), 1, "q")).units) == 1
    shutil.rmtree(run.path)
    with pytest.raises(LaunchRefusedError, match="start the run again"):
        asyncio.run(backend.launch(GroupSpec("gcam"), 1, "q2"))
    run.path.parent.rmdir()
    with pytest.raises(LaunchError, match="mount its file system") as error:
        asyncio.run(backend.launch(GroupSpec("gcam"), 1, "q3"))
    assert not isinstance(error.value, LaunchRefusedError)  # the group waits for it
    assert len(calls("sbatch")) == 1
    run.remove_keys()
