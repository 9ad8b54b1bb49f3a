"""Sessions on a provider whose workers are real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster

from scalable.errors import (
    GroupFailedError,
    IncompleteClusterError,
    LeftoverError,
    LimitExceededError,
    ManifestError,
    SessionError,
    UnknownTagError,
    ValidationFailedError,
)
from scalable.manifest.validate import ValidationReport
from scalable.providers.base import DeploymentSpec, ScalePlan
from scalable.providers.registry import register_provider
from scalable.runs import find_records
from scalable.session import ScalableSession, set_current_session

Eventually = Callable[[Callable[[], bool]], bool]
Gone = Callable[[list[int]], bool]
Pids = Callable[[], list[int]]
Script = Callable[[str], subprocess.Popen[str]]

pytestmark = pytest.mark.usefixtures("demo", "project")


def manifest(project: Path, target: str, rest: str = "") -> None:
    """Write a manifest with one target of the demo provider."""
    (project / "scalable.yaml").write_text(
        f"version: 1\nproject: {{name: test}}\ntargets: {{demo: {{provider: demo, {target}}}}}\n"
        f"components: {{fair: {{slots: 2}}, gcam: {{}}}}\ntasks: {{simulate: {{component: fair}}}}\n{rest}"
    )


def make_worker_of() -> Callable[[], str]:
    # A nested function is pickled by value: workers cannot import this file.
    def worker_of() -> str:
        return os.environ["DEMO_WORKER"]

    return worker_of


worker_of = make_worker_of()


def make_endless() -> Callable[[], None]:
    def endless() -> None:
        import threading

        threading.Event().wait()

    return endless


endless = make_endless()


# -- Before the start


def test_path_and_target_come_from_the_environment(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "scalable.yaml").rename(project / "other.yaml")
    monkeypatch.setenv("SCALABLE_MANIFEST", "other.yaml")
    monkeypatch.setenv("SCALABLE_TARGET", "demo")

    session = ScalableSession.from_yaml()

    assert session.manifest.source == "other.yaml"
    assert session.target == "demo"


def test_arguments_go_before_the_environment(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALABLE_MANIFEST", "gone.yaml")
    monkeypatch.setenv("SCALABLE_TARGET", "gone")

    assert ScalableSession.from_yaml("scalable.yaml", target="demo").target == "demo"


def test_the_target_is_chosen_if_none_is_named(project: Path) -> None:
    (project / "scalable.yaml").write_text(
        "version: 1\nproject: {name: test}\n"
        "targets: {demo: {provider: demo}, laptop: {provider: local, overlay: small}}\n"
        "components: {fair: {cpus: 8}}\noverlays: {small: {components: {fair: {cpus: 1}}}}\n"
    )

    session = ScalableSession.from_yaml()

    assert session.target == "laptop"
    assert session.manifest.components["fair"].cpus == 1


def test_a_manifest_without_targets_is_an_error(project: Path) -> None:
    (project / "scalable.yaml").write_text("version: 1\nproject: {name: test}\n")

    with pytest.raises(ManifestError, match="E_NO_TARGET targets: there is no target"):
        ScalableSession.from_yaml()


def test_validation_combines_issues_of_core_and_provider(project: Path) -> None:
    manifest(project, "prize: 3, workers: {fiar: 1}")
    session = ScalableSession.from_yaml()

    codes = {issue.code for issue in session.validate().errors}

    assert codes >= {"E_UNKNOWN_TAG"}
    with pytest.raises(ValidationFailedError):
        session.plan()
    with pytest.raises(ValidationFailedError):
        session.start()


def test_a_provider_that_cannot_be_used_is_a_problem_of_the_manifest(project: Path) -> None:
    from scalable.providers.registry import register_provider

    def broken() -> None:
        raise OSError("no such library")

    register_provider("broken", broken)  # type: ignore[arg-type]  # that is what is tested
    (project / "scalable.yaml").write_text(
        "version: 1\nproject: {name: test}\ntargets: {demo: {provider: broken}}\ncomponents: {a: {}}\n"
    )

    (issue,) = ScalableSession.from_yaml().validate().errors

    assert (issue.code, issue.path, issue.line) == ("E_PROVIDER", "targets.demo.provider", 3)
    assert "no such library" in issue.message


def test_one_provider_serves_the_whole_session(project: Path) -> None:
    session = ScalableSession.from_yaml()

    assert session.provider is session.provider


def test_planning_twice_gives_equal_bytes() -> None:
    plans = [ScalableSession.from_yaml().plan().to_json() for _ in range(2)]

    assert plans[0] == plans[1]


def test_a_plan_above_its_limit_starts_nothing(project: Path) -> None:
    manifest(project, "price: 2, n_workers: 2, limits: {max_hourly_cost: 7}")
    session = ScalableSession.from_yaml()

    with pytest.raises(LimitExceededError, match=r"8\.00 USD/h"):
        session.start()

    assert session.events == ()


def test_nothing_is_there_before_the_start() -> None:
    session = ScalableSession.from_yaml()

    assert session.groups == {}
    assert session._repr_html_() == "<div><h3>ScalableSession on demo, new</h3></div>"
    with pytest.raises(SessionError, match="not started"):
        session.client  # noqa: B018 - the property raises
    session.close()
    session.close()
    with pytest.raises(SessionError, match="closed"):
        session.start()


# -- While it runs


def test_a_session_from_start_to_end(project: Path) -> None:
    manifest(project, "n_workers: 1")
    (project / "demo_helpers.py").write_text("def double(x):\n    return 2 * x\n")

    session = ScalableSession.from_yaml(workflow=project)
    with session as client:
        assert client.session is session
        assert {tag: group.running for tag, group in session.groups.items()} == {
            "fair": 1,
            "gcam": 1,
        }
        assert client.submit(worker_of, tag="gcam").result(timeout=30).startswith("gcam")
        assert client.submit(worker_of, task="simulate").result(timeout=30).startswith("fair")
        sys.path.insert(0, str(project))
        try:
            from demo_helpers import double  # type: ignore[import-not-found]  # written above

            assert client.submit(double, 21).result(timeout=30) == 42
        finally:
            sys.path.remove(str(project))
            sys.modules.pop("demo_helpers", None)

        shown = session._repr_html_()
        assert "ScalableSession on demo, running" in shown
        assert "<td>gcam</td><td>1 of 1</td>" in shown
        for change in (session.scale, session.adapt):
            number: Any = 2
            with pytest.raises(TypeError, match="2 does not say which worker group"):
                change(number)
        session.scale({"gcam": 2})
        session.cluster.wait_for_group("gcam", 2, timeout=30)
        session.adapt({"gcam": (0, 2)})
        assert session.groups["fair"].running == 1
        assert session.start() is client
        with pytest.raises(UnknownTagError, match="did you mean 'gcam'"):
            session.scale({"gcm": 1})

    assert client.status == "closed"
    assert any(event.tag == "gcam" for event in session.events)
    with pytest.raises(SessionError, match="closed"):
        session.explain()
    assert session._repr_html_() == "<div><h3>ScalableSession on demo, closed</h3></div>"
    session.close()


def test_a_client_that_the_workflow_closed_is_replaced() -> None:
    session = ScalableSession.from_yaml()
    try:
        with session.start() as client:
            pass
        again = session.start()

        assert again is not client
        assert again.session is session
        assert again.submit(worker_of, tag="gcam").result(timeout=30).startswith("gcam")
    finally:
        session.close()


def test_changes_are_held_to_the_limit(project: Path) -> None:
    manifest(project, "price: 2, workers: {fair: 1, gcam: 0}, limits: {max_hourly_cost: 5}")

    session = ScalableSession.from_yaml()
    with session:
        with pytest.raises(LimitExceededError):
            session.scale({"fair": 3})
        with pytest.raises(LimitExceededError):
            session.adapt({"gcam": (0, 2)})
        session.adapt({"gcam": (0, 1)})
        with pytest.raises(LimitExceededError):
            session.scale({"fair": 2})
        session.scale({"gcam": 0})
        session.scale({"fair": 2})


def test_a_cluster_refuses_what_its_session_would(project: Path) -> None:
    manifest(project, "price: 2, workers: {fair: 1, gcam: 0}, limits: {max_hourly_cost: 5}")

    session = ScalableSession.from_yaml()
    with session:
        with pytest.raises(LimitExceededError, match=r"limits\.max_hourly_cost"):
            session.cluster.scale_groups({"fair": 3})
        with pytest.raises(LimitExceededError):
            session.cluster.adapt_groups({"gcam": (0, 2)})
        session.cluster.scale_groups({"fair": 2})


def test_a_run_that_reaches_a_limit_ends_and_its_record_says_so(project: Path) -> None:
    limits = "{max_worker_hours: 0.0005, on_exceed: abort}"
    workers = "{fair: {minimum: 0, maximum: 1}, gcam: 0}"
    manifest(project, f"price: 2, workers: {workers}, limits: {limits}")

    session = ScalableSession.from_yaml()
    with session as client:
        future = client.submit(endless, tag="fair")
        with pytest.raises(GroupFailedError, match=r"limits\.max_worker_hours is reached"):
            future.result(timeout=120)
        with pytest.raises(LimitExceededError, match=r"limits\.max_worker_hours is reached"):
            session.scale({"fair": 1})

    (directory,) = find_records()
    summary = json.loads((directory / "record.json").read_text())["summary"]
    assert summary["limit_reached"] == "max_worker_hours"
    assert summary["action"] == "abort"
    assert summary["limits"] == {"max_worker_hours": 0.0005}
    cost = float(summary["cost"]["actual"])
    assert cost == pytest.approx(2 * sum(summary["worker_hours"].values()), abs=1e-4)
    assert summary["worker_hours"]["fair"] >= 0.0005


def test_a_change_that_the_cluster_refuses_does_not_count_for_the_limit(project: Path) -> None:
    manifest(
        project,
        "price: 2, workers: {fair: 1, gcam: 0}, max_workers: 2, limits: {max_hourly_cost: 9}",
    )

    session = ScalableSession.from_yaml()
    with session:
        with pytest.raises(ValueError, match="max_workers"):
            session.scale({"fair": 4})
        session.scale({"gcam": 1})


def test_a_negative_count_is_refused_under_a_limit(project: Path) -> None:
    manifest(project, "price: 2, workers: {fair: 1, gcam: 0}, limits: {max_hourly_cost: 9}")

    session = ScalableSession.from_yaml()
    with session:
        with pytest.raises(ValueError, match="'fair' cannot have -3 workers; ask for 0 or more"):
            session.scale({"fair": -3})
        with pytest.raises(ValueError, match="'fair' cannot adapt between 0 and -3"):
            session.adapt({"fair": (0, -3)})


def test_a_group_without_workers_is_not_waited_for(project: Path) -> None:
    manifest(project, "workers: {fair: 1, gcam: {minimum: 0, maximum: 1}}")

    session = ScalableSession.from_yaml()
    with session as client:
        assert session.groups["gcam"].running == 0
        assert client.submit(worker_of, tag="gcam").result(timeout=60).startswith("gcam")


def test_a_group_that_fails_ends_the_start_and_everything_with_it(
    project: Path, eventually: Eventually
) -> None:
    manifest(project, "refuse: the quota is used up")
    before = threads()
    session = ScalableSession.from_yaml()

    with pytest.raises(GroupFailedError, match="the quota is used up"):
        session.start()

    assert repr(session) == "<ScalableSession on 'demo', closed>"
    assert eventually(lambda: threads() <= before)


class PlainProvider:
    """A provider of a third party, whose cluster is one of Dask's."""

    api_version = 1
    name = "plain"
    closed = False

    def validate(self, spec: DeploymentSpec) -> ValidationReport:
        return ValidationReport()

    def build_cluster(self, spec: DeploymentSpec) -> Any:
        return LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0")

    def scale(self, cluster: Any, plan: ScalePlan) -> None:
        raise AssertionError("a cluster without groups was scaled")

    def close(self, cluster: Any) -> None:
        PlainProvider.closed = True
        cluster.close()


