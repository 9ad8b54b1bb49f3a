from __future__ import annotations

import asyncio

import pytest
from aws_stubs import StubbedApi

from scalable.providers import labels
from scalable.providers.base import Owned
from scalable.providers.cloud.aws.names import (
    Run,
    log_group,
    lower_tags,
    owner_tag,
    resource_name,
    upper_tags,
)
from scalable.providers.cloud.aws.owned import INSTANCES, LOG_GROUP, list_owned


def owned_by(*owners: str, instances: str = "") -> list[Owned]:
    """Return what is listed of a run of each of these users on Fargate, and of one with instances."""
    api = StubbedApi()
    runs = [Run(f"aws-{n}", owner) for n, owner in enumerate(owners)]
    arns = [f"arn:aws:ecs:us-east-1:1:cluster/{resource_name(run.name)}" for run in runs]
    clusters = [
        {
            "clusterArn": arn,
            "clusterName": resource_name(run.name),
            "status": "ACTIVE",
            "tags": lower_tags(run.all_tags),
        }
        for run, arn in zip(runs, arns, strict=True)
    ]
    api.answer("ecs", "list_clusters", {"clusterArns": arns})
    api.answer("ecs", "describe_clusters", {"clusters": clusters})
    run = Run("aws-instances", instances)
    group = log_group(run.name)
    arn = f"arn:aws:logs:us-east-1:1:log-group:{group}:*"
    api.answer("logs", "describe_log_groups", {"logGroups": [{"logGroupName": group, "arn": arn}]})
    api.answer("logs", "list_tags_for_resource", {"tags": run.all_tags})
    found = asyncio.run(list_owned(api))
    api.check()
    return found


@pytest.mark.parametrize("me", ["anna", "anna.b@lab.example", "LAB\\anna", "Анна", "a" * 300])
def test_what_a_user_has_started_is_theirs(monkeypatch: pytest.MonkeyPatch, me: str) -> None:
    monkeypatch.setattr(labels, "current_owner", lambda: me)
    found = owned_by(me, "somebody", instances=me)
    assert [each.owner for each in found] == [me, "somebody", me]


def test_users_whose_names_differ_in_what_a_tag_cannot_have_are_two() -> None:
    assert owner_tag("LAB\\anna") != owner_tag("LAB_anna")
    assert len(owner_tag("a" * 300)) == 256


def test_instances_are_found_although_nothing_else_is_left_of_their_run() -> None:
    api = StubbedApi()
    lost, known = Run("aws-lost", "anna"), Run("aws-known", "anna")
    group = log_group(known.name)
    arn = f"arn:aws:logs:us-east-1:1:log-group:{group}:*"
    api.answer("ecs", "list_clusters", {"clusterArns": []})
    api.answer("logs", "describe_log_groups", {"logGroups": [{"logGroupName": group, "arn": arn}]})
    api.answer("logs", "list_tags_for_resource", {"tags": known.all_tags})
    instances = [
        {"InstanceId": f"i-{n}", "Tags": upper_tags(run.all_tags)}
        for n, run in enumerate((lost, known, lost))
    ]
    pages = {"Reservations": [{"OwnerId": "1", "Instances": instances}]}
    api.answer("ec2", "describe_instances", pages)
    found = asyncio.run(list_owned(api, {"ec2"}))
    api.check()
    assert {(each.kind, each.run_id, each.detail) for each in found} == {
        (LOG_GROUP, "aws-known", "EC2 instances: 1 exist"),
        (INSTANCES, "aws-lost", "2 exist"),
    }
    assert {each.place for each in found} == {"1 us-east-1"}
    assert {each.owner for each in found} == {"anna"}
