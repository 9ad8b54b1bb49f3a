"""What became of a run's tasks: counted on the scheduler from the start, also of those that it has forgotten."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

    from scalable.cluster import GroupedCluster

__all__ = ["Tally", "TaskCount", "TaskFailures", "begin_tally", "read_tally", "take_ends", "total"]

_TIMEOUT = 5.0

_MAX_REASONS = 5


@dataclass(frozen=True)
class TaskCount:
    """Tasks of one kind: how many are done, have failed, are left to do, and were given up."""

    done: int = 0
    failed: int = 0
    left: int = 0
    cancelled: int = 0

    @property
    def all(self) -> int:
        """The number of all tasks of this kind."""
        return self.done + self.failed + self.left + self.cancelled

    def __add__(self, other: TaskCount) -> TaskCount:
        return TaskCount(
            self.done + other.done,
            self.failed + other.failed,
            self.left + other.left,
            self.cancelled + other.cancelled,
        )


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
        >>> counts = {"simulate": TaskCount(done=196, failed=4), "mean": TaskCount(done=1)}
        >>> failures = [TaskFailures("simulate", "ValueError: no data", 4, "simulate-1f")]
        >>> for line in Tally(counts, failures, {"simulate": "gcam"}).lines():
        ...     print(line)
        tasks: 197 of 201 done, 4 failed
          simulate (gcam): 196 of 200 done, 4 failed
          mean: 1 of 1 done
          4 of simulate failed: ValueError: no data (such as simulate-1f)
        """
        if not self.counts:
            return
        yield f"tasks: {_describe(total(self.counts.values()))}"
        for name, count in self.counts.items():
            tag = f" ({self.tags[name]})" if name in self.tags else ""
            yield f"  {self._name(name)}{tag}: {_describe(count)}"
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


def _describe(count: TaskCount) -> str:
    parts = {"failed": count.failed, "cancelled": count.cancelled, "not run": count.left}
    text = f"{count.done} of {count.all} done"
    return text + "".join(f", {number} {what}" for what, number in parts.items() if number)


def begin_tally(cluster: GroupedCluster) -> None:
    """Count from now on.

    Raises
    ------
    OSError, RuntimeError, TimeoutError
        The scheduler does not answer.
    """

    # A nested function, because it is pickled by value: the scheduler may have none of our packages.
    def begin(dask_scheduler: Scheduler) -> None:
        from collections import Counter, deque
        from time import time

        from dask.utils import key_split
        from distributed.diagnostics.plugin import SchedulerPlugin

        max_reasons, max_text, max_rows = 100, 300, 100_000

        class Tally(SchedulerPlugin):
            """Counts how tasks end."""

            name = "scalable-tally"

            def __init__(self) -> None:
                self.done: set[Any] = set()
                self.failed: dict[Any, str] = {}
                self.counts: Counter[tuple[str, str]] = Counter()
                self.reasons: dict[tuple[str, str], list[Any]] = {}
                self.tags: dict[str, str] = {}
                self.rows: deque[tuple[Any, ...]] = deque(maxlen=max_rows)
                self.lost: Counter[str] = Counter()
                self.lost_now: set[Any] = set()
                # Of tasks that have not ended: since when they could run, and the worker they were sent to.
                self.ready: dict[Any, tuple[float, Any]] = {}

            def transition(
                self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any
            ) -> None:
                # For every task some times: the usual case first, and little of it.
                if start == "released":
                    self.note_begin(key, finish)
                if finish == "processing":
                    known = self.ready.get(key)
                    since = known[0] if known else time()
                    self.ready[key] = since, dask_scheduler.tasks[key].processing_on
                elif finish in ("no-worker", "queued"):
                    self.ready.setdefault(key, (time(), None))
                elif start == "processing" and finish == "memory":
                    self.note_end(key, "done", kwargs)
                    self.lost_now.discard(key)
                if finish == "memory" and key not in self.done:
                    self.done.add(key)
                    prefix = dask_scheduler.tasks[key].prefix.name
                    self.counts[prefix, "done"] += 1
                    if key in self.failed:  # it was tried again
                        self.counts[prefix, self.failed.pop(key)] -= 1
                elif finish == "erred":
                    self.fail(key, kwargs)
                elif finish == "forgotten":
                    if key not in self.done and key not in self.failed:
                        self.counts[key_split(key), "cancelled"] += 1
                    self.done.discard(key)
                    self.failed.pop(key, None)
                    self.ready.pop(key, None)
                    self.lost_now.discard(key)

            def note_begin(self, key: Any, finish: str) -> None:
                task = dask_scheduler.tasks.get(key)
                if task is None:
                    return
                # Also of tasks that never run.
                if task.prefix.name not in self.tags and task.resource_restrictions:
                    self.tags[task.prefix.name] = next(iter(task.resource_restrictions))
                if finish == "waiting" and key in self.done and key not in self.lost_now:
                    self.lost_now.add(key)
                    self.lost[task.prefix.name] += 1

            def note_end(self, key: Any, status: str, facts: dict[str, Any]) -> str:
                ready, sent_to = self.ready.pop(key, (None, None))
                worker = None if sent_to is None else str(sent_to.name)
                computed: dict[str, Any] = {}
                for each in facts.get("startstops") or ():
                    if each["action"] == "compute":
                        computed = each
                begin, end = computed.get("start"), computed.get("stop")
                used = computed.get("cpu_seconds"), computed.get("peak_memory")
                task = dask_scheduler.tasks.get(key)
                tag = next(iter(task.resource_restrictions or ()), None) if task else None
                # A task whose worker has died with it has reported no times.
                self.rows.append(
                    (str(key), tag, worker, ready, begin, end or time(), status, *used)
                )
                return worker or ""

            def fail(self, key: Any, facts: dict[str, Any]) -> None:
                task = dask_scheduler.tasks.get(key)
                # A task that depends on one that failed has its exception, and was not run.
                blamed = task is not None and task.exception_blame in (task, None)
                if key in self.failed:
                    return
                self.failed[key] = "failed" if blamed else "cancelled"
                prefix = key_split(key)
                self.counts[prefix, self.failed[key]] += 1
                if not blamed or task is None:
                    return
                worker = self.note_end(key, "failed", facts)
                text = " ".join((task.exception_text or "").split())[:max_text]
                reason = self.reasons.get((prefix, text))
                if reason is not None:
                    reason[0] += 1
                elif len(self.reasons) < max_reasons:
                    self.reasons[prefix, text] = [1, str(key), worker]

        if Tally.name not in dask_scheduler.plugins:
            dask_scheduler.add_plugin(Tally())

    _call(cluster, begin)


