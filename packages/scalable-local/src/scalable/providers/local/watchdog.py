"""A watchdog, so that not even a SIGKILL of the client leaves a worker or a model behind.

The watchdog is one small process in a session of its own (`reaper` run as a program), and this is the client's end of
the pipe to it. The kernel closes the pipe when the client dies; the watchdog then ends what it was told about, and all
containers of the cluster.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from scalable.providers.local import reaper

__all__ = ["Watchdog"]


class Watchdog:
    """Tell a watchdog which workers there are. Not thread-safe.

    Parameters
    ----------
    directory : Path
        The cluster's run directory: its processes carry it as their label, and if the client vanishes it is removed
        after them.
    label : str, optional
        The label, ``key=value``, of the cluster's containers.
    runtimes : sequence of str, optional
        What runs its containers, ``podman`` or ``docker``.

    Raises
    ------
    OSError
        No process can be started.
    """

    def __init__(self, directory: Path, *, label: str = "", runtimes: Sequence[str] = ()) -> None:
        self._arguments = (str(directory), str(os.getpid()), label, *runtimes)
        self._watched: dict[int, str] = {}
        self._process = self._start()

    def watch(self, pid: int, started: str) -> None:
        """Have the tree of a worker ended if the client vanishes."""
        self._watched[pid] = started
        self._send(f"+{pid} {started}")

    def release(self, pid: int) -> None:
        """Forget a worker that has ended."""
        if self._watched.pop(pid, None) is not None:
            self._send(f"-{pid}")

    def close(self) -> None:
        """Send the watchdog home. Idempotent."""
        with suppress(BrokenPipeError):  # it is gone already
            self._write("quit")
        self._close_process()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", reaper.__file__, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            start_new_session=True,
        )

    def _send(self, line: str) -> None:
        try:
            self._write(line)
        except BrokenPipeError:  # somebody killed the watchdog: the next one learns everything anew
            self._close_process()
            self._process = self._start()
            for pid, started in self._watched.items():
                self._write(f"+{pid} {started}")

    def _write(self, line: str) -> None:
        pipe = self._process.stdin
        if pipe is not None and not pipe.closed:
            pipe.write(f"{line}\n".encode())

    def _close_process(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
