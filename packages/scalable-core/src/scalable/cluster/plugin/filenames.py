"""Functions that are pickled by value keep the name of their file.

From 3.1.3 on, cloudpickle writes ``<dynamic-code>`` in its place. A traceback of such a function names no file then and
shows no line, although the file, or the notebook's cell, is there where the traceback is shown.

cloudpickle has one table of reducers for a process, and tasks are pickled in three: by the client, by the scheduler,
and by workers that submit tasks or return functions. Each keeps the names for as long as it is part of a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

from cloudpickle import CloudPickler

__all__ = ["FileNames", "kept_file_names"]

_POSITION = 10
"""Of the file's name among the arguments of `CodeType`, in every Python from 3.11 on."""


class FileNames:
    """A reason to keep the file names of pickled functions, in this process."""

    def __init__(self) -> None:
        self._kept = False

    def keep(self) -> None:
        """Keep file names from now on. The second call does nothing."""
        if self._kept:
            return
        self._kept = True
        reduce_code = CloudPickler.dispatch_table[CodeType]
        if not hasattr(reduce_code, "reasons"):
            reduce_code = CloudPickler.dispatch_table[CodeType] = _with_file_name(reduce_code)
        reduce_code.reasons.append(self)

    def release(self) -> None:
        """Restore what cloudpickle does by itself, unless file names are kept for another reason, too."""
        reduce_code = CloudPickler.dispatch_table[CodeType]
        if not self._kept or not hasattr(reduce_code, "reasons"):
            return
        self._kept = False
        reduce_code.reasons.remove(self)
        if not reduce_code.reasons:
            CloudPickler.dispatch_table[CodeType] = reduce_code.original


@contextmanager
def kept_file_names() -> Iterator[None]:
    """Keep file names while a block runs."""
    names = FileNames()
    names.keep()
    try:
        yield
    finally:
        names.release()


def _with_file_name(original: Any) -> Any:
    """Return a reducer of code objects that does as `original` does, and writes the name of the file."""

    def reduce_code(code: CodeType) -> Any:
        make, arguments, *rest = original(code)
        if make is CodeType:
            arguments = (*arguments[:_POSITION], code.co_filename, *arguments[_POSITION + 1 :])
        return (make, arguments, *rest)

    # This module is sent by value, so a process may have copies of it. They share what is in the table.
    vars(reduce_code).update(original=original, reasons=[])
    return reduce_code
