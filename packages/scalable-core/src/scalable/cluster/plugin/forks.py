"""What a process that is forked inside a worker's process inherits: nothing of Dask's that acts there.

Models and libraries fork: `multiprocessing`, `os.fork`, `subprocess` with ``preexec_fn``. A fork has a copy of the
process, but of its threads only the one that forks. So Dask's signal handlers would run there, to end a worker that is
not there; SIGTERM, by which `multiprocessing.Pool` ends its processes, would end nothing. Dask's client would wait for
threads that do not exist, and the copy of the worker's connection would stay open when the worker is gone. A fork that
ends as programs do would remove the worker's directory.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from scalable.cluster.plugin.dask_internals import (
    close_connection,
    forget_worker_and_clients,
    leave_directory,
)

if TYPE_CHECKING:
    from distributed.worker import Worker

__all__ = ["detach_forks", "end_fork"]

_DEFAULT_HANDLERS: dict[int, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


def detach_forks(worker: Worker, is_forking: Callable[[], bool]) -> None:
    """Make later forks of this process inherit nothing of this worker.

    Parameters
    ----------
    worker : Worker
        The worker.
    is_forking : callable
        Returns whether a fork by the present thread is the worker's, which may be a part of its client's process.
    """
    _Forks(worker, is_forking)


class _Forks:
    """Calls before and after each fork of a worker's process. There is no way to take them back."""

    def __init__(self, worker: Worker, is_forking: Callable[[], bool]) -> None:
        self._worker = weakref.ref(worker)
        self._is_forking = is_forking
        self._thread = threading.local()
        os.register_at_fork(
            before=self._before, after_in_parent=self._after, after_in_child=self._after_in_child
        )

    def _before(self) -> None:
        self._thread.mask = None
        if not self._is_forking():
            return
        # A signal that came before the child has its own handlers would be lost, and who sent it would wait for ever.
        self._thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _DEFAULT_HANDLERS)

    def _after(self) -> None:
        if self._thread.mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._thread.mask)

    def _after_in_child(self) -> None:
        worker = self._worker()
        if worker is not None:
            leave_directory(worker)
        if self._thread.mask is None:
            return
        try:
            for number, default in _DEFAULT_HANDLERS.items():
                if _module(signal.getsignal(number)).partition(".")[0] in (
                    "asyncio",
                    "distributed",
                ):
                    signal.signal(number, default)
        finally:
            self._after()
        if worker is not None:
            close_connection(worker)
        forget_worker_and_clients()


def _module(handler: object) -> str:
    """Return the module of a signal handler, which may be a partial object or a bound method."""
    return str(getattr(getattr(handler, "func", handler), "__module__", None))


def end_fork(error: BaseException | None) -> NoReturn:
    """End a fork whose copy of a task has ended, as Python ends a program.

    Parameters
    ----------
    error : BaseException or None
        What the task has raised.
    """
    status: Any = 0
    if isinstance(error, SystemExit):
        status = error.code if error.code is not None else 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    elif error is not None:
        # Without the frame that called the task.
        frames = error.__traceback__ and error.__traceback__.tb_next
        traceback.print_exception(error.with_traceback(frames))
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    # Not `sys.exit`: the files and connections that it would clean up are the worker's.
    os._exit(status & 0xFF)
