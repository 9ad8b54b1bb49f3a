"""Why workers with tasks died, and whether these may be the cause, which the scheduler then holds against them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from scalable.cluster.port import Explanation, Reason

__all__ = ["KnownCauses", "in_one_line", "may_be_task"]

_ELSEWHERE = frozenset(
    {
        Reason.CANCELLED,
        Reason.PREEMPTED,
        Reason.NODE_FAILURE,
        Reason.STOPPED,
        Reason.WALLTIME,  # tasks that are too long end in errors of their own
    }
)

_KEPT = 1000
"""Causes that are kept. A scheduler may notice a death after the native system has shown it."""


def may_be_task(reason: Reason) -> bool:
    """Return whether a worker that ended for this reason may have been ended by its task.

    Examples
    --------
    >>> may_be_task(Reason.OUT_OF_MEMORY), may_be_task(Reason.UNKNOWN), may_be_task(Reason.PREEMPTED)
    (True, True, False)
    """
    return reason not in _ELSEWHERE


def in_one_line(why: Explanation) -> str:
    """Return what happened, in one line.

    Examples
    --------
    >>> in_one_line(Explanation(Reason.EXITED, "its process crashed with SIGSEGV", native="SIGSEGV", log_tail="…"))
    'its process crashed with SIGSEGV'
    >>> in_one_line(Explanation(Reason.OUT_OF_MEMORY, "job 17 has failed", native="OUT_OF_MEMORY"))
    'job 17 has failed (OUT_OF_MEMORY)'
    """
    text = why.summary or str(why.reason)
    if why.native and why.native not in text:
        text += f" ({why.native})"
    return " ".join(text.split())


class KnownCauses:
    """Why the most recent units ended, by id."""

    def __init__(self) -> None:
        self._by_unit: OrderedDict[str, Explanation] = OrderedDict()

    def record(self, unit_id: str, why: Explanation) -> None:
        """Record why a unit ended."""
        self._by_unit[unit_id] = why
        while len(self._by_unit) > _KEPT:
            self._by_unit.popitem(last=False)

    def known(self, unit_ids: Iterable[str]) -> dict[str, Explanation]:
        """Return why these units ended, where that is known."""
        return {name: self._by_unit[name] for name in unit_ids if name in self._by_unit}
