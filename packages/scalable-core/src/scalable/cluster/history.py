"""When each worker was requested, had its machine, joined and ended: for records of runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from scalable.cluster.group import Group
from scalable.cluster.member import Member

__all__ = ["WorkerHistory", "WorkerSpan"]

MAX_CHANGES = 100_000


@dataclass(frozen=True)
class WorkerSpan:
    """One worker, so far. Times are seconds since the epoch; None where it has not come to that.

    Parameters
    ----------
    worker, group : str
        Its name, and its group.
    launched, started, joined, ended : float or None
        When its unit became known, had its machine, when its Dask worker joined, and when the unit ended.
    why : str
        Why it ended, in one line; empty where it was stopped.
    """

    worker: str
    group: str
    launched: float
    started: float | None = None
    joined: float | None = None
    ended: float | None = None
    why: str = ""


class WorkerHistory:
    """Records the changes of workers.

    Parameters
    ----------
    clock : callable
        Seconds, monotonic; the clock of `Member`.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._spans: dict[str, WorkerSpan] = {}
        self._seen: dict[str, tuple[float | None, float | None]] = {}
        self._changes: deque[WorkerSpan] = deque(maxlen=MAX_CHANGES)

    def update(self, groups: Iterable[Group]) -> None:
        """Record what has changed since the last call."""
        for group in groups:
            for member in group.members.values():
                # Compared before anything is made: thousands of workers change nothing in most turns.
                if self._seen.get(member.unit.id) != (member.running_since, member.joined_at):
                    self._record(member)

    def end(self, member: Member, why: str = "") -> None:
        """Record that a unit has ended."""
        span = replace(self._record(member, keep=False), ended=time.time(), why=why)
        self._changes.append(span)
        self._seen.pop(member.unit.id, None)
        self._spans.pop(member.unit.id, None)

    def take(self) -> list[WorkerSpan]:
        """Return the workers that have changed since the last call, each as it is now; one may be there twice."""
        changes = []
        while self._changes:
            changes.append(self._changes.popleft())
        return changes

    def _record(self, member: Member, *, keep: bool = True) -> WorkerSpan:
        # The clock has another origin.
        offset = time.time() - self._clock()
        started = member.joined_at if member.running_since is None else member.running_since
        known = self._spans.get(member.unit.id)
        span = WorkerSpan(
            member.unit.id,
            member.unit.tag,
            known.launched if known else member.launched + offset,
            None if started is None else started + offset,
            None if member.joined_at is None else member.joined_at + offset,
        )
        if keep:
            self._seen[member.unit.id] = member.running_since, member.joined_at
            self._spans[member.unit.id] = span
            self._changes.append(span)
        return span
