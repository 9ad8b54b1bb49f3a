"""Whether a run lives: of this machine, and of another one that shares the directory of records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scalable.runs import RunRecord, read_record, recorder, run_state
from scalable.runs.recorder import LOGS_WANTED
from scalable.session import ScalableSession
from scalable.session.control import SOCKET

pytestmark = pytest.mark.usefixtures("demo")

Scalable = Callable[..., subprocess.CompletedProcess[str]]
Eventually = Callable[[Callable[[], bool]], bool]

HOUR = 3600.0


@pytest.fixture
def record(project: Path) -> RunRecord:
    (project / "workflow.py").write_text("pass")
    session = ScalableSession.from_yaml()
    plan = session.plan()
    return RunRecord.begin(session, plan, workflow=Path("workflow.py"), arguments=[])


def rewrite(directory: Path, change: Callable[[dict[str, Any]], object], age: float = 0) -> None:
    """Change a record, as if that had been done some seconds ago."""
    path = directory / "record.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    now = path.stat().st_mtime
    os.utime(path, (now, now - age))


def state(directory: Path) -> tuple[bool | None, str]:
    document = read_record(directory)
    assert document is not None
    found = run_state(document, directory)
    return found.lives, found.text


def to_another(document: dict[str, Any]) -> None:
    document["process"]["host"] = document["process"]["identity"]["host"] = "login2"


def test_a_run_of_this_machine_lives_as_long_as_its_process(record: RunRecord) -> None:
    where = record.directory
    assert state(where) == (True, "running")

    def to_one_before(document: dict[str, Any]) -> None:
        document["process"]["identity"]["started"] -= 1

    rewrite(where, to_one_before)
    assert state(where) == (False, "killed")
    record.end(0)
    assert state(where) == (False, "finished")


def test_a_process_lives_although_the_clock_was_set(record: RunRecord) -> None:
    def shift(document: dict[str, Any]) -> None:
        # The system computes the start of a process from the clock of now.
        document["process"]["started"] += HOUR

    rewrite(record.directory, shift)
    assert state(record.directory) == (True, "running")


def test_a_run_of_another_machine_lives_as_long_as_it_is_heard_of(record: RunRecord) -> None:
    where = record.directory
    rewrite(where, to_another)
    lives, text = state(where)
    assert lives is True
    assert text.startswith("running on login2, last heard ")
    rewrite(where, to_another, age=HOUR)
    lives, text = state(where)
    assert lives is None
    assert text.startswith("on login2, not heard of since 2")
    record.touch()
    assert state(where)[0] is True
    # Touched before the clock of the file system was set back.
    rewrite(where, to_another, age=-HOUR)
    assert state(where)[0] is None


def test_clocks_of_machines_may_differ(record: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(record.directory, to_another)
    now = time.time()
    for shift in (-HOUR, HOUR):
        monkeypatch.setattr(time, "time", lambda shift=shift: now + shift)
        assert state(record.directory)[0] is True


def test_a_record_that_cannot_be_looked_at_tells_nothing(record: RunRecord) -> None:
    rewrite(record.directory, to_another)
    document = read_record(record.directory)
    assert document is not None
    found = run_state(document, record.directory / "gone")
    assert (found.lives, found.text) == (None, "on login2, last heard at an unknown time")


def test_another_machine_may_have_the_same_name(record: RunRecord) -> None:
    def to_another_boot(document: dict[str, Any]) -> None:
        document["process"]["identity"]["boot"] = "another"

    rewrite(record.directory, to_another_boot)
    lives, text = state(record.directory)
    assert lives is True
    assert ", last heard " in text
    rewrite(record.directory, to_another_boot, age=HOUR)
    assert state(record.directory) == (False, "killed")


@pytest.mark.skipif(sys.platform != "linux", reason="processes have namespaces on Linux alone")
def test_a_container_may_have_the_name_of_its_host(record: RunRecord) -> None:
    """Its processes have other numbers, which here are those of nobody, or of others."""

    def to_a_container(document: dict[str, Any]) -> None:
        document["process"]["identity"] |= {"namespace": "pid:[7]", "pid": 2**22 + 1}

    rewrite(record.directory, to_a_container)
    assert state(record.directory)[0] is True
    rewrite(record.directory, to_a_container, age=HOUR)
    assert state(record.directory)[0] is None


def test_a_session_shows_that_it_lives(
    project: Path, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr(recorder, "_TOUCH_INTERVAL", 0.0)
    with ScalableSession.from_yaml() as client:
        assert client.session is not None
        assert client.session.recorder is not None
        path = client.session.recorder.record.directory / "record.json"
        os.utime(path, (1, 1))
        assert eventually(lambda: path.stat().st_mtime > 1)


SLOW_END = """
import os, time
from pathlib import Path
from scalable.runs import recorder
from scalable.session import ScalableSession

