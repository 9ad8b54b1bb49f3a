"""The ledger of a run: what it is about to make, on disk before it is made, so that a killed run can be cleared up.

A line of JSON for each event, in ``ledger.jsonl`` of the run's record:

==========  ==========================================================================
`run`       the run id that everything native will carry, and the process that runs it
`launch`    units that are about to be requested
`units`     the units that were made, by their native names
`gone`      units that have ended
==========  ==========================================================================

No Dask, and no secrets: only ids, tags and counts.
"""

from __future__ import annotations

import json
import os
import platform
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalable.cluster.port import Unit

__all__ = [
    "FILE",
    "Ledger",
    "RunLedger",
    "current_ledger",
    "ledger_in",
    "new_run_id",
    "process_lives",
    "read_ledger",
    "this_process",
]

FILE = "ledger.jsonl"
"""The file in the directory of a run's record."""


class Ledger:
    """Writes the ledger of one run.

    Parameters
    ----------
    directory : Path or None
        The directory of the run's record; without one, nothing is written.
    """

    def __init__(self, directory: Path | None) -> None:
        self._path = None if directory is None else directory / FILE

    def begin(self, run_id: str) -> None:
        """Record that a run is about to make something that carries this id; on disk when it returns.

        Raises
        ------
        OSError
            It cannot be written.
        """
        self._write({"event": "run", "run_id": run_id, **this_process()}, durable=True)

    def launch(self, tag: str, n: int, request_id: str) -> None:
        """Record that units are about to be requested.

        Raises
        ------
        OSError
            It cannot be written.
        """
        self._write({"event": "launch", "group": tag, "n": n, "request": request_id})

    def made(self, units: Iterable[Unit]) -> None:
        """Record the units that were made.

        Raises
        ------
        OSError
            It cannot be written.
        """
        if names := {unit.id: unit.native for unit in units}:
            self._write({"event": "units", "units": names})

    def gone(self, unit_ids: Iterable[str]) -> None:
        """Record that units have ended.

        Raises
        ------
        OSError
            It cannot be written.
        """
        if names := list(unit_ids):
            self._write({"event": "gone", "units": names})

    def _write(self, event: Mapping[str, Any], *, durable: bool = False) -> None:
        if self._path is None:
            return
        how = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        file = os.open(self._path, how, 0o600)
        try:
            # One call, so that a process that is killed leaves no part of a line.
            os.write(file, f"{json.dumps({'time': time.time(), **event})}\n".encode())
            if durable:
                os.fsync(file)
        finally:
            os.close(file)
        if durable:
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)


_current: ContextVar[Ledger] = ContextVar("scalable_ledger")


@contextmanager
def ledger_in(directory: Path | None) -> Iterator[None]:
    """Keep the ledger of a cluster that is built in this block in a directory."""
    token = _current.set(Ledger(directory))
    try:
        yield
    finally:
        _current.reset(token)


def current_ledger() -> Ledger:
    """Return the ledger of the enclosing `ledger_in`, or one that writes nothing."""
    return _current.get(None) or Ledger(None)


def new_run_id(prefix: str, length: int = 8) -> str:
    """Return a new run id, which is in the ledger already. A provider makes nothing before it has one.

    Parameters
    ----------
    prefix : str
        What it begins with.
    length : int
        Hexadecimal digits behind that.

    Raises
    ------
    OSError
        The ledger cannot be written, so nothing must be made.
    """
    run_id = f"{prefix}-{uuid.uuid4().hex[:length]}"
    current_ledger().begin(run_id)
    return run_id


@dataclass(frozen=True)
class RunLedger:
    """What the ledger of a run says.

    Parameters
    ----------
    run_ids : frozenset of str
        What its native things carry.
    lives : bool or None
        Whether the process of the run lives; None if it is on another machine.
    launched : int
        Units that were requested.
    units : mapping of str to str
        The native names of those that were made, and are not known to have ended, by id.
    """

    run_ids: frozenset[str]
    lives: bool | None
    launched: int
    units: Mapping[str, str]


def read_ledger(directory: Path) -> RunLedger | None:
    """Return what the ledger of a run says; None if the run was never about to make anything.

    Raises
    ------
    OSError
        It cannot be read.
    """
    try:
        file = os.open(directory / FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(file, encoding="utf-8", errors="replace") as stream:
        lines = stream.read().splitlines()
    run_ids: set[str] = set()
    lives: list[bool | None] = []
    launched = 0
    units: dict[str, str] = {}
    for event in _events(lines):
        match event:
            case {"event": "run", "run_id": str(run_id)}:
                run_ids.add(run_id)
                lives.append(process_lives(event))
            case {"event": "launch", "n": int(n)}:
                launched += n
            case {"event": "units", "units": dict(made)}:
                units |= made
            case {"event": "gone", "units": list(ended)}:
                units = {name: native for name, native in units.items() if name not in ended}
    if not run_ids:
        return None
    known = True if True in lives else None if None in lives else False
    return RunLedger(frozenset(run_ids), known, launched, units)


def _events(lines: Iterable[str]) -> Iterator[Any]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:  # the disk was full, or its machine failed, while it was written
            continue


# -- Processes


def this_process() -> dict[str, Any]:
    """Return what tells this process from every other one, also after the clock was set."""
    pid = os.getpid()
    return {
        "pid": pid,
        "started": _start_of(pid),
        "host": platform.node(),
        "boot": _boot(),
        "namespace": _namespace(),
    }


def process_lives(event: Mapping[str, Any]) -> bool | None:
    """Return whether a process lives, by what `this_process` was there; None if it is on another machine.

    A container with the name of its host counts as another machine, because its processes have other numbers.
    """
    namespace = _namespace()
    if event.get("host") != platform.node() or event.get("namespace", namespace) != namespace:
        return None
    pid = event.get("pid")
    if not isinstance(pid, int) or pid <= 0 or event.get("boot") != _boot():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's: the number was given again
        return False
    return event.get("started") == _start_of(pid)


def _start_of(pid: int) -> int | None:
    """Return when a process was started, in ticks since the boot; None where that is not known, or it is a zombie."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else int(fields[18])


def _namespace() -> str:
    """Return what gives processes their numbers: this machine, or this container; empty where that is not known."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _boot() -> str:
    """Return the id of the machine's present boot; empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
