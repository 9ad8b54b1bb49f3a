"""Tasks that keep their slots while others, which they have submitted, wait for one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

__all__ = ["Submissions"]

BLOCKED_AFTER = 5.0
"""Seconds after which the groups of such tasks are reported. Until then, what one of them waits for may yet start."""

MOST_SUBMITTED = 100
"""Of how many tasks that a task has submitted it is looked at whether any runs."""


class Submissions:
    """Records which tasks have submitted which, and finds those that wait in vain.

    A task that asks for the result of another keeps its slots unless it secedes. If all that a worker runs are such
    tasks, and what they wait for waits for a slot of that worker, neither can go on.

    Parameters
    ----------
    scheduler : Scheduler
        The scheduler that has the tasks.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._dask_update_graph: Callable[..., Awaitable[None]] = scheduler.stream_handlers[
            "update-graph"
        ]
        self._parents: dict[Any, Any] = {}
        self._children: dict[Any, dict[Any, None]] = {}
        # Since when a task waits for a slot that its parent keeps.
        self._since: dict[Any, float] = {}

    async def handle_update_graph(
        self, *, keys: Iterable[Any], submitting_task: Any = None, **message: Any
    ) -> None:
        """Record what a task submits."""
        if submitting_task is not None:
            for key in keys:
                ts = self._scheduler.tasks.get(key)
                if ts is None or ts.state not in ("memory", "erred"):
                    self._parents[key] = submitting_task
                    self._children.setdefault(submitting_task, {})[key] = None
        await self._dask_update_graph(keys=keys, submitting_task=submitting_task, **message)

    def on_transition(self, key: Any, finish: str) -> None:
        """Forget a task that has ended."""
        if finish not in ("memory", "erred", "forgotten"):
            return
        if (parent := self._parents.pop(key, None)) is not None:
            self._since.pop(key, None)
            siblings = self._children.get(parent, {})
            siblings.pop(key, None)
            if not siblings:
                self._children.pop(parent, None)

    def blocked(self) -> dict[str, str]:
        """Return which tasks block each other for long, in one line for each group that lacks a slot for that."""
        if not self._parents:
            return {}
        now = monotonic()
        found = {child.key: (parent, child) for parent, child in self._find_blocked()}
        self._since = {key: self._since.get(key, now) for key in found}
        groups: dict[str, str] = {}
        for key, (parent, child) in found.items():
            if now - self._since[key] >= BLOCKED_AFTER:
                groups.setdefault(self._group_of(parent, child), _describe(parent, child))
        return groups

    def explain(self, ts: TaskState) -> str:
        """Return in one line how a task blocks another, or is blocked; an empty string if neither is so."""
        if ts.key not in self._children and ts.key not in self._parents:
            return ""
        for parent, child in self._find_blocked():
            if ts in (child, _holder(parent, child)) or ts.key in self._ancestors(parent.key):
                return _describe(parent, child)
        return ""

    def _ancestors(self, key: Any) -> set[Any]:
        """Return a task and those that have submitted it, directly or by others."""
        found = set()
        while key is not None and key not in found:
            found.add(key)
            key = self._parents.get(key)
        return found

    def _find_blocked(self) -> Iterable[tuple[TaskState, TaskState]]:
        """Return tasks that wait for a slot, each with the one that has submitted it and keeps one."""
        holding = {
            ws: running
            for ws in self._scheduler.running
            if (running := [ts for ts in ws.executing if ts not in ws.long_running])
            and all(ts.key in self._children for ts in running)
        }
        return [
            (ts, child)
            for running in holding.values()
            for ts in running
            if (child := self._find_waiting(ts, holding)) is not None
        ]

    def _find_waiting(
        self, parent: TaskState, holding: dict[WorkerState, list[TaskState]]
    ) -> TaskState | None:
        """Return one of the tasks that a task has submitted, if some of them wait for a slot and none runs."""
        waiting = None
        for key in islice(self._children[parent.key], MOST_SUBMITTED):
            ts = self._scheduler.tasks.get(key)
            if ts is None:
                continue
            ws = ts.processing_on
            if ws is not None and (ts in ws.executing or ws not in holding):
                return None  # it goes on, or may start
            if ws is not None or (
                ts.state == "queued" and holding.keys() >= self._scheduler.running
            ):
                waiting = waiting or ts
        return waiting

    def _group_of(self, parent: TaskState, child: TaskState) -> str:
        """Return the tag of the group that lacks a slot."""
        for resources in (child.resource_restrictions, parent.resource_restrictions):
            for tag in resources or ():
                return str(tag)
        ws = child.processing_on or parent.processing_on
        return str(next(iter(ws.resources), "")) if ws is not None else ""


def _holder(parent: TaskState, child: TaskState) -> TaskState:
    """Return the task that keeps the slot for which `child` waits: `parent`, or one that waits for that."""
    ws = child.processing_on
    if ws is None or parent in ws.executing:
        return parent
    return next((ts for ts in ws.executing if ts not in ws.long_running), parent)


def _describe(parent: TaskState, child: TaskState) -> str:
    holder = _holder(parent, child)
    ws = holder.processing_on
    where = f" on {ws.name}" if ws is not None else ""
    who = "it" if holder is parent else parent.key
    return f"{holder.key} keeps its slot{where}, and {child.key}, which {who} has submitted, waits for one"
