"""`scalable run` in a process of its own, with real workers."""

from __future__ import annotations

import json
import os
import pty
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Install

Scalable = Callable[..., subprocess.CompletedProcess[str]]
Gone = Callable[[list[int]], bool]

WORKFLOW = """\
import os, sys, time
from scalable.session import ScalableSession
from helpers import double

def tell():
    return os.getpid(), os.environ["DEMO_WORKER"]

def some(number):
    if number in (3, 4):
        raise ValueError("no data in " + os.environ.get("DEMO_SECRET", "nobody"))
    return number

def fail():
    raise ValueError("no such scenario")

with ScalableSession.from_yaml() as client:
    print("pids", *(pid for pid, _ in client.gather([
        client.submit(tell, tag="fair"), client.submit(tell, tag="gcam")
    ])), flush=True)
    how, *rest = sys.argv[1:]
    if how == "fine":
        print(sum(client.gather(client.map(double, range(10), task="simulate"))))
    elif how == "wait":
        time.sleep(120)
    elif how == "some":
        futures = client.map(some, range(10), tag="fair", retries=1) + [client.submit(double, 1, tag="gcam")]
        rest = client.submit(sum, futures[:10], tag="gcam")
        print(sum(future.exception() is None for future in futures), rest.exception() is None)
    elif how == "drop":
        while True:
            try:
                time.sleep(0.01)
            except:
                pass
    elif how == "finalizers":
        class Slow:
            def __del__(self):
                for _ in range(20_000):
                    pass
        while True:
            Slow()
    elif how == "clean up":
        try:
            print("ready", flush=True)
            time.sleep(120)
        except BaseException as error:
            time.sleep(2)
            print("cleaned up", type(error).__name__, flush=True)
            raise
    elif how == "exit":
        sys.exit(int(rest[0]))
    elif how == "task":
        client.submit(fail, tag="gcam").result()
    elif how == "tag":
        client.submit(fail, tag="gc" + "m")  # not told before the start
    elif how == "slots":
        client.submit(fail, tag="fair", n=3)
"""


@pytest.fixture(autouse=True)
def workflow(project: Path) -> Path:
    """Write a workflow, a module beside it, and a manifest with a secret in it."""
    (project / "helpers.py").write_text("def double(x):\n    return 2 * x\n")
    (project / "scalable.yaml").write_text(
        "version: 1\nproject: {name: test}\n"
        'targets: {demo: {provider: demo, n_workers: 1, account: "${DEMO_SECRET:-nobody}"}}\n'
        "components: {fair: {slots: 2}, gcam: {}}\ntasks: {simulate: {component: fair}}\n"
    )
    path = project / "workflow.py"
    path.write_text(WORKFLOW)
    return path


def record(project: Path) -> dict[str, Any]:
    (path,) = (project / ".scalable" / "runs").glob("*/record.json")
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def pids(stdout: str) -> list[int]:
    """Return the process ids of the workers, which the workflow prints first."""
    first, *numbers = stdout.splitlines()[0].split()
    assert first == "pids"
    return [int(number) for number in numbers]


def test_a_workflow_from_start_to_end(scalable: Scalable, project: Path, gone: Gone) -> None:
    done = scalable("run", "-w", "workflow.py", "--", "fine", DEMO_SECRET="hunter2hunter2")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["90"]
    assert gone(pids(done.stdout))
    assert "scalable: fair 1/1 running" in done.stderr
    assert "scalable: 12/12 tasks done" in done.stderr
    assert "scalable: finished after" in done.stderr

    written = record(project)
    assert (written["status"], written["exit_status"], written["error"]) == ("finished", 0, None)
    assert written["everything_removed"] is True
    assert (written["target"], written["provider"]) == ("demo", "demo")
    assert written["plan"]["scale_plan"]["workers_by_tag"] == {"fair": 1, "gcam": 1}
    assert written["manifest"]["lock"] == written["plan"]["manifest_lock"]
    assert written["workflow"]["arguments"] == ["fine"]
    assert written["versions"]["scalable-demo"] == "1.0"
    assert {event["group"] for event in written["events"]} >= {"fair", "gcam"}
    assert "${DEMO_SECRET:-nobody}" in written["manifest"]["document"]["targets"]["demo"].values()
    for path in (project / ".scalable").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
        assert path.is_dir() or "hunter2" not in path.read_text()
    assert "hunter2" not in done.stderr


