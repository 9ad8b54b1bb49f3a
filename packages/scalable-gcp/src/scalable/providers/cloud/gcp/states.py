"""States of machines as phases and reasons. Pure functions."""

from __future__ import annotations

from typing import Any, NamedTuple

from scalable.cluster.port import Phase, Reason
from scalable.providers.cloud.gcp.instances import ENDED

__all__ = ["NativeState", "console_tail", "end_in_console", "machine_state"]

_STARTING = ("PROVISIONING", "STAGING", "REPAIRING")
# https://cloud.google.com/compute/docs/instances/preemptible
_NOTICE = 30.0
_TAIL = 20


class NativeState(NamedTuple):
    """The state of a machine.

    Parameters
    ----------
    phase : Phase
        Its phase.
    reason : Reason
        Why.
    detail : str
        The words of Compute Engine.
    seconds_left : float or None
        Until it is preempted.
    """

    phase: Phase
    reason: Reason
    detail: str
    seconds_left: float | None = None


def machine_state(machine: Any, *, is_preempted: bool = False) -> NativeState:
    """Return the state of a machine.

    Parameters
    ----------
    machine : google.cloud.compute_v1.Instance
        The machine, as a list has it.
    is_preempted : bool
        Whether there is an operation by which Compute Engine takes it back.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> machine_state(SimpleNamespace(status="STAGING", status_message="")).phase
    <Phase.PENDING: 'pending'>
    """
    status, said = machine.status, " ".join(machine.status_message.split())
    text = f"its machine is {status}" + (f": {said}" if said else "")
    if status in _STARTING:
        return NativeState(Phase.PENDING, Reason.STARTING, text)
    if status == "RUNNING":
        return NativeState(Phase.RUNNING, Reason.STARTING, "its machine boots or runs")
    if is_preempted:
        text = "Compute Engine takes its spare capacity back"
        if status in ("STOPPING", "PENDING_STOP"):
            return NativeState(Phase.RUNNING, Reason.PREEMPTED, text, _NOTICE)
        return NativeState(Phase.GONE, Reason.PREEMPTED, text)
    if status in ("STOPPING", "PENDING_STOP", "SUSPENDING", "DEPROVISIONING"):
        return NativeState(Phase.RUNNING, Reason.STOPPED, text)
    return NativeState(Phase.GONE, Reason.EXITED, text)


def end_in_console(console: str) -> NativeState | None:
    r"""Return the end of a container that a console tells of; None where it tells of none.

    Examples
    --------
    >>> end_in_console("manifest for gcam:7 not found\nscalable: ended with status 1").reason
    <Reason.IMAGE: 'image'>
    """
    before, found, after = console.rpartition(ENDED)
    if not found:
        return None
    status = after.split()[0] if after.split() else "?"
    words = before[-4000:]
    pulled = ("manifest for", "manifest unknown", "pull access denied", "Unable to find image")
    if any(each in words for each in pulled):
        return NativeState(Phase.GONE, Reason.IMAGE, "its image cannot be pulled")
    return NativeState(Phase.GONE, Reason.EXITED, f"its container ended with status {status}")


def console_tail(console: str) -> str:
    """Return the last lines of a console."""
    lines = [line.rstrip() for line in console.splitlines() if line.strip()]
    return "\n".join(lines[-_TAIL:])
