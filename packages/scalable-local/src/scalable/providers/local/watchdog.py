"""Watchdog process that terminates workers and models when the client dies, even by SIGKILL.

The watchdog is one small process in its own session (`termination` run as a program), and this is the client's end of
the pipe to it. The kernel closes the pipe when the client dies; the watchdog then terminates the workers that it was
told about, and all containers of the cluster.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from scalable.providers.local import termination

__all__ = ["Watchdog"]


class Watchdog:
    """Client's side of the watchdog process. Not thread-safe.

    Parameters
    ----------
    directory : Path
        The cluster's run directory: its processes carry it as their label, and it is removed after them when the
        client dies.
    label : str, optional
        The label, ``key=value``, of the cluster's containers.
    runtimes : sequence of str, optional
        Runtimes of its containers: ``podman``, ``docker``.

    Raises
    ------
    OSError
        The process cannot be started.
    """

    def __init__(self, directory: Path, *, label: str = "", runtimes: Sequence[str] = ()) -> None:
        self._arguments = (str(directory), str(os.getpid()), label, *runtimes)
        self._watched: dict[int, str] = {}
        self._process = self._start()

    def watch(self, pid: int, started: str) -> None:
        """Add a worker, whose process tree is terminated when the client dies."""
        self._watched[pid] = started
        self._send(f"+{pid} {started}")

    def release(self, pid: int) -> None:
        """Remove a worker that has ended."""
        if self._watched.pop(pid, None) is not None:
            self._send(f"-{pid}")

    def close(self) -> None:
        """Stop the watchdog. Idempotent."""
        with suppress(BrokenPipeError):  # it has ended already
            self._write("quit")
        self._close_process()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", termination.__file__, *self._arguments],
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
        except BrokenPipeError:  # the watchdog was killed: tell a new one everything
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
