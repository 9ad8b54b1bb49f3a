"""What a run writes into its record as it goes: its tasks and its events, within a second."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scalable.cli.output import print_problem

if TYPE_CHECKING:
    from scalable.runs import RunRecord
    from scalable.session import ScalableSession

__all__ = ["Following", "follow"]

_INTERVAL = 1.0


class Following:
    """Appends to ``tasks.jsonl`` and ``events.jsonl`` what is new since the last time.

    Parameters
    ----------
    session : ScalableSession
        The session of the run.
    record : RunRecord
        Its record.
    """

    def __init__(self, session: ScalableSession, record: RunRecord) -> None:
        self._session, self._record = session, record
        self._events = 0
        self._lock = threading.Lock()
        self._warned = False

    def write(self, *, warn: bool = False) -> None:
        """Write what is new; what the scheduler does not tell now is asked for again, and warned of if `warn`."""
        from scalable.cli.tally import take_ends
        from scalable.runs import event_as_json

        with self._lock:
            try:
                events = self._session.events[self._events :]
                self._record.append("events.jsonl", map(event_as_json, events))
                self._events += len(events)
                if self._session.groups and not self._session.closed:
                    self._record.append("tasks.jsonl", take_ends(self._session.cluster))
            except (OSError, RuntimeError) as error:
                if warn and not self._warned:
                    self._warned = True
                    print_problem(f"the record is not complete: {error}", severity="warning")


@contextmanager
def follow(following: Following) -> Iterator[None]:
    """Write once a second, from a thread of its own, until the block is left."""
    stopped = threading.Event()

    def run() -> None:
        while not stopped.wait(_INTERVAL):
            following.write()

    thread = threading.Thread(target=run, name="scalable-record", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(timeout=10)
