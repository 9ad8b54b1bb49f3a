from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scalable.providers.local.memory import machine_memory, usage_above
from scalable.providers.local.termination import Process, list_processes

MB = 10**6

HOLD = "held = b'x' * 100_000_000; print('ready', flush=True); input()"
SHARE = "import os; held = b'x' * 100_000_000; os.fork(); print('ready', flush=True); input()"
MAP = (
    "import mmap, sys; file = open(sys.argv[1], 'rb');"
    "held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ); sum(held[::4096]);"
    "print('ready', flush=True); input()"
)

Start = Callable[..., list[Process]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a process and return what is in its session once `lines` of its members are ready."""
    started: list[subprocess.Popen[bytes]] = []

    def start(code: str, *args: str | Path, lines: int = 1) -> list[Process]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout is not None
        for _ in range(lines):
            process.stdout.readline()
        return [p for p in list_processes().values() if p.session == process.pid]

    yield start
    for process in started:
        os.killpg(process.pid, 9)
        process.communicate()


def test_what_is_held_is_counted(start: Start) -> None:
    used = usage_above(start(HOLD), 50 * MB)

    assert used is not None
    assert 100 * MB < used < 150 * MB


def test_less_than_the_limit_is_fine(start: Start) -> None:
    assert usage_above(start(HOLD), 500 * MB) is None


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/<pid>/smaps_rollup")
def test_memory_that_a_fork_shares_is_counted_once(start: Start) -> None:
    members = start(SHARE, lines=2)
    assert len(members) == 2
    assert sum(process.rss for process in members) > 200 * MB

    assert usage_above(members, 180 * MB) is None


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/<pid>/smaps_rollup")
def test_a_mapped_file_does_not_count(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(bytes(100 * MB - 100 * MB % mmap.PAGESIZE))
    members = start(MAP, file)
    assert sum(process.rss for process in members) > 90 * MB

    assert usage_above(members, 60 * MB) is None


def test_a_process_that_is_gone_uses_nothing() -> None:
    assert usage_above([Process(2**22 + 1, 1, 1, "", 10**9, "gone")], 1) is None


def test_the_machine_has_memory() -> None:
    assert machine_memory() > 100 * MB
