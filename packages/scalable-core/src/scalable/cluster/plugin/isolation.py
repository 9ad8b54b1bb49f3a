"""What a task does to its worker's process, and the next task must not notice.

* Whatever a task raises fails that task, and nothing else. `SystemExit` and `KeyboardInterrupt` would end the worker,
  and clients cannot raise what is not an `Exception`. The same holds for a result that raises while it is pickled or
  unpickled.
* Each task starts in the worker's directory, with the worker's umask. Where Linux allows it, each thread has its own,
  so that tasks that run at the same time do not notice either.
* Each task finds standard input, output and error open, whatever the one before has closed. What it has put in their
  place, in Python or by ``dup2``, is gone once no task runs.
* Directory, umask and these streams are the worker's as its preload script, its plugins and ``client.run`` have left
  them.
* A task that cannot be unpickled fails, and names the module that is missing; the worker goes on. So it does after
  whatever unpickling a result raises.
* A fork of a task ends where the task ends, and does not go on as a worker.

Variables of the environment stay as a task leaves them, and so does the state of modules: libraries rely on that.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import inspect
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from scalable.cluster.plugin.dask_internals import (
    actor_executor,
    contain_answers,
    contain_requests,
    drop_unusable_traceback,
    failure_answer,
    hide_from_tracebacks,
    raised_by,
    read_unreadable_tasks,
    replace_execute,
    replace_raised,
    replaced_run_spec,
    run_id,
    task_failure,
    task_that_raises,
    untransferable_error,
)
from scalable.cluster.plugin.exceptions import ordinary, passable, raise_unreadable
from scalable.cluster.plugin.forks import end_fork
from scalable.cluster.plugin.missing import explained

if TYPE_CHECKING:
    from distributed.worker import Worker

__all__ = ["Isolation", "contained"]

_CLONE_FS = 0x200
"""Working directory, root and umask, as in Linux's ``sched.h``."""


def _raise(error: Exception) -> NoReturn:
    raise error


_HANDLERS: dict[str, tuple[str, Callable[[Exception], Any]]] = {
    "run": ("the function", failure_answer),
    "actor_execute": ("the task", failure_answer),
    "get_data": ("pickling a result", _raise),
    "plugin-add": ("the plugin", failure_answer),
    "plugin-remove": ("the plugin", failure_answer),
}
"""The handlers of a worker that call the user's code besides tasks: what they call, and how they fail."""

_FOR_THE_WORKER = ("run", "plugin-add", "plugin-remove")
"""Those of them whose changes of the process are meant to stay."""


