"""What the rows of a run's record amount to: for its report. Pure functions."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

__all__ = [
    "Bar",
    "Lane",
    "Used",
    "Waits",
    "function_name",
    "lanes",
    "last_of_each",
    "spread",
    "steps",
    "time_span",
    "used",
    "waits",
]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Bar:
    """Tasks of one function and one status, from `start` to `end`, as parts of the whole time."""

    start: float
    end: float
    function: str
    failed: bool
    count: int = 1


@dataclass(frozen=True)
class Lane:
    """What one worker ran, in rows of bars that do not overlap; from when to when it was there, and why it ended."""

    worker: str
    component: str
    rows: tuple[tuple[Bar, ...], ...]
    since: float
    until: float
    why: str = ""


@dataclass(frozen=True)
class Waits:
    """Seconds that something took: half of the time, and at most."""

    half: float
    most: float


@dataclass(frozen=True)
class Used:
    """What the tasks of a component used, as far as it was measured."""

    tasks: int
    seconds: float
    cpu_seconds: float | None
    peak_memory: int | None
    half_memory: int | None


def function_name(key: str, component: str | None) -> str:
    """Return the name of a task's function.

    Examples
    --------
    >>> function_name("gcam.simulate-74d5f47e073c4eadb9f4888cf260bf86-20", "gcam")
    'simulate'
    >>> function_name("sum-1f2e3d4c5b6a79881f2e3d4c5b6a7988", None)
    'sum'
    """
    name = key.strip("('\"").split("-")[0] if key else key
    return name.removeprefix(f"{(component or '').replace('-', ':')}.")


def last_of_each(rows: Iterable[Row], name: str) -> list[Row]:
    """Return the last row of each thing that `name` names, in the order in which they first appear.

    Examples
    --------
    >>> last_of_each([{"w": "a", "n": 1}, {"w": "b", "n": 2}, {"w": "a", "n": 3}], "w")
    [{'w': 'a', 'n': 3}, {'w': 'b', 'n': 2}]
    """
    return list({row.get(name): row for row in rows}.values())


def time_span(document: Row, tasks: Iterable[Row], workers: Iterable[Row]) -> tuple[float, float]:
    """Return when a run began and ended, in seconds since the epoch; the latest time that is known, if it goes on."""
    began = datetime.fromisoformat(str(document["started"])).timestamp()
    times = [began + 1.0]
    times += [
        row[name]
        for rows, names in ((tasks, ("started", "ended")), (workers, ("launched", "ended")))
        for row in rows
        for name in names
        if row.get(name)
    ]
    if document.get("ended"):
        times.append(datetime.fromisoformat(str(document["ended"])).timestamp())
    return began, max(times)


def steps(spans: Iterable[tuple[float, float]]) -> list[tuple[float, int]]:
    """Return how many spans there are, from each time on at which that changes.

    Examples
    --------
    >>> steps([(0, 4), (1, 2), (2, 3)])
    [(0, 1), (1, 2), (3, 1), (4, 0)]
    """
    changes: dict[float, int] = {}
    for start, end in spans:
        if end > start:
            changes[start] = changes.get(start, 0) + 1
            changes[end] = changes.get(end, 0) - 1
    found, count = [], 0
    for time in sorted(changes):
        if changes[time]:
            count += changes[time]
            found.append((time, count))
    return found


def lanes(
    tasks: Iterable[Row], workers: Sequence[Row], span: tuple[float, float], *, finest: float
) -> list[Lane]:
    """Return a lane for each worker.

    Parameters
    ----------
    tasks, workers : iterable of mapping
        Rows of the record.
    span : (float, float)
        From when to when.
    finest : float
        The part of the time below which bars of the same kind are joined.
    """
    start, end = span

    def part(time: float) -> float:
        return min(1.0, max(0.0, (time - start) / (end - start)))

    ran: dict[str, list[Row]] = {}
    for task in tasks:
        if task.get("worker") and task.get("started") and task.get("ended"):
            ran.setdefault(str(task["worker"]), []).append(task)
    found = []
    for worker in workers:
        rows: list[list[Bar]] = []
        free: list[float] = []
        for task in sorted(
            ran.get(str(worker["worker"]), ()), key=lambda row: float(row["started"])
        ):
            component = task.get("component")
            bar = Bar(
                part(task["started"]),
                part(task["ended"]),
                function_name(str(task["task"]), component),
                task.get("status") not in ("done", "kept"),
            )
            # Clocks are read before a task's own end is: what overlaps by less than a pixel does not.
            room = task["started"] + 0.02 + finest * (end - start) / 2
            at = next((n for n, since in enumerate(free) if since <= room), len(free))
            if at == len(free):
                free.append(0.0)
                rows.append([])
            free[at] = task["ended"]
            _append(rows[at], bar, finest)
        begin = worker.get("joined") or worker.get("started")
        if begin is None and not rows:
            continue
        found.append(
            Lane(
                str(worker["worker"]),
                str(worker.get("component", "")),
                tuple(map(tuple, rows)),
                part(begin or start),
                part(worker.get("ended") or end),
                str(worker.get("why") or ""),
            )
        )
    return found


def _append(row: list[Bar], bar: Bar, finest: float) -> None:
    """Append a bar, or join it with the one before it if nobody could tell them apart."""
    if row:
        last = row[-1]
        if (last.function, last.failed) == (bar.function, bar.failed) and (
            bar.start - last.end < finest and (bar.end - last.start < 20 * finest)
        ):
            row[-1] = Bar(last.start, bar.end, bar.function, bar.failed, last.count + 1)
            return
    row.append(bar)


def waits(rows: Iterable[Row], begin: str, end: str) -> Waits | None:
    """Return how long it took from one time of rows to another; None where no row has both."""
    taken = [
        max(0.0, row[end] - row[begin])
        for row in rows
        if row.get(begin) is not None and row.get(end) is not None
    ]
    return Waits(median(taken), max(taken)) if taken else None


def used(tasks: Iterable[Row]) -> Used:
    """Return what tasks used, those left out that only loaded a kept result."""
    tasks = [
        task
        for task in tasks
        if task.get("started") and task.get("ended") and task.get("status") != "kept"
    ]
    seconds = sum(task["ended"] - task["started"] for task in tasks)
    peaks = sorted(task["peak_memory"] for task in tasks if task.get("peak_memory"))
    cpu = [task["cpu_seconds"] for task in tasks if task.get("cpu_seconds") is not None]
    return Used(
        len(tasks),
        seconds,
        sum(cpu) * len(tasks) / len(cpu) if cpu else None,
        peaks[-1] if peaks else None,
        peaks[len(peaks) // 2] if peaks else None,
    )


_UNITS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)


def spread(seconds: float, most: int) -> list[float]:
    """Return times, round ones, at which an axis of that length has at most so many marks.

    Examples
    --------
    >>> spread(100, 5), spread(3, 5)
    ([0, 30, 60, 90], [0, 1, 2, 3])
    """
    at = bisect.bisect_left(_UNITS, seconds / most)
    unit = _UNITS[at] if at < len(_UNITS) else 86400 * (int(seconds / most / 86400) + 1)
    return [unit * n for n in range(int(seconds / unit) + 1)]
