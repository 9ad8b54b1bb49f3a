"""What became of a run's tasks. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Tally", "TaskCount", "TaskFailures", "make_tally", "total"]

_MAX_REASONS = 5


@dataclass(frozen=True)
class TaskCount:
    """Tasks of one kind: how many are done, have failed, are left to do, and were given up.

    `kept` are those that were not to be done, because an earlier run has kept their results.
    """

    done: int = 0
    failed: int = 0
    left: int = 0
    cancelled: int = 0
    kept: int = 0

    @property
    def all(self) -> int:
        """The number of all tasks of this kind that were to be done."""
        return self.done + self.failed + self.left + self.cancelled

    def __add__(self, other: TaskCount) -> TaskCount:
        return TaskCount(
            self.done + other.done,
            self.failed + other.failed,
            self.left + other.left,
            self.cancelled + other.cancelled,
            self.kept + other.kept,
        )

    def __str__(self) -> str:
        kept = f"{self.kept} kept" if self.kept else ""
        if kept and not self.all:
            return kept
        parts = {"failed": self.failed, "cancelled": self.cancelled, "not run": self.left}
        text = f"{self.done} of {self.all} done"
        text += "".join(f", {number} {what}" for what, number in parts.items() if number)
        return f"{kept}, {text}" if kept else text


def total(counts: Iterable[TaskCount]) -> TaskCount:
    """Return the sum of counts."""
    return sum(counts, TaskCount())


@dataclass(frozen=True)
class TaskFailures:
    """Tasks of one kind that failed for one reason.

    Parameters
    ----------
    task : str
        The name of their function.
    error : str
        The exception, in one line.
    count : int
        How many.
    example : str
        The key of one of them.
    worker : str
        The worker that ran that one; empty where that is not known.
    """

    task: str
    error: str
    count: int
    example: str
    worker: str = ""


@dataclass(frozen=True)
class Tally:
    """What became of tasks.

    Parameters
    ----------
    counts : dict of str to TaskCount
        How many, by the name of their function.
    failures : list of TaskFailures
        Those that failed, the most frequent reason first.
    tags : dict of str to str
        The component that ran them, by the name of their function.
    lost : dict of str to int
        How many results were lost with their workers, so that their tasks ran again, by the name of their function.
    """

    counts: dict[str, TaskCount]
    failures: list[TaskFailures]
    tags: dict[str, str] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)

    def lines(self, logs: Path | None = None) -> Iterator[str]:
        """Yield what became of them, for people.

        Parameters
        ----------
        logs : Path, optional
            The directory of the workers' logs, which are named where there are some.

        Examples
        --------
        >>> counts = {
        ...     "simulate": TaskCount(done=196, failed=4),
        ...     "read": TaskCount(kept=40),
        ...     "mean": TaskCount(done=1),
        ... }
        >>> failures = [TaskFailures("simulate", "ValueError: no data", 4, "simulate-1f")]
        >>> for line in Tally(counts, failures, {"simulate": "gcam"}).lines():
        ...     print(line)
        tasks: 40 kept, 197 of 201 done, 4 failed
          simulate (gcam): 196 of 200 done, 4 failed
          read: 40 kept
          mean: 1 of 1 done
          4 of simulate failed: ValueError: no data (such as simulate-1f)
        """
        if not self.counts:
            return
        yield f"tasks: {total(self.counts.values())}"
        for name, count in self.counts.items():
            tag = f" ({self.tags[name]})" if name in self.tags else ""
            yield f"  {self._name(name)}{tag}: {count}"
        for each in self.failures[:_MAX_REASONS]:
            log = logs and each.worker and logs / f"{each.worker}.log"
            where = f"; log: {log}" if log and log.exists() else ""
            yield (
                f"  {each.count} of {self._name(each.task)} failed: {each.error} "
                f"(such as {each.example}{where})"
            )
        if len(self.failures) > _MAX_REASONS:
            yield f"  and for {len(self.failures) - _MAX_REASONS} more reasons"
        for name, number in self.lost.items():
            results = "1 result" if number == 1 else f"{number} results"
            yield f"  {results} of {self._name(name)} lost with their workers, and computed again"

    def _name(self, prefix: str) -> str:
        """Return the name of a function without the tag that keys begin with."""
        return prefix.removeprefix(f"{self.tags.get(prefix, '').replace('-', ':')}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        return {
            "tasks": [
                {"name": self._name(name), "component": self.tags.get(name), **asdict(count)}
                for name, count in self.counts.items()
            ],
            "failures": [{**asdict(each), "task": self._name(each.task)} for each in self.failures],
            "lost": {self._name(name): number for name, number in self.lost.items()},
        }


def make_tally(
    summary: Mapping[str, Any], kept: Mapping[str, tuple[str | None, int]] | None = None
) -> Tally:
    """Return what has become of the tasks.

    Parameters
    ----------
    summary : mapping
        What the scheduler has counted, as `scalable.runs.plugins.summarize` returns it; empty if it counts nothing.
    kept : mapping of str to (str, int), optional
        The component of tasks, and how many of them were not submitted because their results are kept, by the name of
        their function.

    Examples
    --------
    >>> make_tally({"done": {"mean": 2}}, {"read": ("gcam", 40)}).counts["read"]
    TaskCount(done=0, failed=0, left=0, cancelled=0, kept=40)
    """
    counts, done, loading, left, reasons, tags, lost = (
        summary.get(each, {})
        for each in ("counts", "done", "loading", "left", "reasons", "tags", "lost")
    )
    kept = kept or {}
    loaded = {name: loading.get(name, 0) + counts.get((name, "kept"), 0) for name in left}
    kept_now = {
        # Some of them have turned out to be damaged; other clients may have found some, too.
        name: max(
            kept.get(name, ("", 0))[1] - counts.get((name, "not kept"), 0), loaded.get(name, 0)
        )
        for name in {*kept, *loaded}
    }
    names = {name for name, _ in counts} | {*done}
    names |= {name for each in (left, kept_now) for name, number in each.items() if number}
    return Tally(
        {
            name: TaskCount(
                done.get(name, 0),
                counts.get((name, "failed"), 0),
                left.get(name, 0),
                counts.get((name, "cancelled"), 0),
                kept_now.get(name, 0),
            )
            for name in sorted(names)
        },
        sorted(
            (
                TaskFailures(name, text, count, example, worker)
                for (name, text), (count, example, worker) in reasons.items()
            ),
            key=lambda each: -each.count,
        ),
        {**{name: tag for name, (tag, _) in kept.items() if tag}, **tags},
        lost,
    )
