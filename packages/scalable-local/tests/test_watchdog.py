from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from scalable.providers.local.termination import start_time
from scalable.providers.local.watchdog import Watchdog

if TYPE_CHECKING:
    from conftest import Eventually

# A client whose two workers are busy, each with a stubborn child in its own session and one in another. A fork of the
# client holds all its pipes open. Each process notes its pid in the directory that is the only argument.
CLIENT = '''
import asyncio, os, subprocess, sys, time
from pathlib import Path

from distributed import Client, LocalCluster

from scalable.cluster.port import GroupSpec
from scalable.manifest.schema import ComponentConfig
from scalable.providers.local.processes import ProcessBackend
from scalable.providers.tls import make_credentials

CHILD = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1], str(os.getpid())).touch()
time.sleep(600)
"""

def model(directory):
    for apart in (False, True):
        subprocess.Popen([sys.executable, "-c", CHILD, directory], start_new_session=apart)
    Path(directory, str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    credentials = make_credentials()
    security = credentials.security()
    host = LocalCluster(
        n_workers=0, protocol="tls", security=security, dashboard_address="127.0.0.1:0"
    )
    backend = ProcessBackend(
        {"gcam": ComponentConfig(name="gcam")},
        scheduler_address=host.scheduler_address,
        name="test",
        parent=Path(sys.argv[2]),
        credentials=credentials,
    )
    units = asyncio.run(backend.launch(GroupSpec("gcam"), 2, "r1"))
    client = Client(host)
    futures = [client.submit(model, sys.argv[1], resources={"gcam": 1}, pure=False) for _ in units]
    while len(os.listdir(sys.argv[1])) < 6:
        time.sleep(0.05)
    if os.fork() == 0:
        Path(sys.argv[3]).write_text(str(os.getpid()))
    time.sleep(600)
'''


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    yield process
    process.kill()
    process.wait()


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def process_of(watchdog: Watchdog) -> psutil.Process:
    return psutil.Process(watchdog._process.pid)


def vanish(watchdog: Watchdog) -> None:
    """Close the pipe as the kernel does when the client dies, and wait until the watchdog has ended."""
    assert watchdog._process.stdin is not None
    watchdog._process.stdin.close()
    watchdog._process.wait(60)


def test_a_killed_client_leaves_no_worker_no_model_and_no_keys(
    tmp_path: Path, eventually: Eventually
) -> None:
    script, pids, runs, fork = (tmp_path / name for name in ("client.py", "pids", "runs", "fork"))
    script.write_text(CLIENT)
    pids.mkdir()
    runs.mkdir()
    client = subprocess.Popen([sys.executable, script, pids, runs, fork])
    try:
        eventually(lambda: fork.exists() and fork.read_text())
        members = [int(path.name) for path in pids.iterdir()]
        assert len(members) == 6
        assert list(runs.rglob("key.pem"))
        assert all(map(is_alive, members))
    finally:
        client.kill()
        client.wait()
    os.kill(int(fork.read_text()), signal.SIGSTOP)  # it must not be waited for
    try:
        eventually(lambda: not any(map(is_alive, members)))
        eventually(lambda: not list(runs.iterdir()))
    finally:
        os.kill(int(fork.read_text()), signal.SIGKILL)


def test_a_released_worker_is_not_terminated(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    watchdog = Watchdog(tmp_path / "run")
    watchdog.watch(sleeper.pid, start_time(sleeper.pid) or "")
    watchdog.release(sleeper.pid)

    vanish(watchdog)

    assert sleeper.poll() is None


def test_a_reused_pid_is_not_terminated(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    watchdog = Watchdog(tmp_path / "run")
    watchdog.watch(sleeper.pid, "long ago")

    vanish(watchdog)

    assert sleeper.poll() is None


def test_closing_ends_only_the_watchdog_and_is_idempotent(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    watchdog = Watchdog(directory)
    watchdog.watch(sleeper.pid, start_time(sleeper.pid) or "")
    process = process_of(watchdog)

    watchdog.close()
    watchdog.close()

    assert not is_alive(process.pid)
    assert sleeper.poll() is None
    assert directory.exists()


def test_a_watchdog_that_was_killed_is_replaced(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    watchdog = Watchdog(tmp_path / "run")
    watchdog.watch(sleeper.pid, start_time(sleeper.pid) or "")
    killed = process_of(watchdog)
    killed.kill()
    watchdog._process.wait()

    watchdog.release(1)  # never watched: nothing is sent
    watchdog.watch(os.getpid(), "long ago")
    assert process_of(watchdog) != killed

    vanish(watchdog)

    assert sleeper.wait(60) == -signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/<pid>/status")
def test_signals_to_the_clients_process_group_do_not_end_the_watchdog(
    tmp_path: Path, eventually: Eventually
) -> None:
    watchdog = Watchdog(tmp_path / "run")
    status = Path(f"/proc/{process_of(watchdog).pid}/status")

    def ignored() -> set[int]:
        (mask,) = (line for line in status.read_text().splitlines() if line.startswith("SigIgn"))
        bits = int(mask.split()[1], 16)
        return {number for number in range(1, 65) if bits >> (number - 1) & 1}

    eventually(lambda: {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} <= ignored())
    assert os.getsid(process_of(watchdog).pid) != os.getsid(0)
    watchdog.close()