def test_a_workflow_may_change_the_directory_before_it_needs_workers(
    scalable: Scalable, project: Path, workflow: Path
) -> None:
    workflow.write_text(
        "import os\nfrom scalable.session import ScalableSession\n"
        "session = ScalableSession.from_yaml()\nos.mkdir('results'); os.chdir('results')\n"
        "with session as client:\n    client.submit(print, 'here', tag='gcam').result()\n"
    )

    done = scalable("run", "-w", "workflow.py")

    assert done.returncode == 0, done.stderr
    written = record(project)
    assert (written["status"], written["everything_removed"]) == ("finished", True)
    (directory,) = (project / ".scalable" / "runs").iterdir()
    assert f"record in {directory}" in done.stderr
    assert (directory / "ledger.jsonl").is_file()
    assert not [*(project / "results").iterdir()]


def test_what_a_workflow_has_registered_for_the_end_finds_it_in_its_place(
    scalable: Scalable, workflow: Path
) -> None:
    workflow.write_text(
        "import atexit, pickle, sys\nclass State: pass\n"
        "def save(): print(len(pickle.dumps(State())) > 0, sys.argv)\natexit.register(save)\n"
    )

    done = scalable("run", "-q", "-w", "workflow.py", "--", "an argument")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "True ['workflow.py', 'an argument']\n"


def test_json_is_the_record_and_nothing_else(scalable: Scalable, project: Path) -> None:
    done = scalable("run", "--json", "--quiet", "-w", "workflow.py", "--", "fine")

    assert done.returncode == 0
    assert json.loads(done.stdout) == record(project)
    assert done.stderr.splitlines()[1:] == ["90"]


def test_output_of_child_processes_is_not_in_the_json(
    scalable: Scalable, project: Path, workflow: Path
) -> None:
    workflow.write_text(
        "import os, sys\nos.system('echo a program')\nprint('a stream', file=sys.__stdout__)\n"
    )

    done = scalable("run", "--json", "--quiet", "-w", "workflow.py")

    assert json.loads(done.stdout) == record(project)
    assert {*done.stderr.splitlines()} == {"a program", "a stream"}


def test_a_provider_that_fails_at_the_start_is_reported_once(
    scalable: Scalable, project: Path, site: Path, install: Install
) -> None:
    install("broken", "broken_provider:BrokenProvider")
    (site / "broken_provider.py").write_text(
        "from demo_provider import DemoProvider\n"
        "class BrokenProvider(DemoProvider):\n"
        "    name = 'broken'\n"
        "    def _build(self, spec, options):\n"
        "        raise RuntimeError('the backend is broken')\n"
    )
    text = (project / "scalable.yaml").read_text()
    (project / "scalable.yaml").write_text(text.replace("provider: demo", "provider: broken"))

    done = scalable("run", "--json", "--quiet", "-w", "workflow.py", "--", "fine")

    assert done.returncode == 1
    assert json.loads(done.stdout) == record(project)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: unexpected RuntimeError: the backend is broken; --debug shows")


def test_a_workflow_that_raises_shows_its_own_frames(
    scalable: Scalable, project: Path, gone: Gone
) -> None:
    done = scalable("run", "-q", "-w", "workflow.py", "--", "task")

    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.endswith("ValueError: no such scenario\n")
    files = {line.split('"')[1] for line in done.stderr.splitlines() if line.startswith("  File")}
    assert files == {str(project / "workflow.py")}
    assert '    raise ValueError("no such scenario")\n' in done.stderr
    assert gone(pids(done.stdout))
    assert (record(project)["status"], record(project)["error"]) == (
        "failed",
        "ValueError: no such scenario",
    )


def test_all_frames_are_shown_on_demand(scalable: Scalable) -> None:
    done = scalable("run", "-q", "--debug", "-w", "workflow.py", "--", "task")

    assert "distributed/client.py" in done.stderr


