"""What happened to the groups, for people and records."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Event", "EventLog"]

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
