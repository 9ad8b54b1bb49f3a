from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aws_stubs import StubbedApi

from scalable.providers.cloud.aws import removal
from scalable.providers.cloud.aws.api import AwsError
from scalable.providers.cloud.aws.options import Kind
from scalable.providers.cloud.aws.removal import remove_run, stop_run, terminate, terminate_run
from scalable.providers.cloud.aws.states import STOP_REASON

NOT_FOUND = "InvalidInstanceID.NotFound"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "_POLL", 0.0)


def shown(**states: str) -> dict[str, Any]:
    found = [{"InstanceId": f"i-{k}", "State": {"Name": state}} for k, state in states.items()]
    return {"Reservations": [{"Instances": found}]}


def test_an_instance_that_is_unknown_keeps_no_other_one_alive() -> None:
    api = StubbedApi()
    text = "The instance IDs 'i-a1, i-b1' do not exist"
    everyone = {"InstanceIds": ["i-a1", "i-b1", "i-c1"]}
    api._stub("ec2")[1].add_client_error(
        "terminate_instances", NOT_FOUND, text, expected_params=everyone
    )
    api.answer("ec2", "terminate_instances", {}, {"InstanceIds": ["i-c1"]})
    assert asyncio.run(terminate(api, ["i-a1", "i-b1", "i-c1"])) == {"i-a1", "i-b1"}
    api.check()
    api.refuse("ec2", "terminate_instances", NOT_FOUND, "which one is not said")
    with pytest.raises(AwsError):
        asyncio.run(terminate(api, ["i-a1"]))


def test_an_instance_that_no_list_shows_yet_is_terminated() -> None:
    api = StubbedApi()
    api.answer("ec2", "describe_instances", shown())
    api.refuse("ec2", "terminate_instances", NOT_FOUND, "The instance ID 'i-a1' does not exist")
    api.answer("ec2", "describe_instances", shown(a1="pending"))
    api.answer("ec2", "terminate_instances", {}, {"InstanceIds": ["i-a1"]})
    api.answer("ec2", "describe_instances", shown(a1="shutting-down"))
    api.answer("ec2", "describe_instances", shown(a1="terminated"))
    assert asyncio.run(terminate_run(api, "r", 20, known=["i-a1"])) == []
    api.check()


def test_a_task_that_no_list_shows_yet_is_stopped_and_another_one_is_left() -> None:
    api = StubbedApi()
    api.answer("ecs", "list_tasks", {"taskArns": ["b"]})
    api.answer("ecs", "stop_task", {})
    api.answer("ecs", "list_tasks", {"taskArns": ["b"]})
    assert asyncio.run(stop_run(api, "r", 20, known=["a"], but=["b"])) == []
    api.check()


def nothing_else(api: StubbedApi) -> None:
    """Expect the removal of a run on Fargate of which there is but its cluster."""
    api.refuse("ssm", "delete_parameter", "ParameterNotFound")
    api.answer("ec2", "describe_security_groups", {"SecurityGroups": []})
    api.answer("ecs", "list_task_definition_families", {"families": []})
    api.refuse("iam", "delete_role_policy", "NoSuchEntity")
    api.refuse("logs", "delete_log_group", "ResourceNotFoundException")


def test_a_task_that_appears_while_its_cluster_is_deleted_is_stopped() -> None:
    api = StubbedApi()
    api.answer("ecs", "list_tasks", {"taskArns": []})
    nothing_else(api)
    api.refuse("iam", "delete_role", "NoSuchEntity")
    api.refuse("ecs", "delete_cluster", "ClusterContainsTasksException")
    api.answer("ecs", "list_tasks", {"taskArns": ["late"]})
    stopped = {"cluster": "scalable-r", "task": "late", "reason": STOP_REASON}
    api.answer("ecs", "stop_task", {}, stopped)
    api.answer("ecs", "delete_cluster", {})
    assert asyncio.run(remove_run(api, "r", 20, {"fargate"})) == []
    api.check()


def test_a_role_whose_policy_is_deleted_but_not_everywhere_yet_is_asked_for_again() -> None:
    api = StubbedApi()
    api.answer("ecs", "list_tasks", {"taskArns": []})
    nothing_else(api)
    api.refuse("iam", "delete_role", "DeleteConflict", "must delete policies first", 409)
    api.refuse("iam", "delete_role_policy", "NoSuchEntity")
    api.answer("iam", "delete_role", {})
    api.answer("ecs", "delete_cluster", {})
    assert asyncio.run(remove_run(api, "r", 20, {"fargate"})) == []
    api.check()