def read_tally(cluster: GroupedCluster) -> Tally:
    """Return what has become of the tasks so far.

    Raises
    ------
    OSError, RuntimeError, TimeoutError
        The scheduler does not answer, or does not count.
    """

    def read(dask_scheduler: Scheduler) -> Any:
        tally: Any = dask_scheduler.plugins.get("scalable-tally")
        if tally is None:  # it does not count yet
            return {}, {}, {}, {}, {}
        left = {
            prefix.name: sum(
                count
                for state, count in prefix.states.items()
                if state not in ("memory", "erred", "released", "forgotten")
            )
            for prefix in dask_scheduler.task_prefixes.values()
        }
        return dict(tally.counts), left, dict(tally.reasons), dict(tally.tags), dict(tally.lost)

    counts, left, reasons, tags, lost = _call(cluster, read)
    names = {name for name, _ in counts} | {name for name, number in left.items() if number}
    return Tally(
        {
            name: TaskCount(
                counts.get((name, "done"), 0),
                counts.get((name, "failed"), 0),
                left.get(name, 0),
                counts.get((name, "cancelled"), 0),
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
        tags,
        lost,
    )


def take_ends(cluster: GroupedCluster) -> list[dict[str, Any]]:
    """Return the tasks that have ended since the last call, each as a mapping; at most 100,000 of them.

    Raises
    ------
    OSError, RuntimeError, TimeoutError
        The scheduler does not answer, or does not count.
    """

    def take(dask_scheduler: Scheduler) -> bytes:
        import pickle

        tally: Any = dask_scheduler.plugins.get("scalable-tally")
        if tally is None:  # it does not count yet
            return pickle.dumps([])
        rows = list(tally.rows)
        tally.rows.clear()
        # As one object: Dask would look into each of thousands, for a tenth of a millisecond.
        return pickle.dumps(rows)

    times = ("ready", "started", "ended")
    names = ("task", "component", "worker", *times, "status", "cpu_seconds", "peak_memory")
    rows = pickle.loads(_call(cluster, take))  # noqa: S301 - Dask itself unpickles what comes this way
    return [dict(zip(names, row, strict=True)) for row in rows]


def _call(cluster: GroupedCluster, function: Any) -> Any:
    from distributed.protocol.pickle import dumps
    from distributed.utils import sync

    answer = sync(
        cluster.loop,
        cluster.scheduler_comm.run_function,
        function=dumps(function),
        callback_timeout=_TIMEOUT,
    )
    if answer["status"] != "OK":
        raise RuntimeError("the scheduler cannot count its tasks")
    return answer["result"]
