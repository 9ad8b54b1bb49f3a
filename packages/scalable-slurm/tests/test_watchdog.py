from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from scalable.providers.slurm.watchdog import QueueWatchdog

if TYPE_CHECKING:
    from conftest import Calls, FakeCommand

CLIENT = """\
import signal, sys
from scalable.providers.slurm.watchdog import QueueWatchdog
watchdog = QueueWatchdog("scalable-r")
signal.signal(signal.SIGINT, lambda *_: None)
print(flush=True)
while True:
    signal.pause()
"""


def test_jobs_of_a_killed_client_are_cancelled_even_after_ctrl_c(
    fake_command: FakeCommand, calls: Calls
) -> None:
    fake_command("scancel")
    command = [sys.executable, "-c", CLIENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"\n"
        os.killpg(client.pid, signal.SIGINT)
        client.kill()
    deadline = time.monotonic() + 30
    while not calls("scancel") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert calls("scancel") == ["--quiet --name=scalable-r"]


def test_a_stopped_watchdog_cancels_nothing(fake_command: FakeCommand, calls: Calls) -> None:
    fake_command("scancel")
    watchdog = QueueWatchdog("scalable-r")
    watchdog.stop()
    watchdog.stop()
    assert watchdog._process.returncode == -signal.SIGKILL
    assert calls("scancel") == []
