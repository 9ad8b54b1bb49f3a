"""Exceptions of tasks whose classes this process does not have: a component's image may have other packages.

Dask raises `Exception` with the bytes of the pickle in their place.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from scalable.cluster.plugin import in_one_line, passable

__all__ = ["read_exception"]


def read_exception(pickled: bytes) -> Exception:
    r"""Return the exception that a task has raised; of a class of the same name, if its own cannot be imported here.

    Parameters
    ----------
    pickled : bytes
        The exception, as a worker has pickled it.

    Examples
    --------
    >>> error = read_exception(b"cgcam.errors\nLicenseError\n(S'no licence'\ntR.")
    >>> error, error.__notes__
    (LicenseError('no licence'), ["(gcam.errors.LicenseError is not here: No module named 'gcam')"])
    """
    reader = _Reader(io.BytesIO(pickled))
    try:
        error = reader.load()
    except BaseException as problem:  # noqa: BLE001 - unpickling may raise anything
        return RuntimeError(
            f"the task has raised what cannot be unpickled here: {in_one_line(problem)}"
        )
    if not isinstance(error, BaseException):
        return RuntimeError(f"the task has raised {error!r}")
    failure = passable(error)
    for note in reader.notes:
        failure.add_note(note)
    return failure


class _Reader(pickle.Unpickler):
    """Reads a pickle that may name classes which cannot be imported: exceptions of the same name take their place."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.notes: list[str] = []

    def find_class(self, module: str, name: str, /) -> Any:
        """Return what the pickle names."""
        try:
            return super().find_class(module, name)
        except Exception as error:  # noqa: BLE001 - an import may raise anything
            self.notes.append(f"({module}.{name} is not here: {error})")
        return type(name, (Exception,), {"__module__": module})