def test_a_provider_that_builds_a_plain_dask_cluster_is_told_what_it_lacks(project: Path) -> None:
    register_provider("plain", PlainProvider)
    text = "version: 1\nproject: {name: test}\ntargets: {there: {provider: plain}}\n"
    (project / "scalable.yaml").write_text(f"{text}components: {{fair: {{}}}}\n")

    with pytest.raises(IncompleteClusterError, match=r"LocalCluster.*scale_groups") as caught:
        ScalableSession.from_yaml().start()

    assert "wait_for_group" in caught.value.missing
    assert PlainProvider.closed


def test_a_leftover_is_an_error_of_close(project: Path) -> None:
    manifest(project, "stuck: true")
    session = ScalableSession.from_yaml()
    session.start()

    with pytest.raises(LeftoverError, match="volume scratch"):
        session.close()
    session.close()
    assert not session.everything_removed


def test_a_session_knows_when_everything_is_removed(project: Path) -> None:
    session = ScalableSession.from_yaml()
    session.start()
    assert not session.everything_removed
    session.close()
    assert session.everything_removed


@pytest.mark.parametrize("error", [ZeroDivisionError(), SystemExit(3), KeyboardInterrupt()])
def test_a_leftover_does_not_replace_the_error_of_the_block(
    project: Path, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    manifest(project, "stuck: true")

    with pytest.raises(type(error)) as caught, ScalableSession.from_yaml():
        raise error

    assert "volume scratch" in caught.value.__notes__[0]
    assert "volume scratch" in capsys.readouterr().err


def test_modules_that_are_listed_start_from_the_manifest(project: Path) -> None:
    (project / "conf").mkdir()
    (project / "scalable.yaml").rename(project / "conf" / "scalable.yaml")
    path = project / "conf" / "scalable.yaml"
    path.write_text(
        path.read_text().replace("{name: test}", "{name: test, modules: [lib/gone.py]}")
    )

    with pytest.raises(ValidationFailedError, match=r"there is no .lib/gone\.py. in the directory"):
        ScalableSession.from_yaml(path).start()


@pytest.mark.parametrize("target", ["demo", "other"])
def test_a_second_session_warns(project: Path, target: str) -> None:
    manifest(project, "n_workers: 0}, other: {provider: demo, n_workers: 0")
    first = ScalableSession.from_yaml(target="demo")
    first.start()
    try:
        assert ScalableSession.open_sessions() == [first]
        second = ScalableSession.from_yaml(target=target)
        with pytest.warns(UserWarning, match=r"another session on target 'demo' is open.*close"):
            second.start()
        assert ScalableSession.open_sessions() == [first, second]
        second.close()
    finally:
        first.close()
    assert ScalableSession.open_sessions() == []


@pytest.mark.parametrize(
    ("configuration", "what", "key"),
    [
        ("distributed: {scheduler: {preload: [no_such_module]}}", "scheduler", "scheduler.preload"),
        ("distributed: {admin: {event-loop: nonsense}}", "scheduler", "admin.event-loop"),
        ("distributed: {client: {preload: [no_such_module]}}", "client", "client.preload"),
    ],
)
def test_configuration_that_keeps_a_session_from_starting_is_named(
    configuration: str, what: str, key: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "site").mkdir()
    (project / "site" / "site.yaml").write_text(configuration)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from scalable.providers.registry import register_provider\n"
        "from demo_provider import DemoProvider\n"
        "from scalable.session import ScalableSession\n"
        "register_provider('demo', DemoProvider)\n"
        "try: ScalableSession.from_yaml().start()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(Path(__file__).parents[1] / "plugins")],
        env={**os.environ, "DASK_CONFIG": str(project / "site")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.startswith(f"DaskConfigurationError the {what} did not start: ")
    assert f"distributed.{key}" in done.stdout


def test_closing_from_another_thread_ends_a_start_that_waits(
    project: Path, eventually: Eventually
) -> None:
    manifest(project, "queue: true")
    session = ScalableSession.from_yaml()

    def close() -> None:
        eventually(lambda: any(group.pending for group in session.groups.values()))
        session.close()

    closer = threading.Thread(target=close)
    closer.start()

    with pytest.raises(Exception, match="closed"):
        session.start()

    closer.join()


# -- Inside `scalable run`


@pytest.fixture
def running(project: Path) -> Iterator[ScalableSession]:
    session = ScalableSession.from_yaml()
    session.start()
    with set_current_session(session):
        yield session
    session.close()


def test_the_running_session_is_returned_and_not_closed(
    running: ScalableSession, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, target in (
        (None, None),
        ("scalable.yaml", "auto"),
        (project / "scalable.yaml", "demo"),
    ):
        with ScalableSession.from_yaml(path, target=target) as client:
            assert client.session is running
    monkeypatch.chdir("/")
    assert ScalableSession.from_yaml(project / "scalable.yaml") is running
    assert client.submit(worker_of, tag="gcam").result(timeout=30).startswith("gcam")

    with pytest.raises(SessionError, match="asks for target 'hpc', and this run is on 'demo'"):
        ScalableSession.from_yaml(target="hpc")


def test_another_manifest_is_another_session(running: ScalableSession, project: Path) -> None:
    other = project / "other.yaml"
    other.write_text((project / "scalable.yaml").read_text())

    session = ScalableSession.from_yaml(other)

    assert session is not running
    session.close()


# -- The process ends

SCRIPT = """
import signal, sys, time
from pathlib import Path
from scalable.session import ScalableSession

def report(client):
    pids = client.run(lambda: __import__("os").getpid())
    Path("pids").write_text(" ".join(map(str, pids.values())))

if __name__ == "__main__":
"""

WITH = """
    with ScalableSession.from_yaml() as client:
        report(client)
        time.sleep(60)
"""
WITHOUT = """
    client = ScalableSession.from_yaml().start()
    report(client)
"""


@pytest.fixture
def script(project: Path, environment: dict[str, str]) -> Iterator[Script]:
    """Start a script as a process of its own, in the project's directory."""
    started = []

    def script(body: str) -> subprocess.Popen[str]:
        (project / "workflow.py").write_text(SCRIPT + body)
        process = subprocess.Popen(
            [sys.executable, "workflow.py"],
            cwd=project,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield script
    for process in started:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


@pytest.fixture
def pids(project: Path, eventually: Eventually) -> Callable[[], list[int]]:
    """Return the process ids of the script's workers, once it has written them."""

    def pids() -> list[int]:
        file = project / "pids"
        assert eventually(lambda: file.exists() and file.read_text() != "")
        return [int(pid) for pid in file.read_text().split()]

    return pids


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, -signal.SIGINT)],
)
@pytest.mark.parametrize("body", [WITH, WITHOUT + "    time.sleep(60)\n"], ids=["with", "without"])
def test_a_signal_leaves_no_worker(
    script: Script, pids: Pids, gone: Gone, number: int, status: int, body: str
) -> None:
    process = script(body)
    workers = pids()

    process.send_signal(number)

    assert process.wait(timeout=60) == status
    assert gone(workers)


def test_a_second_signal_hurries_and_a_third_ends_the_process(
    script: Script, pids: Pids, gone: Gone, project: Path, eventually: Eventually
) -> None:
    manifest(project, "n_workers: 1, hang: closing.txt")
    process = script(WITH)
    workers = pids()
    assert process.stderr is not None

    process.send_signal(signal.SIGINT)
    assert eventually((project / "closing.txt").exists)
    process.send_signal(signal.SIGINT)
    assert "closing in a hurry; once more ends this process at once" in process.stderr.readline()
    process.send_signal(signal.SIGINT)

    assert process.wait(timeout=60) == 128 + signal.SIGINT
    (line,) = process.stderr.read().splitlines()
    assert "was not closed, and what belongs to it may be left" in line
    assert gone(workers)


FORKS = """
    import multiprocessing, threading
    fork = multiprocessing.get_context("fork")
    session = ScalableSession.from_yaml()
    with session as client:
        report(client)
        with fork.Pool(2) as pool:  # whose forks are sent SIGTERM in the end
            assert pool.map(abs, [-1, 2]) == [1, 2]
        closer = fork.Process(target=session.close)
        starter = threading.Thread(target=closer.start)
        starter.start()
        starter.join()
        closer.join()
        assert closer.exitcode == 0
        assert client.submit(abs, -3, tag="gcam").result() == 3
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, programs with threads do not fork")
def test_forks_of_a_workflow_leave_its_session_alone(
    script: Script, pids: Pids, gone: Gone
) -> None:
    process = script(FORKS)
    workers = pids()

    assert process.wait(timeout=60) == 0
    assert gone(workers)


GENERATOR = """
    def clients():
        with ScalableSession.from_yaml() as client:
            yield client
    unfinished = clients()
    report(next(unfinished))
"""


def test_a_session_in_a_generator_that_is_never_finished_ends_with_the_interpreter(
    script: Script, pids: Pids, gone: Gone
) -> None:
    process = script(GENERATOR)
    workers = pids()

    _, stderr = process.communicate(timeout=60)

    assert (process.returncode, stderr) == (0, "")
    assert gone(workers)


ENDING_FORK = """
    import json, os
    session = ScalableSession.from_yaml()
    client = session.start()
    report(client)
    child = os.fork()
    if child == 0:
        try:
            client.submit(abs, -1, tag="gcam").result()
        except Exception as error:
            sys.exit(7 if "closed" in str(error) else 8)
    began = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert time.monotonic() - began < 9  # Dask alone waits for more than ten seconds
    assert client.submit(abs, -3, tag="gcam").result() == 3
    (record,) = Path(".scalable/runs").glob("*/record.json")
    assert json.loads(record.read_text())["status"] == "running"
    session.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, programs with threads do not fork")
def test_a_fork_that_ends_by_itself_waits_for_nothing(
    script: Script, pids: Pids, gone: Gone
) -> None:
    process = script(ENDING_FORK)
    workers = pids()

    assert process.wait(timeout=60) == 0
    assert gone(workers)


CALLS_IN_FORK = """
    import os, signal
    from distributed import Event, as_completed, wait
    session = ScalableSession.from_yaml()
    client = session.start()
    report(client)
    future = client.submit(abs, -1, tag="gcam")
    assert future.result() == 1
    calls = {
        "result": lambda: future.result(timeout=60),
        "exception": lambda: future.exception(timeout=60),
        "cancel": future.cancel,
        "callback": lambda: future.add_done_callback(print),
        "gather": lambda: client.gather([future]),
        "wait": lambda: wait([future], timeout=60),
        "as_completed": lambda: next(as_completed([future], timeout=60)),
        "submit": lambda: client.submit(abs, -2, tag="gcam"),
        "map": lambda: client.map(abs, [-2], tag="gcam"),
        "scatter": lambda: client.scatter([1]),
        "run": lambda: client.run(os.getpid),
        "scheduler_info": client.scheduler_info,
        "set": lambda: Event("x").set(),
        "scale": lambda: session.scale({"gcam": 2}),
    }
    def said(call):
        signal.alarm(30)
        try:
            return f"returned {call()!r}"
        except Exception as error:
            return f"{type(error).__name__} {error}"
    child = os.fork()
    if child == 0:
        wrong = {name: text for name, call in calls.items() if not (text := said(call)).startswith(
            f"ClusterClosedError cluster {client.cluster.name!r} is closed in a fork of the process that has it; get "
        )}
        client.close()
        del future, calls
        print(wrong, file=sys.stderr) if wrong else None
        sys.exit(len(wrong))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.gather(future) == 1
    session.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, programs with threads do not fork")
def test_whatever_a_fork_asks_a_client_is_refused_at_once(
    script: Script, pids: Pids, gone: Gone
) -> None:
    process = script(CALLS_IN_FORK)
    workers = pids()

    _, stderr = process.communicate(timeout=120)

    assert process.returncode == 0, stderr
    assert gone(workers)


def test_a_session_that_is_not_closed_ends_with_the_interpreter(
    script: Script, pids: Pids, gone: Gone
) -> None:
    process = script(WITHOUT)
    workers = pids()

    _, stderr = process.communicate(timeout=60)

    assert process.returncode == 0
    assert stderr == ""
    assert gone(workers)


def test_a_signal_while_it_starts_ends_the_start(script: Script, pids: Pids, project: Path) -> None:
    manifest(project, "queue: true")
    waiting = textwrap.indent(
        textwrap.dedent("""
        import threading
        def tell():
            while not any(group.pending for group in session.groups.values()):
                time.sleep(0.05)
            Path("pids").write_text("0")
        session = ScalableSession.from_yaml()
        threading.Thread(target=tell, daemon=True).start()
        session.start()
        """),
        "    ",
    )
    process = script(waiting)
    pids()

    process.terminate()

    assert process.wait(timeout=60) == 143


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if not thread.daemon}


def test_a_session_in_plain_python_keeps_a_record(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALABLE_RUNS_DIR", str(project / "kept"))
    with ScalableSession.from_yaml() as client:
        (running,) = find_records()
        assert json.loads((running / "record.json").read_text())["status"] == "running"
        client.submit(abs, -1, tag="fair").result(timeout=60)
    with pytest.raises(ZeroDivisionError), ScalableSession.from_yaml():
        raise ZeroDivisionError("of the user")

    first, second = (
        json.loads((each / "record.json").read_text())
        for each in sorted(find_records(), key=lambda each: each.stat().st_mtime)
    )
    assert (first["status"], first["everything_removed"], first["error"]) == (
        "finished",
        True,
        None,
    )
    assert first["summary"]["worker_hours"]["fair"] > 0
    assert (second["status"], second["error"]) == ("failed", "ZeroDivisionError: of the user")
    assert first["summary"]["seconds"] > 0
    assert not (project / ".scalable").exists()


@pytest.mark.parametrize(
    ("end", "status", "exit_status", "error"),
    [
        (KeyboardInterrupt(), "interrupted", 130, "KeyboardInterrupt"),
        (SystemExit(143), "interrupted", 143, "SystemExit: 143"),
        (SystemExit(3), "failed", 3, "SystemExit: 3"),
        (SystemExit(0), "finished", 0, None),
    ],
)
def test_the_record_of_a_session_has_the_exit_status_of_its_script(
    project: Path, end: BaseException, status: str, exit_status: int, error: str | None
) -> None:
    with pytest.raises(type(end)), ScalableSession.from_yaml():
        raise end

    (directory,) = find_records()
    written = json.loads((directory / "record.json").read_text())
    assert (written["status"], written["exit_status"], written["error"]) == (
        status,
        exit_status,
        error,
    )


@pytest.mark.parametrize(
    ("last", "end"), [("", ("finished", None)), ("1 / 0", ("failed", "ZeroDivisionError"))]
)
def test_the_record_of_a_session_that_a_script_leaves_open_has_the_scripts_end(
    project: Path, script: Script, last: str, end: tuple[str, str | None]
) -> None:
    running = script(
        f"    session = ScalableSession.from_yaml()\n    session.start()\n    {last}\n"
    )
    running.communicate(timeout=60)

    (directory,) = find_records()
    written = json.loads((directory / "record.json").read_text())
    assert (written["status"], written["error"] and written["error"].partition(":")[0]) == end


def test_a_session_without_a_place_for_its_record_goes_on(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (project / ".scalable").write_text("in the way")
    with ScalableSession.from_yaml() as client:
        assert client.submit(abs, -1, tag="fair").result(timeout=60) == 1
    assert "no record is kept" in caplog.text


@pytest.mark.parametrize("level", ["INFO", "error"])
def test_what_is_logged_is_asked_for_and_has_no_secrets(
    level: str, scalable: Callable[..., subprocess.CompletedProcess[str]], project: Path
) -> None:
    (project / "workflow.py").write_text(
        "from scalable.session import ScalableSession\n"
        "with ScalableSession.from_yaml() as client:\n"
        "    client.submit(sum, [1], tag='fair').result()\n"
    )
    text = (project / "scalable.yaml").read_text()
    (project / "scalable.yaml").write_text(
        text.replace("gcam: {}", 'gcam: {env: {A: "${LAUNCHING:-}"}}')
    )

    ran = scalable("run", "-q", "-w", "workflow.py", SCALABLE_LOG_LEVEL=level, LAUNCHING="launched")

    assert ran.returncode == 0
    logged = [line for line in ran.stderr.splitlines() if " INFO scalable." in line]
    assert bool(logged) is (level == "INFO")
    assert "launched" not in ran.stderr
    assert ("gcam: ${LAUNCHING} 1" in ran.stderr) is (level == "INFO")


def test_a_log_level_that_does_not_exist_is_a_line(
    scalable: Callable[..., subprocess.CompletedProcess[str]], project: Path
) -> None:
    (project / "workflow.py").write_text(
        "from scalable.session import ScalableSession\nScalableSession.from_yaml().start()\n"
    )

    ran = scalable("run", "-q", "-w", "workflow.py", SCALABLE_LOG_LEVEL="loud")

    assert ran.returncode == 2
    assert "SCALABLE_LOG_LEVEL is 'loud'; use one of DEBUG, INFO" in ran.stderr
    assert "Traceback" not in ran.stderr
