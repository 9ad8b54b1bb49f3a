"""What became of a run's tasks: counted on the scheduler from the start, also of those that it has forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from scalable.cli.status import TaskCount, total

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

    from scalable.cluster import GroupedCluster

__all__ = ["Tally", "TaskFailures", "begin_tally", "read_tally", "take_ends"]

_TIMEOUT = 5.0

_MAX_REASONS = 5


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
    """

    task: str
    error: str
    count: int
    example: str


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
    """

    counts: dict[str, TaskCount]
    failures: list[TaskFailures]
    tags: dict[str, str] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """Yield what became of them, for people.

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
            yield f"  {each.count} of {self._name(each.task)} failed: {each.error} (such as {each.example})"
        if len(self.failures) > _MAX_REASONS:
            yield f"  and for {len(self.failures) - _MAX_REASONS} more reasons"

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

            def transition(
                self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any
            ) -> None:
                if start == "processing" and finish in ("memory", "erred"):
                    self.note_end(key, finish, kwargs)
                if finish == "memory" and key not in self.done:
                    self.done.add(key)
                    prefix = key_split(key)
                    self.counts[prefix, "done"] += 1
                    if key in self.failed:  # it was tried again
                        self.counts[prefix, self.failed.pop(key)] -= 1
                    self.note_tag(prefix, dask_scheduler.tasks.get(key))
                elif finish == "erred":
                    self.fail(key)
                elif finish == "forgotten":
                    if key not in self.done and key not in self.failed:
                        self.counts[key_split(key), "cancelled"] += 1
                    self.done.discard(key)
                    self.failed.pop(key, None)

            def note_end(self, key: Any, finish: str, facts: dict[str, Any]) -> None:
                worker = dask_scheduler.workers.get(str(facts.get("worker")))
                times = [
                    each for each in facts.get("startstops") or () if each["action"] == "compute"
                ]
                begin, end = (times[-1]["start"], times[-1]["stop"]) if times else (None, None)
                task = dask_scheduler.tasks.get(key)
                tag = next(iter(task.resource_restrictions or ()), None) if task else None
                name = None if worker is None else str(worker.name)
                status = "done" if finish == "memory" else "failed"
                self.rows.append((str(key), tag, name, begin, end, status))

            def note_tag(self, prefix: str, task: Any) -> None:
                if prefix not in self.tags and task is not None and task.resource_restrictions:
                    self.tags[prefix] = next(iter(task.resource_restrictions))

            def fail(self, key: Any) -> None:
                task = dask_scheduler.tasks.get(key)
                # A task that depends on one that failed has its exception, and was not run.
                blamed = task is not None and task.exception_blame in (task, None)
                if key in self.failed:
                    return
                self.failed[key] = "failed" if blamed else "cancelled"
                prefix = key_split(key)
                self.note_tag(prefix, task)
                self.counts[prefix, self.failed[key]] += 1
                if not blamed or task is None:
                    return
                text = " ".join((task.exception_text or "").split())[:max_text]
                reason = self.reasons.get((prefix, text))
                if reason is not None:
                    reason[0] += 1
                elif len(self.reasons) < max_reasons:
                    self.reasons[prefix, text] = [1, str(key)]

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
            return {}, {}, {}, {}
        left = {
            prefix.name: sum(
                count
                for state, count in prefix.states.items()
                if state not in ("memory", "erred", "released", "forgotten")
            )
            for prefix in dask_scheduler.task_prefixes.values()
        }
        return dict(tally.counts), left, dict(tally.reasons), dict(tally.tags)

    counts, left, reasons, tags = _call(cluster, read)
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
                TaskFailures(name, text, count, example)
                for (name, text), (count, example) in reasons.items()
            ),
            key=lambda each: -each.count,
        ),
        tags,
    )


def take_ends(cluster: GroupedCluster) -> list[dict[str, Any]]:
    """Return the tasks that have ended since the last call, each as a mapping; at most 100,000 of them.

    Raises
    ------
    OSError, RuntimeError, TimeoutError
        The scheduler does not answer, or does not count.
    """

    def take(dask_scheduler: Scheduler) -> list[Any]:
        tally: Any = dask_scheduler.plugins.get("scalable-tally")
        if tally is None:  # it does not count yet
            return []
        rows = list(tally.rows)
        tally.rows.clear()
        return rows

    names = ("task", "component", "worker", "started", "ended", "status")
    return [dict(zip(names, row, strict=True)) for row in _call(cluster, take)]


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