recorder._TOUCH_INTERVAL = 0.0

def close(self, own=ScalableSession.close):
    (path,) = Path(".scalable/runs").glob("*/record.json")
    os.utime(path, (1, 1))
    for _ in range(1200):
        if path.stat().st_mtime > 1:
            print("heard of", flush=True)
            break
        time.sleep(0.05)
    own(self)

ScalableSession.close = close
"""


def test_a_run_shows_that_it_lives_until_it_has_ended(scalable: Scalable, project: Path) -> None:
    """To close a cluster may take minutes."""
    (project / "workflow.py").write_text(SLOW_END)
    done = scalable("run", "-w", "workflow.py")
    assert done.returncode == 0, done.stderr
    assert "heard of" in done.stdout


# -- What commands say


@pytest.mark.parametrize(
    ("age", "expected"), [(0, "running on login2, last heard "), (HOUR, "on login2, not heard of ")]
)
def test_runs_of_another_machine_are_listed_with_what_is_known(
    record: RunRecord, scalable: Scalable, age: float, expected: str
) -> None:
    rewrite(record.directory, to_another, age)
    shown, page = record.directory / "report.html", record.directory.name
    assert expected in scalable("runs").stdout
    assert f"run {page}: {expected}" in scalable("runs", "show").stdout
    assert scalable("report").returncode == 0
    assert expected in shown.read_text()
    assert "killed" not in shown.read_text()


def test_a_run_that_lives_on_another_machine_is_not_resumed(
    record: RunRecord, scalable: Scalable
) -> None:
    rewrite(record.directory, to_another)
    refused = scalable("resume", record.directory.name, "--dry-run")
    assert refused.returncode == 2
    assert "is running on login2, last heard " in refused.stderr
    # Its machine may be gone, which nobody can know here.
    rewrite(record.directory, to_another, age=HOUR)
    done = scalable("resume", record.directory.name, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "is on login2, not heard of since " in done.stderr
    assert "if it still runs there, both compute the same" in done.stderr


def test_a_run_that_is_not_heard_of_is_not_asked_for_its_logs(
    record: RunRecord, scalable: Scalable, eventually: Eventually
) -> None:
    (record.directory / "logs").mkdir()
    (record.directory / "logs" / "fair-1.log").write_text("as before\n")
    rewrite(record.directory, to_another, age=HOUR)
    shown = scalable("logs")
    assert "as before" in shown.stdout
    assert "the run is on login2, not heard of since " in shown.stderr
    assert "does not answer" not in shown.stderr

    rewrite(record.directory, to_another)
    wanted = record.directory / LOGS_WANTED

    def answer() -> None:
        if eventually(wanted.exists):
            (record.directory / "logs" / "fair-1.log").write_text("as it is now\n")
            wanted.unlink()

    thread = threading.Thread(target=answer)
    thread.start()
    shown = scalable("logs")
    thread.join()
    assert "as it is now" in shown.stdout


def test_sessions_on_another_machine_are_not_taken_for_those_of_this_one(
    record: RunRecord, scalable: Scalable, project: Path
) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(record.directory)
        server.bind(SOCKET)
        os.chdir(project)
        name = record.directory.name
        rewrite(record.directory, to_another)
        refused = scalable("down")
        assert f"run {name} is managed on login2, last heard " in refused.stderr
        up = scalable("up", "--json")
        started = json.loads(up.stdout)["run"]
        try:
            warned = f"run {name} is up on target 'demo' already (running on login2, last heard "
            assert warned in up.stderr
            assert "several runs can be reached" in scalable("down").stderr
            rewrite(record.directory, to_another, age=HOUR)
            # The one that is known to live is meant.
            assert scalable("down").returncode == 0
        finally:
            scalable("down", started)
        refused = scalable("down")
        assert refused.returncode == 2
        assert f"run {name} is managed on login2, not heard of since " in refused.stderr
