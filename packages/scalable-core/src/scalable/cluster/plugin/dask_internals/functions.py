"""Functions, copied or hidden from tracebacks, and what servers or the other modules share."""

from __future__ import annotations

import os
from time import time
from types import FunctionType
from typing import Any

__all__ = [
    "hide_from_tracebacks",
    "leave_directory",
    "new_stimulus_id",
    "with_globals",
]


def new_stimulus_id() -> str:
    """Return the id of a change that the plugin has caused, for Dask's logs."""
    return f"scalable-{time()}"


def with_globals(function: Any, **changed: Any) -> Any:
    """Return a copy of a function that finds other objects under some global names."""
    names = function.__globals__ | changed
    copy = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def hide_from_tracebacks(function: Any) -> None:
    """Make Dask leave a function that calls a task out of the task's traceback, as it does with its own."""
    # `distributed.utils.get_traceback` goes by the name of the file.
    name = os.path.join("distributed", "worker.py")  # noqa: PTH118 - a text that is compared
    function.__code__ = function.__code__.replace(co_filename=name)


def leave_directory(server: Any) -> None:
    """Keep the directory of a scheduler or a worker when this process ends: a fork of the one that has the server."""
    if server._workdir is not None:
        server._workdir._finalizer.detach()
