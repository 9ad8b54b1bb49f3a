"""Why a worker's process ended or could not start, and what to do about it."""

from __future__ import annotations

import errno
import re
import signal
from dataclasses import dataclass, replace

from scalable.cluster.port import Reason
from scalable.errors import LaunchError, LaunchRefusedError
from scalable.manifest.units import format_memory
from scalable.providers.local.command import Container
from scalable.providers.local.containers import find_error_line

__all__ = [
    "WorkerExit",
    "explain_container_exit",
    "explain_exit",
    "explain_out_of_memory",
    "explain_stop",
    "launch_error",
]

# Errors that a retry cannot change. All others (EAGAIN, ENOMEM, EMFILE, ENOSPC, …) are temporary.
_REFUSALS = frozenset(
    {
        errno.E2BIG,
        errno.EACCES,
        errno.EISDIR,
        errno.ENOENT,
        errno.ENOEXEC,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)

# Signals that people, service managers and tasks send. SIGKILL may also be the kernel's, for want of memory; any other
# signal is a crash.
_TERMINATING_SIGNALS = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM})

_NEEDS_DASK = "install dask and distributed in the image, for the python3 on its PATH"
_NO_DASK = re.compile(r"^ModuleNotFoundError: No module named '(dask|distributed)'", re.MULTILINE)
# How an init (catatonit, tini) or runc reports that it cannot start a program of the image.
_NO_PROGRAM = re.compile(
    r"exec (pid1|python3) failed|failed to exec pid1|executable file not found"
)


@dataclass(frozen=True)
class WorkerExit:
    """Why one worker ended.

    Parameters
    ----------
    reason : Reason
        The normalised reason.
    summary : str
        What happened.
    native : str
        The exit status in the system's terms.
    remedy : str
        What to do next; may be empty.
    log_is_useful : bool
        Whether the worker's log may contain more about it.
    """

    reason: Reason
    summary: str
    native: str = ""
    remedy: str = ""
    log_is_useful: bool = True


def explain_exit(status: int) -> WorkerExit:
    """Explain an exit status that Scalable did not cause; negative ones are signals, as in `subprocess`.

    Examples
    --------
    >>> explain_exit(1).summary
    'its process ended with exit code 1'
    >>> explain_exit(-15).reason, explain_exit(-15).summary
    (<Reason.UNKNOWN: 'unknown'>, 'its process was ended by SIGTERM')
    >>> explain_exit(-9).reason, explain_exit(-9).summary
    (<Reason.UNKNOWN: 'unknown'>, 'its process was ended by SIGKILL')
    >>> explain_exit(-11).reason, explain_exit(-11).summary
    (<Reason.EXITED: 'exited'>, 'its process crashed with SIGSEGV')
    """
    if status >= 0:
        return WorkerExit(
            Reason.EXITED,
            f"its process ended with exit code {status}",
            native=f"exit code {status}",
            log_is_useful=status != 0,
        )
    name = _signal_name(-status)
    if -status != signal.SIGKILL and -status not in _TERMINATING_SIGNALS:
        return WorkerExit(Reason.EXITED, f"its process crashed with {name}", native=name)
    remedy = "if nobody else has sent it, see what in the task does"
    if -status == signal.SIGKILL:
        remedy = "if nobody killed it, the machine ran out of memory: run fewer workers at a time"
    # Nothing says who has sent it, so it must not count as an end from outside, which is nobody's fault: a task that
    # sends it, or needs more memory than the machine has, would be tried for ever.
    return WorkerExit(
        Reason.UNKNOWN,
        f"its process was ended by {name}",
        native=name,
        remedy=remedy,
        log_is_useful=False,
    )


