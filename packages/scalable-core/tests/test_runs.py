"""Records of runs, without running a workflow as `test_run` does."""

import json
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scalable.cluster import Event
from scalable.errors import ManifestError
from scalable.runs import (
    RunRecord,
    find_records,
    read_open_record,
    read_record,
    read_rows,
    recorded_spec,
)
from scalable.session import ScalableSession

pytestmark = pytest.mark.usefixtures("demo")

SECRET = "hunter2hunter2"

Scalable = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def record(project: Path, monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    monkeypatch.setenv("DEMO_SECRET", SECRET)
    (project / "scalable.yaml").write_text(
        "version: 1\nproject: {name: test}\n"
        'targets: {demo: {provider: demo, account: "${DEMO_SECRET}"}}\ncomponents: {fair: {}}\n'
    )
    (project / "workflow.py").write_text("pass")
    session = ScalableSession.from_yaml()
    return RunRecord.begin(
        session, session.plan(), workflow=Path("workflow.py"), arguments=["--key", SECRET]
    )


def read(record: RunRecord) -> dict[str, object]:
    document: dict[str, object] = json.loads((record.directory / "record.json").read_text())
    return document


def test_a_record_leads_to_its_target(record: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables have the values of the environment that reads it."""
    assert find_records() == [record.shown]
    written = read_open_record(record.directory)
    assert written is not None
    monkeypatch.setenv("DEMO_SECRET", "12345")
    spec = recorded_spec(written)
    assert (spec.target_name, spec.provider_name) == ("demo", "demo")
    assert spec.target.options == {"account": 12345}
    assert not spec.components
    monkeypatch.delenv("DEMO_SECRET")
    with pytest.raises(ManifestError, match="DEMO_SECRET is not set"):
        recorded_spec(written)


def test_a_record_is_open_until_everything_is_removed(record: RunRecord) -> None:
    record.end(0)
    assert read_open_record(record.directory) is not None
    record.end(0, everything_removed=True)
    assert read_open_record(record.directory) is None


def test_where_there_are_no_records_none_are_found(project: Path) -> None:
    assert find_records() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_record_of_another_user_is_not_read(record: RunRecord) -> None:
    os.chown(record.directory / "record.json", 65534, 65534)
    with pytest.raises(PermissionError, match="another user"):
        read_open_record(record.directory)


def test_a_run_that_is_killed_stays_running(record: RunRecord) -> None:
    written = read(record)

    assert written["status"] == "running"
    assert written["ended"] is None


def test_values_from_the_environment_are_redacted_everywhere(record: RunRecord) -> None:
    record.end(1, error=f"account {SECRET} is closed", events=[Event(0.0, "fair", f"no {SECRET}")])

    written = read(record)
    assert SECRET not in json.dumps(written)
    assert written["error"] == "account ${DEMO_SECRET} is closed"
    assert written["events"] == [
        {"time": "1970-01-01T00:00:00.000+00:00", "group": "fair", "text": "no ${DEMO_SECRET}"}
    ]
    assert (written["status"], written["exit_status"]) == ("failed", 1)


def test_values_in_rows_are_redacted_however_they_are_spelled(record: RunRecord) -> None:
    record.append("tasks.jsonl", [{"task": "plain", "n": 1.5, "why": None}])
    record.append("tasks.jsonl", [{"task": f"run-{SECRET}", "n": 2}, {"task": "plain"}])
    record.append("tasks.jsonl", [{"task": "plain", "of": [f"a {SECRET}"]}])

    assert read_rows(record.directory, "tasks.jsonl") == [
        {"task": "plain", "n": 1.5, "why": None},
        {"task": "run-${DEMO_SECRET}", "n": 2},
        {"task": "plain"},
        {"task": "plain", "of": ["a ${DEMO_SECRET}"]},
    ]


def test_only_its_owner_can_read_it(record: RunRecord, project: Path) -> None:
    record.end(0)

    for path in (project / ".scalable", *(project / ".scalable").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert [path.name for path in record.directory.iterdir()] == ["record.json"]


def test_a_directory_that_is_there_already_stays_as_it_is(project: Path, record: RunRecord) -> None:
    (project / "kept").mkdir(mode=0o755)
    session = ScalableSession.from_yaml()

    RunRecord.begin(
        session,
        session.plan(),
        workflow=Path("workflow.py"),
        arguments=[],
        root=project / "kept" / "runs",
    )

    assert stat.S_IMODE((project / "kept").stat().st_mode) == 0o755
    assert stat.S_IMODE((project / "kept" / "runs").stat().st_mode) == 0o700


def test_what_replaces_its_directory_gets_nothing(record: RunRecord, project: Path) -> None:
    precious = project / "precious"
    precious.write_text("mine")
    directory = project / record.directory
    moved = directory.rename(directory.with_name("moved"))
    directory.mkdir()
    for name in ("record.new", "record.json"):
        (directory / name).symlink_to(precious)
    (moved / "record.new").symlink_to(precious)
    record.end(0)

    assert precious.read_text() == "mine"
    assert json.loads((moved / "record.json").read_text())["status"] == "finished"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_directory_of_another_user_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def replaced(self: Path, mode: int = 0o777) -> None:
        mkdir(self, mode)
        os.chown(self, 65534, 65534)

    (project / ".scalable/runs").mkdir(parents=True)
    monkeypatch.setattr(Path, "mkdir", replaced)
    (project / "workflow.py").write_text("pass")
    session = ScalableSession.from_yaml()
    with pytest.raises(PermissionError, match="another user has replaced it"):
        RunRecord.begin(session, session.plan(), workflow=Path("workflow.py"), arguments=[])


NEVER_CLOSED = """
from scalable.session import ScalableSession

client = ScalableSession.from_yaml().start()
client.gather(client.map(abs, range(7), tag="fair"))
"""


def test_a_session_that_is_never_closed_has_its_last_tasks_in_its_record(
    project: Path, environment: dict[str, str]
) -> None:
    (project / "script.py").write_text(NEVER_CLOSED)

    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    (directory,) = find_records(project / ".scalable" / "runs")
    assert len(read_rows(directory, "tasks.jsonl")) == 7
    document = read_record(directory)
    assert document is not None
    assert [each["done"] for each in document["summary"]["tasks"]] == [7]


@pytest.fixture
def full_disk() -> Iterator[Callable[[int], None]]:
    """Let no file become larger than so many bytes, as on a disk that is full, or any; in this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size if size else before[0], before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_leaves_no_part_of_a_row(
    record: RunRecord, full_disk: Callable[[int], None]
) -> None:
    record.append("tasks.jsonl", [{"task": "a"}])
    full_disk(30)
    with pytest.raises(OSError):  # noqa: PT011 - which one depends on what is full
        record.append("tasks.jsonl", [{"task": "b" * 100}])
    full_disk(0)
    record.append("tasks.jsonl", [{"task": "c"}])
    assert read_rows(record.directory, "tasks.jsonl") == [{"task": "a"}, {"task": "c"}]


def test_an_end_that_cannot_be_written_says_where(
    record: RunRecord, full_disk: Callable[[int], None]
) -> None:
    full_disk(30)
    with pytest.raises(OSError) as raised:  # noqa: PT011 - which one depends on what is full
        record.end(0)
    full_disk(0)
    assert raised.value.filename == str(record.shown)


def test_what_could_not_be_written_is_written_once_there_is_room(
    demo: None, project: Path, full_disk: Callable[[int], None]
) -> None:
    with ScalableSession.from_yaml() as client:
        session = client.session
        assert session is not None
        assert session.recorder is not None
        directory, recorder = session.recorder.record.directory, session.recorder
        full_disk(1)
        client.gather(client.map(abs, range(5), tag="fair"))
        recorder.write()
        assert read_rows(directory, "tasks.jsonl") == []
        full_disk(0)
    rows = read_rows(directory, "tasks.jsonl")
    assert [(row["component"], row["status"]) for row in rows] == [("fair", "done")] * 5


def test_names_that_are_no_text_are_in_the_record(record: RunRecord) -> None:
    record.append("tasks.jsonl", [{"task": os.fsdecode(b"run-\xff")}])
    assert read_rows(record.directory, "tasks.jsonl") == [{"task": os.fsdecode(b"run-\xff")}]


@pytest.mark.parametrize("text", ["[]", "{}", '{"id": "r1"}', "", "\0", '"x"'])
def test_a_file_that_is_no_record_is_named(
    record: RunRecord, scalable: Scalable, text: str
) -> None:
    other = record.directory.with_name("29990101T000000Z-abcdef")
    other.mkdir()
    (other / "record.json").write_text(text)
    listed, shown = scalable("runs"), scalable("runs", "show")
    assert (listed.returncode, shown.returncode) == (0, 0), shown.stderr
    assert f"{other.name}: it is not a record of a run" in listed.stderr
    assert record.document["id"] in shown.stdout


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ({"format": 2, "summary": {"tasks": {}}}, "it has format 2, and this version"),
        ({"manifest": []}, "it is not a record of a run: manifest is not a mapping"),
        (
            {"manifest": {"path": "a\0b"}},
            "it is not a record of a run: manifest.path is not a path",
        ),
        ({"started": "noon"}, "it is not a record of a run: started is not a time"),
        ({"events": None}, "it is not a record of a run: events is not a list"),
        ({"process": 5}, "it is not a record of a run: process is not a mapping"),
        ({"summary": {"tasks": [{"name": "f"}]}}, "summary.tasks.0.component is missing"),
        ({"summary": {"seconds": float("nan")}}, "summary.seconds is not a number"),
    ],
)
def test_a_record_that_cannot_be_read_harms_no_command(
    record: RunRecord, scalable: Scalable, part: dict[str, object], why: str
) -> None:
    other = record.directory.with_name("29990101T000000Z-abcdef")
    other.mkdir()
    document = {**read(record), "id": other.name, **part}
    (other / "record.json").write_text(json.dumps(document))
    for command in (["runs"], ["runs", "show"], ["report"]):
        done = scalable(*command)
        assert done.returncode == 0, done.stderr
        assert why in done.stderr
    left = scalable("ps", DEMO_SECRET=SECRET)
    assert "unexpected" not in left.stderr
    assert f"the record of run {other.name} cannot be read" in left.stderr


