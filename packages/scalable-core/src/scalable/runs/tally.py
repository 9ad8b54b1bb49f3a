"""What became of a run's tasks: counted on the scheduler from the start, also of those that it has forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
        tasks, workers = dask_scheduler.tasks, dask_scheduler.workers

        class Tally(SchedulerPlugin):
            """Counts how tasks end."""

            name = "scalable-tally"

            def __init__(self) -> None:
                self.failed: dict[Any, str] = {}
                self.done: dict[str, int] = {}
                self.counts: Counter[tuple[str, str]] = Counter()
                self.reasons: dict[tuple[str, str], list[Any]] = {}
                self.tags: dict[str, str] = {}
                self.rows: deque[tuple[Any, ...]] = deque(maxlen=max_rows)
                self.lost: Counter[str] = Counter()
                self.lost_now: set[Any] = set()
                # Tasks that load a result which an earlier run has kept.
                self.loading: set[Any] = set()
                # Of tasks that have not ended: since when they could run.
                self.ready: dict[Any, float] = {}
                # By address, also of workers that are gone.
                self.names = {address: str(ws.name) for address, ws in workers.items()}

            def add_worker(self, scheduler: Scheduler, worker: str) -> None:
                self.names[worker] = str(workers[worker].name)

            def transition(
                self,
                key: Any,
                start: str,
                finish: str,
                *args: Any,
                worker: Any = None,
                startstops: Any = None,
                **kwargs: Any,
            ) -> None:
                # Called some times for every task: as little as can be, and what is usual first.
                if finish in ("processing", "no-worker", "queued"):
                    if key not in self.ready:
                        self.ready[key] = time()
                        annotations = tasks[key].annotations
                        if annotations and "scalable_kept" in annotations:
                            self.loading.add(key)
                elif finish == "waiting":
                    # What has a size has had a result.
                    if start == "released" and tasks[key].nbytes >= 0 and key not in self.lost_now:
                        self.lost_now.add(key)
                        self.lost[tasks[key].prefix.name] += 1
                elif finish == "memory":
                    self.end(key, start == "processing", worker, startstops)
                elif finish == "erred":
                    self.fail(key, worker, startstops)
                elif finish == "forgotten":
                    task = tasks.get(key)
                    if key in self.failed:
                        del self.failed[key]
                    elif task is not None and task.nbytes < 0 and key not in self.loading:
                        self.note_tag(task)
                        self.counts[task.prefix.name, "cancelled"] += 1
                    self.ready.pop(key, None)
                    self.lost_now.discard(key)
                    self.loading.discard(key)

            def end(self, key: Any, has_run: bool, worker: Any, startstops: Any) -> None:
                task = tasks[key]
                name = task.prefix.name
                status = "done"
                if key in self.loading:
                    self.loading.discard(key)
                    self.counts[name, "kept"] += 1
                    status = "kept"
                elif key in self.lost_now:
                    self.lost_now.discard(key)
                elif key in self.failed:  # it was tried again
                    self.counts[name, self.failed.pop(key)] -= 1
                    self.done[name] = self.done.get(name, 0) + 1
                elif name in self.done:
                    self.done[name] += 1
                else:
                    self.done[name] = 1
                    self.note_tag(task)
                ready = self.ready.pop(key, None)
                if has_run:
                    tags = task.resource_restrictions
                    self.rows.append((key, tags, worker, ready, startstops, time(), status))

            def note_tag(self, task: Any) -> None:
                # A kept result is loaded where it is needed, by workers of whatever component.
                loads = task.annotations and "scalable_kept" in task.annotations
                if task.resource_restrictions and not loads:
                    self.tags.setdefault(task.prefix.name, next(iter(task.resource_restrictions)))

            def fail(self, key: Any, worker: Any, startstops: Any) -> None:
                task = tasks.get(key)
                # A task that depends on one that failed has its exception, and was not run.
                blamed = task is not None and task.exception_blame in (task, None)
                if key in self.failed:
                    return
                self.failed[key] = "failed" if blamed else "cancelled"
                prefix = key_split(key)
                self.counts[prefix, self.failed[key]] += 1
                if key in self.loading:
                    self.loading.discard(key)
                    self.counts[prefix, "not kept"] += 1
                if task is not None:
                    self.note_tag(task)
                ready = self.ready.pop(key, None)
                if not blamed or task is None:
                    return
                tags = task.resource_restrictions
                self.rows.append((key, tags, worker, ready, startstops, time(), "failed"))
                text = " ".join((task.exception_text or "").split())[:max_text]
                reason = self.reasons.get((prefix, text))
                if reason is not None:
                    reason[0] += 1
                elif len(self.reasons) < max_reasons:
                    self.reasons[prefix, text] = [1, str(key), self.names.get(worker, "")]

        if Tally.name not in dask_scheduler.plugins:
            dask_scheduler.add_plugin(Tally())

    _call(cluster, begin)


def read_tally(
    cluster: GroupedCluster, kept: Mapping[str, tuple[str | None, int]] | None = None
) -> Tally:
    """Return what has become of the tasks so far.

    Parameters
    ----------
    cluster : GroupedCluster
        The cluster.
    kept : mapping of str to (str, int), optional
        The component of tasks, and how many of them were not submitted because their results are kept, by the name of
        their function.

    Raises
    ------
    OSError, RuntimeError, TimeoutError
        The scheduler does not answer, or does not count.
    """

    def read(dask_scheduler: Scheduler) -> Any:
        from collections import Counter

        tally: Any = dask_scheduler.plugins.get("scalable-tally")
        if tally is None:  # it does not count yet
            return {}, {}, {}, {}, {}, {}, {}
        tasks = dask_scheduler.tasks
        loading = Counter(tasks[key].prefix.name for key in tally.loading if key in tasks)
        left = {
            prefix.name: sum(
                count
                for state, count in prefix.states.items()
                if state not in ("memory", "erred", "released", "forgotten")
            )
            - loading[prefix.name]
            for prefix in dask_scheduler.task_prefixes.values()
        }
        # Also of tasks that have not ended.
        for task in tasks.values() if any(left.values()) else ():
            tally.note_tag(task)
        counts, done = dict(tally.counts), dict(tally.done)
        return counts, done, dict(loading), left, dict(tally.reasons), tally.tags, dict(tally.lost)

    counts, done, loading, left, reasons, tags, lost = _call(cluster, read)
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


def take_ends(cluster: GroupedCluster) -> str:
    """Return the tasks that have ended since the last call, a line of JSON for each; at most 100,000 of them.

    Raises
    ------
    OSError, RuntimeError, TimeoutError
        The scheduler does not answer, or does not count.
    """

    # Lines, and one text of them: what is made of each of many thousand tasks is made once.
    def take(dask_scheduler: Scheduler) -> str:
        from json.encoder import encode_basestring as quoted

        tally: Any = dask_scheduler.plugins.get("scalable-tally")
        if tally is None:  # it does not count yet
            return ""
        rows = list(tally.rows)
        tally.rows.clear()
        names = {address: quoted(name) for address, name in tally.names.items()}
        names[None] = "null"
        lines = []
        for key, tags, worker, ready, startstops, end, status in rows:
            begin = cpu = peak = None
            for each in startstops or ():
                if each["action"] == "compute":
                    begin, end = each.get("start"), each.get("stop")
                    cpu, peak = each.get("cpu_seconds"), each.get("peak_memory")
            # A task whose worker has died with it has reported no times. Numbers are measured, so that they are finite,
            # and Python writes them as JSON does.
            lines.append(
                f'{{"task": {quoted(key if type(key) is str else str(key))}, '
                f'"component": {quoted(next(iter(tags))) if tags else "null"}, '
                f'"worker": {names.get(worker, "null")}, '
                f'"ready": {"null" if ready is None else ready}, '
                f'"started": {"null" if begin is None else begin}, '
                f'"ended": {end}, "status": "{status}", '
                f'"cpu_seconds": {"null" if cpu is None else cpu}, '
                f'"peak_memory": {"null" if peak is None else peak}}}\n'
            )
        return "".join(lines)

    text: str = _call(cluster, take)
    return text


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
