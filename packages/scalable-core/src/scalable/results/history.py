"""Which results a run has asked for, and why the next run computes some of them again.

A run's record has a row for each `map` and `submit` of a task whose results are kept. It is written before the first of
these tasks starts, so that it is there whatever ends the run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scalable.results.comparing import Difference, compare
from scalable.results.naming import NamedCall

__all__ = ["CALLS_FILE", "Again", "EarlierRun", "calls_row", "group_by_reason", "numbers"]

CALLS_FILE = "results.jsonl"
"""The file of a record with these rows."""


@dataclass(frozen=True)
class Again:
    """A call that is computed although an earlier run had asked for results of its task.

    Parameters
    ----------
    name : str
        The name of its result.
    member : int
        Its position in its `map`, from 0.
    reasons : tuple of str
        What has changed, or what became of it in the earlier run.
    diff : str
        The difference of the sources.
    """

    name: str
    member: int
    reasons: tuple[str, ...]
    diff: str = ""


def calls_row(task: str, names: Sequence[str | None], found: Collection[str]) -> dict[str, Any]:
    """Return the row of a record for the calls of a `map`.

    Parameters
    ----------
    task : str
        The task's name, or the function's.
    names : sequence of str or None
        The names of their results.
    found : collection of str
        Those that the store has.

    Examples
    --------
    >>> calls_row("run", ["run/v1/aa", None, "run/v1/bb"], ["run/v1/aa"])
    {'task': 'run', 'version': 'v1', 'calls': ['aa', '', 'bb'], 'kept': 1}
    """
    parts = [name.split("/") if name else ("", "", "") for name in names]
    version = next((each[1] for each in parts if each[1]), "")
    calls = [each[2] for each in parts]
    return {"task": task, "version": version, "calls": calls, "kept": len(found)}


@dataclass
class EarlierRun:
    """What the record of a run says of the results that it has asked for.

    Parameters
    ----------
    run : str
        Its id.
    rows : iterable of mapping
        Those of `CALLS_FILE`.
    ends : iterable of mapping
        The tasks that have ended: those of ``tasks.jsonl``.
    describe : callable
        Returns what a result was computed from, by its name, as far as the store knows it; of a version without a
        result, what it is computed with.
    """

    run: str
    rows: Iterable[Mapping[str, Any]]
    ends: Iterable[Mapping[str, Any]]
    describe: Callable[[str], Mapping[str, Any]]
    _turn: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _described: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._by_task: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        self._versions: dict[tuple[str, str], str] = {}
        for row in self.rows:
            self._by_task[row["task"]].append(row)
            for call in row["calls"]:
                self._versions[row["task"], call] = row["version"]
        self._ends = {str(row["task"]).rpartition("-")[2]: row["status"] for row in self.ends}

    def explain(self, task: str, calls: Sequence[NamedCall], found: Collection[str]) -> list[Again]:
        """Return why each call that the store has no result of is computed; nothing for a task that is new."""
        turn = self._turn[task]
        self._turn[task] += 1
        earlier = self._by_task.get(task)
        if not earlier:
            return []
        before = earlier[turn]["calls"] if turn < len(earlier) else []
        version = earlier[min(turn, len(earlier) - 1)]["version"]
        return [
            self._explain(call, member, before[member] if member < len(before) else "", version)
            for member, call in enumerate(calls)
            if call.name and call.name not in found
        ]

    def _explain(self, call: NamedCall, member: int, before: str, version: str) -> Again:
        name = str(call.name)
        task, now, arguments = name.split("/")
        then = self._versions.get((task, arguments))
        if then == now:
            return Again(name, member, (self._say_end(now + arguments),))
        if then is not None:
            return _changed(name, member, self._compare(f"{task}/{then}/{arguments}", call, False))
        if not before:
            return Again(name, member, (f"run {self.run} had no such member",))
        differences = self._compare(f"{task}/{version}/{before}", call, True)
        if not any(each.what == "argument" for each in differences):
            return Again(name, member, ("its arguments have changed", *map(str, differences)))
        return _changed(name, member, differences)

    def _say_end(self, key: str) -> str:
        end = self._ends.get(key)
        if end == "failed":
            return f"it failed in run {self.run}"
        if end == "done":
            return f"run {self.run} had computed it, and the store has no result of it now"
        return f"run {self.run} had not finished it"

    def _compare(self, before: str, call: NamedCall, with_arguments: bool) -> list[Difference]:
        then, now = self._describe(before), self._describe(str(call.name))
        # Those of a result that was not computed are not known.
        known = with_arguments and then.get("arguments")
        return compare(
            {**then, "arguments": known or {}},
            {**now, "arguments": call.arguments if known else {}},
        )

    def _describe(self, name: str) -> Mapping[str, Any]:
        if name not in self._described:
            self._described[name] = self.describe(name)
        return self._described[name]


def _changed(name: str, member: int, differences: Iterable[Difference]) -> Again:
    found = [*differences]
    reasons = tuple(map(str, found)) or ("a module was edited while the session was open",)
    return Again(name, member, reasons, "".join(each.diff for each in found))


def group_by_reason(calls: Iterable[Again]) -> Iterator[tuple[Again, list[int]]]:
    """Yield a call for each reason, with the members that are computed again for it.

    Examples
    --------
    >>> calls = [Again("f/1/a", 0, ("code f has changed",)), Again("f/1/b", 2, ("code f has changed",))]
    >>> [(call.reasons, members) for call, members in group_by_reason(calls)]
    [(('code f has changed',), [0, 2])]
    """
    groups: dict[tuple[str, ...], tuple[Again, list[int]]] = {}
    for call in calls:
        groups.setdefault(call.reasons, (call, []))[1].append(call.member)
    yield from groups.values()


def numbers(members: Iterable[int]) -> str:
    """Return numbers as text, with ranges.

    Examples
    --------
    >>> numbers([0, 1, 2, 5, 7, 8])
    '0-2, 5, 7-8'
    """
    parts: list[list[int]] = []
    for each in sorted(members):
        if parts and parts[-1][-1] == each - 1:
            parts[-1][1:] = [each]
        else:
            parts.append([each])
    return ", ".join("-".join(map(str, part)) for part in parts)