def explain_container_exit(
    tag: str, container: Container, status: int, *, killed: bool, log: str
) -> WorkerExit:
    """Explain the exit status of a container's client that Scalable did not cause.

    Parameters
    ----------
    tag : str
        The component.
    container : Container
        The container that the worker ran in.
    status : int
        As for `explain_exit`. Podman and Docker pass on the status of the program that they ran, with signals from
        128 on, and have three of their own: podman-run(1), "Exit Status".
    killed : bool
        Whether the runtime reports that the kernel killed it because it was out of memory.
    log : str
        The last lines of its log.

    Examples
    --------
    >>> gcam = Container("podman", "laptop-1f-gcam-1", memory=8 * 10**9)
    >>> explain_container_exit("gcam", gcam, 137, killed=True, log="").summary
    'its container used more memory than its 8G'
    >>> log = "Error: statfs /data: no such file or directory"
    >>> explain_container_exit("gcam", gcam, 125, killed=False, log=log).summary
    'podman could not start its container: statfs /data: no such file or directory'
    """
    if status == 125:
        summary = f"{container.runtime} could not start its container: {find_error_line(log)}"
        remedy = "install catatonit" if "catatonit" in log else ""
        return WorkerExit(Reason.REFUSED, summary, native="exit code 125", remedy=remedy)
    if status in (1, 126, 127) and _NO_PROGRAM.search(log):
        summary = "its image has no program named python3"
        return WorkerExit(Reason.IMAGE, summary, native=f"exit code {status}", remedy=_NEEDS_DASK)
    if status == 1 and _NO_DASK.search(log):
        summary = "the python3 of its image lacks dask or distributed"
        return WorkerExit(Reason.IMAGE, summary, native=f"exit code {status}", remedy=_NEEDS_DASK)
    if killed and container.memory is not None:
        return WorkerExit(
            Reason.OUT_OF_MEMORY,
            f"its container used more memory than its {format_memory(container.memory)}",
            native="SIGKILL",
            remedy=f"raise components.{tag}.memory",
        )
    worker_exit = explain_exit(128 - status if status > 128 else status)
    if status == 128 + signal.SIGKILL and container.memory is not None:
        remedy = (
            f"if nobody killed it, it used more than its {format_memory(container.memory)} of memory: "
            f"raise components.{tag}.memory"
        )
        worker_exit = replace(worker_exit, remedy=remedy)
    return worker_exit


def explain_stop() -> WorkerExit:
    """Explain a worker that Scalable stopped."""
    return WorkerExit(Reason.STOPPED, "its process was stopped", log_is_useful=False)


def explain_out_of_memory(tag: str, used: int, limit: int) -> WorkerExit:
    """Explain a worker that was terminated because its processes used more memory than its component may.

    Examples
    --------
    >>> explain_out_of_memory("gcam", 8_400_000_000, 8_000_000_000).summary
    'it used more memory than its 8G: 8.4 GB'
    """
    return WorkerExit(
        Reason.OUT_OF_MEMORY,
        f"it used more memory than its {format_memory(limit)}: {used / 1e9:.3g} GB",
        remedy=f"raise components.{tag}.memory",
    )


def launch_error(tag: str, error: OSError | ValueError) -> LaunchError:
    """Return the launch error for an error of starting a process: temporary, or refused if a retry cannot help.

    Examples
    --------
    >>> import os
    >>> launch_error("gcam", OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)))
    LaunchError('no process for a worker of gcam: Resource temporarily unavailable')
    >>> type(launch_error("gcam", FileNotFoundError(errno.ENOENT, "No such file or directory", "/no/python"))).__name__
    'LaunchRefusedError'
    """
    if isinstance(
        error, ValueError
    ):  # a name or a value that an environment cannot hold; the text does not quote it
        return LaunchRefusedError(
            f"no process for a worker of {tag}: {error}; correct components.{tag}.env"
        )
    where = f": {error.filename}" if error.filename else ""
    message = f"no process for a worker of {tag}: {error.strerror}{where}"
    return (LaunchRefusedError if error.errno in _REFUSALS else LaunchError)(message)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
