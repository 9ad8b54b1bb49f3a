"""What Kubernetes and the operator say about pods, as phases and reasons of the engine. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from scalable.cluster.port import Phase, Reason

__all__ = [
    "CREATING",
    "GATED",
    "PULLING",
    "PodState",
    "first_pod",
    "has_ended",
    "is_batch",
    "is_invalid",
    "mount_failure",
    "operator_complaint",
    "pod_state",
    "queue_state",
    "replica_failure",
    "worker_name",
]

_REFUSED_WAITS = {
    "CreateContainerConfigError": Reason.REFUSED,
    "CreateContainerError": Reason.REFUSED,
    "RunContainerError": Reason.REFUSED,
    "ErrImageNeverPull": Reason.IMAGE,
    "InvalidImageName": Reason.IMAGE,
}
"""Why a container waits, where waiting does not help."""

PULLING = frozenset({"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"})
"""Why a container waits for its image, where the kubelet tries again."""

CREATING = "ContainerCreating"
"""What a container waits for whose volumes are mounted, whose image is pulled, and so on."""

GATED = "SchedulingGated"
"""What a pod waits for that a queue has not admitted."""

_EVICTIONS = {
    "Evicted": Reason.PREEMPTED,
    "Preempting": Reason.PREEMPTED,
    "Terminated": Reason.PREEMPTED,
    "Shutdown": Reason.NODE_FAILURE,
    "NodeShutdown": Reason.NODE_FAILURE,
    "NodeLost": Reason.NODE_FAILURE,
    "NodeAffinity": Reason.REFUSED,
}
"""Why a pod as a whole has ended."""


# https://kubernetes.io/docs/concepts/workloads/pods/disruptions, and pkg/controller/jobs/pod of Kueue
_DISRUPTIONS = ("DisruptionTarget", "TerminationTarget")


@dataclass(frozen=True)
class PodState:
    """The state of a pod.

    Parameters
    ----------
    phase : Phase
        GONE once it or its container has ended: a container that was started again is another worker.
    reason : Reason
        Why.
    detail : str
        The words of Kubernetes.
    waiting : str
        What its container waits for, as the kubelet calls it.
    ready : bool
        Whether it runs and is ready.
    node : str
        Its node; empty before it has one.
    """

    phase: Phase
    reason: Reason
    detail: str
    waiting: str = ""
    ready: bool = False
    node: str = ""


def worker_name(pod: Mapping[str, Any]) -> str:
    """Return the name of a pod's Dask worker, which is that of its Deployment; empty if it is no worker's."""
    for container in pod["spec"]["containers"]:
        for variable in container.get("env", []):
            if variable["name"] == "DASK_WORKER_NAME":
                return str(variable.get("value", ""))
    return ""


def first_pod(pods: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the oldest of the pods of a Deployment; later ones are replacements."""
    return min(
        pods,
        key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]),
        default=None,
    )


def has_ended(pod: Mapping[str, Any]) -> bool:
    """Return whether none of a pod's containers runs, or will run again."""
    status = pod.get("status", {})
    if status.get("phase") in ("Succeeded", "Failed"):
        return True
    containers = status.get("containerStatuses", [])
    # In a pod that was deleted, nothing is started any more. The kubelet may keep it for a minute although it finds no
    # container of it; that is then said to wait, and to have ended before.
    deleted = "deletionTimestamp" in pod["metadata"]
    return bool(deleted and containers) and all(map(_has_stopped, containers))


def _has_stopped(container: Mapping[str, Any]) -> bool:
    state, last = container.get("state", {}), container.get("lastState", {})
    waits_for = state.get("waiting", {}).get("reason")
    never_started = waits_for in PULLING or waits_for in _REFUSED_WAITS
    return (
        "terminated" in state or never_started or ("running" not in state and "terminated" in last)
    )


