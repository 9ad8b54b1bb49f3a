"""States of Fargate tasks, as phases and reasons. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from scalable.cluster.port import Phase, Reason

__all__ = ["STOP_REASON", "TaskState", "address", "interface", "task_id", "task_state"]

STOP_REASON = "scalable: no longer wanted"
"""What a task that we stop says of its end."""

_STARTING = frozenset({"PROVISIONING", "PENDING", "ACTIVATING"})
_SPOT_NOTICE = 120.0
"""Seconds that Fargate Spot gives a task at most."""

# What AWS says, in this order, because an essential container exits for other reasons, too:
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/stopped-task-error-codes.html
_REASONS = (
    ("OutOfMemory", Reason.OUT_OF_MEMORY),
    ("SpotInterruption", Reason.PREEMPTED),
    ("Spot interruption", Reason.PREEMPTED),
    ("CannotPull", Reason.IMAGE),
    ("AccessDenied", Reason.CREDENTIALS),
    ("assume the role", Reason.CREDENTIALS),
    ("ResourceInitializationError", Reason.NETWORK),
    ("CannotStartContainerError", Reason.REFUSED),
    ("CannotCreateContainerError", Reason.REFUSED),
    ("CannotStartContainer", Reason.REFUSED),
    ("apacity", Reason.CAPACITY),
    ("network interface provisioning", Reason.NETWORK),
    ("TerminationNotice", Reason.NODE_FAILURE),
    ("InternalError", Reason.NODE_FAILURE),
    (STOP_REASON, Reason.STOPPED),
    ("Essential container", Reason.EXITED),
    ("UserInitiated", Reason.CANCELLED),
)


class TaskState(NamedTuple):
    """The state of a task, and what AWS says of it."""

    phase: Phase
    reason: Reason
    detail: str
    seconds_left: float | None = None


def task_id(arn: str) -> str:
    """Return the id of a task, which is the end of its ARN."""
    return arn.rpartition("/")[2]


def task_state(task: Mapping[str, Any]) -> TaskState:
    """Return the state of a task, as DescribeTasks has it.

    Examples
    --------
    >>> task_state({"lastStatus": "PENDING", "desiredStatus": "RUNNING"}).detail
    'pending'
    >>> container = {"exitCode": 137, "reason": "OutOfMemoryError: Container killed due to memory usage"}
    >>> task_state({"lastStatus": "STOPPED", "stoppedReason": "Essential container in task exited",
    ...             "containers": [container]})  # doctest: +NORMALIZE_WHITESPACE
    TaskState(phase=<Phase.GONE: 'gone'>, reason=<Reason.OUT_OF_MEMORY: 'out_of_memory'>,
              detail='Essential container in task exited; exit code 137; OutOfMemoryError: Container killed due to
              memory usage', seconds_left=None)
    """
    status = task["lastStatus"]
    said = "; ".join(_said(task))
    if status in ("STOPPED", "DELETED"):
        return TaskState(Phase.GONE, _reason(task, said), said or "AWS gives no reason")
    if task.get("desiredStatus") == "STOPPED":
        if task.get("stopCode") == "SpotInterruption" or "Spot" in said:
            return TaskState(Phase.RUNNING, Reason.PREEMPTED, said or "Spot", _SPOT_NOTICE)
        return TaskState(Phase.RUNNING, Reason.STOPPED, f"ending: {said or status.lower()}")
    if status in _STARTING:
        return TaskState(Phase.PENDING, Reason.STARTING, status.lower())
    return TaskState(Phase.RUNNING, Reason.STARTING, "its task runs")


def _said(task: Mapping[str, Any]) -> Iterator[str]:
    if task.get("stoppedReason"):
        yield " ".join(task["stoppedReason"].split())
    for container in task.get("containers", ()):
        if container.get("exitCode") is not None:
            yield f"exit code {container['exitCode']}"
        if container.get("reason"):
            yield " ".join(container["reason"].split())


def _reason(task: Mapping[str, Any], said: str) -> Reason:
    text = f"{task.get('stopCode', '')} {said}"
    return next((reason for words, reason in _REASONS if words in text), Reason.UNKNOWN)


def _details(task: Mapping[str, Any]) -> dict[str, str]:
    return {
        each["name"]: each["value"]
        for attachment in task.get("attachments", ())
        for each in attachment.get("details", ())
    }


def address(task: Mapping[str, Any]) -> str | None:
    """Return the address of a task in its VPC; None if it has none yet."""
    return _details(task).get("privateIPv4Address")


def interface(task: Mapping[str, Any]) -> str | None:
    """Return the id of a task's network interface; None if it has none yet."""
    return _details(task).get("networkInterfaceId")
