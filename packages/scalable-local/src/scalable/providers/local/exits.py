"""What the end of a worker's process means, and what to do about it."""

from __future__ import annotations

import errno
import signal
from dataclasses import dataclass

from scalable.cluster.port import Reason
from scalable.errors import LaunchError, LaunchRefusedError
from scalable.manifest.units import format_memory

__all__ = ["End", "exited", "launch_error", "out_of_memory", "stopped"]

# What no second try can change. Everything else (EAGAIN, ENOMEM, EMFILE, ENOSPC, …) passes.
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

# What people, service managers and the kernel's out-of-memory killer send; any other signal is a crash.
_SENT = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGQUIT, signal.SIGTERM})


@dataclass(frozen=True)
class End:
    """How one worker ended.

    Parameters
    ----------
    reason : Reason
        The normalised reason.
    summary : str
        What happened.
    native : str
        The exit status in the system's words.
    remedy : str
        What to do next; may be empty.
    log_tells : bool
        Whether the worker's log may tell more.
    """

    reason: Reason
    summary: str
    native: str = ""
    remedy: str = ""
    log_tells: bool = True


def exited(status: int) -> End:
    """Explain an exit status that we did not bring about; negative ones are signals, as in `subprocess`.

    Examples
    --------
    >>> exited(1).summary
    'its process exited with code 1'
    >>> exited(-9).reason, exited(-9).summary
    (<Reason.CANCELLED: 'cancelled'>, 'its process was ended from outside by SIGKILL')
    >>> exited(-11).reason, exited(-11).summary
    (<Reason.EXITED: 'exited'>, 'its process crashed with SIGSEGV')
    """
    if status >= 0:
        return End(
            Reason.EXITED,
            f"its process exited with code {status}",
            native=f"exit code {status}",
            log_tells=status != 0,
        )
    name = _signal_name(-status)
    if -status not in _SENT:
        return End(Reason.EXITED, f"its process crashed with {name}", native=name)
    remedy = ""
    if -status == signal.SIGKILL:
        remedy = "if nobody killed it, the machine ran out of memory: run fewer workers at a time"
    summary = f"its process was ended from outside by {name}"
    return End(Reason.CANCELLED, summary, native=name, remedy=remedy, log_tells=False)


def stopped() -> End:
    """Explain a worker that was asked to end."""
    return End(Reason.STOPPED, "its process was stopped", log_tells=False)


def out_of_memory(tag: str, used: int, limit: int) -> End:
    """Explain a worker that was ended because its tree used more memory than its component may.

    Examples
    --------
    >>> out_of_memory("gcam", 8_400_000_000, 8_000_000_000).summary
    'its processes used 8.4 GB of memory, more than the 8G of its component'
    """
    return End(
        Reason.OUT_OF_MEMORY,
        f"its processes used {used / 1e9:.3g} GB of memory, "
        f"more than the {format_memory(limit)} of its component",
        remedy=f"raise components.{tag}.memory",
    )


def launch_error(tag: str, error: OSError | ValueError) -> LaunchError:
    """Tell what may pass from what will not.

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
    ):  # a name or a value that no environment can hold; the text does not quote it
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
