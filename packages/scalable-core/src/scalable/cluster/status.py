"""A group's counts, and why workers of it are missing."""

from __future__ import annotations

from collections import Counter

from scalable.cluster.group import Group
from scalable.cluster.port import Explanation, GroupStatus, Phase, Reason

__all__ = ["group_status"]


def group_status(
    group: Group,
    native_problem: Explanation | None = None,
    scheduler_problem: Explanation | None = None,
    *,
    lost: bool = False,
) -> GroupStatus:
    """Return the counts of a group, and why workers are missing.

    Parameters
    ----------
    group : Group
        The group.
    native_problem : Explanation or None
        Why the counts may be out of date.
    scheduler_problem : Explanation or None
        Why it is not known which workers run.
    lost : bool
        Whether the scheduler will not come back.

    Examples
    --------
    >>> from scalable.cluster.port import GroupSpec
    >>> status = group_status(Group(GroupSpec("gcam"), wanted=2))
    >>> status.wanted, status.running, status.detail
    (2, 0, 'about to be launched')
    """
    alive, draining = group.alive, [m for m in group.members.values() if m.leaving is not None]
    joined = [m for m in alive if m.joined_at is not None]
    starting = sum(m.starting for m in alive) if len(joined) < len(alive) else 0
    low, high = group.range or (None, None)
    reason, detail = _missing_reason(group)
    if native_problem is not None and group.failure is None:
        reason, detail = native_problem.reason, native_problem.summary
    if scheduler_problem is not None:
        reason, detail = scheduler_problem.reason, scheduler_problem.summary
    known = scheduler_problem is None
    running = tuple(m.unit.id for m in joined if m.running) if known else ()
    return GroupStatus(
        tag=group.spec.tag,
        wanted=group.wanted,
        minimum=low,
        maximum=high,
        pending=len(alive) - len(joined) - starting + group.unnamed,
        starting=starting,
        running=len(running),
        draining=len(draining),
        unavailable=len(joined) - len(running),
        holding=sum(m.holding for m in draining),
        failed=group.failure is not None or lost,
        reason=reason,
        detail=detail,
        workers=running,
    )


def _missing_reason(group: Group) -> tuple[Reason | None, str]:
    """Return why workers are missing; (None, "") where none are."""
    if group.failure is not None:
        return group.failure.reason, group.failure.summary
    if group.unclaimed:
        work = "1 slot of work waits"
        if group.unclaimed != 1:
            work = f"{group.unclaimed:g} slots of work wait"
        return Reason.UNWANTED, f"{work}, and 0 workers are wanted"
    alive = group.alive
    absent = [m for m in alive if m.joined_at is None]
    if not absent and group.wanted <= len(alive):
        return _reason_for_no_more(group)
    waiting = Counter(
        (m.state.reason, m.state.detail)
        for m in absent
        if m.state is not None and m.state.phase is Phase.PENDING
    )
    if waiting:
        (reason, detail), _ = waiting.most_common(1)[0]
        return reason, detail or str(reason)
    problem = group.failures.last_problem
    if problem is not None and group.failures.is_postponed and group.lacking > 0:
        return _reason_to_wait(problem), f"to be tried again: {problem.summary}"
    if group.awaited is not None:
        return group.awaited.reason, group.awaited.summary
    if (absent or group.requests) and group.unclear_request is None:
        return Reason.STARTING, "starting"
    if group.without_room_since is not None:
        return Reason.QUOTA, "waiting for room under max_workers" + _dismissed(group)
    if problem is not None:
        return Reason.BACKOFF, f"to be tried again: {problem.summary}"
    if dismissed := _dismissed(group):
        return Reason.PAUSED, f"waiting for room{dismissed}"
    if group.no_room:
        return Reason.QUOTA, "waiting for room under max_workers"
    return Reason.STARTING, "about to be launched"


def _reason_for_no_more(group: Group) -> tuple[Reason | None, str]:
    """Return why work waits although all wanted workers have joined; (None, "") where none does."""
    reason, detail = _unavailable_reason(group)
    if reason is None and group.deferred:
        return Reason.DEMAND, group.deferred
    if reason is None and group.blocked:
        return Reason.BLOCKED, group.blocked
    return reason, detail


def _unavailable_reason(group: Group) -> tuple[Reason | None, str]:
    """Return why workers that have joined take no tasks; (None, "") if all do.

    The text has no figures, so that it stays the same while nothing happens.
    """
    found = [m for m in group.members.values() if m.unavailable]
    paused = [m.unit.id for m in found if m.paused]
    silent = [m.unit.id for m in found if m.unresponsive]
    texts = []
    if silent:
        verb = "does" if len(silent) == 1 else "do"
        texts.append(f"{_names(silent)} {verb} not answer, and may be running tasks")
    if paused:
        verb = "is" if len(paused) == 1 else "are"
        texts.append(f"{_names(paused)} {verb} paused, for too much of the memory is used")
    if others := len(found) - len(paused) - len(silent):
        texts.append(f"{others} about to leave")
    reasons = [*([Reason.UNRESPONSIVE] * bool(silent)), *([Reason.PAUSED] * bool(paused))]
    return next(iter(reasons), Reason.UNKNOWN if found else None), "; ".join(texts)


def _dismissed(group: Group) -> str:
    names = [m.unit.id for m in group.draining if m.dismissed]
    return f"; {_names(names)} must leave first, which was paused" if names else ""


def _names(names: list[str]) -> str:
    """Return the first of some names, and how many more there are.

    Examples
    --------
    >>> _names(["a-1"]), _names(["a-1", "a-2", "a-3"])
    ('a-1', 'a-1 and 2 more')
    """
    more = len(names) - 1
    return f"{names[0]} and {more} more" if more else names[0]


def _reason_to_wait(problem: Explanation) -> Reason:
    """Return the native system's reason why no more can be launched now, if it gives one."""
    return Reason.BACKOFF if problem.reason is Reason.UNKNOWN else problem.reason
