from __future__ import annotations

from typing import Any

import pytest

from scalable.cluster.port import Phase, Reason
from scalable.providers.cloud.aws.states import STOP_REASON, address, interface, task_state


def stopped(why: str = "", code: str = "", **container: Any) -> dict[str, Any]:
    return {
        "lastStatus": "STOPPED",
        "desiredStatus": "STOPPED",
        "stoppedReason": why,
        "stopCode": code,
        "containers": [container],
    }


@pytest.mark.parametrize("status", ["PROVISIONING", "PENDING", "ACTIVATING"])
def test_a_task_that_starts_is_pending(status: str) -> None:
    state = task_state({"lastStatus": status, "desiredStatus": "RUNNING"})
    assert (state.phase, state.reason) == (Phase.PENDING, Reason.STARTING)


def test_a_task_that_runs() -> None:
    state = task_state({"lastStatus": "RUNNING", "desiredStatus": "RUNNING"})
    assert state.phase is Phase.RUNNING


@pytest.mark.parametrize("status", ["RUNNING", "DEACTIVATING", "STOPPING", "DEPROVISIONING"])
def test_a_task_that_is_being_stopped_may_still_work(status: str) -> None:
    task = {"lastStatus": status, "desiredStatus": "STOPPED", "stoppedReason": STOP_REASON}
    state = task_state(task)
    assert (state.phase, state.reason) == (Phase.RUNNING, Reason.STOPPED)


def test_a_task_under_notice_of_spot() -> None:
    task = {"lastStatus": "RUNNING", "desiredStatus": "STOPPED", "stopCode": "SpotInterruption"}
    state = task_state(task)
    assert (state.phase, state.reason) == (Phase.RUNNING, Reason.PREEMPTED)
    assert state.seconds_left == 120


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (stopped("Essential container in task exited", exitCode=1), Reason.EXITED),
        (
            stopped(
                "Essential container in task exited",
                "EssentialContainerExited",
                exitCode=137,
                reason="OutOfMemoryError: Container killed due to memory usage",
            ),
            Reason.OUT_OF_MEMORY,
        ),
        (
            stopped(
                "CannotPullContainerError: pull image manifest has been retried 1 time(s)",
                "TaskFailedToStart",
            ),
            Reason.IMAGE,
        ),
        (
            stopped(
                "ResourceInitializationError: unable to pull secrets: AccessDeniedException: User",
                "TaskFailedToStart",
            ),
            Reason.CREDENTIALS,
        ),
        (
            stopped(
                "ResourceInitializationError: unable to pull secrets or registry auth: i/o timeout"
            ),
            Reason.NETWORK,
        ),
        (stopped("Your Spot Task was interrupted.", "SpotInterruption"), Reason.PREEMPTED),
        (stopped(STOP_REASON, "UserInitiated"), Reason.STOPPED),
        (stopped("Task stopped by user", "UserInitiated"), Reason.CANCELLED),
        (
            stopped("Timeout waiting for network interface provisioning to complete."),
            Reason.NETWORK,
        ),
        (stopped("Task was stopped by infrastructure", "TerminationNotice"), Reason.NODE_FAILURE),
        (stopped("Capacity is unavailable at this time"), Reason.CAPACITY),
        (stopped(), Reason.UNKNOWN),
    ],
)
def test_reasons_of_an_end(task: dict[str, Any], reason: Reason) -> None:
    state = task_state(task)
    assert (state.phase, state.reason) == (Phase.GONE, reason)
    assert "\n" not in state.detail
    assert state.detail


def test_an_explanation_has_the_reason_the_exit_code_and_what_is_said_of_the_container() -> None:
    task = stopped("Essential container in task exited", exitCode=2, reason="x\ny")
    assert task_state(task).detail == "Essential container in task exited; exit code 2; x y"


def test_the_address_of_a_task() -> None:
    details = [
        {"name": "networkInterfaceId", "value": "eni-1"},
        {"name": "privateIPv4Address", "value": "10.0.0.7"},
    ]
    task = {"attachments": [{"details": details}]}
    assert (address(task), interface(task)) == ("10.0.0.7", "eni-1")
    assert address({"attachments": []}) is None
