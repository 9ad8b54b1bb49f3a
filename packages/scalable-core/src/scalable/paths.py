"""Paths as users write them, in manifests and in variables of the environment."""

from __future__ import annotations

import os
from pathlib import Path

from scalable.errors import UnknownHomeError

__all__ = ["expand_home"]


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` and ``~user`` expanded.

    Raises
    ------
    UnknownHomeError
        There is no such user; or the present one is not known to the system, and HOME is not set.

    Examples
    --------
    >>> expand_home("data/~").parts
    ('data', '~')
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UnknownHomeError(os.fspath(path)) from None
