"""Runs of a manifest, in processes of their own: what one has computed, the next one does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from scalable.results.store.segments import scan
from scalable.results.store.storage import Store

Scalable = Callable[..., subprocess.CompletedProcess[str]]
Eventually = Callable[[Callable[[], bool]], bool]

MODEL = """\
import os
import time

SCALE = 2


def simulate(member):
    with open(os.environ["STARTS"], "a") as file:
        file.write(f"{member} {os.getpid()}\\n")
    while os.path.exists(os.environ["STARTS"] + f".hold-{member}"):
        time.sleep(0.01)
    return member * SCALE


def table(values):
    return ",".join(map(str, values))
"""

WORKFLOW = """\
import sys
from model import simulate, table
from scalable.session import ScalableSession

if __name__ == "__main__":
    with ScalableSession.from_yaml() as client:
        runs = client.map(simulate, range(40), task="simulate")
        print(client.submit(table, runs, task="table").result(), flush=True)
"""


@pytest.fixture
def starts(project: Path, environment: dict[str, str]) -> Path:
    """Write a workflow whose tasks are kept, and return the file in which they say that they have started."""
    (project / "model.py").write_text(MODEL)
    (project / "workflow.py").write_text(WORKFLOW)
    (project / "scalable.yaml").write_text(
        "version: 1\nproject: {name: test, results: kept}\n"
        "targets: {demo: {provider: demo, n_workers: 1}, other: {provider: demo, n_workers: 2}}\n"
        "components: {fair: {slots: 2}, gcam: {}}\n"
        "tasks: {simulate: {component: fair, cache: true}, table: {component: gcam, cache: true}}\n"
    )
    path = project / "starts"
    environment["STARTS"] = str(path)
    return path


def started(starts: Path) -> list[int]:
    """Return the members that have started since the last call."""
    lines = starts.read_text().splitlines() if starts.exists() else []
    starts.unlink(missing_ok=True)
    return sorted(int(line.split()[0]) for line in lines)


def kept(project: Path) -> int:
    """Return how many members are kept."""
    return len([*Store(str(project / "kept")).results("simulate")])


NEEDS = """\
from scalable.session import ScalableSession
from model import simulate
with ScalableSession.from_yaml() as client:
    print(client.submit(sum, client.map(simulate, range(40), task="simulate"), tag="gcam").result())
