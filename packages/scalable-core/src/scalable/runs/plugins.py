"""What counts tasks on the scheduler. It is sent there by value.

A stock ``dask scheduler`` has none of our packages, so this module imports the standard library and distributed alone,
and its functions, which run there, return plain types. `scalable.runs.counting` calls them.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from json import loads
from json.encoder import encode_basestring as quoted
from time import time
from typing import Any

from dask.utils import key_split
from distributed.diagnostics.plugin import SchedulerPlugin

__all__ = ["TallyPlugin", "install", "progress", "summarize", "take_rows"]

_NAME = "scalable-tally"
_ENDED = ("memory", "erred", "released", "forgotten")
_MAX_REASONS, _MAX_TEXT, _MAX_ROWS = 100, 300, 100_000


class TallyPlugin(SchedulerPlugin):
    """Counts how tasks end.

    Parameters
    ----------
    scheduler : Scheduler
        The scheduler, whose tasks are counted from now on.
    """

    name = _NAME

    def __init__(self, scheduler: Any) -> None:
        self.tasks, self.workers = scheduler.tasks, scheduler.workers
        # Tasks that had finished before, by the name of their function.
        self.before: dict[str, int] = {
            prefix.name: prefix.state_counts["memory"]
            for prefix in scheduler.task_prefixes.values()
        }
        self.failed: dict[Any, str] = {}
        self.done: dict[str, int] = {}
        self.counts: Counter[tuple[str, str]] = Counter()
        self.reasons: dict[tuple[str, str], list[Any]] = {}
        self.tags: dict[str, str] = {}
        # Lines of JSON: messages, which have the same in them, would take three times as much memory.
        self.rows: deque[str] = deque(maxlen=_MAX_ROWS)
        self.lost: Counter[str] = Counter()
        self.lost_now: set[Any] = set()
        # Tasks that load a result which an earlier run has kept.
        self.loading: set[Any] = set()
        # Of tasks that have not ended: since when they could run.
        self.ready: dict[Any, float] = {}
        # By address, also of workers that are gone; as JSON.
        self.names = {address: quoted(str(ws.name)) for address, ws in self.workers.items()}

    def add_worker(self, scheduler: Any, worker: str) -> None:
        """Keep the name of a worker."""
        self.names[worker] = quoted(str(self.workers[worker].name))

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
        """Count a task that has ended, or whose result was lost."""
        # Called some times for every task: as little as can be, and what is usual first.
        if finish in ("processing", "no-worker", "queued"):
            if key not in self.ready:
                self.ready[key] = time()
                annotations = self.tasks[key].annotations
                if annotations and "scalable_kept" in annotations:
                    self.loading.add(key)
        elif finish == "waiting":
            # What has a size has had a result.
            if start == "released" and self.tasks[key].nbytes >= 0 and key not in self.lost_now:
                self.lost_now.add(key)
                self.lost[self.tasks[key].prefix.name] += 1
        elif finish == "memory":
            self._end(key, start == "processing", worker, startstops)
        elif finish == "erred":
            self._fail(key, worker, startstops)
        elif finish == "forgotten":
            self._forget(key)

    def _end(self, key: Any, has_run: bool, worker: Any, startstops: Any) -> None:
        task = self.tasks[key]
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
            self._add_row(key, task, worker, ready, startstops, status)

    def _forget(self, key: Any) -> None:
        task = self.tasks.get(key)
        if key in self.failed:
            del self.failed[key]
        elif task is not None and task.nbytes < 0 and key not in self.loading:
            self.note_tag(task)
            self.counts[task.prefix.name, "cancelled"] += 1
        self.ready.pop(key, None)
        self.lost_now.discard(key)
        self.loading.discard(key)

    def note_tag(self, task: Any) -> None:
        """Keep the component of a task."""
        # A kept result is loaded where it is needed, by workers of whatever component.
        loads = task.annotations and "scalable_kept" in task.annotations
        if task.resource_restrictions and not loads:
            self.tags.setdefault(task.prefix.name, next(iter(task.resource_restrictions)))

    def _fail(self, key: Any, worker: Any, startstops: Any) -> None:
        task = self.tasks.get(key)
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
        self._add_row(key, task, worker, ready, startstops, "failed")
        text = " ".join((task.exception_text or "").split())[:_MAX_TEXT]
        reason = self.reasons.get((prefix, text))
        if reason is not None:
            reason[0] += 1
        elif len(self.reasons) < _MAX_REASONS:
            self.reasons[prefix, text] = [1, str(key), loads(self.names.get(worker, '""'))]

    def _add_row(
        self,
        key: Any,
        task: Any,
        worker: Any,
        ready: float | None,
        startstops: Any,
        status: str,
    ) -> None:
        begin = cpu = peak = None
        end = time()
        for each in startstops or ():
            if each["action"] == "compute":
                begin, end = each.get("start"), each.get("stop")
                cpu, peak = each.get("cpu_seconds"), each.get("peak_memory")
        tags = task.resource_restrictions
        # A task whose worker has died with it has reported no times. Numbers are measured, so that they are finite,
        # and Python writes them as JSON does.
        self.rows.append(
            f'{{"task": {quoted(key if type(key) is str else str(key))}, '
            f'"component": {quoted(next(iter(tags))) if tags else "null"}, '
            f'"worker": {self.names.get(worker, "null")}, '
            f'"ready": {"null" if ready is None else ready}, '
            f'"started": {"null" if begin is None else begin}, '
            f'"ended": {end}, "status": "{status}", '
            f'"cpu_seconds": {"null" if cpu is None else cpu}, '
            f'"peak_memory": {"null" if peak is None else peak}}}\n'
        )

    def left(self, scheduler: Any) -> tuple[dict[str, int], dict[str, int]]:
        """Return how many tasks have not ended, and how many load kept results, by the name of their function."""
        loading = self._by_prefix(self.loading)
        left = {
            prefix.name: sum(n for state, n in prefix.states.items() if state not in _ENDED)
            - loading[prefix.name]
            for prefix in scheduler.task_prefixes.values()
        }
        return left, dict(loading)

    def finished(self, name: str) -> int:
        """Return how many tasks have finished, also before this was installed, by the name of their function."""
        return self.before.get(name, 0) + self.done.get(name, 0)

    def recomputing(self) -> Counter[str]:
        """Return how many tasks that had finished run again, by the name of their function."""
        return self._by_prefix(self.lost_now)

    def _by_prefix(self, keys: set[Any]) -> Counter[str]:
        return Counter(self.tasks[key].prefix.name for key in keys if key in self.tasks)


def install(dask_scheduler: Any) -> None:
    """Count from now on."""
    if _NAME not in dask_scheduler.plugins:
        dask_scheduler.add_plugin(TallyPlugin(dask_scheduler))


def summarize(dask_scheduler: Any) -> dict[str, Any] | None:
    """Return what has become of the tasks, by the names of their functions; None if nothing counts them."""
    tally = dask_scheduler.plugins.get(_NAME)
    if tally is None:
        return None
    left, loading = tally.left(dask_scheduler)
    # Also of tasks that have not ended.
    for task in dask_scheduler.tasks.values() if any(left.values()) else ():
        tally.note_tag(task)
    return {
        "counts": dict(tally.counts),
        "done": dict(tally.done),
        "loading": loading,
        "left": left,
        "reasons": dict(tally.reasons),
        "tags": dict(tally.tags),
        "lost": dict(tally.lost),
    }


def take_rows(dask_scheduler: Any) -> str:
    """Return the tasks that have ended since the last call, a line of JSON for each."""
    tally = dask_scheduler.plugins.get(_NAME)
    if tally is None:
        return ""
    lines = "".join(tally.rows)
    tally.rows.clear()
    return lines


def progress(dask_scheduler: Any) -> tuple[dict[str, tuple[int, int, int]], list[float]] | None:
    """Return how many tasks are done, failed and left, and how many seconds the rest of each tag takes.

    None if nothing counts them.
    """
    tally = dask_scheduler.plugins.get(_NAME)
    if tally is None:
        return None
    left, _ = tally.left(dask_scheduler)
    again = tally.recomputing()
    counts = {
        name: (
            tally.finished(name) - again[name],
            dask_scheduler.task_prefixes[name].states["erred"],
            number,
        )
        for name, number in left.items()
    }
    # Seconds of work that are left, and slots for it, of each tag; of all workers, for tasks without one.
    work: defaultdict[str, float] = defaultdict(float)
    slots: defaultdict[str, float] = defaultdict(float)
    for name, number in left.items():
        if number:
            each = dask_scheduler.task_prefixes[name].duration_average
            work[tally.tags.get(name, "")] += number * each if each >= 0 else float("nan")
    for ws in dask_scheduler.running:
        slots[""] += ws.nthreads
        for tag, amount in ws.resources.items():
            slots[tag] += amount
    return counts, [each / slots[tag] if slots[tag] else float("nan") for tag, each in work.items()]