def pod_state(pod: Mapping[str, Any], container: str) -> PodState:
    """Return the state of a pod.

    Parameters
    ----------
    pod : mapping
        The pod, as the API server has it.
    container : str
        The container that matters: ``worker`` or ``scheduler``.
    """
    status, node = pod.get("status", {}), pod["spec"].get("nodeName", "")
    name = pod["metadata"]["name"]
    ended = _ended_container(status, container)
    if status.get("reason") in _EVICTIONS:
        reason = _EVICTIONS[status["reason"]]
        text = _join(f"pod {name}: {status['reason']}", status.get("message", ""))
        return PodState(Phase.GONE, reason, text, node=node)
    if ended is not None:
        return PodState(Phase.GONE, _end_reason(ended), _end_text(ended), node=node)
    if "deletionTimestamp" in pod["metadata"]:
        reason, text = _disruption(status) or (Reason.CANCELLED, f"pod {name} was deleted")
        return PodState(Phase.GONE, reason, text, node=node)
    if status.get("phase") in ("Succeeded", "Failed"):
        text = _join(f"pod {name} has ended", status.get("message", ""))
        return PodState(Phase.GONE, Reason.EXITED, text, node=node)
    if not node:
        return _unscheduled(status)
    for each in _containers(status, container):
        waiting = each.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, CREATING, "PodInitializing"):
            why = waiting["reason"]
            text = _join(why, waiting.get("message", ""))
            if why in _REFUSED_WAITS:
                return PodState(Phase.GONE, _REFUSED_WAITS[why], text, why, node=node)
            if why in PULLING:  # not yet RUNNING, whose time is limited: the kubelet tries again
                return PodState(Phase.PENDING, Reason.IMAGE, text, why, node=node)
            return PodState(Phase.RUNNING, Reason.STARTING, text, why, node=node)
        if "running" in each.get("state", {}):
            ready = bool(each.get("ready"))
            return PodState(Phase.RUNNING, Reason.STARTING, f"on {node}", ready=ready, node=node)
    text = f"on {node}, creating its container"
    return PodState(Phase.RUNNING, Reason.STARTING, text, CREATING, node=node)


def _containers(status: Mapping[str, Any], container: str) -> list[Mapping[str, Any]]:
    return [
        each
        for key in ("initContainerStatuses", "containerStatuses")
        for each in status.get(key, [])
        if key == "initContainerStatuses" or each["name"] == container
        # An init container that is done is none that matters.
        if not (key == "initContainerStatuses" and _is_done(each))
    ]


def _is_done(container: Mapping[str, Any]) -> bool:
    ended = container.get("state", {}).get("terminated")
    return bool(ended and ended.get("exitCode") == 0)


def _ended_container(status: Mapping[str, Any], container: str) -> Mapping[str, Any] | None:
    """Return how the container ended, the first time as far as is known."""
    for each in status.get("containerStatuses", []):
        if each["name"] == container:
            last: Mapping[str, Any] | None = each.get("lastState", {}).get("terminated")
            return last or each.get("state", {}).get("terminated")
    return None


def _end_reason(ended: Mapping[str, Any]) -> Reason:
    reason = ended.get("reason")
    if reason == "OOMKilled":
        return Reason.OUT_OF_MEMORY
    if reason in ("StartError", "ContainerCannotRun"):
        return Reason.REFUSED
    return Reason.EXITED


def _end_text(ended: Mapping[str, Any]) -> str:
    what = f"{ended.get('reason', 'ended')}, exit code {ended.get('exitCode')}"
    return _join(what, ended.get("message", ""))


def _disruption(status: Mapping[str, Any]) -> tuple[Reason, str] | None:
    """Return why Kubernetes itself has deleted a pod, if it says so (since 1.26), or why Kueue has."""
    for condition in status.get("conditions", []):
        if condition["type"] in _DISRUPTIONS and condition["status"] == "True":
            why = condition.get("reason", "")
            node = Reason.NODE_FAILURE if "Node" in why else Reason.PREEMPTED
            return node, _join(why, condition.get("message", ""))
    return None


def _unscheduled(status: Mapping[str, Any]) -> PodState:
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            text = condition.get("message", "")
            if condition.get("reason") == GATED:
                return PodState(Phase.PENDING, Reason.PRIORITY, _join(GATED, text), GATED)
            return PodState(
                Phase.PENDING, Reason.UNSCHEDULABLE, _join(condition.get("reason", ""), text)
            )
    return PodState(Phase.PENDING, Reason.RESOURCES, "has no node yet")


