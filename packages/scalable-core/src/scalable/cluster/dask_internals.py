"""What the client's process uses of Dask beyond its public interface.

Each name is listed in docs/extending/dask.md and has a test of its own against the installed version. Methods that
subclasses override are not here, and `scalable.cluster.plugin` has a module of its own, because it is sent by value.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from copy import copy
from typing import Any

from dask._task_spec import Task
from dask.utils import funcname
from distributed import Client
from distributed.protocol.pickle import dumps
from distributed.utils import iscoroutinefunction

__all__ = [
    "defer_unpickling",
    "fail_futures",
    "function_name",
    "is_coroutine_function",
    "pickle_object",
    "retrieve_gather_exceptions",
]


def pickle_object(value: object) -> bytes:
    """Pickle an object as Dask does: by value where that is needed, and readable by Dask's servers."""
    pickled: bytes = dumps(value)
    return pickled


def function_name(func: Callable[..., Any]) -> str:
    """Return the name that Dask gives a function in keys."""
    name: str = funcname(func)
    return name


def is_coroutine_function(func: Callable[..., Any]) -> bool:
    """Return whether workers await a function instead of running it in a thread."""
    return bool(iscoroutinefunction(func))


def defer_unpickling(func: Callable[..., Any]) -> Task:
    """Wrap a function so that it is unpickled as a part of its task, which fails if it cannot be.

    Otherwise a worker unpickles it while it reads the scheduler's message, and a missing module ends the worker.
    """
    return Task(None, pickle.loads, pickle_object(func))


def fail_futures(client: Client, error: Exception) -> None:
    """Let each future of a client raise this error, those with a result as well, because it is lost.

    To be called on the client's event loop. The client forgets the futures, so that closing it does not cancel them.
    """
    for state in client.futures.values():
        if state.status != "error":
            state.set_error(copy(error), None)  # each gathers a traceback of its own
    client.futures.clear()


def retrieve_gather_exceptions() -> None:
    """Retrieve the exceptions of the asyncio tasks that an interrupted ``Client.gather`` leaves behind.

    Each waits for one future and fails when the client closes; asyncio would log that it was never retrieved.
    """
    for task in asyncio.all_tasks():
        coroutine = getattr(task.get_coro(), "__qualname__", "")
        if coroutine.startswith(f"{Client._gather.__qualname__}.<locals>"):
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