def test_a_record_that_is_nested_without_end_is_none(record: RunRecord) -> None:
    (record.directory / "record.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="it is not a record of a run"):
        read_record(record.directory)


def test_a_record_may_have_what_a_later_version_adds(record: RunRecord, scalable: Scalable) -> None:
    failures = {"task": "f", "error": "E", "count": 1, "example": "f-1", "worker": "", "node": "n1"}
    tasks = {"name": "f", "component": None, "done": 0, "failed": 1, "left": 0, "cancelled": 0}
    summary = {"tasks": [{**tasks, "more": 1}], "failures": [failures]}
    document = {**read(record), "more": [], "summary": summary}
    (record.directory / "record.json").write_text(json.dumps(document))
    shown = scalable("runs", "show")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "1 of f failed: E" in shown.stdout


def test_rows_that_are_none_are_left_out(record: RunRecord, scalable: Scalable) -> None:
    good = {"task": "fair.f-1", "component": "fair", "started": 5.0, "ended": 6.0, "status": "done"}
    bad = [
        b"\xff\xfe",
        b"null",
        b'{"task": 5}',
        b'{"task": "f-2", "started": "noon", "ended": {}}',
        b'{"task": "f-3", "ended": 1e400}',
        b"[" * 100_000,
    ]
    rows = [json.dumps(good).encode(), *bad, b'{"worker": "w", "launched": "x"}']
    for name in ("tasks", "workers"):
        (record.directory / f"{name}.jsonl").write_bytes(b"\n".join(rows))
    done = scalable("report")
    assert done.returncode == 0, done.stderr
    assert "fair" in Path(done.stdout.strip()).read_text()


@pytest.mark.parametrize(
    "variables",
    [{}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}],
    ids=lambda each: each.get("PYTHONIOENCODING", "utf-8"),
)
def test_what_stdout_cannot_show_is_escaped(
    record: RunRecord, scalable: Scalable, variables: dict[str, str]
) -> None:
    path = os.fsdecode(b"w\xff") + "☃.py"
    record.document["workflow"] = {"path": path, "arguments": []}
    record.end(1, error="ValueError: →")
    for command in (["runs"], ["runs", "show"], ["report"]):
        done = scalable(*command, **variables)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        shown = scalable(*command, "--json", **variables)
        assert shown.returncode == 0, shown.stderr
        assert json.loads(shown.stdout)
    (listed,) = json.loads(scalable("runs", "--json", **variables).stdout)
    assert listed["workflow"]["path"] == path


def test_a_record_stays_where_it_is_when_the_current_directory_changes(
    record: RunRecord, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = record.shown
    assert not shown.is_absolute()
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    assert record.directory == record.shown == project / shown
