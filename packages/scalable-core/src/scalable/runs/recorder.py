"""What a run writes into its record as it goes: its tasks, its workers and its events, within a second.

It also touches the record every few seconds, by which other machines see that it lives.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from scalable.runs.counting import begin_tally, read_tally, take_ends
from scalable.runs.records import event_as_json
from scalable.runs.tally import Tally

if TYPE_CHECKING:
    from scalable.cluster import GroupedCluster
    from scalable.cluster.history import WorkerSpan
    from scalable.runs.records import RunRecord
    from scalable.session import ScalableSession

__all__ = ["LOGS_WANTED", "Recorder"]

LOGS_WANTED = "logs.wanted"
"""A file in the directory of a running run by which ``scalable logs`` asks for the logs as they are now."""

_METERED = ("cost", "currency")
_INTERVAL = 1.0
_TOUCH_INTERVAL = 10.0


def _worker_row(worker: WorkerSpan) -> dict[str, Any]:
    row = asdict(worker)
    return {"worker": row.pop("worker"), "component": row.pop("group"), **row}


class Recorder:
    """Appends to ``tasks.jsonl``, ``workers.jsonl`` and ``events.jsonl`` what is new since the last time.

    Parameters
    ----------
    session : ScalableSession
        The session of the run.
    record : RunRecord
        Its record.
    warn : callable
        Called with what is missing in the record.

    Attributes
    ----------
    record : RunRecord
        The record.
    tally : Tally
        What had become of the tasks when `note_tasks` was last called.
    writing : bool
        Whether rows are written each second.
    """

    def __init__(
        self, session: ScalableSession, record: RunRecord, warn: Callable[[str], object]
    ) -> None:
        self.record = record
        self.tally = Tally({}, [])
        self.writing = True
        self._counts = False
        self._began: float | None = None
        self._session, self._warn = session, warn
        self._events = 0
        self._workers: list[dict[str, Any]] = []
        self._tasks = ""
        self._lock = threading.Lock()
        self._warned = False
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def count_tasks(self, cluster: GroupedCluster) -> None:
        """Count the tasks of a cluster from now on."""
        self._began = time.monotonic()
        try:
            begin_tally(cluster)
            self._counts = True
        except (OSError, RuntimeError) as error:
            self._warn(f"tasks are not counted: {error}")

    def note_tasks(self) -> Tally:
        """Write and return what has become of the tasks, as far as it is known: before the session is closed."""
        if self._is_counting():
            try:
                self.tally = read_tally(self._session.cluster, self._session.kept_calls)
            except (OSError, RuntimeError) as error:
                self._warn(f"tasks were not counted: {error}")
            self.write(warn=True)
        return self.tally

    def write(self, *, warn: bool = False) -> None:
        """Write what is new; what the scheduler does not tell now is asked for again, and warned of if `warn`."""
        with self._lock:
            try:
                events = self._session.events[self._events :]
                self.record.append("events.jsonl", map(event_as_json, events))
                self._events += len(events)
                # What was taken and cannot be written now, on a disk that is full, is written the next time.
                self._workers += map(_worker_row, self._session.take_worker_changes())
                self.record.append("workers.jsonl", self._workers)
                self._workers.clear()
                if self._is_counting():
                    self._tasks += take_ends(self._session.cluster)
                self.record.append_lines("tasks.jsonl", self._tasks)
                self._tasks = ""
                if self._is_counting():
                    self._keep_wanted_logs()
            except (OSError, RuntimeError) as error:
                if warn and not self._warned:
                    self._warned = True
                    self._warn(f"the record is not complete: {error}")

    def summary(self) -> dict[str, Any]:
        """Return what became of the tasks, and what the run took, as JSON values."""
        from scalable.runs.cost import actual_cost

        session = self._session
        hours = {tag: round(each, 6) for tag, each in session.worker_hours.items()}
        # What the meter takes for the cost is that of `actual_cost`, without its parts.
        used = {name: each for name, each in session.usage.items() if name not in _METERED}
        summary = {**self.tally.to_dict(), "worker_hours": hours, **used}
        if hours and self._began is not None:
            plan = session.plan().scale_plan
            elapsed = (time.monotonic() - self._began) / 3600
            cost = actual_cost(session.provider, session.spec, plan, hours, elapsed)
            summary |= {"cost": cost} if cost else {}
        return summary

    def _is_counting(self) -> bool:
        # Also where the interpreter has closed the cluster, at its end.
        if not self._counts or self._session.closed:
            return False
        return self._session.cluster.status.name == "running"

    def _keep_wanted_logs(self) -> None:
        wanted = self.record.directory / LOGS_WANTED
        if wanted.exists():
            try:
                self._session.cluster.keep_logs()
            finally:
                wanted.unlink(missing_ok=True)

    def start(self) -> None:
        """Write once a second from now on, in a thread of its own, and touch the record."""
        self._thread = threading.Thread(target=self._run, name="scalable-record", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write no longer."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _run(self) -> None:
        touched = time.monotonic()
        while not self._stopped.wait(_INTERVAL):
            if time.monotonic() - touched >= _TOUCH_INTERVAL:
                touched = time.monotonic()
                self.record.touch()
            if self.writing:
                self.write()
