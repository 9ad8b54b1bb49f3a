"""A run that is killed at any point is cleared up by itself and by `scalable reap`, and nothing else is touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Eventually

POINTS = 20

MANIFEST = """
version: 1
project: {name: killed}
targets:
  here: {provider: local, workers: {sim: 2, plots: 1}}
components:
  sim: {}
  plots: {}
"""

WORKFLOW = """
from scalable.session import ScalableSession

with ScalableSession.from_yaml() as client:
    numbers = client.map(abs, range(8), tag="sim")
    print(client.submit(sum, numbers, tag="plots").result())
"""

LONG_WORKFLOW = """
from scalable.session import ScalableSession

with ScalableSession.from_yaml() as client:
    for line in iter(input, "end"):
        print(client.submit(abs, -7, tag="sim", pure=False).result(), flush=True)
"""

KILLED = """
import os, signal, sys

limit, report, seen, main = int(sys.argv[1]), sys.argv[2], 0, os.getpid()
events = {"open", "subprocess.Popen", "socket.bind", "socket.connect", "os.posix_spawn", "os.mkdir", "os.remove"}

def count(event, arguments):
    # Each step of a run opens, starts, connects or removes something.
    global seen
    if event in events and os.getpid() == main:
        seen += 1
        if seen == limit:
            os.kill(main, signal.SIGKILL)

from scalable.cli import main as command
import scalable.session.session, scalable.cluster.grouped, scalable.client  # whose import is no part of a run
sys.addaudithook(count)
try:
    command(["run", "-q", "-w", "workflow.py"])
finally:
    with os.fdopen(os.open(report, os.O_WRONLY | os.O_CREAT), "w") as file:
        file.write(str(seen))
"""


def write_project(directory: Path, workflow: str) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "scalable.yaml").write_text(MANIFEST)
    (directory / "workflow.py").write_text(workflow)
    return directory


def environment(mark: str) -> dict[str, str]:
    return {**os.environ, "SCALABLE_TEST_MARK": mark}


def marked(mark: str) -> list[int]:
    """Return the processes that have inherited a mark."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if f"SCALABLE_TEST_MARK={mark}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def run_until(project: Path, limit: int, mark: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", KILLED, str(limit), "events.txt"],
        cwd=project,
        env=environment(mark),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def scalable(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scalable.cli", *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many steps a whole run has."""
    project = write_project(tmp_path_factory.mktemp("whole"), WORKFLOW)
    done = run_until(project, -1, uuid.uuid4().hex)
    assert (done.returncode, done.stdout) == (0, "28\n"), done.stderr
    return int((project / "events.txt").read_text())


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """Another run on this machine, which answers a line for each that it gets."""
    project = write_project(tmp_path_factory.mktemp("other"), LONG_WORKFLOW)
    with subprocess.Popen(
        [sys.executable, "-m", "scalable.cli", "run", "-q", "-w", "workflow.py"],
        cwd=project,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.communicate("end\n", timeout=120)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("point", range(POINTS))
def test_a_run_that_is_killed_is_cleared_up(
    point: int,
    events: int,
    other: subprocess.Popen[str],
    tmp_path: Path,
    eventually: Eventually,
) -> None:
    project, mark = write_project(tmp_path / "project", WORKFLOW), uuid.uuid4().hex

    while (killed := run_until(project, 1 + point * events // POINTS, mark)).returncode == 0:
        events = int((project / "events.txt").read_text())  # it was quicker, and looked less often
    assert killed.returncode == -signal.SIGKILL, (killed.stdout, killed.stderr)
    eventually(lambda: not marked(mark), timeout=120)
    reaped = scalable(project, "reap", "--yes", "--json")

    assert reaped.returncode == 0, reaped.stderr
    assert json.loads(scalable(project, "ps", "--json").stdout) == []
    for ledger in project.glob(".scalable/runs/*/ledger.jsonl"):
        record = json.loads((ledger.parent / "record.json").read_text())
        assert record["everything_removed"] is True
    assert other.stdin is not None
    assert other.stdout is not None
    other.stdin.write("go\n")
    other.stdin.flush()
    assert other.stdout.readline() == "7\n"
