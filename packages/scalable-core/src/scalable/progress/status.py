"""The status of groups and tasks as one line of text."""

from __future__ import annotations

import math
from collections.abc import Mapping

from scalable.cluster.port import GroupStatus, Reason
from scalable.runs.tally import TaskCount, total

__all__ = ["describe_group", "describe_kept", "describe_kinds", "describe_rest", "describe_tasks"]


_MAX_NAMED = 4
"""Maximum number of kinds of tasks that a line names: those with the most left to do."""


def describe_group(group: GroupStatus) -> str:
    """Return the status of one worker group as a line.

    Examples
    --------
    >>> from scalable.cluster.port import Reason
    >>> describe_group(GroupStatus("gcam", wanted=4, running=3, pending=1, reason=Reason.PRIORITY))
    'gcam 3/4 running, 1 pending: priority'
    >>> describe_group(GroupStatus("gcam", wanted=2, running=1, unavailable=1, detail="gcam-2 is paused"))
    'gcam 1/2 running, 1 unavailable: gcam-2 is paused'
    >>> describe_group(GroupStatus("fair", wanted=0, minimum=0, maximum=8))
    'fair 0/0 running of 0 to 8'
    >>> describe_group(GroupStatus("gcam", wanted=2, failed=True, reason=Reason.IMAGE, detail="no such image"))
    'gcam 0/2 running, failed: no such image'
    """
    text = f"{group.tag} {group.running}/{group.wanted} running"
    if group.minimum is not None and group.maximum is not None:
        text += f" of {group.minimum} to {group.maximum}"
    counted = {
        "pending": group.pending,
        "starting": group.starting,
        "unavailable": group.unavailable,
        "draining": group.draining,
    }
    parts = [text, *(f"{count} {word}" for word, count in counted.items() if count)]
    if group.holding:
        parts.append(f"holding {_count(group.holding, 'result')}")
    if group.failed:
        parts.append("failed")
    why = group.detail or group.reason or ""
    return ", ".join(parts) + (f": {why}" if why and why != Reason.STARTING else "")


def describe_kept(task: str, kept: int, to_do: int) -> str:
    """Return how many calls of a task need not be computed as a line.

    Examples
    --------
    >>> describe_kept("simulate", 370, 30)
    'simulate: 370 kept, 30 to do'
    """
    return f"{task}: {kept} kept, {to_do} to do"


def describe_tasks(counts: Mapping[str, TaskCount]) -> str:
    """Return the status of all tasks as a line that names the kinds with the most left to do.

    Examples
    --------
    >>> describe_tasks({"simulate": TaskCount(done=80, left=20), "report": TaskCount(failed=1)})
    '80/101 tasks done, 1 failed (simulate 80/100, report 0/1)'
    """
    sums = total(counts.values())
    text = f"{sums.done}/{_count(sums.all, 'task')} done"
    if sums.failed:
        text += f", {sums.failed} failed"
    if sums.cancelled:
        text += f", {sums.cancelled} cancelled"
    kinds = describe_kinds(counts)
    return f"{text} ({kinds})" if kinds else text


def describe_kinds(counts: Mapping[str, TaskCount]) -> str:
    """Return how many tasks of each kind are done, of the kinds with the most left to do; empty where there is one.

    Examples
    --------
    >>> describe_kinds({"simulate": TaskCount(done=80, left=20), "report": TaskCount(failed=1)})
    'simulate 80/100, report 0/1'
    """
    if len(counts) > 1:
        most = sorted(counts, key=lambda name: counts[name].left, reverse=True)[:_MAX_NAMED]
        # In a fixed order, so that the names in the line do not change places.
        each = [f"{name} {counts[name].done}/{counts[name].all}" for name in counts if name in most]
        return f"{', '.join(each)}{', …' * (len(counts) > _MAX_NAMED)}"
    return ""


def describe_rest(seconds: float | None) -> str:
    """Return how long the rest will take, roughly; empty where that is not known.

    Examples
    --------
    >>> [describe_rest(each) for each in (None, 0.4, 42, 100, 3900, 200_000)]
    ['', 'about 1 s left', 'about 42 s left', 'about 2 min left', 'about 1 h 05 min left', 'about 56 h left']
    """
    if seconds is None:
        return ""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s left"
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    if hours >= 10:
        return f"about {round(seconds / 3600)} h left"
    return f"about {hours} h {minutes:02} min left" if hours else f"about {minutes} min left"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"
