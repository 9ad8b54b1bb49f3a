"""What the tests of a suite have started on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psutil

__all__ = ["marked_processes"]


def marked_processes(variable: str) -> list[str]:
    """Return the living processes that have inherited the present value of an environment variable.

    Not among them are the present process, and processes of other users.

    Parameters
    ----------
    variable : str
        Its name. It was set before any of the processes was started.
    """
    return list(_marked(variable, os.environ[variable]))


def _marked(variable: str, value: str) -> Iterator[str]:
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.environ().get(variable) != value:
                continue
            if process.status() != psutil.STATUS_ZOMBIE:
                yield f"process {process.pid}: {' '.join(process.cmdline()[:6])}"
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
