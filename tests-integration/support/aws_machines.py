"""The processes of tasks and instances: started, watched and ended by a child that no process of them outlives.

The child is this file run as a program. It reads orders, one a line, and writes what has happened. When its standard
input is closed, which is also how it learns that its parent was killed, it kills all of them and ends. Nothing polls.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

CONTAINER = "SCALABLE_TESTS_CONTAINER"
"""The variable that all processes of a container have, and nothing else."""


class Machines:
    """Starts and ends processes, each with those that it has started itself.

    Parameters
    ----------
    on_exit : callable
        Is called with the key and the exit status of each that ends: that of a signal is 128 and its number, as a
        shell has it.
    """

    def __init__(self, on_exit: Callable[[str, int], None]) -> None:
        self._on_exit = on_exit
        self._lock = threading.Lock()
        self._alive: set[str] = set()
        self._child = subprocess.Popen(
            [sys.executable, "-I", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C at a terminal is for the tests
        )
        self._reader = threading.Thread(target=self._read, name="machines", daemon=True)
        self._reader.start()

    @property
    def alive(self) -> Sequence[str]:
        """Return the keys of the processes that run."""
        with self._lock:
            return sorted(self._alive)

    def start(
        self, key: str, argv: Sequence[str], env: Mapping[str, str], directory: Path, log: Path
    ) -> None:
        """Start a process with this environment alone; its output goes to a file."""
        with self._lock:
            self._alive.add(key)
        self._order(
            do="start", key=key, argv=[*argv], env={**env}, directory=f"{directory}", log=f"{log}"
        )

    def stop(self, key: str, grace: float, *, whole: bool = False) -> None:
        """Send a process SIGTERM, and SIGKILL after `grace` seconds, to it and all that it has started.

        Parameters
        ----------
        key : str
            The process.
        grace : float
            Seconds.
        whole : bool
            Whether all that it has started get SIGTERM, too: so does a system that shuts down. Of a container, which is
            what has `CONTAINER` in its environment, the first process alone gets it.
        """
        self._order(do="stop", key=key, grace=grace, whole=whole)

    def close(self) -> None:
        """Kill all that run, and return when they have ended."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with contextlib.suppress(OSError):
            self._child.stdin.close()
        self._child.wait()
        self._reader.join()
        self._child.stdout.close()

    def _order(self, **order: Any) -> None:
        assert self._child.stdin is not None
        with self._lock:
            self._child.stdin.write(json.dumps(order) + "\n")
            self._child.stdin.flush()

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            key, status = json.loads(line)
            with self._lock:
                self._alive.discard(key)
            self._on_exit(key, status)


class _Room:
    """What runs in the child."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def main(self) -> None:
        """Follow orders until there can be no more."""
        for line in sys.stdin:
            order = json.loads(line)
            getattr(self, order.pop("do"))(**order)
        for process in [*self._processes.values()]:
            _signal(process, signal.SIGKILL)

    def start(
        self, key: str, argv: Sequence[str], env: Mapping[str, str], directory: str, log: str
    ) -> None:
        """Start a process in a session of its own."""
        with Path(log).open("ab") as output:
            try:
                process = subprocess.Popen(
                    argv,
                    env=env,
                    cwd=directory,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                output.write(f"exec: {error}\n".encode())
                self._tell(key, 127)
                return
        self._processes[key] = process
        threading.Thread(target=self._watch, args=(key, process), daemon=True).start()

    def stop(self, key: str, grace: float, whole: bool) -> None:
        """End a process, unless it has ended."""
        if (process := self._processes.get(key)) is not None:
            if not grace:
                _signal(process, signal.SIGKILL)
            elif whole:
                _shut_down(process.pid)
            else:
                process.terminate()
            threading.Thread(target=_kill_after, args=(process, grace), daemon=True).start()

    def _watch(self, key: str, process: subprocess.Popen[bytes]) -> None:
        status = process.wait()
        with contextlib.suppress(ProcessLookupError):  # what it has started ends with its container
            os.killpg(process.pid, signal.SIGKILL)
        self._processes.pop(key, None)
        self._tell(key, status if status >= 0 else 128 - status)

    def _tell(self, key: str, status: int) -> None:
        with self._lock, contextlib.suppress(BrokenPipeError):
            print(json.dumps([key, status]), flush=True)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if process.returncode is None:
            os.killpg(process.pid, number)


def _shut_down(group: int) -> None:
    """Send SIGTERM to all processes of a group but those that a container's first process has started."""
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # proc(5): what follows the name of the program begins with state, parent and group.
            _, parent, of = (each / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and not _is_in_container(Path("/proc", parent)):
                os.kill(int(each.name), signal.SIGTERM)


def _is_in_container(process: Path) -> bool:
    return any(
        variable.startswith(f"{CONTAINER}=".encode())
        for variable in (process / "environ").read_bytes().split(b"\0")
    )


def _kill_after(process: subprocess.Popen[bytes], grace: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    _signal(process, signal.SIGKILL)


if __name__ == "__main__":
    _Room().main()