"""


def last_record(project: Path, name: str) -> list[str]:
    """Return the lines of a file of the newest record."""
    newest = max((project / ".scalable" / "runs").iterdir())
    return (newest / name).read_text().splitlines()


TABLE = ",".join(str(2 * member) for member in range(40))


def test_a_run_that_was_killed_goes_on_where_it_stopped(
    scalable: Scalable,
    project: Path,
    environment: dict[str, str],
    starts: Path,
    eventually: Eventually,
) -> None:
    held = [starts.with_name(f"starts.hold-{member}") for member in range(25, 40)]
    for path in held:
        path.touch()
    command = [sys.executable, "-m", "scalable.cli", "run", "-w", "workflow.py"]
    with subprocess.Popen(
        command,
        cwd=project,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as run:
        assert eventually(lambda: kept(project) >= 25)
        os.killpg(run.pid, signal.SIGKILL)
    for pid in {int(line.split()[1]) for line in starts.read_text().splitlines()}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for path in held:
        path.unlink()
    done_before = kept(project)
    started(starts)

    done = scalable("run", "-w", "workflow.py", "--target", "other")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [TABLE]
    assert len(started(starts)) == 40 - done_before
    assert f"scalable: simulate: {done_before} kept, {40 - done_before} to do" in done.stderr

    again = scalable("run", "-w", "workflow.py")
    assert again.stdout.splitlines() == [TABLE]
    assert started(starts) == []
    assert "scalable: simulate: 40 kept, 0 to do" in again.stderr
    assert "scalable: table: 1 kept, 0 to do" in again.stderr
    # What was kept is not done again, and not said to be.
    assert "scalable: tasks: 41 kept" in again.stderr
    assert "scalable:   simulate (fair): 40 kept\n" in again.stderr
    shown = scalable("runs", "show", "--json")
    (counts,) = [t for t in json.loads(shown.stdout)["summary"]["tasks"] if t["name"] == "simulate"]
    assert (counts["kept"], counts["done"], counts["left"]) == (40, 0, 0)
    assert "tasks: 41 kept" in scalable("runs", "show").stdout
    # Results that a task needs are loaded on the cluster, which is not counted as done either.
    (project / "needs.py").write_text(NEEDS)
    needs = scalable("run", "-w", "needs.py")
    assert needs.stdout.splitlines() == ["1560"], needs.stderr
    assert "scalable: tasks: 40 kept, 1 of 1 done" in needs.stderr
    assert "scalable:   simulate (fair): 40 kept\n" in needs.stderr
    ends = [json.loads(line)["status"] for line in last_record(project, "tasks.jsonl")]
    assert sorted(ends) == ["done", *["kept"] * 40]

    model = project / "model.py"
    model.write_text(MODEL.replace("SCALE = 2", "SCALE = 2  # twice"))
    assert scalable("run", "-w", "workflow.py").stdout.splitlines() == [TABLE]
    assert started(starts) == []
    model.write_text(MODEL.replace("SCALE = 2", "SCALE = 3"))
    assert scalable("run", "-w", "workflow.py").stdout.splitlines() != [TABLE]
    assert started(starts) == [*range(40)]


def test_the_command_shows_results(scalable: Scalable, project: Path, starts: Path) -> None:
    assert scalable("run", "-w", "workflow.py").returncode == 0
    (project / "model.py").write_text(MODEL.replace("SCALE = 2", "SCALE = 3"))
    assert scalable("run", "-w", "workflow.py").returncode == 0

    def results(*arguments: str, status: int = 0) -> Any:
        done = scalable("results", *arguments, "--json")
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout)

    every = results("list")
    assert len(every) == 82
    assert len(results("list", "simulate")) == 80
    lines = scalable("results", "list").stdout.splitlines()
    assert lines[0].split() == ["version", "results", "bytes"]
    assert sorted(line.split()[1] for line in lines[1:]) == ["2", "40", "40"]

    name = results("list", "simulate")[0]["name"]
    part = name.rpartition("/")[2][:12]
    why = results("why", name)
    assert {*why["code"]} == {"model.simulate", "model.SCALE"}
    assert {*why["arguments"]} == {"member"}
    (other,) = why["others"]
    assert other["name"].rpartition("/")[2] == name.rpartition("/")[2]
    assert [(each["what"], each["name"]) for each in other["differences"]] == [
        ("code", "model.SCALE")
    ]
    assert "code model.SCALE has changed" in scalable("results", "why", name).stdout

    shown = results("show", name)
    assert shown["name"] == name
    assert shown["type"] == "builtins.int"
    assert "type       builtins.int" in scalable("results", "show", name).stdout
    ambiguous = scalable("results", "show", part)
    assert ambiguous.returncode == 2
    assert f"error: 2 results have '{part}' in the name" in ambiguous.stderr

    assert results("verify") == {"good": 82, "damaged": []}
    for path in (project / "kept").rglob("*.segment"):
        content = path.read_bytes()
        for end in [end for each, _, end in scan(content) if each == name]:
            path.write_bytes(content[: end - 1] + b"?" + content[end:])
    found = results("verify", status=1)
    assert found["good"] == 81
    assert [each["name"] for each in found["damaged"]] == [name]

    assert results("rm", "--older-than", "1d", "-y") == {"removed": []}
    assert results("rm", name, "-y") == {"removed": [name]}
    assert len(results("rm", "table", "-y")["removed"]) == 2
    assert len(results("rm", "--older-than", "0", "-y")["removed"]) == 79
    assert results("list") == []


def test_wrong_requests_are_one_line(scalable: Scalable, project: Path, starts: Path) -> None:
    for arguments, message in (
        (["list"], "error: there are no results at {kept}: it has no scalable-results.json"),
        (["list", "--store", "/proc/x"], "error: there are no results at /proc/x"),
        (["rm"], "error: name results or tasks, or give --older-than or --all"),
        (["rm", "a", "--all"], "error: name results or tasks, or give --older-than or --all"),
        (["rm", "--older-than", "soon"], "error: --older-than must be a duration"),
    ):
        done = scalable("results", *arguments)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith(message.format(kept=project / "kept"))
    (project / "scalable.yaml").write_text(
        "version: 1\nproject: {name: x}\ntargets: {d: {provider: demo}}\n"
    )
    done = scalable("results", "list")
    assert done.returncode == 2
    assert "the manifest keeps no results; set project.results in it" in done.stderr


def test_a_store_that_cannot_be_used_is_found_before_the_first_task(
    scalable: Scalable, project: Path, starts: Path
) -> None:
    manifest = project / "scalable.yaml"
    manifest.write_text(manifest.read_text().replace("results: kept", "results: /proc/kept"))
    for command in (["check"], ["run", "-w", "workflow.py"]):
        done = scalable(*command)
        assert done.returncode != 0
        assert "cannot write to /proc/kept" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    manifest.write_text(manifest.read_text().replace("/proc/kept", "kept"))
    done = scalable("check")
    assert done.returncode == 0, done.stderr
    assert f"{project / 'kept'} can be read and written" in done.stdout


def test_a_run_with_failed_members_fails_and_the_next_one_does_these_alone(
    scalable: Scalable, project: Path, starts: Path
) -> None:
    (project / "model.py").write_text(
        MODEL.replace(
            "    while",
            '    if os.path.exists(os.environ["STARTS"] + ".fail"):\n        fail(member)\n    while',
        )
        + "\n\ndef fail(member):\n    if member in (3, 5):\n        raise ArithmeticError(member)\n"
    )
    (project / "workflow.py").write_text(
        WORKFLOW.replace(
            '        print(client.submit(table, runs, task="table").result(), flush=True)\n',
            "        found = client.gather(runs, errors='collect')\n"
            "        print(*(getattr(each, 'reason', each) for each in found[2:6]))\n",
        )
    )
    (project / "starts.fail").touch()
    failed = scalable("run", "-w", "workflow.py")
    assert failed.returncode == 1
    assert failed.stdout.splitlines() == ["4 ArithmeticError: 3 8 ArithmeticError: 5"]
    assert "error: 2 tasks failed, and the workflow went on without: " in failed.stderr
    assert "Traceback" not in failed.stderr
    assert started(starts) == [*range(40)]
    (project / "starts.fail").unlink()
    done = scalable("run", "-w", "workflow.py")
    assert done.returncode == 0, done.stderr
    assert started(starts) == [3, 5]
    assert "simulate: 38 kept, 2 to do" in done.stderr


def records(project: Path) -> list[Path]:
    return sorted((project / ".scalable" / "runs").iterdir())


def test_a_killed_run_is_resumed_with_its_arguments_on_another_target(
    scalable: Scalable,
    project: Path,
    environment: dict[str, str],
    starts: Path,
    eventually: Eventually,
) -> None:
    (project / "workflow.py").write_text(WORKFLOW.replace("range(40)", "range(int(sys.argv[1]))"))
    hold = starts.with_name("starts.hold-7")
    hold.touch()
    command = [sys.executable, "-m", "scalable.cli", "run", "-w", "workflow.py", "--", "8", "a b"]
    with subprocess.Popen(
        command,
        cwd=project,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as run:
        assert eventually(lambda: kept(project) >= 7)
        (directory,) = records(project)
        refused = scalable("resume", directory.name)
        assert refused.returncode == 2
        assert f"run {directory.name} is running (process {run.pid})" in refused.stderr
        os.killpg(run.pid, signal.SIGKILL)
    for pid in {int(line.split()[1]) for line in starts.read_text().splitlines()}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    hold.unlink()
    started(starts)
    done = scalable("resume", directory.name[:-2], "--target", "other", "--explain")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["0,2,4,6,8,10,12,14"]
    assert started(starts) == [7]
    expected = f"simulate: 1 to do: run {directory.name} had not finished it (members 7)"
    assert expected in done.stderr
    record = json.loads((records(project)[1] / "record.json").read_text())
    assert record["resumes"] == directory.name
    assert record["workflow"]["arguments"] == ["8", "a b"]
    assert record["target"] == "other"


def test_resume_explains_what_has_changed(scalable: Scalable, project: Path, starts: Path) -> None:
    workflow = WORKFLOW.replace("range(40)", "[0, 1, 2]")
    (project / "workflow.py").write_text(workflow)
    assert scalable("run", "-w", "workflow.py").returncode == 0
    started(starts)
    first = records(project)[-1].name

    (project / "workflow.py").write_text(workflow.replace("[0, 1, 2]", "[0, 5, 2, 9]"))
    done = scalable("resume", first, "--explain")
    assert started(starts) == [5, 9]
    assert "simulate: 1 to do: argument member has changed (members 1)" in done.stderr
    assert f"simulate: 1 to do: run {first} had no such member (members 3)" in done.stderr

    (project / "workflow.py").write_text(workflow)
    (project / "model.py").write_text(MODEL.replace("member * SCALE", "member * SCALE + 0"))
    done = scalable("resume", first, "--explain")
    assert started(starts) == [0, 1, 2]
    assert "simulate: 3 to do: code model.simulate has changed (members 0-2)" in done.stderr
    assert "    -    return member * SCALE\n    +    return member * SCALE + 0\n" in done.stderr
    rows = (records(project)[-1] / "again.jsonl").read_text().splitlines()
    assert [json.loads(row)["member"] for row in rows if "simulate/" in row] == [0, 1, 2]


def test_what_cannot_be_resumed_is_one_line(
    scalable: Scalable, project: Path, environment: dict[str, str], starts: Path
) -> None:
    environment["TOKEN"] = "hunter2secret"
    manifest = project / "scalable.yaml"
    manifest.write_text(manifest.read_text().replace("gcam: {}", 'gcam: {env: {T: "${TOKEN}"}}'))
    (project / "workflow.py").write_text("import sys\nprint(len(sys.argv[1]))\n")
    assert scalable("run", "-w", "workflow.py", "--", "hunter2secret").returncode == 0
    (directory,) = records(project)
    assert "hunter2secret" not in "".join(path.read_text() for path in directory.glob("*.json*"))
    assert scalable("resume", directory.name).stdout == "13\n"
    environment["TOKEN"] = "postgresql://anna:hunter2secret@host/db"
    assert scalable("run", "-w", "workflow.py", "--", "--password=hunter2secret").returncode == 0
    done = scalable("resume", "latest")
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot be resumed: its argument --password=${TOKEN} had a part" in done.stderr
    del environment["TOKEN"]
    done = scalable("resume", directory.name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "error: an argument of the run contains ${TOKEN}, which is not set"
    )
    (project / "workflow.py").unlink()
    environment["TOKEN"] = "x"
    done = scalable("resume", directory.name)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"error: run {directory.name} cannot be resumed here: there is no workflow.py"
    )
    assert "there is no run 'abc'" in scalable("resume", "abc").stderr


def test_outputs_of_a_manifest_task(scalable: Scalable, project: Path, starts: Path) -> None:
    (project / "model.py").write_text(
        MODEL.replace("    return member * SCALE", "    write(member)\n    return member * SCALE")
        + "\n\ndef write(member):\n    path = os.environ['STARTS'] + f'-{member}.csv'\n"
        "    with open(path, 'w') as file:\n        file.write(str(member))\n"
    )
    (project / "workflow.py").write_text(WORKFLOW.replace("range(40)", "range(3)"))
    text = (project / "scalable.yaml").read_text()
    outputs = "cache: true, outputs: {table: '${STARTS}-{member}.csv'}}, table"
    (project / "scalable.yaml").write_text(text.replace("cache: true}, table", outputs))
    assert scalable("run", "-w", "workflow.py").returncode == 0
    assert started(starts) == [0, 1, 2]
    for path in project.glob("starts-*.csv"):
        path.unlink()
    listed = json.loads(scalable("results", "list", "simulate", "--json").stdout)
    done = scalable("results", "restore", listed[0]["name"], "--to", "mine", "--json")
    assert done.returncode == 0, done.stderr
    (path,) = (project / json.loads(done.stdout)["table"],)
    assert path.read_text() in "012"
    assert scalable("results", "verify").returncode == 0
    (kept, *_) = sorted((project / "kept").rglob("*.output"))
    kept.write_text("x")
    assert "output 'table' of simulate/" in scalable("results", "verify").stderr
    assert scalable("results", "rm", "simulate", "-y").returncode == 0
    assert [*(project / "kept" / "simulate").rglob("*.output*")] == []

    wrong = text.replace("results: kept", "").replace(", cache: true", "")
    outputs = "component: fair, outputs: {table: '${STARTS}-{member}.nc'}"
    (project / "scalable.yaml").write_text(wrong.replace("component: fair", outputs))
    failed = scalable("run", "-w", "workflow.py")
    assert failed.returncode == 1
    assert "task simulate has not written its output 'table': there is no " in failed.stderr
