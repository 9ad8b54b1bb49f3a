"""The current session of the process: the one that ``scalable run`` has started for its workflow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scalable.session.session import ScalableSession

__all__ = ["current_session", "set_current_session"]

# Not a context variable: a workflow may request the session in a thread of its own.
_sessions: list[ScalableSession] = []


@contextmanager
def set_current_session(session: ScalableSession) -> Iterator[None]:
    """Make `ScalableSession.from_yaml` return `session` in this process, until the block is left.

    Leaving the ``with`` block of a session that was returned this way does not close it; the caller of this
    function closes it.
    """
    _sessions.append(session)
    try:
        yield
    finally:
        _sessions.remove(session)


def current_session() -> ScalableSession | None:
    """Return the current session of this process, if there is one."""
    return _sessions[-1] if _sessions else None