def test_the_status_is_the_workflows(scalable: Scalable, project: Path, gone: Gone) -> None:
    done = scalable("run", "-q", "-w", "workflow.py", "--", "exit", "7")

    assert (done.returncode, done.stderr) == (7, "")
    assert gone(pids(done.stdout))
    assert record(project)["exit_status"] == 7


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("tag", "no worker group has the tag 'gcm' (did you mean 'gcam'?)"),
        ("slots", "n=3 of tag 'fair' fits no worker"),
    ],
)
def test_a_mistake_in_the_workflow_is_a_line_with_its_place(
    scalable: Scalable, project: Path, how: str, message: str, gone: Gone
) -> None:
    done = scalable("run", "-q", "-w", "workflow.py", "--", how)

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    number = 1 + WORKFLOW.splitlines().index(
        next(
            line
            for line in WORKFLOW.splitlines()
            if ('"gc" + "m"' if how == "tag" else "n=3") in line
        )
    )
    assert line.startswith(f"{project}/workflow.py:{number}: error: {message}")
    assert gone(pids(done.stdout))


def test_a_syntax_error_costs_nothing(scalable: Scalable, project: Path, workflow: Path) -> None:
    workflow.write_text("def f(:\n")

    done = scalable("run", "-w", "workflow.py")

    assert done.returncode == 1
    assert done.stderr.splitlines()[:2] == [
        "error: SyntaxError: invalid syntax",
        f'  File "{workflow}", line 1',
    ]
    assert not (project / ".scalable").exists()


def test_a_workflow_for_another_target_costs_nothing(
    scalable: Scalable, project: Path, workflow: Path
) -> None:
    workflow.write_text(WORKFLOW.replace("from_yaml()", 'from_yaml(target="other")'))

    done = scalable("run", "-w", "workflow.py", "--", "fine")

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("workflow.py:16: error: the workflow asks for target 'other'")
    assert not (project / ".scalable").exists()


def test_a_run_does_not_warn_about_other_targets(scalable: Scalable, project: Path) -> None:
    manifest = project / "scalable.yaml"
    manifest.write_text(manifest.read_text().replace("}}", "}, cloud: {provider: absent}}", 1))

    run = scalable("run", "-q", "-w", "workflow.py", "--", "exit", "0")
    validate = scalable("validate")

    assert (run.returncode, run.stderr) == (0, "")
    assert (validate.returncode, "'absent'" in validate.stderr) == (0, True)


def test_a_group_that_cannot_start_ends_the_run(scalable: Scalable, project: Path) -> None:
    text = (project / "scalable.yaml").read_text()
    (project / "scalable.yaml").write_text(
        text.replace("n_workers: 1", 'refuse: "account ${DEMO_SECRET:-nobody} has no quota"')
    )

    done = scalable("run", "-q", "-w", "workflow.py", "--", "fine", DEMO_SECRET="hunter2hunter2")

    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "has no quota" in done.stderr
    assert "hunter2" not in done.stderr + json.dumps(record(project))
    assert record(project)["status"] == "failed"


def test_leftovers_are_named(scalable: Scalable, project: Path) -> None:
    text = (project / "scalable.yaml").read_text()
    (project / "scalable.yaml").write_text(text.replace("n_workers: 1", "stuck: true"))

    fine = scalable("run", "-q", "-w", "workflow.py", "--", "fine")
    failed = scalable("run", "-q", "-w", "workflow.py", "--", "exit", "7")

    assert (fine.returncode, failed.returncode) == (1, 7)
    assert "volume scratch (it is in use)" in fine.stderr
    assert len(fine.stderr.splitlines()) == 1
    written = [json.loads(p.read_text()) for p in (project / ".scalable/runs").glob("*/*.json")]
    assert [each["everything_removed"] for each in written] == [False, False]


def test_a_record_that_cannot_be_written_stops_the_run(scalable: Scalable, project: Path) -> None:
    (project / ".scalable").write_text("in the way")

    done = scalable("run", "-w", "workflow.py", "--", "fine")

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: the run's record cannot be kept: {project}/.scalable")
    assert done.stdout == ""


