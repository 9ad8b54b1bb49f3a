"""The program that forks the workers of one job, with a stand-in for what a worker does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scalable.providers.forking import count_oom_kills, memory_of_trees
from scalable.providers.worker import program_text

# A worker does as the file says that is called after its number, again and again until it is to end.
STAND_IN = """
import pathlib
def import_dask():
    pass
def main():
    number = sys.argv[-1].rpartition(".")[2]
    (pathlib.Path("seen") / number).write_text(json.dumps([sys.argv[1:], sorted(os.sched_getaffinity(0))]))
    while True:
        what = pathlib.Path("do") / number
        if what.exists():
            exec(what.read_text(), globals())
        time.sleep(0.01)
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    for name in ("seen", "do"):
        (tmp_path / name).mkdir()
    return tmp_path


@contextmanager
def job_of(
    work: Path, workers: int, name: str = "7_0", **more: int
) -> Iterator[subprocess.Popen[str]]:
    """Run the program for a job with room for three, as a script would."""
    text = program_text("scalable.providers", "forking.py")
    limits = {"cpus": 1000, "gpus": 0, "memory": 0} | more
    settings = {"workers": workers, "room": 3, "logs": str(work), "files": str(work)} | limits
    program = f"{text}\n{STAND_IN}\nTICK = 0.05\nfork_workers()"
    command = [sys.executable, "-c", program, json.dumps(settings), name, "gcam", "tls://h:1"]
    with subprocess.Popen(
        command, cwd=work, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def seen(work: Path) -> set[str]:
    return {path.name for path in (work / "seen").iterdir()}


def ends(work: Path) -> dict[int, tuple[int, str]]:
    try:
        text = (work / "7_0.ended").read_text()
    except FileNotFoundError:
        return {}
    lines = [line.split() for line in text.splitlines() if line]
    return {int(number): (int(status), why) for number, status, _, why in lines}


def test_each_worker_has_its_name_its_log_and_its_end(work: Path) -> None:
    with job_of(work, 2) as job:
        until(lambda: seen(work) == {"0", "1"})
        arguments, _ = json.loads((work / "seen" / "1").read_text())
        assert arguments == ["worker", "tls://h:1", "--name", "gcam-7_0.1"]
        (work / "do" / "1").write_text("print('no more'); sys.stdout.flush(); os._exit(3)")
        until(lambda: ends(work) == {1: (3, "exited")})
        assert (work / "7_0.1.log").read_text() == "no more\n"
        (work / "do" / "0").write_text("sys.exit(0)")
        assert job.wait(60) == 0
    assert ends(work) == {0: (0, "exited"), 1: (3, "exited")}


def test_the_last_job_of_an_array_begins_with_the_rest(work: Path) -> None:
    with job_of(work, 4, "7_1"):
        until(lambda: seen(work) == {"0"})


def test_a_job_whose_workers_all_fail_has_failed(work: Path) -> None:
    for number in range(3):
        (work / "do" / str(number)).write_text("os._exit(1)")
    with job_of(work, 3) as job:
        assert job.wait(60) == 1


def test_workers_start_and_end_as_asked(work: Path) -> None:
    (work / "7_0.asked").write_text("-1\n")  # before the job began
    with job_of(work, 3) as job:
        until(lambda: seen(work) == {"0", "2"})
        until(lambda: ends(work) == {1: (0, "stopped")})
        with (work / "7_0.asked").open("a") as file:
            file.write("+3\n+4\n")
        until(lambda: "3" in seen(work))
        assert "4" not in seen(work)  # there is room for three
        with (work / "7_0.asked").open("a") as file:
            file.write("-0\n-9")  # one line is not complete
        until(lambda: "4" in seen(work))
        assert ends(work)[0][1] == "stopped"
        with (work / "7_0.asked").open("a") as file:
            file.write("\n-2\n-3\n-4\n")
        assert job.wait(60) == 0


def test_a_worker_above_its_memory_is_killed_and_no_other(work: Path) -> None:
    hog = "import subprocess; child = subprocess.run([sys.executable, '-c', 'x = b\"x\" * 2**28; input()'])"
    (work / "do" / "1").write_text(hog)
    with job_of(work, 2, memory=2**27):
        until(lambda: 1 in ends(work))
        assert ends(work) == {1: (-signal.SIGKILL, "memory")}


def test_memory_that_a_worker_shares_with_its_children_counts_once(work: Path) -> None:
    """As in a pool of processes that a task has forked, all of which see its data."""
    share = """
data = b"x" * 2**26
for child in range(6):
    if os.fork() == 0:
        signal.pause()
pathlib.Path("forked").touch()
signal.pause()"""
    (work / "do" / "0").write_text(share)
    with job_of(work, 2, memory=2**28):
        until((work / "forked").exists)
        (work / "do" / "1").write_text("x = b'x' * 2**29; signal.pause()")
        until(lambda: ends(work))
        assert ends(work) == {1: (-signal.SIGKILL, "memory")}


def test_the_end_of_the_job_is_not_that_of_its_workers(work: Path) -> None:
    with job_of(work, 2) as job:
        until(lambda: seen(work) == {"0", "1"})
        job.terminate()
        job.wait(60)
    assert ends(work) == {}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_workers_have_cores_of_their_own_where_there_are_enough(work: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    with job_of(work, 2, cpus=cores // 2, room=2):
        until(lambda: seen(work) == {"0", "1"})
        until(lambda: all((work / "seen" / name).read_text() for name in "01"))
        own = [set(json.loads((work / "seen" / name).read_text())[1]) for name in "01"]
    assert not own[0] & own[1]


def test_memory_is_that_of_a_process_and_what_it_has_started() -> None:
    assert memory_of_trees({os.getpid(), 2**22 + 1}).keys() == {os.getpid()}
    assert memory_of_trees({os.getpid()})[os.getpid()] > 2**22
    assert count_oom_kills() >= 0
