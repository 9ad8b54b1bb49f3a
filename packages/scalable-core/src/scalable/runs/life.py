"""Whether a run lives, as far as this machine can know.

A run of this machine does as long as its process does. That of another machine, which shares the directory of records,
shows by the time of its ``record.json``, which it touches while it lives, that it did then. That it was not heard of
for a while does not mean that it has ended: its machine or the file system may be away, or it is suspended.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scalable.cluster.ledger import process_lives, this_process

__all__ = ["RunState", "run_state"]

_RECENT = 60.0
"""Seconds since the last sign of life in which a run of another machine counts as running: several of its touches."""


@dataclass(frozen=True)
class RunState:
    """What is known of a run.

    Parameters
    ----------
    status : str
        What its record says: ``running``, ``finished``, ``failed`` or ``interrupted``.
    lives : bool or None
        Whether its process lives; None if that is not known, because it is on another machine.
    host : str
        That machine; empty for this one.
    heard : str
        When that was last heard of, in words.
    """

    status: str
    lives: bool | None
    host: str = ""
    heard: str = ""

    @property
    def text(self) -> str:
        """What is known, in a few words.

        Examples
        --------
        >>> RunState("finished", False).text, RunState("running", False).text
        ('finished', 'killed')
        >>> RunState("running", True, "login2", "last heard 3 s ago").text
        'running on login2, last heard 3 s ago'
        >>> RunState("running", None, "login2", "not heard of since 2026-11-29T10:00:00+00:00").text
        'on login2, not heard of since 2026-11-29T10:00:00+00:00'
        """
        if self.host:
            return f"{'running ' if self.lives else ''}on {self.host}, {self.heard}"
        return "killed" if self.status == "running" and not self.lives else self.status


def run_state(record: Mapping[str, Any], directory: Path) -> RunState:
    """Return what is known of a run.

    Parameters
    ----------
    record : mapping
        Its record.
    directory : Path
        The directory of that.
    """
    status = str(record.get("status"))
    if status != "running":
        return RunState(status, False)
    process = record.get("process") or {}
    identity = process.get("identity") or {}
    lives = process_lives(identity or process)
    if lives is not None and identity.get("started") is None:
        lives = _lives_by_clock(process)  # where the system does not tell more
    if lives is not None and identity.get("boot") in (this_process()["boot"], None):
        return RunState(status, lives)
    host = str(process.get("host"))
    age, when = _last_touch(directory)
    if age is not None and abs(age) <= _RECENT:
        return RunState(status, True, host, f"last heard {max(0, round(age))} s ago")
    if lives is not None:
        # Of this machine before it was started again: no other one of its name is heard of.
        return RunState(status, lives)
    heard = "last heard at" if age is None else "not heard of since"
    return RunState(status, None, host, f"{heard} {when}")


def _lives_by_clock(process: Mapping[str, Any]) -> bool:
    """Return whether a process lives, by its start in seconds since the epoch, which changes with the clock."""
    import psutil

    try:
        found = psutil.Process(int(process["pid"]))
        started = found.create_time()
        if found.status() == psutil.STATUS_ZOMBIE:
            return False
    except psutil.Error:
        return False
    return abs(started - float(process["started"])) < 1


def _last_touch(directory: Path) -> tuple[float | None, str]:
    """Return how many seconds ago a record was last touched, None if that cannot be told, and when that was.

    Both times are those of the file system: clocks of machines differ. The record is opened, because only then does a
    network file system ask its server.
    """
    try:
        with (directory / "record.json").open("rb") as record:
            touched = os.fstat(record.fileno()).st_mtime
    except OSError:  # it has just been removed
        return None, "an unknown time"
    when = datetime.fromtimestamp(touched, UTC).isoformat(timespec="seconds")
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            os.utime(file.fileno())  # as the run touches its record
            return os.fstat(file.fileno()).st_mtime - touched, when
    except OSError:  # nothing can be written there
        return None, when
