from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from scalable.providers.local import termination
from scalable.providers.local.termination import (
    LABEL,
    list_processes,
    process_trees,
    start_time,
    terminate,
)

if TYPE_CHECKING:
    from conftest import Eventually

SLEEP = "import time; print('ready', flush=True); time.sleep(600)"
IGNORE = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SLEEP

# Starts the code in its first argument, in its own session if there is a second argument, and waits.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=len(sys.argv) > 2)
time.sleep(600)
"""

Start = Callable[..., tuple["subprocess.Popen[bytes]", str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a session leader; return it and its start time once a process in it has printed a line."""
    started: list[subprocess.Popen[bytes]] = []

    def start(code: str, *args: str, label: str = "") -> tuple[subprocess.Popen[bytes], str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *args],
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, LABEL: label},
        )
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process, start_time(process.pid) or ""

    yield start
    for process in started:
        terminate({process.pid: start_time(process.pid) or ""}, grace_period=0)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def child_of(process: subprocess.Popen[bytes]) -> psutil.Process:
    (child,) = psutil.Process(process.pid).children()
    return child


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_this_process_agrees_with_psutil() -> None:
    me, known = list_processes()[os.getpid()], psutil.Process()

    assert (me.parent, me.session) == (known.ppid(), os.getsid(0))
    assert me.started == start_time(os.getpid())
    assert 0.5 < me.rss / known.memory_info().rss < 2


def test_ps_and_proc_agree(start: Start) -> None:
    process, _ = start(SLEEP)

    by_ps = {p.pid: p for p in termination._from_ps()}

    here = list_processes()[process.pid]
    there = by_ps[process.pid]
    assert (here.parent, here.session) == (there.parent, there.session)
    assert abs(here.rss - there.rss) < 2**22


def test_zombies_are_not_alive(start: Start, eventually: Eventually) -> None:
    process, started = start(SLEEP)
    process.kill()

    eventually(lambda: process.pid not in list_processes())

    assert start_time(process.pid) is None
    assert terminate({process.pid: started}, grace_period=0) == []


@pytest.mark.parametrize("apart", [[], ["apart"]], ids=["same session", "own session"])
@pytest.mark.parametrize("child", [SLEEP, IGNORE], ids=["obedient", "stubborn"])
def test_a_tree_ends_with_all_its_members(start: Start, child: str, apart: list[str]) -> None:
    process, started = start(PARENT, child, *apart)
    other, _ = start(SLEEP)
    grandchild = child_of(process)

    assert terminate({process.pid: started}, grace_period=0.5) == []

    assert not is_alive(grandchild)
    assert process.wait() == -signal.SIGTERM
    assert other.poll() is None


def test_without_grace_period_processes_are_killed_at_once(start: Start) -> None:
    process, started = start(SLEEP)

    assert terminate({process.pid: started}, grace_period=0) == []

    assert process.wait() == -signal.SIGKILL


def test_the_root_is_terminated_first(start: Start, tmp_path: Path) -> None:
    """A child whose parent has ended when it receives SIGTERM was signalled after its parent."""
    log = tmp_path / "log"
    child = (
        "import os, signal, time; parent = os.getppid();"
        f"record = lambda *_: (open({str(log)!r}, 'w').write(str(os.getppid() == parent)), os._exit(0));"
        f"signal.signal(signal.SIGTERM, record); {SLEEP}"
    )
    process, started = start(PARENT, child)

    assert terminate({process.pid: started}, grace_period=5) == []

    assert log.read_text() == "False"


def test_a_tree_outlives_its_root_and_is_still_found(start: Start) -> None:
    process, started = start(PARENT, IGNORE)
    grandchild = child_of(process)
    process.kill()
    process.wait()

    assert grandchild.pid in {
        p.pid for p in process_trees({process.pid: started}, list_processes())[process.pid]
    }
    assert terminate({process.pid: started}, grace_period=0) == []

    assert not is_alive(grandchild)


def test_a_reused_pid_is_not_terminated(start: Start) -> None:
    process, _ = start(SLEEP)

    assert terminate({process.pid: "long ago"}, grace_period=0.1) == []

    assert process.poll() is None


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/<pid>/environ")
@pytest.mark.parametrize(
    ("label", "ends"), [("/run/a", True), ("/run/a/gcam-1", True), ("/run/ab", False)]
)
def test_a_label_is_enough(start: Start, label: str, ends: bool) -> None:
    process, _ = start(SLEEP, label=label)

    terminate({}, grace_period=0.5, labels=["/run/a"])

    assert (process.poll() is not None) is ends