def test_a_record_that_has_no_room_is_named(project: Path, environment: dict[str, str]) -> None:
    limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); "
    run = "sys.argv = ['scalable', 'run', '-w', 'workflow.py']; runpy.run_module('scalable.cli', run_name='__main__')"

    done = subprocess.run(
        [sys.executable, "-c", limit + run],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    place = f"{project}/.scalable/runs/"
    assert line.startswith(f"error: the run's record cannot be kept: {place}")
    assert "File too large; run it from a directory" in line


def test_a_current_directory_that_is_gone_is_named(
    project: Path, environment: dict[str, str]
) -> None:
    gone = project / "gone"
    gone.mkdir()
    remove = f"import os, runpy, sys; os.chdir({str(gone)!r}); os.rmdir({str(gone)!r}); "
    run = (
        f"sys.argv = ['scalable', 'run', {str(project / 'scalable.yaml')!r}, "
        f"'-w', {str(project / 'workflow.py')!r}]; runpy.run_module('scalable.cli', run_name='__main__')"
    )

    done = subprocess.run(
        [sys.executable, "-c", remove + run], env=environment, capture_output=True, text=True
    )

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "error: the run's record cannot be kept: the current directory: No such file"
    )


# -- At the target

INSIDE = """\
import subprocess, sys, tempfile
from pathlib import Path
from demo_provider import DemoProvider

class InsideProvider(DemoProvider):
    name = "inside"

    def run_inside(self, spec, submission, write):
        assert "hunter2" not in repr(submission)
        assert all(b"hunter2" not in content for content in submission.files.values())
        with tempfile.TemporaryDirectory() as directory:
            for name, content in submission.files.items():
                Path(directory, name).write_bytes(content)
            done = subprocess.run(
                [sys.executable, "-m", "scalable.cli", *submission.arguments],
                cwd=directory,
                env={**__import__("os").environ, **submission.variables},
                capture_output=True,
                text=True,
            )
        for line in done.stdout.splitlines():
            write(line)
        return done.returncode
"""


@pytest.fixture
def inside(project: Path, environment: dict[str, str], install: Install, workflow: Path) -> None:
    """Have a provider that runs workflows at its target, which is another directory of this machine."""
    plugins = project.parent / "plugins"
    plugins.mkdir()
    (plugins / "inside_provider.py").write_text(INSIDE)
    install("inside", "inside_provider:InsideProvider")
    environment["PYTHONPATH"] += os.pathsep + str(plugins)
    manifest = project / "scalable.yaml"
    manifest.write_text(manifest.read_text().replace("provider: demo", "provider: inside"))


@pytest.mark.usefixtures("inside")
def test_a_workflow_at_its_target(scalable: Scalable, project: Path, gone: Gone) -> None:
    options = ("-w", "workflow.py", "--in-cluster", "--", "fine")
    done = scalable("run", *options, DEMO_SECRET="hunter2hunter2")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["90"]
    assert gone(pids(done.stdout))
    written = record(project)
    assert (written["status"], written["everything_removed"]) == ("finished", True)
    assert "hunter2" not in json.dumps(written)


@pytest.mark.usefixtures("inside")
def test_the_status_of_a_workflow_at_its_target(scalable: Scalable, project: Path) -> None:
    done = scalable("run", "-w", "workflow.py", "--in-cluster", "--", "exit", "7")
    assert done.returncode == 7
    assert (record(project)["status"], record(project)["exit_status"]) == ("failed", 7)


def test_a_provider_that_cannot_run_workflows_at_its_target(scalable: Scalable) -> None:
    done = scalable("run", "-w", "workflow.py", "--in-cluster", "--", "fine")
    assert done.returncode == 2
    assert (
        "provider 'demo' cannot run a workflow at its target; leave out --in-cluster" in done.stderr
    )
    assert done.stdout == ""


@pytest.mark.usefixtures("inside")
def test_modules_that_are_elsewhere_are_not_sent_to_a_target(
    scalable: Scalable, project: Path
) -> None:
    manifest = project / "scalable.yaml"
    listed = "project: {name: test, modules: [helpers.py]}"
    manifest.write_text(manifest.read_text().replace("project: {name: test}", listed))
    done = scalable("run", "-w", "workflow.py", "--in-cluster", "--", "fine")
    assert done.returncode == 2
    assert "remove project.modules" in done.stderr


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def process(project: Path, environment: dict[str, str]) -> Iterator[Start]:
    started = []

    def process(*arguments: str, **how: Any) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "scalable.cli", "run", "-w", "workflow.py", *arguments],
                cwd=project,
                env=environment,
                text=True,
                **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how},
            )
        )
        return started[-1]

    yield process
    for each in started:
        each.kill()
        each.communicate()


