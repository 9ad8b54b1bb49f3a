"""Records of runs: what ran, where, with which versions, and how it ended.

A run has a directory ``.scalable/runs/<id>/`` in the current directory, and in it ``record.json``. The variable
``SCALABLE_RUNS_DIR`` names another directory than ``.scalable/runs``. Only their owner can read them. A record shows
``${VAR}`` in the place of each value that the manifest has from the environment.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import secrets
import signal
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

from scalable.cluster.ledger import this_process
from scalable.paths import expand_home
from scalable.providers.registry import provider_distributions
from scalable.runs.packages import workflow_packages
from scalable.runs.shape import RECORD, find_fault

if TYPE_CHECKING:
    from scalable.cluster import Event
    from scalable.planning import Plan
    from scalable.providers.base import DeploymentSpec
    from scalable.results.naming import NamedCall
    from scalable.session import ScalableSession

__all__ = [
    "RECORDS_DIRECTORY",
    "RunRecord",
    "event_as_json",
    "find_records",
    "installed_versions",
    "mark_removed",
    "read_open_record",
    "read_record",
    "read_rows",
    "recorded_spec",
    "records_directory",
]

RECORDS_DIRECTORY = Path(".scalable") / "runs"
"""The directory of records, relative to the current directory."""

_FORMAT = 1


class RunRecord:
    """The record of one run, written when the run begins and again when it has ended.

    If a record's status is ``running`` and its process no longer exists, the process was killed. A record whose
    ``everything_removed`` is false leads ``scalable ps`` and ``scalable reap`` to where the run was.

    Attributes
    ----------
    directory : Path
        The run's own directory, readable by its owner only; absolute, for a workflow may change the current directory.
    document : dict
        The record, as JSON values.
    """

    def __init__(
        self, directory: Path, descriptor: int, document: dict[str, Any], redact: Redact
    ) -> None:
        self.directory, self.document = directory.absolute(), document
        self._given = directory
        self._redact = redact
        # The path may lead elsewhere later, where others can write to a directory above it.
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    @property
    def shown(self) -> Path:
        """The directory as the user would name it: relative, if the current directory is what it was."""
        try:
            return self._given if self._given.absolute() == self.directory else self.directory
        except FileNotFoundError:  # the current directory is gone
            return self.directory

    @classmethod
    def begin(
        cls,
        session: ScalableSession,
        plan: Plan,
        *,
        workflow: Path | None,
        arguments: Sequence[str],
        overlay: str | None = None,
        in_cluster: bool = False,
        resumes: str | None = None,
        root: Path | None = None,
    ) -> Self:
        """Create the run's directory and write the record of a run that begins.

        Parameters
        ----------
        session : ScalableSession
            The session of the run.
        plan : Plan
            What the session will start.
        workflow : Path or None
            The script; None in a notebook or an interpreter.
        arguments : sequence of str
            Its command-line arguments.
        overlay : str, optional
            The overlay that was merged instead of the target's own.
        in_cluster : bool
            Whether the script runs at the target.
        resumes : str, optional
            The id of the run that this one goes on with.
        root : Path, optional
            The directory of records; by default `records_directory`.

        Raises
        ------
        OSError
            The record cannot be written, the script cannot be read, or another user has taken the run's directory.
        """
        import psutil

        redact, variables = session.manifest.redact, session.manifest.variables

        def is_redacted(text: str) -> bool:
            return redact(text) != text

        def is_lost(text: str) -> bool:
            shown = redact(text)
            for name, value in variables.items():
                shown = shown.replace(f"${{{name}}}", value)
            return shown != text

        with _naming("the current directory"):
            cwd = Path.cwd()
        now = datetime.now(UTC)
        run_id = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        document = {
            "format": _FORMAT,
            "id": run_id,
            "status": "running",
            "started": now.isoformat(timespec="seconds"),
            "ended": None,
            "exit_status": None,
            "everything_removed": False,
            "error": None,
            "target": plan.target,
            "provider": plan.provider,
            "manifest": {
                "path": session.manifest.source,
                "lock": plan.manifest_lock,
                "document": session.spec.raw_manifest,
                "overlay": overlay,
            },
            "plan": json.loads(plan.to_json()),
            "workflow": {
                "path": None if workflow is None else str(workflow),
                "sha256": workflow and hashlib.sha256(workflow.read_bytes()).hexdigest(),
                "arguments": list(arguments),
                # Which of these show ${VAR} in the place of a value.
                "redacted": [number for number, text in enumerate(arguments) if is_redacted(text)],
                # Which of them do not show what they were: ${VAR} is in the place of another spelling or of a part.
                "lost": [number for number, text in enumerate(arguments) if is_lost(text)],
                "path_redacted": workflow is not None and is_redacted(str(workflow)),
                "in_cluster": in_cluster,
            },
            "resumes": resumes,
            "directory": str(cwd),
            "process": {
                "host": platform.node(),
                "pid": os.getpid(),
                "started": psutil.Process().create_time(),
                "identity": this_process(),
            },
            "versions": installed_versions(),
            "packages": workflow_packages(workflow),
            "events": [],
        }
        directory = (root or records_directory()) / run_id
        descriptor = _create_private(directory)
        record = cls(directory, descriptor, document, session.manifest.redact)
        with _naming(str(directory)):
            record._write()
        return record

    def end(
        self,
        exit_status: int,
        *,
        everything_removed: bool = False,
        error: str | None = None,
        events: Iterable[Event] = (),
        summary: Mapping[str, Any] | None = None,
    ) -> None:
        """Write how the run ended.

        Parameters
        ----------
        exit_status : int
            The exit status of the run.
        everything_removed : bool
            Whether nothing that it had started is left. Otherwise `read_open_record` continues to return the record.
        error : str, optional
            The error that ended it.
        events : iterable of Event
            What happened to its worker groups.
        summary : mapping, optional
            What became of its tasks, and what it took, as JSON values.

        Raises
        ------
        OSError
            The record cannot be written.
        """
        self.document |= {
            "status": _end_status(exit_status),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "exit_status": exit_status,
            "everything_removed": everything_removed,
            "error": error,
            "events": [event_as_json(event) for event in events],
            "summary": dict(summary or {}),
        }
        with _naming(str(self.shown)):
            self._write()

    def touch(self) -> None:
        """Show other machines that this process lives, by the time of the record, which is that of its file system."""
        with suppress(OSError):  # the file system is away, or the record was deleted
            os.utime("record.json", dir_fd=self._descriptor)

    def append(
        self, name: str, rows: Iterable[Mapping[str, Any]], *, redacted: bool = True
    ) -> None:
        """Append rows to a file of the record, a line of JSON for each.

        Parameters
        ----------
        name : str
            The file's name: ``tasks.jsonl``.
        rows : iterable of mapping
            The rows, as JSON values.
        redacted : bool
            Whether values of the environment are replaced, as always but in digests.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        rows = list(rows)
        if not rows:
            return
        if redacted and _may_change(rows, self._redact):
            redact = cache(self._redact)  # names are there many times
            rows = [_map_text(row, redact) for row in rows]
        encode = json.JSONEncoder(ensure_ascii=False).encode
        self._append_text(name, "".join(f"{encode(row)}\n" for row in rows))

    def append_lines(self, name: str, lines: str) -> None:
        """Append rows to a file of the record that are lines of JSON already.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        if self._redact(lines) != lines:  # to redact a text may break numbers
            self.append(name, map(json.loads, lines.splitlines()))
        elif lines:
            self._append_text(name, lines)

    def _append_text(self, name: str, text: str) -> None:
        how = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        file = os.open(name, how, 0o600, dir_fd=self._descriptor)
        try:
            before = os.fstat(file).st_size
            try:
                # What is no UTF-8, as in the names of files, is escaped as in JSON.
                left = memoryview(text.encode("utf-8", "backslashreplace"))
                while left:
                    left = left[os.write(file, left) :]
            except OSError:
                os.ftruncate(
                    file, before
                )  # a part of a row, on a disk that is full, would spoil the next one
                raise
        finally:
            os.close(file)

    def note_calls(self, task: str, calls: Sequence[NamedCall], found: Collection[str]) -> None:
        """Take note of calls whose results are kept, before they are submitted.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        from scalable.results.history import CALLS_FILE, calls_row

        row = calls_row(task, [call.name for call in calls], found)
        self.append(CALLS_FILE, [row], redacted=False)

    def to_json(self) -> str:
        """Return the record as text, without the values that the manifest has from the environment."""
        shown = {
            # The document and the plan are unexpanded already; redacting a one-letter value would corrupt them.
            key: value if key in _NEVER_REDACTED else _map_text(value, self._redact)
            for key, value in self.document.items()
        }
        return json.dumps(shown, indent=2, ensure_ascii=False) + "\n"

    def _write(self) -> None:
        at = self._descriptor
        with suppress(FileNotFoundError):
            os.unlink("record.new", dir_fd=at)
        new = os.open("record.new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=at)
        with os.fdopen(new, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(self.to_json())
        os.replace("record.new", "record.json", src_dir_fd=at, dst_dir_fd=at)


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Within the block, let errors of the system that name no file name this: writes on a full disk, for instance."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or what
        raise


_INTERRUPTED = {128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}


def _end_status(exit_status: int) -> str:
    """Return how a run has ended: by itself, or because a signal asked it to.

    Examples
    --------
    >>> [_end_status(code) for code in (0, 1, 130)]
    ['finished', 'failed', 'interrupted']
    """
    if exit_status in _INTERRUPTED:
        return "interrupted"
    return "failed" if exit_status else "finished"


def event_as_json(event: Event) -> dict[str, Any]:
    """Return an event as JSON values."""
    when = datetime.fromtimestamp(event.time, UTC).isoformat(timespec="milliseconds")
    return {"time": when, "group": event.tag, "text": event.text}


def records_directory() -> Path:
    """Return the directory of records: ``SCALABLE_RUNS_DIR``, or ``.scalable/runs`` in the current directory."""
    named = os.environ.get("SCALABLE_RUNS_DIR")
    return expand_home(named) if named else RECORDS_DIRECTORY


def find_records(root: Path | None = None) -> list[Path]:
    """Return the directories of the runs that have a record, oldest first; empty if there are none.

    Raises
    ------
    OSError
        The directory of records cannot be read.
    """
    try:
        return sorted((root or records_directory()).iterdir())
    except FileNotFoundError:
        return []


def read_open_record(directory: Path) -> dict[str, Any] | None:
    """Return the record of a run that may have left something; None if it has removed everything.

    Raises
    ------
    OSError, ValueError
        As for `read_record`.
    """
    document = read_record(directory)
    if document is None or document.get("everything_removed") is True:
        return None
    return document


def read_record(directory: Path) -> dict[str, Any] | None:
    """Return the record of a run; None where there is none.

    Raises
    ------
    OSError
        The record cannot be read, or is another user's.
    ValueError
        It is not a record, or one that another version has written; the text says what is wrong.
    """
    stream = _open_file(directory, "record.json")
    if stream is None:  # nothing is started before the record is there
        return None
    with stream:
        try:
            document = json.load(stream)
        except (ValueError, RecursionError):
            raise ValueError("it is not a record of a run, or it was cut") from None
    if not isinstance(document, dict):
        raise ValueError("it is not a record of a run")
    if document.get("format", _FORMAT) != _FORMAT:
        raise ValueError(
            f"it has format {document['format']}, and this version of scalable-core reads {_FORMAT}; "
            "use the version that has written it, or a later one"
        )
    if fault := find_fault(document, RECORD):
        raise ValueError(f"it is not a record of a run: {fault}")
    return document


def read_rows(directory: Path, name: str) -> list[dict[str, Any]]:
    """Return the rows of a file of a record, such as ``tasks.jsonl``; without the last one, if it is not complete.

    Raises
    ------
    OSError
        The file cannot be read, or is another user's.
    ValueError
        It is not such a file.
    """
    stream = _open_file(directory, name)
    if stream is None:
        return []
    with stream:
        rows = [json.loads(line) for line in stream if line.endswith("\n")]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{name} is not a file of a record")
    return rows


def _open_file(directory: Path, name: str) -> TextIO | None:
    try:
        at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except NotADirectoryError:  # some other file, or a link
        return None
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
    except FileNotFoundError:
        return None
    finally:
        os.close(at)
    if os.fstat(file).st_uid != os.geteuid():
        os.close(file)
        message = "it belongs to another user"
        raise PermissionError(errno.EPERM, message, str(directory / name))
    return os.fdopen(file, encoding="utf-8")


def mark_removed(directory: Path) -> None:
    """Record that nothing is left of what a run had started.

    Parameters
    ----------
    directory : Path
        The directory of its record.

    Raises
    ------
    OSError, ValueError
        As for `read_record`; or it cannot be written.
    """
    document = read_record(directory)
    if document is None:
        return
    new = directory / "record.new"
    new.unlink(missing_ok=True)
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as stream:
        json.dump({**document, "everything_removed": True}, stream, indent=2, ensure_ascii=False)
        stream.write("\n")
    new.replace(directory / "record.json")


def recorded_spec(record: Mapping[str, Any]) -> DeploymentSpec:
    """Return the target of a recorded run, without components, and with ``${VAR}`` expanded as the environment is now.

    Raises
    ------
    ManifestError
        The target cannot be used now, for example because a variable is not set.
    ValueError
        It is not a record of a run.
    """
    from scalable.manifest.dotenv import environment_beside
    from scalable.manifest.parser import parse_manifest
    from scalable.providers.base import DeploymentSpec

    try:
        name, document = record["target"], record["manifest"]["document"]
        # An overlay has been merged already, and it may have been another one than the target's own.
        target = {key: each for key, each in document["targets"][name].items() if key != "overlay"}
        alone = {
            "version": document["version"],
            "project": document["project"],
            "targets": {name: target},
        }
    except (KeyError, TypeError, AttributeError):
        raise ValueError("it is not a record of a run") from None
    env = environment_beside(str(record["manifest"].get("path") or ""))
    manifest = parse_manifest(alone, env=env, target_name=name)
    return DeploymentSpec.from_manifest(manifest, target_name=name)


Redact = Callable[[str], str]
"""Replaces values that came from the environment by ``${VAR}``."""

_NEVER_REDACTED = frozenset(
    {
        *("format", "id", "started", "ended", "manifest", "plan", "versions", "packages"),
        *("resumes", "process"),
    }
)


def installed_versions() -> dict[str, str]:
    """Return the versions of Python, the platform, Dask, the core, and every distribution with a provider."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("dask", "distributed", "scalable-core"):
        versions[name] = metadata.version(name)
    # Not of all distributions, which would read the descriptions of hundreds.
    return dict(sorted({**versions, **provider_distributions()}.items()))


def _create_private(directory: Path) -> int:
    """Create a directory that only its owner can read, and return a descriptor of just that one."""
    for parent in reversed(directory.parents):
        if not parent.exists():
            parent.mkdir(mode=0o700)
    directory.mkdir(mode=0o700)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    if os.fstat(descriptor).st_uid != os.geteuid():
        os.close(descriptor)
        message = "another user has replaced it; start the run where only you can write"
        raise PermissionError(errno.EPERM, message, str(directory))
    return descriptor


def _may_change(rows: Iterable[Mapping[str, Any]], change: Redact) -> bool:
    """Return whether `change` changes a text of these rows: a look at all at once, as rows with secrets are rare.

    Examples
    --------
    >>> rows = [{"task": "f-1", "n": 1}, {"task": "f-2", "n": None}]
    >>> _may_change(rows, lambda text: text.replace("f-2", "g")), _may_change(rows, lambda text: text.replace("h", ""))
    (True, False)
    """
    values = [each for row in rows for each in row.values() if type(each) not in (float, int)]
    texts = [each for each in values if isinstance(each, str)]
    if len(texts) + values.count(None) < len(values):
        return True  # there are lists or mappings, with who knows what in them
    together = "\n".join(texts)
    return change(together) != together


def _map_text(value: Any, change: Redact) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _map_text(each, change) for key, each in value.items()}
    if isinstance(value, list):
        return [_map_text(each, change) for each in value]
    return value
