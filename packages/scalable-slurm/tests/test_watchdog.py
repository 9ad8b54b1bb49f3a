from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from slurm_units import read_scripts

from scalable.providers.slurm.rundir import RunDirectory
from scalable.providers.slurm.watchdog import QueueWatchdog

if TYPE_CHECKING:
    from conftest import Calls, FakeCommand

CLIENT = """\
import signal, sys
from pathlib import Path
from scalable.providers.slurm.watchdog import QueueWatchdog
watchdog = QueueWatchdog("scalable-r", Path(sys.argv[1]), settle=1)
signal.signal(signal.SIGINT, lambda *_: None)
print(flush=True)
while True:
    signal.pause()
"""


def test_a_killed_client_leaves_neither_jobs_nor_keys_even_after_ctrl_c(
    fake_command: FakeCommand, calls: Calls, tmp_path: Path
) -> None:
    fake_command("scancel")
    fake_command("squeue")
    run = RunDirectory(tmp_path / "it's $HOME" / "run")
    run.write_keys()
    command = [sys.executable, "-c", CLIENT, str(run.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"\n"
        os.killpg(client.pid, signal.SIGINT)
        client.kill()
    deadline = time.monotonic() + 30
    while run.path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert calls("scancel")[0] == "--quiet --name=scalable-r"
    assert list(run.path.parent.iterdir()) == []


def test_logs_of_a_killed_client_are_kept(fake_command: FakeCommand, tmp_path: Path) -> None:
    fake_command("scancel")
    fake_command("squeue")
    run = RunDirectory(tmp_path / "run")
    run.write_keys()
    (Path(run.logs) / "7_0.log").touch()
    watchdog = QueueWatchdog("scalable-r", run.path, settle=1)
    assert watchdog._process.stdin is not None
    watchdog._process.stdin.close()
    watchdog._process.wait()
    assert [path.name for path in run.path.iterdir()] == ["7_0.log"]


def test_as_long_as_the_client_lives_nothing_is_done(
    fake_command: FakeCommand, calls: Calls, tmp_path: Path
) -> None:
    fake_command("scancel")
    fake_command("ps", stdout=f"  {os.getpid()}\n")
    watchdog = QueueWatchdog("scalable-r", tmp_path)
    deadline = time.monotonic() + 60
    while len(calls("ps")) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(calls("ps")) >= 3
    fake_command("ps", status=1)  # it is not known who the parent is
    before = len(calls("ps"))
    while len(calls("ps")) < before + 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert watchdog._process.poll() is None
    assert calls("scancel") == []
    watchdog.stop()


def test_a_stopped_watchdog_cancels_nothing(
    fake_command: FakeCommand, calls: Calls, tmp_path: Path
) -> None:
    fake_command("scancel")
    watchdog = QueueWatchdog("scalable-r", tmp_path)
    watchdog.stop()
    watchdog.stop()
    assert watchdog._process.returncode == -signal.SIGKILL
    assert calls("scancel") == []
    assert tmp_path.exists()


def test_jobs_that_appear_later_are_cancelled_and_slurm_may_be_away(
    fake_command: FakeCommand, calls: Calls, tmp_path: Path
) -> None:
    asked, cancelled = tmp_path / "asked", tmp_path / "cancelled"
    away = f"echo >>{cancelled}; [ $(wc -l <{cancelled}) -gt 2 ] || exit 1"
    fake_command("scancel", then=away)
    # It does not answer once, and then there is a job, of an sbatch that was under way.
    fake_command(
        "squeue",
        then=f"echo >>{asked}; n=$(wc -l <{asked}); [ $n -gt 1 ] || exit 1; "
        "[ $n -gt 2 ] || { echo 'job=7 0 climate|scalable run=r tag=a request=q'; echo 'job=7 1 scalable-r|'; "
        "echo 'job=8 0 scalable-r2|scalable run=r2 tag=a request=q'; echo 'job=9 N/A x|mine'; "
        "echo 'job=10 0-1 climate|climate'; echo 'job=11 0 x|climate'; }; echo CLUSTER: two",
    )
    read_scripts(
        fake_command,
        {
            "10": "#!/bin/sh\n# scalable run=r tag=a request=q\n",
            "11": "#!/bin/sh\n# scalable run=r2 tag=a request=q\n",
        },
    )
    watchdog = QueueWatchdog("scalable-r", tmp_path / "run", settle=2)
    assert watchdog._process.stdin is not None
    watchdog._process.stdin.close()
    assert watchdog._process.wait(60) == 0
    assert {*calls("scancel")} == {"--quiet --name=scalable-r", "--quiet 10 7"}
    assert calls("scancel").count("--quiet 10 7") == 1
    assert {call.split()[2] for call in calls("scontrol")} == {"8", "10", "11"}
    assert len(calls("scancel")) == len(calls("squeue")) + 3
    assert len(calls("squeue")) >= 3


def test_nothing_that_squeue_answers_ends_the_watchdog_while_the_controller_is_away(
    fake_command: FakeCommand, calls: Calls, tmp_path: Path
) -> None:
    fake_command("squeue")  # which some sites have hide its errors
    fake_command("scancel", status=1)
    watchdog = QueueWatchdog("scalable-r", tmp_path / "run", settle=1)
    watchdog.let_go()
    deadline = time.monotonic() + 60
    while len(calls("scancel")) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert watchdog._process.poll() is None
    fake_command("scancel")
    assert watchdog._process.wait(60) == 0


def test_an_sbatch_that_is_under_way_is_waited_for(
    fake_command: FakeCommand, calls: Calls, tmp_path: Path
) -> None:
    fake_command("scancel")
    fake_command("squeue")
    under_way = (
        f"case $* in *ppid*) echo {os.getpid()};; *) echo sbatch --job-name=scalable-r -;; esac"
    )
    fake_command("ps", then=under_way)
    watchdog = QueueWatchdog("scalable-r", tmp_path / "run", settle=1)
    assert watchdog._process.stdin is not None
    watchdog._process.stdin.close()
    deadline = time.monotonic() + 60
    while len(calls("squeue")) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert watchdog._process.poll() is None
    fake_command("ps", then=f"case $* in *ppid*) echo {os.getpid()};; esac")
    assert watchdog._process.wait(60) == 0


FORKING_CLIENT = """\
import os, signal, sys
from pathlib import Path
from scalable.providers.slurm.watchdog import QueueWatchdog
watchdog = QueueWatchdog("scalable-r", Path(sys.argv[1]), settle=1)
child = os.fork()
if child:
    print(child, flush=True)
signal.pause()
"""


def test_a_child_that_outlives_the_client_does_not_keep_the_jobs(
    fake_command: FakeCommand, calls: Calls, tmp_path: Path
) -> None:
    fake_command("scancel")
    fake_command("squeue")
    command = [sys.executable, "-c", FORKING_CLIENT, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as client:
        assert client.stdout is not None
        child = int(client.stdout.readline())
        client.kill()
        client.wait()
        try:
            deadline = time.monotonic() + 60
            while not calls("scancel") and time.monotonic() < deadline:
                time.sleep(0.02)
            assert calls("scancel")
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_command_that_hangs_keeps_neither_keys_nor_jobs(
    fake_command: FakeCommand, calls: Calls, tmp_path: Path
) -> None:
    once = f"echo >>{tmp_path}/$(basename $0).n; [ $(wc -l <{tmp_path}/$(basename $0).n) -gt 1 ]"
    for command in ("scancel", "squeue"):
        fake_command(command, then=f"{once} || exec sleep 600")
    run = RunDirectory(tmp_path / "run")
    run.write_keys()
    watchdog = QueueWatchdog("scalable-r", run.path, settle=1, limit=1)
    watchdog.let_go()
    assert watchdog._process.wait(60) == 0
    assert not run.path.exists()
    assert len(calls("squeue")) >= 2


def has_text(path: Path) -> bool:
    return path.exists() and bool(path.read_text())


def test_an_sbatch_that_hangs_does_not_outlive_its_client_for_long(
    fake_command: FakeCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does what a site's own sbatch has started. Another run's is left alone."""
    monkeypatch.setenv("COLUMNS", "80")  # to which ps would cut its lines
    fake_command("scancel")
    fake_command("squeue")
    fake_command("sbatch", then=f"sleep 600 & echo $! >{tmp_path}/$1.child; wait")
    hanging, other = (
        subprocess.Popen(["sbatch", f"--job-name={name}", "--array=0-1"], start_new_session=True)
        for name in ("scalable-r", "scalable-r2")
    )
    children = [tmp_path / f"--job-name={name}.child" for name in ("scalable-r", "scalable-r2")]
    try:
        deadline = time.monotonic() + 60
        while not all(map(has_text, children)) and time.monotonic() < deadline:
            time.sleep(0.02)
        ours, others = (psutil.Process(int(child.read_text())) for child in children)
        watchdog = QueueWatchdog("scalable-r", tmp_path / "run", settle=1, patience=1)
        watchdog.let_go()
        assert hanging.wait(60) == -signal.SIGKILL
        assert not ours.is_running() or ours.status() == psutil.STATUS_ZOMBIE
        assert others.status() == psutil.STATUS_SLEEPING
        assert watchdog._process.wait(60) == 0
        assert other.poll() is None
    finally:
        for process in (hanging, other):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
