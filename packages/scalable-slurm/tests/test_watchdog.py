from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from scalable.providers.slurm.rundir import RunDirectory
from scalable.providers.slurm.watchdog import QueueWatchdog

if TYPE_CHECKING:
    from conftest import Calls, FakeCommand

CLIENT = """\
import signal, sys
from pathlib import Path
from scalable.providers.slurm.watchdog import QueueWatchdog
watchdog = QueueWatchdog("scalable-r", Path(sys.argv[1]))
signal.signal(signal.SIGINT, lambda *_: None)
print(flush=True)
while True:
    signal.pause()
"""


def test_a_killed_client_leaves_neither_jobs_nor_keys_even_after_ctrl_c(
    fake_command: FakeCommand, calls: Calls, tmp_path: Path
) -> None:
    fake_command("scancel")
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
    assert calls("scancel") == ["--quiet --name=scalable-r"]
    assert list(run.path.parent.iterdir()) == []


def test_logs_of_a_killed_client_are_kept(fake_command: FakeCommand, tmp_path: Path) -> None:
    fake_command("scancel")
    run = RunDirectory(tmp_path / "run")
    run.write_keys()
    (Path(run.logs) / "7_0.log").touch()
    watchdog = QueueWatchdog("scalable-r", run.path)
    assert watchdog._process.stdin is not None
    watchdog._process.stdin.close()
    watchdog._process.wait()
    assert [path.name for path in run.path.iterdir()] == ["7_0.log"]


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
