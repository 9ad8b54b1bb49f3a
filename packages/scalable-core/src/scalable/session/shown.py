"""What a notebook shows of a session: its groups, what they wait for, and its tasks."""

from __future__ import annotations

import html
import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scalable.session.session import ScalableSession

__all__ = ["as_html", "live_html", "shows_progress_on_stderr"]

logger = logging.getLogger("scalable.session")


def shows_progress_on_stderr() -> bool:
    """Return whether a script runs, not an interactive session, and stderr is a terminal."""
    script = getattr(sys.modules["__main__"], "__file__", None) is not None
    return script and not sys.flags.interactive and sys.stderr is not None and sys.stderr.isatty()


def as_html(session: ScalableSession, state: str, body: str = "") -> str:
    """Return a session in HTML.

    Parameters
    ----------
    session : ScalableSession
        The session.
    state : str
        What it does now.
    body : str
        HTML of its groups, or whatever else there is to see.
    """
    title = html.escape(f"{type(session).__name__} on {session.target}, {state}")
    return f"<div><h3>{title}</h3>{body}</div>"


def live_html(session: ScalableSession, state: str, body: str) -> str:
    """Return a session in HTML as `as_html` does, with what its start waits for, or what became of its tasks."""
    line = _tasks(session) if body or session.closed else _starting(session)
    return as_html(session, state, body + (f"<p>{html.escape(line)}</p>" if line else ""))


def _starting(session: ScalableSession) -> str:
    """Return what the start waits for; empty before it has begun."""
    return session.events[-1].text if session.events else ""


def _tasks(session: ScalableSession) -> str:
    """Return what has become of the tasks, in a line; empty while there are none."""
    from scalable.progress.counting import Counted, count_tasks
    from scalable.progress.status import describe_rest, describe_tasks

    if session.closed:
        counted = Counted(session.recorder.tally.counts if session.recorder is not None else {})
    else:
        try:
            counted = count_tasks(session.cluster)
        except Exception:  # the cluster may close at any time; the next update tries again
            logger.debug("cannot count tasks", exc_info=True)
            return ""
    if not counted.tasks:
        return ""
    rest = describe_rest(counted.rest)
    return describe_tasks(counted.tasks) + (f", {rest}" if rest else "")