def test_an_instance_that_appears_during_the_removal_is_terminated() -> None:
    api = StubbedApi()
    api.answer("ec2", "describe_instances", shown())
    api.refuse("ssm", "delete_parameter", "ParameterNotFound")
    groups = {"SecurityGroups": [{"GroupId": "sg-1"}]}
    api.answer("ec2", "describe_security_groups", groups)
    api.refuse("ec2", "delete_security_group", "DependencyViolation")
    api.answer("ec2", "describe_instances", shown(a1="running"))
    api.answer("ec2", "terminate_instances", {}, {"InstanceIds": ["i-a1"]})
    api.answer("ec2", "describe_security_groups", groups)
    api.answer("ec2", "delete_security_group", {})
    for method in ("remove_role_from_instance_profile", "delete_instance_profile"):
        api.refuse("iam", method, "NoSuchEntity")
    for method in ("delete_role_policy", "delete_role"):
        api.refuse("iam", method, "NoSuchEntity")
    api.answer("ec2", "describe_instances", shown(a1="shutting-down"))
    api.answer("ec2", "terminate_instances", {}, {"InstanceIds": ["i-a1"]})
    api.answer("ec2", "describe_instances", shown(a1="terminated"))
    api.answer("logs", "delete_log_group", {})
    assert asyncio.run(remove_run(api, "r", 20, {"ec2"})) == []
    api.check()


def test_credentials_that_are_renewed_during_the_removal_are_used() -> None:
    """They were renewed in their file, which is read again for the call after the one that was refused."""
    api = StubbedApi()
    api.refuse("ec2", "describe_instances", "RequestExpired", "Request has expired")
    api.answer("ec2", "describe_instances", shown(a1="running"))
    api.refuse("ec2", "terminate_instances", "ExpiredToken", "The security token has expired")
    api.answer("ec2", "describe_instances", shown(a1="running"))
    api.answer("ec2", "terminate_instances", {}, {"InstanceIds": ["i-a1"]})
    api.answer("ec2", "describe_instances", shown(a1="terminated"))
    assert asyncio.run(terminate_run(api, "r", 20)) == []
    api.check()
    api.refuse("ecs", "list_tasks", "ExpiredTokenException", "has expired")
    api.answer("ecs", "list_tasks", {"taskArns": []})
    assert asyncio.run(stop_run(api, "r", 20)) == []
    api.check()


def test_credentials_that_stay_expired_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "_RENEWED_WITHIN", 0.2)
    monkeypatch.setattr(removal, "_POLL", 0.3)
    api = StubbedApi()
    for _ in range(2):
        api.refuse("ec2", "describe_instances", "RequestExpired", "Request has expired")
    (left,) = asyncio.run(terminate_run(api, "r", 200))
    assert "renew your credentials" in left.error
    assert "scalable reap r" in left.error
    api.check()


def test_an_instance_that_may_not_be_terminated_keeps_no_other_one_alive() -> None:
    api = StubbedApi()
    api.answer("ec2", "describe_instances", shown(a1="running", b1="running"))
    text = "The instance 'i-a1' may not be terminated. Modify its 'disableApiTermination' attribute"
    for _ in range(2):
        api.refuse("ec2", "terminate_instances", "OperationNotPermitted", text)
    api.answer("ec2", "terminate_instances", {}, {"InstanceIds": ["i-b1"]})
    api.answer("ec2", "describe_instances", shown(a1="running", b1="shutting-down"))
    api.answer("ec2", "describe_instances", shown(a1="running", b1="terminated"))
    (left,) = asyncio.run(terminate_run(api, "r", 20))
    assert (left.name, text in left.error) == ("i-a1", True)
    api.check()


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("kind", ["fargate", "ec2"])
def test_a_role_of_the_target_s_own_takes_no_permission_to_remove(kind: Kind, own: bool) -> None:
    api = StubbedApi()
    if kind == "fargate":
        api.answer("ecs", "list_tasks", {"taskArns": []})
        api.answer("ecs", "list_task_definition_families", {"families": []})
        api.answer("logs", "delete_log_group", {})
        api.refuse("iam", "delete_role_policy", "AccessDenied", "not authorized", 403)
    else:
        api.answer("ec2", "describe_instances", shown())
        api.refuse("iam", "remove_role_from_instance_profile", "AccessDenied", "no", 403)
    api.refuse("ssm", "delete_parameter", "ParameterNotFound")
    api.answer("ec2", "describe_security_groups", {"SecurityGroups": []})
    if own and kind == "fargate":  # else it stays, by which the role is found
        api.answer("ecs", "delete_cluster", {})
    elif own:
        api.answer("ec2", "describe_instances", shown())
        api.answer("logs", "delete_log_group", {})
    left = asyncio.run(remove_run(api, "r", 20, {kind}, {kind} if own else set()))
    assert [each.kind for each in left] == (
        [] if own else [{"fargate": "IAM role", "ec2": "instance profile"}[kind]]
    )
    api.check()
