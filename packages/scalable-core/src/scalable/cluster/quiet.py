"""Dask's log lines on stderr while clusters are open: warnings and errors only."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import distributed  # noqa: F401 - whose import gives its logger a handler

__all__ = ["keep_dask_quiet"]

_lock = threading.Lock()
_open: set[object] = set()
_changed: dict[logging.Handler, int] = {}


def keep_dask_quiet() -> Callable[[], None]:
    """Hide Dask's log lines below warnings on stderr, for a cluster of this process.

    Dask's own clusters show them again for each other, or hide them for good, unless they are closed in the reverse of
    the order in which they were made. They hide the lines of everyone else too, where a program has given Dask's logger
    a handler that others use as well.

    Returns
    -------
    callable
        Ends this for the cluster; it may be called again. What was shown before is shown again once this has ended for
        all clusters, in any order.
    """
    own = object()
    with _lock:
        if not _open:
            for handler in logging.getLogger("distributed").handlers:
                if _is_for_dask_only(handler) and handler.level < logging.WARNING:
                    _changed[handler] = handler.level
                    handler.setLevel(logging.WARNING)
        _open.add(own)

    def end() -> None:
        with _lock:
            _open.discard(own)
            while not _open and _changed:
                handler, level = _changed.popitem()
                if handler.level == logging.WARNING:  # or else the program has chosen another one
                    handler.setLevel(level)

    return end


def _is_for_dask_only(handler: logging.Handler) -> bool:
    """Return whether a handler is one as Dask's own: it writes to a stream, and not what other loggers say."""
    return type(handler) is logging.StreamHandler and handler not in logging.getLogger().handlers
