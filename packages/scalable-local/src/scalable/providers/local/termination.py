"""Which processes belong to a worker, and how to terminate all of them.

A worker is the leader of a session. What it starts (model binaries, MPI launchers and their ranks) may create its own
sessions, and outlive the worker. A worker's *tree* is therefore everything in its session, all descendants of these,
and, where the kernel shows environments, everything that carries its label.

Containers of Podman and Docker are not part of a tree: their runtimes remove them, by label.

Run as a program, this file is the watchdog of one client: it terminates the trees of a client that has died, however
that happened. It needs only the standard library, because it is run by its path and without site-packages, which takes
30 ms and 13 MB.
"""

# Most of its time goes to /proc, where Path would take twice as long.
# ruff: noqa: PTH123, PTH208

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from typing import NamedTuple

__all__ = [
    "LABEL",
    "Process",
    "end_containers",
    "list_processes",
    "process_trees",
    "remove_containers",
    "start_time",
    "terminate",
]

LABEL = "SCALABLE_WORKER"
"""Environment variable of all processes of a worker: the worker's directory, below its cluster's."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Process(NamedTuple):
    """One living process.

    Parameters
    ----------
    pid, parent, session : int
        Ids of the process, of its parent and of its session.
    started : str
        Start time, in a form that is only good for comparison: a pid that is used again has another one.
    rss : int
        Resident memory in bytes.
    name : str
        Name of its executable.
    """

    pid: int
    parent: int
    session: int
    started: str
    rss: int
    name: str


def list_processes() -> dict[int, Process]:
    """Return the living processes of this machine by pid, without zombies."""
    found = _from_proc() if sys.platform == "linux" else _from_ps()
    return {process.pid: process for process in found}


def start_time(pid: int) -> str | None:
    """Return the start time of the process `pid` (see `Process.started`); None where it has ended."""
    process = _read_stat(pid) if sys.platform == "linux" else list_processes().get(pid)
    return process.started if process else None


def _from_proc() -> Iterator[Process]:
    for name in os.listdir("/proc"):
        if name.isdecimal() and (process := _read_stat(int(name))):
            yield process


def _read_stat(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            return _parse_stat(file.read())
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or hidden by hidepid
        return None


def _parse_stat(line: str) -> Process | None:
    """Parse one /proc/<pid>/stat, see proc_pid_stat(5).

    Examples
    --------
    >>> _parse_stat("42 (a) b) S 1 42 40 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 987 0 0 0")
    Process(pid=42, parent=1, session=40, started='987', rss=0, name='a) b')
    >>> _parse_stat("43 (sh) Z 1 42 40 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 987 0 0 0")
    """
    # The name is in parentheses and may contain any character, including parentheses.
    head, _, tail = line.rpartition(")")
    pid, _, name = head.partition(" (")
    state, parent, _group, session, *rest = tail.split()
    if state in "ZX":
        return None
    started, rss = rest[15], int(rest[17]) * _PAGE
    return Process(int(pid), int(parent), int(session), started, rss, name)


def _from_ps() -> Iterator[Process]:
    listing = subprocess.run(
        ["/bin/ps", "-A", "-o", "pid=,ppid=,stat=,rss=,lstart=,comm="],
        env={"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=30,
    ).stdout.decode(errors="replace")
    for line in listing.splitlines():
        pid, parent, state, kilobytes, *started, name = line.split(None, 9)
        try:
            session = os.getsid(int(pid))  # macOS's ps prints an address for it
        except OSError:
            continue
        if not state.startswith("Z"):
            yield Process(
                int(pid), int(parent), session, " ".join(started), int(kilobytes) * 1024, name
            )


def process_trees(
    roots: Mapping[int, str], table: Mapping[int, Process]
) -> dict[int, set[Process]]:
    """Return the processes of each root: those of its session, and all descendants of these.

    Parameters
    ----------
    roots : mapping of int to str
        Start time (see `Process.started`) of each session leader, by pid. It may have ended already.
    table : mapping of int to Process
        The result of `list_processes`.

    Examples
    --------
    >>> worker = Process(10, 1, 10, "t1", 0, "worker")
    >>> mpirun = Process(11, 10, 11, "t2", 0, "mpirun")  # in a session of its own
    >>> rank = Process(12, 11, 11, "t3", 0, "rank")
    >>> other = Process(20, 1, 20, "t4", 0, "other")
    >>> table = {p.pid: p for p in (worker, mpirun, rank, other)}
    >>> sorted(p.name for p in process_trees({10: "t1"}, table)[10])
    ['mpirun', 'rank', 'worker']
    >>> process_trees({20: "another start"}, table)  # the pid is another process's by now
    {20: set()}
    """
    children: dict[int, list[Process]] = {}
    sessions: dict[int, list[Process]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process)
        sessions.setdefault(process.session, []).append(process)
    found: dict[int, set[Process]] = {}
    for root, started in roots.items():
        leader = table.get(root)
        reused = leader is not None and leader.started != started
        todo = [] if reused else sessions.get(root, [])[:]
        tree: set[Process] = set()
        while todo:
            process = todo.pop()
            if process not in tree:
                tree.add(process)
                todo += children.get(process.pid, ())
        found[root] = tree
    return found


def _find_labelled(labels: Collection[str], table: Mapping[int, Process]) -> Iterator[Process]:
    """Find the processes with one of `labels`, or one below it, where /proc shows environments."""
    wanted = [f"\0{LABEL}={label}{end}".encode() for label in labels for end in "\0/"]
    for process in table.values() if wanted else ():
        try:
            with open(f"/proc/{process.pid}/environ", "rb") as file:
                variables = b"\0%b\0" % file.read()
        except OSError:  # it has ended, is another user's, or there is no /proc
            continue
        if any(each in variables for each in wanted):
            yield process


def terminate(
    roots: Mapping[int, str], *, grace_period: float, labels: Collection[str] = ()
) -> list[Process]:
    """Terminate whole trees: SIGTERM to each root, then to the rest of its tree, then SIGKILL.

    A root comes first, so that a worker has ended before its model does: a task whose model dies would be reported as
    failed, whereas a task on a worker that is gone is run again elsewhere.

    Parameters
    ----------
    roots : mapping of int to str
        As for `process_trees`.
    grace_period : float
        Seconds from SIGTERM to SIGKILL; 0 kills at once.
    labels : collection of str, optional
        Everything that carries one of these labels (see `LABEL`), or a path below one, is terminated, too.

    Returns
    -------
    list of Process
        Processes that SIGKILL has not ended within five seconds.
    """
    trees = _Trees(roots, labels)
    if grace_period > 0:
        _signal_until_gone(trees, signal.SIGTERM, grace_period * 2 / 3, trees.is_root)
        _signal_until_gone(
            trees, signal.SIGTERM, grace_period / 3, lambda process: not trees.is_root(process)
        )
    return _signal_until_gone(trees, signal.SIGKILL, 5.0, lambda process: True)


class _Trees:
    """The living processes of some trees, and of what carries a label: see `terminate`."""

    def __init__(self, roots: Mapping[int, str], labels: Collection[str]) -> None:
        self._roots = roots
        self._labels = labels
        self._seen: set[tuple[int, str]] = set()
        self.living: list[Process] = []
        """As of the last look, roots first."""
        self.look()

    def is_root(self, process: Process) -> bool:
        """Return whether this is one of the roots."""
        return self._roots.get(process.pid) == process.started

    def look(self) -> None:
        """Look at all processes of this machine. Who was a member once stays one, also when its parent has ended."""
        table = list_processes()
        trees = process_trees(self._roots, table).values()
        members = chain(_find_labelled(self._labels, table), *trees)
        self._seen.update((process.pid, process.started) for process in members)
        found = [p for p in table.values() if (p.pid, p.started) in self._seen]
        self.living = sorted(found, key=self.is_root, reverse=True)


_BETWEEN_LOOKS = 1.0
"""Seconds between two looks at all processes, of which a login node has thousands, while known ones end."""


def _signal_until_gone(
    trees: _Trees, signum: signal.Signals, seconds: float, selected: Callable[[Process], bool]
) -> list[Process]:
    """Send a signal to each selected process of the trees, and return those that `seconds` have not ended."""
    signalled: set[tuple[int, str]] = set()
    deadline = time.monotonic() + seconds
    while remaining := [process for process in trees.living if selected(process)]:
        for process in remaining:
            if (process.pid, process.started) not in signalled:
                signalled.add((process.pid, process.started))
                # PermissionError: it has changed its user, and will be reported as left over.
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, signum)
        if time.monotonic() >= deadline:
            break
        _wait_until_gone(remaining, min(deadline, time.monotonic() + _BETWEEN_LOOKS))
        trees.look()
    return remaining


def _wait_until_gone(processes: Iterable[Process], deadline: float) -> None:
    """Wait until none of these processes lives, or until `deadline` on the monotonic clock."""
    pause = 0.01
    while processes := [each for each in processes if start_time(each.pid) == each.started]:
        left = deadline - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(pause, left))
        pause = min(2 * pause, 0.2)


def end_containers(runtime: str, label: str, *, timeout: float = 20.0) -> str:
    """Stop and remove all containers that carry a label.

    Parameters
    ----------
    runtime : str
        ``podman`` or ``docker``.
    label : str
        ``key=value``.
    timeout : float
        Seconds after which containers that still exist are left.

    Returns
    -------
    str
        Empty, or the runtime's message about why some are left.
    """
    listing = [runtime, "ps", "--all", "--quiet", "--no-trunc", f"--filter=label={label}"]
    deadline, problem = time.monotonic() + timeout, ""
    try:
        while found := _output(listing).split():
            if time.monotonic() >= deadline:
                return problem or "they come back"
            try:
                remove_containers(runtime, found)
            except subprocess.CalledProcessError as error:
                problem = error.stderr.strip()
                time.sleep(0.2)  # a container cannot be removed while it is being started
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return ""


def remove_containers(runtime: str, names: Iterable[str]) -> None:
    """Stop and remove containers, by name or id.

    Raises
    ------
    subprocess.CalledProcessError
        Some could not be removed; `stderr` has the runtime's message.
    OSError, subprocess.TimeoutExpired
        The runtime cannot be run, or does not answer.
    """
    _output([runtime, "rm", "--force", *names])


def _output(argv: list[str]) -> str:
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=60,
        text=True,
        errors="replace",
    )
    return done.stdout


def _watch_client(directory: str, client: int, label: str, runtimes: Iterable[str]) -> None:
    """Wait until the client quits or dies; if it dies, terminate what it left and remove `directory`.

    The client writes lines to standard input: ``+pid started`` and ``-pid`` for each worker, and ``quit``.
    """
    # A signal to the client's whole process group must not stop its watchdog first.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    watched: dict[int, str] = {}
    unread = b""
    # A fork of the client would hold the pipe open after the client's death, so the parent is checked as well.
    while os.getppid() == client:
        readable, _, _ = select.select([0], [], [], 1.0)
        if not readable:
            continue
        if not (chunk := os.read(0, 65536)):
            break
        *lines, unread = (unread + chunk).split(b"\n")
        for line in lines:
            command, _, started = line.decode().partition(" ")
            if command == "quit":
                return
            if command.startswith("+"):
                watched[int(command[1:])] = started
            else:
                watched.pop(int(command[1:]), None)
    terminate(watched, grace_period=2.0, labels=[directory])
    for runtime in runtimes:
        end_containers(runtime, label)
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    _watch_client(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:])
