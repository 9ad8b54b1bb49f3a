"""How other processes of the same user reach a running session: a Unix socket in the directory of its record.

A request is a line of JSON, and so is the answer. The directory and the socket are their owner's alone, and each side
checks the other's user, so that whoever is answered may have the keys of the cluster. Those are in no file.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import socketserver
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scalable.errors import SessionError, describe_error
from scalable.runs import (
    find_records,
    read_record,
    records_directory,
    run_state,
)

__all__ = ["LOG", "SOCKET", "ask", "find_managed", "managed_runs", "served_at"]

SOCKET = "control.socket"
"""The file in the directory of a run's record."""

LOG = "manager.log"
"""What the manager of a run has printed since it left its terminal, in the same directory."""

_TIMEOUT = 60.0
_MAX_LINE = 1_000_000

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Returns the answer to a request, or raises."""


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, address: str, answer: Answer) -> None:
        self.answer = answer
        super().__init__(address, _Handler)


class _Handler(socketserver.StreamRequestHandler):
    timeout = _TIMEOUT
    server: _Server

    def handle(self) -> None:
        if _user_at(self.request) != os.geteuid():
            return
        try:
            request = json.loads(self.rfile.readline(_MAX_LINE))
            answer = {"ok": True, **self.server.answer(request)}
        except Exception as error:  # noqa: BLE001 - told to who asked
            answer = {"ok": False, "error": str(error) or describe_error(error)}
        with suppress(OSError):  # who asked is gone
            self.wfile.write(f"{json.dumps(answer)}\n".encode())


@contextmanager
def served_at(directory: Path, answer: Answer) -> Iterator[None]:
    """Answer requests to the run whose record is in a directory, from threads, until the block is left.

    Raises
    ------
    SessionError
        The directory can have no socket.
    """
    import threading

    at = _open_directory(directory)
    try:
        try:
            server = _Server(_address(at, directory), answer)
            os.chmod(SOCKET, 0o600, dir_fd=at)
        except OSError as error:
            raise SessionError(
                f"{directory / SOCKET}: {error.strerror or error}; "
                "name another directory, on a disk of this machine, in SCALABLE_RUNS_DIR"
            ) from error
        with server:
            thread = threading.Thread(target=server.serve_forever, name="scalable-control")
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()
                with suppress(FileNotFoundError):
                    os.unlink(SOCKET, dir_fd=at)
    finally:
        os.close(at)


def ask(directory: Path, **request: Any) -> dict[str, Any]:
    """Return the answer of the run whose record is in a directory.

    Raises
    ------
    SessionError
        The run does not do what was asked, or cannot be reached.
    OSError
        The directory or the socket is another user's, or the directory is a link.
    """
    at = _open_directory(directory)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT)
            connection.connect(_address(at, directory))
            if _user_at(connection) != os.geteuid():
                raise _foreign(directory / SOCKET)
            connection.sendall(f"{json.dumps(request)}\n".encode())
            with connection.makefile("rb") as stream:
                line = stream.readline()
        answer: dict[str, Any] = json.loads(line)
    except PermissionError:
        raise
    except (OSError, ValueError) as error:
        raise SessionError(
            f"run {directory.name} cannot be reached: its manager does not answer "
            f"({describe_error(error)}); see {directory / LOG}"
        ) from error
    finally:
        os.close(at)
    if not answer.pop("ok"):
        raise SessionError(str(answer["error"]))
    return answer


def managed_runs() -> list[tuple[Path, dict[str, Any]]]:
    """Return the directories and records of the runs that can be reached, or could be until they were killed.

    Raises
    ------
    OSError
        The directory of records cannot be read.
    """
    found = []
    for directory in find_records():
        try:
            if (directory / SOCKET).is_socket() and (record := read_record(directory)):
                found.append((directory, record))
        except (OSError, ValueError):  # another user's, or no record: not one of ours
            continue
    return [each for each in found if each[1].get("status") == "running"]


def find_managed(run: str | os.PathLike[str] | None) -> tuple[Path, dict[str, Any]]:
    """Return the directory and the record of a run that can be reached.

    Parameters
    ----------
    run : str or path, optional
        Its id, the beginning of that, or the directory of its record; by default, the only one that there is.

    Raises
    ------
    SessionError
        There is no such run, there are several, or it is on another machine.
    """
    found = _find_matching(run)
    if not found:
        raise SessionError(_describe_missing(run))
    if len(found) > 1:
        names = ", ".join(directory.name for directory, _ in found)
        raise SessionError(f"several runs can be reached; name one: {names}")
    directory, record = found[0]
    if (state := run_state(record, directory)).host:
        raise SessionError(
            f"run {directory.name} is managed on {state.host}, {state.heard}; reach it from there"
        )
    return directory, record


def _find_matching(run: str | os.PathLike[str] | None) -> list[tuple[Path, dict[str, Any]]]:
    """Return the runs of an id or a directory; without one, those that live or, if none is known to, those that may."""
    if isinstance(run, os.PathLike) or os.sep in (run or ""):
        directory = Path(run or "")
        try:
            record = read_record(directory)
        except ValueError as error:
            raise SessionError(f"{directory}: {error}") from error
        return [(directory, record)] if record else []
    if run is not None:
        return [each for each in managed_runs() if each[0].name.startswith(run)]
    lives = [
        (run_state(record, directory).lives, (directory, record))
        for directory, record in managed_runs()
    ]
    return [each for living, each in lives if living] or [
        each for living, each in lives if living is None
    ]


def _describe_missing(run: str | os.PathLike[str] | None) -> str:
    """Return why there is no such run: there may be one whose manager was killed, which is only asked for by name."""
    for directory, record in managed_runs() if run is None else ():
        killed = run_state(record, directory).lives is False
        if killed and not record.get("everything_removed"):
            name = directory.name
            return f"the manager of run {name} was killed; `scalable down {name}` removes what it has left"
    which = "no run" if run is None else f"no run {os.fspath(run)!r}"
    return (
        f"{which} in {records_directory()} can be reached; `scalable up` starts one, "
        "and `scalable runs` lists all"
    )


def _open_directory(directory: Path) -> int:
    """Return a descriptor of a directory that is this user's own, and no link."""
    at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    if os.fstat(at).st_uid != os.geteuid():
        os.close(at)
        raise _foreign(directory)
    return at


def _foreign(path: Path) -> PermissionError:
    return PermissionError(errno.EPERM, "it belongs to another user", str(path))


def _address(at: int, directory: Path) -> str:
    """Return the path of the socket: by the open directory where the system can, for a path has 107 bytes at most."""
    opened = Path(f"/proc/self/fd/{at}")
    return str((opened if opened.exists() else directory) / SOCKET)


def _user_at(connection: socket.socket) -> int:
    """Return the user at the other end; this one where the system does not tell, and the directory alone protects."""
    if not hasattr(socket, "SO_PEERCRED"):
        return os.geteuid()
    facts = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", facts)
    return int(uid)
