"""Whether the client of a run lives, as others see it on the file system that they share."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

__all__ = ["FILE", "Presence", "dead_runs"]

FILE = "client"
"""The name of the file in a run's directory."""

_INTERVAL = 20.0
"""Seconds between two touches of it."""

_STALE = 3600.0
"""Seconds without a touch after which a client on another machine counts as dead; one that is suspended is not."""


class Presence:
    """Touches a file for as long as this process lives and runs; others judge by its age, or by the process it names.

    Parameters
    ----------
    directory : Path
        The run's directory.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        with os.fdopen(
            os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w"
        ) as file:
            file.write(f"{os.getpid()} {_started(os.getpid())} {_processes()}\n")
        self._stopped = threading.Event()
        threading.Thread(target=self._touch, name=f"{directory.name}/presence", daemon=True).start()

    def _touch(self) -> None:
        while not self._stopped.wait(_INTERVAL):
            with contextlib.suppress(OSError):  # of a file system that is away
                os.utime(self._path)

    def stop(self) -> None:
        """Stop touching the file. Idempotent."""
        self._stopped.set()


def dead_runs(logs: Path, now: float) -> Iterator[Path]:
    """Yield the directories of runs that have keys, although their clients have died.

    Parameters
    ----------
    logs : Path
        Where runs have their directories.
    now : float
        The time by the clock of that file system, as of a file that was just written.
    """
    for keys in sorted(logs.glob("*/tls")):
        try:
            text, changed = _read_own(keys.parent / FILE)
            age = now - changed
        except OSError:  # it ends at this moment, or is not ours
            continue
        if _is_dead(text, age):
            yield keys.parent


def _read_own(path: Path) -> tuple[str, float]:
    """Return the text of a file of this user, and when it was changed.

    Raises
    ------
    OSError
        It is another user's, a link, or no file: whoever can write in the directory of all runs could make this wait
        for a pipe.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        facts = os.fstat(file.fileno())
        if facts.st_uid != os.geteuid() or not stat.S_ISREG(facts.st_mode):
            raise PermissionError(errno.EPERM, "it is not a file of this user", str(path))
        return file.read(1000).decode(errors="replace"), facts.st_mtime


def _is_dead(text: str, age: float) -> bool:
    pid, started, processes = (*text.split(), "", "", "")[:3]
    if processes == _processes() and pid.isdigit():
        return _started(int(pid)) != started
    return age > _STALE


def _started(pid: int) -> str:
    """Return when a process has started, in ticks since boot; empty where there is none."""
    try:
        # After the name of the program, which may hold anything; the 22nd field of all.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _processes() -> str:
    """Return what identifies the processes that this one sees: this boot of this machine, and this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"unknown/{os.uname().nodename}/{os.getpid()}"