def mount_failure(events: Iterable[Mapping[str, Any]], pod: Mapping[str, Any]) -> str:
    """Return why a volume of a pod cannot be mounted, by the kubelet's latest event; empty if it does not say so.

    Examples
    --------
    >>> event = {"involvedObject": {"uid": "u"}, "reason": "FailedMount", "message": 'secret "s" not found'}
    >>> mount_failure([event], {"metadata": {"uid": "u"}})
    'FailedMount: secret "s" not found'
    """
    text = ""
    for event in events:
        mine = event["involvedObject"].get("uid") == pod["metadata"]["uid"]
        if mine and event.get("reason") in ("FailedMount", "FailedAttachVolume"):
            text = _join(event["reason"], event.get("message", ""))
    return text


def queue_state(
    workloads: Iterable[Mapping[str, Any]], pod: Mapping[str, Any]
) -> tuple[Reason, str] | None:
    """Return why Kueue has not admitted a pod, by the conditions of its Workload; None if it does not say.

    Examples
    --------
    >>> condition = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": "no quota for cpu"}
    >>> workload = {"metadata": {"ownerReferences": [{"uid": "u"}]}, "status": {"conditions": [condition]}}
    >>> queue_state([workload], {"metadata": {"uid": "u"}})
    (<Reason.QUOTA: 'quota'>, 'Kueue: Pending: no quota for cpu')
    """
    uid = pod["metadata"]["uid"]
    for workload in workloads:
        if any(o["uid"] == uid for o in workload["metadata"].get("ownerReferences", [])):
            # https://kueue.sigs.k8s.io/docs/concepts/workload
            conditions = {c["type"]: c for c in workload.get("status", {}).get("conditions", [])}
            for kind, reason in (
                ("QuotaReserved", Reason.QUOTA),
                ("Admitted", Reason.PRIORITY),  # admission checks are left
            ):
                said = conditions.get(kind)
                if said is not None and said["status"] == "False":
                    return reason, _join(f"Kueue: {said['reason']}", said.get("message", ""))
    return None


def replica_failure(deployment: Mapping[str, Any]) -> tuple[Reason, str] | None:
    """Return why a Deployment has no pod, in the words of the admission that refuses it; None if it does not say.

    Examples
    --------
    >>> failure = {"type": "ReplicaFailure", "status": "True", "message": 'pods "a" is forbidden: exceeded quota: q'}
    >>> replica_failure({"status": {"conditions": [failure]}})
    (<Reason.QUOTA: 'quota'>, 'pods "a" is forbidden: exceeded quota: q')
    """
    for condition in deployment.get("status", {}).get("conditions", []):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            text = condition.get("message", "")
            return (Reason.QUOTA if "exceeded quota" in text else Reason.REFUSED), text
    return None


def operator_complaint(made: Mapping[str, Any]) -> str:
    """Return what the operator could not do for an object, in its words; empty if nothing is known.

    It writes that into annotations of the object (kopf, "Persistence").
    """
    for key, text in made["metadata"].get("annotations", {}).items():
        if key.startswith("kopf.zalando.org/") and not key.endswith("last-handled-configuration"):
            try:
                said = json.loads(text)
            except ValueError:
                continue
            if isinstance(said, dict) and said.get("message"):
                return " ".join(str(said["message"]).split())
    return ""


def is_batch(complaint: str) -> bool:
    """Return whether the operator says that it makes the workers of a group in batches, and goes on with the next.

    Examples
    --------
    >>> is_batch("Added maximum number of workers for this batch but still need to create more workers")
    True
    """
    # dask_kubernetes.operator.controller.controller.daskworkergroup_replica_update
    return complaint.startswith("Added maximum number of workers for this batch")


def is_invalid(complaint: str) -> bool:
    """Return whether the operator's complaint means that the object itself is wrong.

    Examples
    --------
    >>> is_invalid('Deployment.apps "a" is invalid: spec'), is_invalid("exceeded quota: q")
    (True, False)
    """
    signs = (
        " is invalid",
        "cannot be handled as",
        "unmarshal",
        "quantities must match",
        "strict decoding",
    )
    return any(sign in complaint for sign in signs)


def _join(what: str, message: str) -> str:
    return f"{what}: {' '.join(message.split())}" if message else what