class Isolation:
    """Runs the tasks of a worker so that they do not reach each other.

    Parameters
    ----------
    worker : Worker
        The worker.
    note_key : callable
        Called with the key of each task, in the asyncio task that runs it.

    Attributes
    ----------
    is_forking : callable
        Returns whether a fork by the present thread is one of the worker's or its tasks', and not of their client.
    """

    def __init__(self, worker: Worker, note_key: Callable[[Any], object]) -> None:
        self._worker = worker
        self._note_key = note_key
        # Other workers are threads of their client, whose directory and whose forks are its own business.
        self._owns_process = threading.current_thread() is threading.main_thread()
        # Taken before the first task of a process of its own: preload scripts and plugins may change them until then.
        self._home: _Home | None = None if self._owns_process else _Home()
        self._streams: _Streams | None = None
        self._executing = 0
        self._threads = _Thread()
        # Without a reference to the worker, since it is called as long as the process lives.
        self.is_forking = functools.partial(_is_forking, self._threads, self._owns_process)
        self._dask_execute = replace_execute(worker, self.execute)
        hide_from_tracebacks(_IsolatedTask.__call__)
        read_unreadable_tasks(worker, _failing_task)
        contain_answers(worker.rpc, raise_unreadable)
        contain_requests(worker, raise_unreadable)
        self._actor_thread = actor_executor(worker)
        self._actor_thread.submit = functools.partial(self._actor_thread.submit, _call)
        self._handlers = {op: worker.handlers[op] for op in _HANDLERS}
        if self._owns_process:
            for op in _FOR_THE_WORKER:
                worker.handlers[op] = self._lasting(worker.handlers[op])
        for op, (source, fail) in _HANDLERS.items():
            worker.handlers[op] = contained(worker.handlers[op], source, fail)

    def close(self) -> None:
        """Restore how the worker runs tasks."""
        replace_execute(self._worker, self._dask_execute)
        self._worker.handlers.update(self._handlers)
        del self._actor_thread.submit

    async def execute(self, key: Any, *, stimulus_id: str) -> Any:
        """Run a task, and return what Dask's `Worker.execute` returns."""
        run = run_id(self._worker, key)
        self._note_key(key)
        if self._home is None:
            self._home, self._streams = _Home(), _Streams()
        self._restore(self._home)  # for tasks that are coroutines, which run on this thread
        self._executing += 1
        try:
            with replaced_run_spec(self._worker, key, lambda task: _IsolatedTask(task, self)):
                done = await self._dask_execute(key, stimulus_id=stimulus_id)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - it would end the worker, or the event loop
            failure = error
        else:
            drop_unusable_traceback(done)
            raised = raised_by(done)
            if raised is None or passable(raised) is raised:
                self._explain_missing_module(done, raised)
                return done
            failure = raised
        finally:
            self._executing -= 1
        # Not while the error is handled: as the context of the new one, it would be pickled.
        return task_failure(key, run, ordinary(failure), failure)

    def _restore(self, home: _Home) -> None:
        """Let standard streams, and this thread's directory and umask, be the worker's."""
        if self._streams is not None:
            if not self._executing:
                self._streams.put_back()  # one that runs may have replaced them for itself
            self._streams.reopen()
        if self._owns_process:
            home.enter()

    def _lasting(self, handler: Callable[..., Any]) -> Any:
        """Return a handler whose changes of directory, umask and standard streams later tasks start with."""

        @functools.wraps(handler)
        async def handle(*args: Any, **kwargs: Any) -> Any:
            if self._home is not None:
                self._restore(self._home)
            before, streams = _Home(), _present_streams()
            try:
                answer = handler(*args, **kwargs)
                return await answer if inspect.isawaitable(answer) else answer
            finally:
                if self._home is not None and _Home().place != before.place:
                    self._home = _Home()
                if self._streams is not None and _present_streams() != streams:
                    self._streams.take()

        return handle

    def _explain_missing_module(self, done: Any, raised: BaseException | None) -> None:
        worker = self._worker
        if not isinstance(raised, (ImportError, SyntaxError)):
            return
        if error := explained(raised, str(worker.name), worker.state.total_resources):
            replace_raised(done, error)

    def leave(self) -> None:
        """Record that this thread's task has ended."""
        self._threads.runs_task = False

    def enter(self) -> None:
        """Prepare this thread for a task."""
        self._threads.runs_task = True
        if self._threads.has_own_directory is None:
            self._threads.has_own_directory = _leave_shared_directory()
        if self._home is not None and (self._threads.has_own_directory or self._owns_process):
            self._home.enter()


class _Thread(threading.local):
    """What is known of the present thread."""

    runs_task = False
    has_own_directory: bool | None = None


def _is_forking(thread: _Thread, owns_process: bool) -> bool:
    return owns_process or thread.runs_task


class _IsolatedTask:
    """A task that a thread calls, as Dask calls it."""

    def __init__(self, task: Any, isolation: Isolation) -> None:
        self._task = task
        self._isolation = isolation

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._isolation.enter()
        process = os.getpid()
        try:
            result = self._task(*args, **kwargs)
        except BaseException as error:
            if os.getpid() != process:
                end_fork(error)
            raise
        finally:
            self._isolation.leave()
        if os.getpid() != process:
            end_fork(None)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def __repr__(self) -> str:
        return repr(self._task)


