"""``scalable up`` and what uses it: a manager that outlives its shell, reached from other processes, and ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scalable.errors import SessionError
from scalable.runs import read_record
from scalable.session import ScalableSession
from scalable.session import control as control_module
from scalable.session.control import LOG, SOCKET, ask, served_at

if TYPE_CHECKING:
    from conftest import Eventually

pytestmark = pytest.mark.timeout(600)

MANIFEST = """
version: 1
project: {name: managed}
targets:
  here: {provider: local, workers: {sim: 1}, max_workers: 3}
  threads: {provider: local, processes: false}
components:
  sim: {}
"""

WORKFLOW = """
import sys

from helper import twice
from scalable.session import ScalableSession

with ScalableSession.from_yaml() as client:
    print(client.submit(twice, int(sys.argv[1]), tag="sim").result())
    print(sorted(client.session.groups))
sys.exit(3)
"""


class Project:
    """A directory with a manifest, and the processes that were started in it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.mark = directory, uuid.uuid4().hex
        (directory / "scalable.yaml").write_text(MANIFEST)
        (directory / "workflow.py").write_text(WORKFLOW)
        (directory / "helper.py").write_text("def twice(x):\n    return 2 * x\n")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, and to that of everything that has its output."""
        return subprocess.run(
            [sys.executable, "-m", "scalable.cli", *arguments],
            cwd=self.directory,
            env={**os.environ, "SCALABLE_TEST_MARK": self.mark},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def up(self, *arguments: str) -> dict[str, Any]:
        done = self.run("up", "--target", "here", "--json", *arguments)
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    def record(self, run: str) -> dict[str, Any]:
        record = read_record(self.directory / ".scalable" / "runs" / run)
        assert record is not None
        return record

    def processes(self) -> list[int]:
        """Return the processes that live, of those that commands have started."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if (
                        f"SCALABLE_TEST_MARK={self.mark}".encode()
                        in (entry / "environ").read_bytes()
                    ):
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found


@pytest.fixture
def project(tmp_path: Path, eventually: Eventually) -> Iterator[Project]:
    project = Project(tmp_path)
    yield project
    for directory in (tmp_path / ".scalable" / "runs").glob("*/"):
        if (directory / SOCKET).exists():
            project.run("down", directory.name)
    eventually(lambda: not project.processes())