def wait_on_a_terminal(process: Start) -> tuple[subprocess.Popen[str], int, list[int]]:
    """Start a run on a terminal of its own; return it, the terminal's other end, and its workers."""
    ours, theirs = pty.openpty()
    running = process("--", "wait", stdin=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    assert running.stdout is not None
    return running, ours, pids(running.stdout.readline())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_the_middle_leaves_no_process(
    process: Start,
    project: Path,
    number: int,
    status: int,
    gone: Gone,
) -> None:
    running = process("--", "wait")
    assert running.stdout is not None
    workers = pids(running.stdout.readline())

    running.send_signal(number)
    _, stderr = running.communicate(timeout=60)

    assert running.returncode == status
    assert gone(workers)
    assert "Traceback" not in stderr
    assert (record(project)["status"], record(project)["exit_status"]) == ("interrupted", status)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_it_starts_leaves_no_process(
    process: Start, project: Path, number: int, status: int
) -> None:
    text = (project / "scalable.yaml").read_text()
    (project / "scalable.yaml").write_text(text.replace("n_workers: 1", "queue: true"))
    running = process("--", "fine")
    assert running.stderr is not None
    for line in running.stderr:
        if "1 pending: priority" in line:
            break

    running.send_signal(number)
    stdout, stderr = running.communicate(timeout=60)

    assert running.returncode == status
    assert stdout == ""
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1].startswith(f"scalable: interrupted with exit status {status}")
    assert record(project)["exit_status"] == status


@pytest.mark.parametrize("how", ["drop", "finalizers"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_workflow_that_drops_its_exception(
    process: Start, project: Path, gone: Gone, number: int, status: int, how: str
) -> None:
    running = process("--", how)
    assert running.stdout is not None
    workers = pids(running.stdout.readline())

    running.send_signal(number)
    _, stderr = running.communicate(timeout=90)

    assert running.returncode == status
    assert gone(workers)
    assert "Exception ignored" not in stderr
    assert record(project)["exit_status"] == status
    assert record(project)["everything_removed"]


def test_a_workflow_may_take_its_time_to_clean_up(process: Start, gone: Gone) -> None:
    running = process("--", "clean up")
    assert running.stdout is not None
    workers = pids(running.stdout.readline())
    assert running.stdout.readline() == "ready\n"

    running.send_signal(signal.SIGINT)
    stdout, _ = running.communicate(timeout=60)

    assert (running.returncode, stdout) == (130, "cleaned up KeyboardInterrupt\n")
    assert gone(workers)


@pytest.mark.parametrize("dropped", [True, False])
def test_what_is_left_is_told_once_of_a_script_that_closes_its_session(
    scalable: Scalable, project: Path, dropped: bool
) -> None:
    text = (project / "scalable.yaml").read_text()
    (project / "scalable.yaml").write_text(text.replace("n_workers: 1", "stuck: true"))
    (project / "workflow.py").write_text(
        "from scalable.session import ScalableSession\n"
        "session = ScalableSession.from_yaml()\nsession.start()\n"
        f"try: session.close()\nexcept {'Exception' if dropped else 'ZeroDivisionError'}: pass\n"
    )

    done = scalable("run", "-w", "workflow.py")

    assert done.returncode == 1
    assert done.stderr.count("volume scratch") == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("client.submit(abs, 1, tag='fari')", "no worker group has the tag 'fari' (did you mean"),
        ("client.map(abs, [1], task='x')", "no task 'x' in the manifest"),
    ],
)
def test_a_tag_that_is_not_there_is_told_before_anything_starts(
    scalable: Scalable, project: Path, call: str, message: str
) -> None:
    script = f"from scalable.session import ScalableSession\nwith ScalableSession.from_yaml() as client:\n    {call}\n"
    (project / "workflow.py").write_text(script)
    certain = scalable("run", "-w", "workflow.py")
    (project / "workflow.py").write_text(script.replace(call, f"if False: {call}"))
    uncertain = scalable("run", "-w", "workflow.py")

    assert (certain.returncode, uncertain.returncode) == (2, 0)
    assert certain.stderr.startswith(f"workflow.py:3: error: {message}")
    assert len(certain.stderr.splitlines()) == 1
    assert f"workflow.py:3: warning: {message}" in uncertain.stderr
    assert len(list((project / ".scalable" / "runs").iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "content", "status", "says"),
    [
        ("work.ipynb", b'{"cells": []}', 2, "work.ipynb is a notebook"),
        ("nul.py", b"x = 1\0\n", 1, "nul.py"),
    ],
)
def test_a_file_that_is_no_program_is_named(
    scalable: Scalable, project: Path, name: str, content: bytes, status: int, says: str
) -> None:
    (project / name).write_bytes(content)

    done = scalable("run", "-w", name)

    assert done.returncode == status
    assert says in done.stderr
    assert not (project / ".scalable").exists()