class _Home:
    """The present directory and umask, for tasks to start with."""

    def __init__(self) -> None:
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._descriptor: int | None = None
        try:
            self._path = os.getcwd()  # noqa: PTH109 - compared for every task
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            self._path = ""  # it is gone, or may not be read: there is no way back to it

    @property
    def place(self) -> tuple[str, int]:
        """What it is, to be compared."""
        return self._path, self._umask

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def enter(self) -> None:
        """Make them those of this thread, or of the process."""
        os.umask(self._umask)
        if self._descriptor is None:
            return
        try:
            if os.getcwd() == self._path:  # noqa: PTH109 - as above
                return
        except FileNotFoundError:
            pass
        try:
            os.chdir(self._path)
        except OSError:
            # It was removed. Relative paths have to fail, and not to lead to where another task was.
            os.fchdir(self._descriptor)


_STREAMS = {0: "stdin", 1: "stdout", 2: "stderr"}


class _Streams:
    """The present standard input, output and error, for tasks to start with."""

    def __init__(self) -> None:
        self._copies: dict[int, int] = {}
        self.take()

    def __del__(self) -> None:
        for copy in self._copies.values():
            os.close(copy)

    def take(self) -> None:
        """Take those of the present moment."""
        self._objects = {name: getattr(sys, name) for name in _STREAMS.values()}
        self._files = {number: _file_of(number) for number in _STREAMS}
        for number, file in self._files.items():
            if file is not None:  # else it is closed already
                if number in self._copies:
                    os.close(self._copies[number])
                self._copies[number] = os.dup(number)

    def put_back(self) -> None:
        """Put them back where others have taken their place: a file of one task would get what the next ones print."""
        for name, stream in self._objects.items():
            if getattr(sys, name) is not stream:
                setattr(sys, name, stream)
        for number, file in self._files.items():
            if file != _file_of(number):
                self._put_back(number)

    def _put_back(self, number: int) -> None:
        if number in self._copies:
            with suppress(OSError):  # the copy was closed as well
                os.dup2(self._copies[number], number)

    def reopen(self) -> None:
        """Open them again if they are closed: the next file would take their place, and get what others print."""
        for number, name in _STREAMS.items():
            if _file_of(number) is None:
                self._put_back(number)
            if getattr(getattr(sys, name), "closed", False):
                with suppress(OSError):
                    self._objects[name] = _open(number)
                    setattr(sys, name, self._objects[name])


def _present_streams() -> list[object]:
    return [each for n, name in _STREAMS.items() for each in (getattr(sys, name), _file_of(n))]


def _file_of(descriptor: int) -> tuple[int, int] | None:
    """Return what identifies the file behind a descriptor; None if that is closed."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _open(descriptor: int) -> Any:
    if descriptor == 0:
        return open(descriptor, closefd=False)
    return open(descriptor, "w", buffering=1, errors="backslashreplace", closefd=False)


def _leave_shared_directory() -> bool:
    """Give this thread a working directory and a umask of its own, and return whether that was possible.

    Linux has them for each thread. Seccomp, as in Docker's default profile, may forbid it.
    """
    try:
        return int(ctypes.CDLL(None).unshare(_CLONE_FS)) == 0
    except (AttributeError, OSError):
        return False


def contained(
    handler: Callable[..., Any], source: str, fail: Callable[[Exception], Any] = _raise
) -> Any:
    """Return a handler that ends in `fail(error)` where the user's code raises what the caller would not get.

    Parameters
    ----------
    handler : callable
        The handler.
    source : str
        What the handler calls.
    fail : callable
        Returns or raises what the caller gets.
    """

    @functools.wraps(handler)
    async def handle(*args: Any, **kwargs: Any) -> Any:
        try:
            answer = handler(*args, **kwargs)
            answer = await answer if inspect.isawaitable(answer) else answer
            failure = untransferable_error(answer)
            if failure is None:
                return answer
        except (Exception, asyncio.CancelledError):
            raise
        except BaseException as error:  # noqa: BLE001 - see above
            failure = error
        return fail(ordinary(failure, source))

    return handle


def _call(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in an executor; before Python 3.12, who awaits a `StopIteration` waits for ever."""
    try:
        return function(*args)
    except StopIteration as error:
        failure = error
    raise ordinary(failure)


def _failing_task(error: BaseException) -> Any:
    return task_that_raises(passable(error, "unpickling the task"))
