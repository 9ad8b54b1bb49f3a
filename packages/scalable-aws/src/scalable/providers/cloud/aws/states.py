"""States of Fargate tasks and EC2 instances, as phases and reasons. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from scalable.cluster.port import Phase, Reason

__all__ = [
    "STOP_REASON",
    "NativeState",
    "address",
    "instance_state",
    "interface",
    "task_id",
    "task_state",
]

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


class NativeState(NamedTuple):
    """The state of a task or an instance, and what AWS says of it."""

    phase: Phase
    reason: Reason
    detail: str
    seconds_left: float | None = None


def task_id(arn: str) -> str:
    """Return the id of a task, which is the end of its ARN."""
    return arn.rpartition("/")[2]


def task_state(task: Mapping[str, Any]) -> NativeState:
    """Return the state of a task, as DescribeTasks has it.

    Examples
    --------
    >>> task_state({"lastStatus": "PENDING", "desiredStatus": "RUNNING"}).detail
    'pending'
    >>> container = {"exitCode": 137, "reason": "OutOfMemoryError: Container killed due to memory usage"}
    >>> task_state({"lastStatus": "STOPPED", "stoppedReason": "Essential container in task exited",
    ...             "containers": [container]})  # doctest: +NORMALIZE_WHITESPACE
    NativeState(phase=<Phase.GONE: 'gone'>, reason=<Reason.OUT_OF_MEMORY: 'out_of_memory'>,
              detail='Essential container in task exited; exit code 137; OutOfMemoryError: Container killed due to
              memory usage', seconds_left=None)
    """
    status = task["lastStatus"]
    said = "; ".join(
        dict.fromkeys(_said(task))
    )  # the reason of a container may be that of its task
    if status in ("STOPPED", "DELETED"):
        return NativeState(Phase.GONE, _reason(task, said), said or "AWS gives no reason")
    if task.get("desiredStatus") == "STOPPED":
        if task.get("stopCode") == "SpotInterruption" or "Spot" in said:
            return NativeState(Phase.RUNNING, Reason.PREEMPTED, said or "Spot", _SPOT_NOTICE)
        return NativeState(Phase.RUNNING, Reason.STOPPED, f"ending: {said or status.lower()}")
    if status in _STARTING:
        return NativeState(Phase.PENDING, Reason.STARTING, status.lower())
    return NativeState(Phase.RUNNING, Reason.STARTING, "its task runs")


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


# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html
_INSTANCE_REASONS = (
    ("Spot", Reason.PREEMPTED),
    ("InsufficientInstanceCapacity", Reason.CAPACITY),
    ("VolumeLimitExceeded", Reason.QUOTA),
    ("InternalError", Reason.NODE_FAILURE),
    ("Server.", Reason.NODE_FAILURE),
    ("InstanceInitiatedShutdown", Reason.EXITED),
    ("UserInitiatedShutdown", Reason.CANCELLED),
    ("User initiated", Reason.CANCELLED),
)


def instance_state(instance: Mapping[str, Any]) -> NativeState:
    """Return the state of an instance, as DescribeInstances has it.

    Examples
    --------
    >>> instance_state({"State": {"Name": "running"}}).phase
    <Phase.RUNNING: 'running'>
    >>> instance_state({"State": {"Name": "terminated"},
    ...                 "StateReason": {"Code": "Server.SpotInstanceTermination", "Message": "..."}}).reason
    <Reason.PREEMPTED: 'preempted'>
    """
    status = instance["State"]["Name"]
    reason = instance.get("StateReason", {})
    said = reason.get("Message") or instance.get("StateTransitionReason", "")
    if status in ("terminated", "stopped"):
        text = f"{reason.get('Code', '')} {said}"
        found = next((each for words, each in _INSTANCE_REASONS if words in text), Reason.UNKNOWN)
        return NativeState(Phase.GONE, found, said or "AWS gives no reason")
    if status == "pending":
        return NativeState(Phase.PENDING, Reason.STARTING, "its instance is pending")
    if status == "running":
        return NativeState(Phase.RUNNING, Reason.STARTING, "its instance boots or runs")
    return NativeState(Phase.RUNNING, Reason.STOPPED, f"ending: {said or status}")