FORKS = """
import json, os, sys
from pathlib import Path
from scalable.session import ScalableSession
with ScalableSession.from_yaml() as client:
    assert client.submit(abs, -1, tag="gcam").result() == 1
    for way in ("exits", "raises", "ends"):
        child = os.fork()
        if child == 0:
            if way == "exits":
                sys.exit(3)
            elif way == "raises":
                raise ValueError("in a fork")
            break
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        (record,) = Path(".scalable/runs").glob("*/record.json")
        print(way, status, json.loads(record.read_text())["status"], flush=True)
"""


def test_the_end_of_a_fork_of_the_workflow_is_not_that_of_the_run(
    scalable: Scalable, project: Path
) -> None:
    (project / "workflow.py").write_text(FORKS)

    done = scalable("run", "-w", "workflow.py", PYTHONWARNINGS="ignore")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["exits 3 running", "raises 1 running", "ends 0 running"]
    assert done.stderr.count("scalable: finished after") == 1
    assert "Traceback (most recent call last):\n  File" in done.stderr
    assert done.stderr.count("  File ") == 1  # the script's own frame
    assert "\nValueError: in a fork\n" in done.stderr


def test_a_pipe_or_a_device_is_no_program(scalable: Scalable, project: Path) -> None:
    os.mkfifo(project / "pipe.py")
    (project / "device.py").symlink_to("/dev/zero")

    for name in ("pipe.py", "device.py"):
        done = scalable("run", "-w", name)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {name} is a pipe or a device, not a Python program")
        assert len(done.stderr.splitlines()) == 1
    assert not (project / ".scalable").exists()


def test_what_became_of_the_tasks_is_told(scalable: Scalable, project: Path) -> None:
    done = scalable("run", "-w", "workflow.py", "--", "some", DEMO_SECRET="hunter2hunter2")

    assert done.stdout.splitlines()[-1] == "9 False"
    said = [line.removeprefix("scalable: ") for line in done.stderr.splitlines()]
    assert "tasks: 11 of 14 done, 2 failed, 1 cancelled" in said
    assert "  some (fair): 8 of 10 done, 2 failed" in said
    assert "  sum (gcam): 0 of 1 done, 1 cancelled" in said
    (reason,) = [line for line in said if "such as" in line]
    assert reason.startswith("  2 of some failed: ValueError('no data in ${DEMO_SECRET}')")
    assert any(line.startswith("worker-hours: ") for line in said)
    summary = record(project)["summary"]
    assert {
        "name": "some",
        "component": "fair",
        "done": 8,
        "failed": 2,
        "left": 0,
        "cancelled": 0,
        "kept": 0,
    } in (summary["tasks"])
    assert [each["count"] for each in summary["failures"]] == [2]
    assert "hunter2" not in done.stderr + json.dumps(record(project))

    (path,) = (project / ".scalable" / "runs").glob("*")
    assert {file.stat().st_mode & 0o777 for file in path.glob("*.json*")} == {0o600}
    tasks = [json.loads(line) for line in (path / "tasks.jsonl").read_text().splitlines()]
    ends = [(task["component"], task["status"]) for task in tasks if ".some-" in task["task"]]
    assert sorted(ends) == [("fair", "done")] * 8 + [("fair", "failed")] * 2
    assert all(task["worker"].startswith(task["component"]) for task in tasks)
    assert all(task["started"] <= task["ended"] for task in tasks if task["status"] == "done")
    events = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
    assert events == record(project)["events"]

    listed, shown = scalable("runs").stdout, scalable("runs", "show").stdout
    assert listed.splitlines()[1].startswith(record(project)["id"])
    assert "tasks: 11 of 14 done, 2 failed, 1 cancelled" in shown
    assert json.loads(scalable("runs", "show", record(project)["id"][:9], "--json").stdout) == (
        record(project)
    )
    assert scalable("runs", "show", "nothing").returncode == 2


