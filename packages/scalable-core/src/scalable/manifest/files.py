"""The content of a file that a user names, whatever is there: it never takes for ever, and is never without end."""

from __future__ import annotations

import errno
import os
import select
import stat

__all__ = ["read_file"]

_WRITER_WITHIN = 5.0
"""Seconds in which a program has to open a named pipe for writing."""


def read_file(path: str | os.PathLike[str], limit: int) -> bytes:
    """Return what is in a file, the first `limit` bytes of it.

    What a shell passes, as in ``<(helm template …)``, is read to its end.

    Parameters
    ----------
    path : str or os.PathLike
        The file.
    limit : int
        Bytes that are read at most.

    Raises
    ------
    OSError
        It cannot be read: it is a directory, for example, or a named pipe to which no program writes.
    ValueError
        Its name has a null character.
    """
    # To open a named pipe would take until a program writes to it.
    with open(path, "rb", buffering=0, opener=_open_at_once) as stream:
        content = b""
        if stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode):
            readable = select.poll()
            readable.register(stream, select.POLLIN)
            if not readable.poll(_WRITER_WITHIN * 1000):
                # None is for a pipe that is empty as yet.
                start = stream.read(limit)
                if start == b"":
                    message = "it is a pipe to which no program writes"
                    raise OSError(errno.EPIPE, message, os.fspath(path))
                content = start or b""
        os.set_blocking(stream.fileno(), True)
        while len(content) < limit and (more := stream.read(limit - len(content))):
            content += more
        return content


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
