"""Explanations, for users, of units that did not start or were lost. Nothing in here decides anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from scalable.cluster.member import EndReason, Member, UnitEnd
from scalable.cluster.port import Explanation, GroupSpec, Reason, Unit
from scalable.errors import LaunchError, LaunchRefusedError, NativeTimeoutError, describe_error

__all__ = [
    "SECEDE",
    "describe_unavailable",
    "explain_blocked_by_cap",
    "explain_end",
    "explain_failed_observation",
    "explain_from_state",
    "explain_launch_error",
    "explain_limit",
    "explain_never_seen",
    "explain_refusal",
    "explain_shortfall",
    "explain_stop",
    "explain_unavailable",
]


SECEDE = (
    "if it waits for that, let it call distributed.secede() before, "
    "or submit with distributed.worker_client()"
)
"""What to do where a task keeps a slot that one needs which it has submitted."""


def explain_end(end: UnitEnd, spec: GroupSpec, native: Explanation) -> Explanation:
    """Explain why a worker was lost or did not start, from the native explanation of its unit."""
    unit = end.member.unit
    if end.reason is EndReason.ORPHANED:
        return replace(
            native,
            reason=Reason.EXITED,
            summary=f"the Dask worker of {unit.id} has left, but the unit still runs",
        )
    if end.reason is EndReason.JOIN_TIMEOUT:
        own = native.reason in (Reason.UNKNOWN, Reason.STARTING)
        return replace(
            native,
            # What the native system knows of it is the better reason.
            reason=Reason.STARTUP_TIMEOUT if own else native.reason,
            summary=f"{unit.id} ran for {spec.startup_timeout:g} s, "
            "but its Dask worker did not reach the scheduler",
            remedy=native.remedy
            or "check that the workers can reach the scheduler's address, or raise startup_timeout",
        )
    return native


def describe_unavailable(member: Member) -> str:
    """Return in which state a worker is that takes no tasks, as the rest of a sentence.

    Examples
    --------
    >>> from scalable.cluster.link import WorkerInfo
    >>> from scalable.cluster.port import Unit
    >>> member = Member(Unit("gcam-1", "gcam", "request"), launched=0.0)
    >>> member.update_worker(WorkerInfo("paused", memory=0.88), now=1.0)
    >>> describe_unavailable(member)
    'is paused, because it uses 88 % of its memory'
    >>> member.update_worker(WorkerInfo("unresponsive", tasks=1, silence=125.0), now=1.0)
    >>> describe_unavailable(member)
    'has not answered for 125 s'
    """
    worker = member.worker
    if worker is None:
        return "is not connected"
    if member.unresponsive:
        return f"has not answered for {worker.silence:.0f} s"
    if not member.paused:
        return f"is {worker.status.replace('_', ' ')}"
    if not worker.memory:
        return "is paused"
    return f"is paused, because it uses {100 * worker.memory:.0f} % of its memory"


def explain_unavailable(
    unavailable: Sequence[Member], spec: GroupSpec, native: Explanation
) -> Explanation:
    """Explain why workers take no tasks although they have joined, from the native explanation of the first one."""
    first = unavailable[0]
    summary = f"{first.unit.id} {describe_unavailable(first)}"
    if len(unavailable) > 1:
        summary += f"; {len(unavailable) - 1} more take no tasks"
    if first.unresponsive:
        reason, remedy = (
            Reason.UNRESPONSIVE,
            (
                "none is needed if a task holds the GIL: the worker keeps its tasks until it answers, "
                f"but for {spec.unresponsive_timeout:g} s at most (option unresponsive_timeout)"
            ),
        )
    elif first.paused:
        reason, remedy = (
            Reason.PAUSED,
            ("give the component more memory, or see what its tasks keep in memory"),
        )
    else:
        reason, remedy = native.reason, native.remedy
    return replace(native, reason=reason, summary=summary, remedy=remedy)


def explain_refusal(end: UnitEnd) -> Explanation:
    """Explain that the scheduler refused a worker.

    Examples
    --------
    >>> from scalable.cluster.port import Unit
    >>> member = Member(Unit("gcam-1", "gcam", "request"), launched=0.0)
    >>> explain_refusal(UnitEnd(member, EndReason.REFUSED, "the worker has Python 3.12, the scheduler 3.11")).summary
    'gcam-1 was refused: the worker has Python 3.12, the scheduler 3.11'
    """
    return Explanation(
        Reason.MISMATCH,
        f"{end.member.unit.id} was refused: {end.detail}",
        remedy="give the component an image or environment with the scheduler's versions",
    )


def explain_never_seen(
    missing: int, spec: GroupSpec, awaited: Explanation | None = None
) -> Explanation:
    """Explain that a launch was accepted, but its units never appeared.

    Examples
    --------
    >>> explain_never_seen(2, GroupSpec("gcam", startup_timeout=60)).summary
    '2 workers were launched, but did not appear in 60 s'
    """
    return Explanation(
        Reason.STARTUP_TIMEOUT,
        f"{missing} workers were launched, but did not appear in {spec.startup_timeout:g} s",
        remedy="" if awaited is None else awaited.remedy,
    )


def explain_launch_error(error: Exception) -> Explanation:
    """Explain that a launch failed.

    Examples
    --------
    >>> explain_launch_error(OSError("no route")).summary
    'launching failed: no route'
    >>> explain_launch_error(LaunchError("no such queue")).summary
    'no such queue'
    """
    if isinstance(error, LaunchError) and error.explanation is not None:
        return error.explanation
    reason = Reason.UNKNOWN
    if isinstance(error, LaunchRefusedError):
        reason = Reason.REFUSED
    elif isinstance(error, NativeTimeoutError):
        reason = Reason.NETWORK
    prefix = "" if isinstance(error, LaunchError) else "launching failed: "
    return Explanation(reason, prefix + describe_error(error))


def explain_failed_observation(error: Exception) -> Explanation:
    """Explain that the native system does not show its units.

    Examples
    --------
    >>> explain_failed_observation(PermissionError("the token has expired")).summary
    'cannot observe the native system, will try again: the token has expired'
    """
    reason = Reason.CREDENTIALS if isinstance(error, PermissionError) else Reason.NETWORK
    return Explanation(
        reason, f"cannot observe the native system, will try again: {describe_error(error)}"
    )


def explain_shortfall(asked: int, created: int, native: Explanation | None) -> Explanation:
    """Explain that a launch created fewer units than it was asked for.

    Examples
    --------
    >>> explain_shortfall(5, 3, None).summary
    'launched 3 of 5; the native system gave no more'
    >>> explain_shortfall(5, 3, Explanation(Reason.CAPACITY, "no capacity in zone a")).summary
    'launched 3 of 5; no capacity in zone a'
    """
    why = native or Explanation(Reason.UNKNOWN, "the native system gave no more")
    return replace(why, summary=f"launched {created} of {asked}; {why.summary}")


def explain_stop(unit: Unit) -> Explanation:
    """Explain that a unit ended because Scalable stopped it."""
    return Explanation(Reason.STOPPED, f"{unit.id} was stopped")


def explain_blocked_by_cap(cap: int | None, holders: Iterable[Member]) -> Explanation:
    """Explain that workers that hold results leave no room for others under the cap."""
    kept = ", ".join(f"{m.unit.id} is holding {m.holding} results" for m in holders)
    return Explanation(
        Reason.QUOTA,
        f"max_workers is {cap}, and {kept}",
        remedy="raise max_workers, or have the workflow gather what it keeps and drop its futures",
    )


def explain_limit(exceeded: str) -> Explanation:
    """Explain that a limit of the run leaves a group without workers."""
    return Explanation(
        Reason.QUOTA, exceeded, remedy="raise it under `limits` of the target, and run again"
    )


def explain_from_state(member: Member, error: Exception) -> Explanation:
    """Explain a unit from its most recent state, because the native system does not explain it."""
    state = member.state
    return Explanation(
        state.reason if state else Reason.UNKNOWN,
        f"{member.unit.id} cannot be explained: {describe_error(error)}",
        native=state.detail if state else "",
    )
