"""States of pods, each as a real API server (1.20) has shown it, cut to what matters."""

from __future__ import annotations

from typing import Any

import pytest

from scalable.cluster.port import Phase, Reason
from scalable.providers.kubernetes.pods import (
    first_pod,
    has_ended,
    operator_complaint,
    pod_state,
    queue_state,
    worker_name,
)


def pod_of(status: dict[str, Any], *, node: str = "node1", **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "p",
            "uid": "u",
            "creationTimestamp": "2026-11-28T14:00:00Z",
            **metadata,
        },
        "spec": {"containers": [{"name": "worker"}], **({"nodeName": node} if node else {})},
        "status": {"phase": "Pending", **status},
    }


def container(state: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "worker", "ready": False, "state": state, **more}]}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return container({"waiting": {"reason": reason, "message": message}})


def ended(reason: str, code: int, message: str = "") -> dict[str, Any]:
    return {"terminated": {"reason": reason, "exitCode": code, "message": message}}


UNSCHEDULABLE = {
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient memory.",
        }
    ]
}


@pytest.mark.parametrize(
    ("status", "node", "phase", "reason", "words"),
    [
        (UNSCHEDULABLE, "", Phase.PENDING, Reason.UNSCHEDULABLE, "1 Insufficient memory"),
        ({}, "", Phase.PENDING, Reason.RESOURCES, "no node yet"),
        ({}, "node1", Phase.RUNNING, Reason.STARTING, "on node1"),
        (waiting("ContainerCreating"), "node1", Phase.RUNNING, Reason.STARTING, "creating"),
        (
            waiting("ErrImagePull", "not found"),
            "node1",
            Phase.PENDING,
            Reason.IMAGE,
            "ErrImagePull: not found",
        ),
        (waiting("ImagePullBackOff"), "node1", Phase.PENDING, Reason.IMAGE, "ImagePullBackOff"),
        (waiting("InvalidImageName", "bad"), "node1", Phase.GONE, Reason.IMAGE, "bad"),
        (waiting("ErrImageNeverPull"), "node1", Phase.GONE, Reason.IMAGE, "ErrImageNeverPull"),
        (
            waiting("CreateContainerConfigError", 'secret "s" not found'),
            "node1",
            Phase.GONE,
            Reason.REFUSED,
            'secret "s" not found',
        ),
        (container({"running": {}}), "node1", Phase.RUNNING, Reason.STARTING, "on node1"),
        (container(ended("OOMKilled", 137)), "node1", Phase.GONE, Reason.OUT_OF_MEMORY, "137"),
        (container(ended("Error", 3)), "node1", Phase.GONE, Reason.EXITED, "Error, exit code 3"),
        (container(ended("Completed", 0)), "node1", Phase.GONE, Reason.EXITED, "exit code 0"),
        (
            container(ended("StartError", 128, 'exec: "python9": not found')),
            "node1",
            Phase.GONE,
            Reason.REFUSED,
            "python9",
        ),
        # It was started again, or waits for that: its first end is what counts.
        (
            container({"running": {}}, lastState=ended("OOMKilled", 137), restartCount=1),
            "node1",
            Phase.GONE,
            Reason.OUT_OF_MEMORY,
            "OOMKilled",
        ),
        (
            {
                "phase": "Failed",
                "reason": "Evicted",
                "message": "The node was low on resource: memory.",
            },
            "node1",
            Phase.GONE,
            Reason.PREEMPTED,
            "low on resource",
        ),
        (
            {"phase": "Failed", "reason": "NodeShutdown", "message": "Pod was rejected"},
            "node1",
            Phase.GONE,
            Reason.NODE_FAILURE,
            "NodeShutdown",
        ),
    ],
)
def test_states(
    status: dict[str, Any], node: str, phase: Phase, reason: Reason, words: str
) -> None:
    state = pod_state(pod_of(status, node=node), "worker")
    assert (state.phase, state.reason) == (phase, reason)
    assert words in state.detail
    assert "\n" not in state.detail


def test_a_pod_that_was_deleted_is_gone_while_it_still_runs() -> None:
    deleted = pod_of(container({"running": {}}), deletionTimestamp="2026-11-28T14:00:05Z")
    state = pod_state(deleted, "worker")
    assert (state.phase, state.reason) == (Phase.GONE, Reason.CANCELLED)
    assert not has_ended(deleted)


def test_a_pod_that_kubernetes_has_deleted_says_why() -> None:
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": "preempting to accommodate a higher priority pod",
    }
    status = {**container({"running": {}}), "conditions": [condition]}
    state = pod_state(pod_of(status, deletionTimestamp="2026-11-28T14:00:05Z"), "worker")
    assert (state.phase, state.reason) == (Phase.GONE, Reason.PREEMPTED)
    assert "higher priority" in state.detail


def test_other_containers_of_a_pod_do_not_matter() -> None:
    status = {
        "containerStatuses": [
            {"name": "sidecar", "state": ended("Error", 1)},
            {"name": "worker", "state": {"running": {}}, "ready": True},
        ]
    }
    state = pod_state(pod_of(status), "worker")
    assert (state.phase, state.ready) == (Phase.RUNNING, True)


