"""The session of the process: the one that ``scalable run`` has started for its workflow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scalable.session.session import ScalableSession

__all__ = ["current_session", "set_current_session"]

# Not a context variable: a workflow may ask for the session from a thread of its own.
_sessions: list[ScalableSession] = []


@contextmanager
def set_current_session(session: ScalableSession) -> Iterator[None]:
    """Make `session` what `ScalableSession.from_yaml` hands out in this process.

    Whoever gets it this way cannot close it by leaving its ``with`` block; the lender closes it.
    """
    _sessions.append(session)
    try:
        yield
    finally:
        _sessions.remove(session)


def current_session() -> ScalableSession | None:
    """Return the session that is lent in this process, if there is one."""
    return _sessions[-1] if _sessions else None