def test_a_session_outlives_its_shell_and_is_used_and_ended_from_others(
    project: Project, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    told = project.up()
    run, directory = told["run"], Path(told["directory"])
    assert told["groups"] == {"sim": {"running": 1, "wanted": 1}}
    assert os.getsid(told["pid"]) == told["pid"]
    assert (directory / SOCKET).stat().st_mode & 0o777 == 0o600
    (listed,) = json.loads(project.run("ps", "--json").stdout)
    assert (listed["name"], listed["standing"], listed["target"]) == (run, "alive", "here")
    assert listed["detail"].startswith(f"1 worker, process {told['pid']} on ")

    attached = project.run("attach", "-w", "workflow.py", "--", "21")
    assert (attached.returncode, attached.stdout) == (3, "42\n['sim']\n"), attached.stderr

    scaled = project.run("scale", "sim=2", "--json")
    assert json.loads(scaled.stdout) == {"run": run, "workers": {"sim": 2}, "ranges": {}}
    monkeypatch.chdir(project.directory)
    with ScalableSession.attach(run[:-2]) as client:
        assert client.submit(abs, -7, tag="sim").result(timeout=120) == 7
        session = client.session
        assert session is not None
        eventually(lambda: session.groups["sim"].running == 2, timeout=120)
        session.adapt({"sim": (1, 3)})
        assert session.groups["sim"].maximum == 3
        with pytest.raises(SessionError, match="max_workers"):
            session.scale({"sim": 4})
        with pytest.raises(SessionError, match=r"'simm'.*did you mean 'sim'"):
            session.scale({"simm": 1})
        with pytest.raises(SessionError, match="another process"):
            _ = session.cluster
        assert "Attached" in repr(session)
    assert project.record(run)["status"] == "running"

    ended = project.run("down", "--json")
    record = json.loads(ended.stdout)
    assert (ended.returncode, record["id"]) == (0, run), ended.stderr
    assert (record["status"], record["everything_removed"]) == ("finished", True)
    assert [(each["name"], each["done"]) for each in record["summary"]["tasks"]] == [
        ("abs", 1),
        ("twice", 1),
    ]
    assert "finished after" in (directory / LOG).read_text()
    twice = project.run("down", run)
    assert (twice.returncode, twice.stdout) == (0, "")
    assert "has ended already" in twice.stderr
    assert json.loads(project.run("ps", "--json").stdout) == []
    eventually(lambda: not project.processes())
    with pytest.raises(SessionError, match="scalable up"):
        ScalableSession.attach(run)


def test_the_keys_of_the_cluster_are_in_no_file_of_the_run(project: Project) -> None:
    directory = Path(project.up()["directory"])

    key = ask(directory, do="connect")["tls"]["tls_client_key"]

    secret = key.splitlines()[1].encode()
    assert len(secret) > 20
    written = [path for path in directory.rglob("*") if path.is_file()]
    assert written
    assert [path for path in written if secret in path.read_bytes()] == []


def test_sigterm_ends_a_manager_as_down_does(project: Project, eventually: Eventually) -> None:
    told = project.up()

    os.kill(told["pid"], signal.SIGTERM)

    eventually(lambda: not project.processes())
    record = project.record(told["run"])
    assert (record["status"], record["everything_removed"]) == ("finished", True)
    assert "SIGTERM; closing the cluster" in (Path(told["directory"]) / LOG).read_text()


def test_what_a_killed_manager_has_left_is_cleared_up_by_down(
    project: Project, eventually: Eventually
) -> None:
    told = project.up()

    os.kill(told["pid"], signal.SIGKILL)
    eventually(lambda: not project.processes())
    nameless = project.run("down")
    assert nameless.returncode == 2
    assert f"`scalable down {told['run']}` removes" in nameless.stderr
    assert f"{told['run']}  killed" in project.run("runs").stdout
    done = project.run("down", told["run"])

    assert done.returncode == 0, done.stderr
    assert f"the manager of run {told['run']} is gone" in done.stderr
    assert project.record(told["run"])["everything_removed"] is True
    assert "no run in" in project.run("down").stderr


def test_a_second_session_is_warned_of_and_runs_are_named(project: Project) -> None:
    first = project.up()["run"]

    second = project.run("up", "--target", "here")

    assert second.returncode == 0
    assert f"run {first} is up on target 'here' already" in second.stderr
    unnamed = project.run("down")
    assert (unnamed.returncode, "name one" in unnamed.stderr) == (2, True)


def test_a_session_that_nobody_uses_ends(project: Project, eventually: Eventually) -> None:
    told = project.up("--idle-timeout", "1s")

    eventually(lambda: not project.processes())
    record = project.record(told["run"])
    assert (record["status"], record["everything_removed"]) == ("finished", True)
    assert "nobody has used it for 1 s" in (Path(told["directory"]) / LOG).read_text()


def test_a_session_that_cannot_start_is_an_error_and_leaves_nothing(
    project: Project, eventually: Eventually
) -> None:
    threads = project.run("up", "--target", "threads", "--json")

    assert threads.returncode == 2
    assert "set processes: true in target 'threads'" in threads.stderr
    assert json.loads(threads.stdout)["status"] == "failed"
    nowhere = project.run("up", "--target", "nowhere")
    assert (nowhere.returncode, nowhere.stdout) == (2, "")
    eventually(lambda: not project.processes())
    assert list(project.directory.glob(".scalable/runs/*.log")) == []


def test_ctrl_c_during_the_start_ends_the_manager_too(
    project: Project, eventually: Eventually
) -> None:
    # Its worker waits in its preload, so that the start goes on until it is ended.
    (project.directory / "wait.py").write_text("import time\ntime.sleep(1000)\n")
    manifest = MANIFEST.replace("sim: {}", f"sim: {{preload_script: {project.directory}/wait.py}}")
    (project.directory / "scalable.yaml").write_text(manifest)
    with subprocess.Popen(
        [sys.executable, "-m", "scalable.cli", "up", "--target", "here"],
        cwd=project.directory,
        env={**os.environ, "SCALABLE_TEST_MARK": project.mark},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert "sim 0/1 running" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)

    assert (process.returncode, "interrupted" in errors) == (130, True)
    eventually(lambda: not project.processes())


def test_another_python_is_refused_by_its_version(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = project.up()
    import distributed.versions

    here = distributed.versions.get_versions()
    other = {**here, "host": {**here["host"], "python": "3.99.0.final.0"}}
    monkeypatch.setattr(distributed.versions, "get_versions", lambda: other)
    session = ScalableSession.attach(told["directory"])

    with pytest.raises(SessionError, match=r"has Python 3\.\d+, this process 3\.99"):
        session.start()
    session.close()
    assert project.record(told["run"])["status"] == "running"


# -- The socket


def test_a_directory_or_a_peer_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served_at(tmp_path, lambda request: {"got": request["do"]}):
        assert ask(tmp_path, do="this") == {"got": "this"}
        me = os.geteuid()
        monkeypatch.setattr(control_module, "_user_at", lambda _: me + 1)
        with pytest.raises(PermissionError, match="another user"):
            ask(tmp_path, do="this")
        # Another user is not even listened to.
        with socket.socket(socket.AF_UNIX) as other:
            monkeypatch.chdir(tmp_path)
            other.settimeout(30)
            other.connect(SOCKET)
            assert other.recv(100) == b""
        monkeypatch.undo()
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
        with pytest.raises(PermissionError, match="another user"):
            ask(tmp_path, do="this")
    monkeypatch.undo()
    assert not (tmp_path / SOCKET).exists()
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with served_at(tmp_path, dict), pytest.raises(NotADirectoryError):
        ask(link, do="this")


def test_what_goes_wrong_in_an_answer_is_told(tmp_path: Path) -> None:
    def answer(request: object) -> dict[str, Any]:
        raise ValueError("no such thing")

    with served_at(tmp_path, answer), pytest.raises(SessionError, match="no such thing"):
        ask(tmp_path, do="this")
    with pytest.raises(SessionError, match="cannot be reached"):
        ask(tmp_path, do="this")


def test_a_deep_directory_has_a_socket_too(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)

    with served_at(deep, lambda _: {"n": 1}):
        assert ask(deep, do="this") == {"n": 1}