def test_an_init_container_that_cannot_start_holds_its_pod() -> None:
    status = {
        "initContainerStatuses": [
            {"name": "done", "state": ended("Completed", 0)},
            {"name": "next", "state": {"waiting": {"reason": "ErrImagePull", "message": "x"}}},
        ],
        **waiting("PodInitializing"),
    }
    assert pod_state(pod_of(status), "worker").reason is Reason.IMAGE


def test_a_pod_has_ended_with_its_containers() -> None:
    deleted = {"deletionTimestamp": "2026-11-28T14:00:05Z"}
    assert has_ended(pod_of(container(ended("Error", 1)), **deleted))
    assert has_ended(pod_of({"phase": "Succeeded"}))
    assert not has_ended(pod_of(container(ended("Error", 1))))  # it is started again
    assert not has_ended(pod_of({}, **deleted))
    # Of a kubelet that has lost sight of the container, as it is for a minute.
    lost = container(
        {"waiting": {"reason": "ContainerCreating"}},
        lastState=ended("ContainerStatusUnknown", 137, "The container could not be located"),
    )
    assert has_ended(pod_of({**lost, "phase": "Running"}, **deleted))
    assert has_ended(pod_of(waiting("ImagePullBackOff"), **deleted))
    assert not has_ended(pod_of(waiting("ContainerCreating"), **deleted))
    # Of one that was started again.
    again = container({"running": {}}, lastState=ended("Error", 1))
    assert not has_ended(pod_of({**again, "phase": "Running"}, **deleted))


def test_the_first_pod_is_the_oldest() -> None:
    late = pod_of({}, name="a", creationTimestamp="2026-11-28T14:00:07Z")
    early = pod_of({}, name="b", creationTimestamp="2026-11-28T14:00:06Z")
    assert first_pod([late, early]) is early
    assert first_pod([]) is None


def test_a_pod_belongs_to_the_worker_that_the_operator_names() -> None:
    named = pod_of({})
    named["spec"]["containers"][0]["env"] = [{"name": "DASK_WORKER_NAME", "value": "w-1"}]
    assert worker_name(named) == "w-1"
    assert worker_name(pod_of({})) == ""


def test_what_the_operator_says() -> None:
    # As kopf 1.45 writes it.
    progress = (
        '{"started": "2026-11-28", "success": false, "message": "Deployment is invalid:\\n cpu"}'
    )
    annotations = {
        "kopf.zalando.org/last-handled-configuration": '{"message": "no"}',
        "kopf.zalando.org/other": "no JSON",
        "kopf.zalando.org/daskworkergroup_create": progress,
        "message": "no",
    }
    assert (
        operator_complaint({"metadata": {"annotations": annotations}})
        == "Deployment is invalid: cpu"
    )
    assert operator_complaint({"metadata": {}}) == ""


GATED = {
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }
    ]
}


def workload(uid: str, *conditions: dict[str, str]) -> dict[str, Any]:
    """Return a Workload of Kueue, as its documentation shows them."""
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid}
    return {
        "metadata": {"name": "pod-p-1", "ownerReferences": [owner]},
        "status": {"conditions": [*conditions]},
    }


NO_QUOTA = {
    "type": "QuotaReserved",
    "status": "False",
    "reason": "Pending",
    "message": "couldn't assign flavors to pod set main: insufficient unused quota for cpu in flavor a, 3 more needed",
}
INADMISSIBLE = {**NO_QUOTA, "reason": "Inadmissible", "message": "LocalQueue main doesn't exist"}
RESERVED = {"type": "QuotaReserved", "status": "True", "reason": "QuotaReserved", "message": ""}
UNCHECKED = {"type": "Admitted", "status": "False", "reason": "NoChecks", "message": "not ready"}


def test_a_pod_that_a_queue_has_not_admitted_waits() -> None:
    state = pod_state(pod_of(GATED, node=""), "worker")
    assert (state.phase, state.reason) == (Phase.PENDING, Reason.PRIORITY)
    assert "SchedulingGated: Scheduling is blocked" in state.detail


@pytest.mark.parametrize(
    ("workloads", "said"),
    [
        ([], None),
        ([workload("other", NO_QUOTA)], None),
        ([workload("u")], None),
        ([workload("u", RESERVED)], None),
        (
            [workload("other", RESERVED), workload("u", NO_QUOTA)],
            (Reason.QUOTA, f"Kueue: Pending: {NO_QUOTA['message']}"),
        ),
        (
            [workload("u", INADMISSIBLE)],
            (Reason.QUOTA, "Kueue: Inadmissible: LocalQueue main doesn't exist"),
        ),
        ([workload("u", RESERVED, UNCHECKED)], (Reason.PRIORITY, "Kueue: NoChecks: not ready")),
    ],
)
def test_the_conditions_of_a_workload_are_its_reasons(
    workloads: list[dict[str, Any]], said: tuple[Reason, str] | None
) -> None:
    assert queue_state(workloads, pod_of(GATED, node="")) == said


def test_a_worker_that_kueue_has_stopped_was_preempted() -> None:
    condition = {
        "type": "TerminationTarget",
        "status": "True",
        "reason": "StoppedByKueue",
        "message": "Preempted to accommodate a higher priority Workload",
    }
    pod = pod_of({"conditions": [condition]}, deletionTimestamp="2026-11-28T14:01:00Z")
    state = pod_state(pod, "worker")
    assert (state.phase, state.reason) == (Phase.GONE, Reason.PREEMPTED)
    assert "higher priority" in state.detail