def test_a_workflow_that_needs_no_workers_starts_none(scalable: Scalable, project: Path) -> None:
    (project / "workflow.py").write_text(
        "import argparse\nargparse.ArgumentParser().parse_args()\n"
    )

    fine, wrong = (
        scalable("run", "-w", "workflow.py"),
        scalable("run", "-w", "workflow.py", "--", "x"),
    )

    assert (fine.returncode, wrong.returncode) == (0, 2)
    assert "unrecognized arguments: x" in wrong.stderr
    documents = [json.loads(p.read_text()) for p in (project / ".scalable/runs").glob("*/*.json")]
    assert [each["events"] for each in documents] == [[], []]


@pytest.mark.parametrize(
    "workflow",
    [
        "import dask\nprint(dask.delayed(sum)([1, 2]).compute())\nprint(*session.groups)",
        "from distributed import get_client\nprint(get_client().submit(sum, [1, 2]).result())\nprint(*session.groups)",
        "print(session.client.submit(sum, [1, 2]).result())\nprint(*session.groups)",
        "session.cluster.wait_for_group('fair')\nprint(3)\nprint(*session.groups)",
    ],
)
def test_whatever_needs_workers_first_starts_them(
    scalable: Scalable, project: Path, workflow: str
) -> None:
    head = "from scalable.session import ScalableSession\nsession = ScalableSession.from_yaml()\n"
    (project / "workflow.py").write_text(head + workflow)

    assert scalable("run", "-q", "-w", "workflow.py").stdout.splitlines() == ["3", "fair gcam"]


AGAIN = """
import pathlib
from scalable.session import ScalableSession

def at_last(path):
    if not path.exists():
        path.touch()
        raise ValueError("not yet")
    return 1

with ScalableSession.from_yaml() as client:
    first = client.submit(at_last, pathlib.Path("there").absolute(), tag="fair")
    then = client.submit(abs, first, tag="gcam")
    print(type(then.exception()).__name__)
    client.retry([first, then])
    print(then.result())
"""


def test_a_task_that_is_tried_again_with_success_is_done(scalable: Scalable, project: Path) -> None:
    (project / "workflow.py").write_text(AGAIN)

    done = scalable("run", "-w", "workflow.py")

    assert done.stdout.splitlines() == ["ValueError", "1"], done.stderr
    assert "tasks: 2 of 2 done\n" in done.stderr


def test_manifest_and_workflow_in_each_others_place(scalable: Scalable) -> None:
    swapped = scalable("run", "workflow.py", "-w", "scalable.yaml")
    alone = scalable("run", "workflow.py", "-w", "workflow.py")

    assert (swapped.returncode, alone.returncode) == (2, 2)
    assert "scalable.yaml is a manifest" in swapped.stderr
    assert "workflow.py:1:1: error: this is a Python program" in alone.stderr


def test_ctrl_c_on_a_terminal_reaches_all_and_leaves_nothing(
    process: Start, project: Path, gone: Gone
) -> None:
    # A terminal sends SIGINT to every process in the foreground, not only to the one that it started.
    running, ours, workers = wait_on_a_terminal(process)

    os.killpg(running.pid, signal.SIGINT)
    shown = b""
    with suppress(OSError):  # Linux raises this when the other end is closed
        while chunk := os.read(ours, 4096):
            shown += chunk
    os.close(ours)

    assert running.wait(timeout=60) == 130
    assert gone(workers)
    assert "fair 1/1 running" in shown.decode()
    assert "interrupted; closing the cluster" in shown.decode()
    assert "Traceback" not in shown.decode()


def test_a_terminal_that_is_closed_ends_the_run_and_leaves_nothing(
    process: Start, project: Path, gone: Gone
) -> None:
    running, ours, workers = wait_on_a_terminal(process)

    os.close(ours)
    running.send_signal(signal.SIGHUP)  # the kernel's part for a controlling terminal

    assert running.wait(timeout=60) == 129
    assert gone(workers)
    assert record(project)["exit_status"] == 129
