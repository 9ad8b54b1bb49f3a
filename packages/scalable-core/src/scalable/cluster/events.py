"""What happened to the groups, for people and records."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Event", "EventLog", "current_log", "record_into"]

logger = logging.getLogger("scalable.cluster")


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Parameters
    ----------
    time : float
        Seconds since the epoch.
    tag : str
        The group; empty for the cluster as a whole.
    text : str
        What happened, in one line.
    """

    time: float
    tag: str
    text: str


class EventLog:
    """The most recent events, oldest first; each is logged, too."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=10_000)

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def record(self, tag: str, text: str) -> None:
        """Record an event, unless it repeats the previous one, as a problem that lasts does every turn."""
        if self._events and (self._events[-1].tag, self._events[-1].text) == (tag, text):
            return
        logger.info("%s: %s", tag or "cluster", text)
        self._events.append(Event(time.time(), tag, text))

    def warn(self, tag: str, text: str) -> None:
        """Record an event that users should see, also without a progress display."""
        logger.warning("%s: %s", tag or "cluster", text)
        self._events.append(Event(time.time(), tag, text))


_current: ContextVar[EventLog] = ContextVar("scalable_event_log")


@contextmanager
def record_into(log: EventLog) -> Iterator[None]:
    """Record the events of a cluster that is built in this block into `log`, those of its start included."""
    token = _current.set(log)
    try:
        yield
    finally:
        _current.reset(token)


def current_log() -> EventLog:
    """Return the log of the enclosing `record_into`, or a new one."""
    return _current.get(None) or EventLog()
