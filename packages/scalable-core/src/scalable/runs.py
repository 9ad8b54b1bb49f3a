"""Records of runs: what ran, where, with which versions, and how it ended.

A run has a directory ``.scalable/runs/<id>/`` in the current directory, and in it ``record.json``. Only their owner
can read them. A record shows ``${VAR}`` in the place of each value that the manifest has from the environment.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import secrets
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from scalable.cluster import Event
    from scalable.planning import Plan
    from scalable.session import ScalableSession

__all__ = ["RECORDS_DIRECTORY", "RunRecord", "installed_versions"]

RECORDS_DIRECTORY = Path(".scalable") / "runs"
"""The directory of records, relative to the current directory."""

_FORMAT = 1


class RunRecord:
    """The record of one run, written when the run begins and again when it has ended.

    If a record's status is ``running`` and its process no longer exists, the process was killed.

    Attributes
    ----------
    directory : Path
        The run's own directory, readable by its owner only.
    document : dict
        The record, as JSON values.
    """

    def __init__(
        self, directory: Path, descriptor: int, document: dict[str, Any], redact: Redact
    ) -> None:
        self.directory, self.document = directory, document
        self._redact = redact
        # The path may lead elsewhere later, where others can write to a directory above it.
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    @classmethod
    def begin(
        cls,
        session: ScalableSession,
        plan: Plan,
        *,
        workflow: Path,
        arguments: Sequence[str],
        root: Path = RECORDS_DIRECTORY,
    ) -> Self:
        """Create the run's directory and write the record of a run that begins.

        Parameters
        ----------
        session : ScalableSession
            The session of the run.
        plan : Plan
            What the session will start.
        workflow : Path
            The script.
        arguments : sequence of str
            Its command-line arguments.
        root : Path
            The directory of records.

        Raises
        ------
        OSError
            The record cannot be written, the script cannot be read, or another user has taken the run's directory.
        """
        now = datetime.now(UTC)
        run_id = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        document = {
            "format": _FORMAT,
            "id": run_id,
            "status": "running",
            "started": now.isoformat(timespec="seconds"),
            "ended": None,
            "exit_status": None,
            "error": None,
            "target": plan.target,
            "provider": plan.provider,
            "manifest": {
                "path": session.manifest.source,
                "lock": plan.manifest_lock,
                "document": session.spec.raw_manifest,
            },
            "plan": json.loads(plan.to_json()),
            "workflow": {
                "path": str(workflow),
                "sha256": hashlib.sha256(workflow.read_bytes()).hexdigest(),
                "arguments": list(arguments),
            },
            "versions": installed_versions(),
            "events": [],
        }
        directory = root / run_id
        descriptor = _create_private(directory)
        record = cls(directory, descriptor, document, session.manifest.redact)
        record._write()
        return record

    def end(
        self, exit_status: int, *, error: str | None = None, events: Iterable[Event] = ()
    ) -> None:
        """Write how the run ended.

        Parameters
        ----------
        exit_status : int
            The exit status of the run.
        error : str, optional
            The error that ended it.
        events : iterable of Event
            What happened to its worker groups.

        Raises
        ------
        OSError
            The record cannot be written.
        """
        self.document |= {
            "status": "failed" if exit_status else "finished",
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "exit_status": exit_status,
            "error": error,
            "events": [
                {
                    "time": datetime.fromtimestamp(event.time, UTC).isoformat(
                        timespec="milliseconds"
                    ),
                    "group": event.tag,
                    "text": event.text,
                }
                for event in events
            ],
        }
        self._write()

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
        with os.fdopen(new, "w", encoding="utf-8") as stream:
            stream.write(self.to_json())
        os.replace("record.new", "record.json", src_dir_fd=at, dst_dir_fd=at)


Redact = Callable[[str], str]
"""Replaces values that came from the environment by ``${VAR}``."""

_NEVER_REDACTED = frozenset({"format", "id", "started", "ended", "manifest", "plan", "versions"})


def installed_versions() -> dict[str, str]:
    """Return the versions of Python, the platform, Dask, and every distribution of Scalable's namespace."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for distribution in metadata.distributions():
        name = distribution.name.lower()
        if name in ("dask", "distributed") or name.startswith("scalable-"):
            versions[name] = distribution.version
    return dict(sorted(versions.items()))


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


def _map_text(value: Any, change: Redact) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _map_text(each, change) for key, each in value.items()}
    if isinstance(value, list):
        return [_map_text(each, change) for each in value]
    return value
