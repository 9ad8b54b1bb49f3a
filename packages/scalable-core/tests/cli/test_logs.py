"""`scalable logs`, on runs of the demo provider, whose backend tells the end of a log only."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scalable.runs import RunRecord
from scalable.session import ScalableSession

Scalable = Callable[..., subprocess.CompletedProcess[str]]

WORKFLOW = """\
import os, sys
from scalable.session import ScalableSession

def speak(n):
    print("member", n, os.environ.get("DEMO_SECRET"), flush=True)
    return n

def plot():
    print("a plot", flush=True)

def crash():
    print("the last words", flush=True)
    os._exit(3)

with ScalableSession.from_yaml() as client:
    client.gather(client.map(speak, range(3), tag="gcam"))
    client.submit(plot, tag="fair").result()
    for line in sys.argv[1:]:
        if line == "crash":
            print(client.submit(crash, tag="gcam").exception())
        if line == "wait":
            print("ready", flush=True)
            sys.stdin.readline()
"""

SECRET = "hunter2hunter2"


@pytest.fixture
def workflow(project: Path) -> None:
    text = (project / "scalable.yaml").read_text()
    (project / "scalable.yaml").write_text(
        text.replace("gcam: {}", 'gcam: {env: {TOKEN: "${DEMO_SECRET:-}"}}')
    )
    (project / "workflow.py").write_text(WORKFLOW)


@pytest.fixture
def record(demo: None, project: Path) -> Path:
    """A directory with the record of a run that has a task and a log."""
    session = ScalableSession.from_yaml(project / "scalable.yaml")
    record = RunRecord.begin(
        session, session.plan(), workflow=None, arguments=[], root=project / ".scalable" / "runs"
    )
    (record.directory / "logs").mkdir(mode=0o700)
    (record.directory / "logs" / "fair-1.log").write_text("a plot\n")
    row = {"task": "fair.plot-1f", "component": "fair", "worker": "fair-1", "status": "done"}
    record.append("tasks.jsonl", [row | {"ready": 1.0, "started": 2.0, "ended": 3.0}])
    record.end(0, everything_removed=True)
    return project


pytestmark = pytest.mark.usefixtures("workflow")


def test_what_tasks_print_is_found_after_the_run(scalable: Scalable, project: Path) -> None:
    done = scalable("run", "-w", "workflow.py", "--", "crash", DEMO_SECRET=SECRET)

    assert done.returncode == 0, done.stderr
    (logs,) = (project / ".scalable/runs").glob("*/logs")
    # Workers that died, and those that were stopped; the error of the task names the file.
    shown = scalable("logs").stdout
    assert shown.count("member 0 ${DEMO_SECRET}") == 1
    assert shown.count("the last words") >= 3
    assert f"its log is {logs}/gcam-" in done.stdout
    assert SECRET not in done.stdout + shown
    assert SECRET not in "".join(path.read_text() for path in logs.parent.rglob("*.*"))
    assert {path.stat().st_mode & 0o777 for path in logs.iterdir()} == {0o600}
    assert logs.stat().st_mode & 0o777 == 0o700

    assert "a plot" in scalable("logs", "latest", "fair").stdout
    assert "member" not in scalable("logs", "latest", "fair").stdout
    of_task = json.loads(scalable("logs", "latest", "speak", "--json").stdout)
    ((log,),) = (of_task["logs"],)
    assert log["component"] == "gcam"
    assert len(log["tasks"]) == 3
    assert "member 2" in log["text"]
    short = scalable("logs", of_task["run"][:12], log["worker"], "-n", "1").stdout
    assert len(short.splitlines()) == 2


def test_the_logs_of_a_run_that_goes_on(
    scalable: Scalable, project: Path, environment: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "scalable.cli", "run", "-w", "workflow.py", "--", "wait"]
    with subprocess.Popen(
        command,
        cwd=project,
        env={**environment, "DEMO_SECRET": SECRET},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        shown = scalable("logs", DEMO_SECRET=SECRET)
        running.communicate("\n", timeout=60)

    assert running.returncode == 0
    assert "member 2 ${DEMO_SECRET}" in shown.stdout, shown.stderr
    assert "a plot" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["latest", "nothing"], "has no component, worker or task 'nothing' with a log"),
        (["nothing"], "there is no run 'nothing'"),
    ],
)
def test_what_is_not_there_is_a_line(
    scalable: Scalable, arguments: list[str], message: str
) -> None:
    scalable("run", "-w", "workflow.py")

    told = scalable("logs", *arguments)

    assert (told.returncode, told.stdout) == (2, "")
    assert message in told.stderr
    assert told.stderr.count("\n") == 1


def test_without_runs_there_are_no_logs(scalable: Scalable) -> None:
    told = scalable("logs")

    assert told.returncode == 2
    assert "there are no runs" in told.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["logs"],
        ["logs", "latest", "fair"],
        ["report"],
        ["runs"],
        ["runs", "show"],
        ["down"],
        ["scale", "gcam=2"],
    ],
)
def test_commands_that_read_records_import_no_dask(
    arguments: list[str], record: Path, environment: dict[str, str]
) -> None:
    program = (
        "import sys\n"
        "from scalable.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        "    print('imported:', *sorted({'dask', 'distributed', 'tornado'} & set(sys.modules)))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=record,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == (2 if arguments[0] in ("down", "scale") else 0), done.stderr
    assert done.stdout.splitlines()[-1].strip() == "imported:"
