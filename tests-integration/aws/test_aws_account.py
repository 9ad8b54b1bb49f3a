"""The account that other tests use: what it runs, and where it is stricter than moto."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest
from aws_account import AwsAccount, Image
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.exceptions import ConnectionError as LostError
from slurm_site import wait_until

ROLE = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": "sts:AssumeRole",
            "Principal": {"Service": "ecs-tasks.amazonaws.com"},
        }
    ],
}


def client(service: str, attempts: int = 1) -> Any:
    retries: Any = {"total_max_attempts": attempts, "mode": "standard"}
    make: Any = boto3.client
    return make(service, config=Config(retries=retries))


def definition(account: AwsAccount, **changes: Any) -> str:
    """Register a task definition; return its family."""
    whole = {
        "family": "work",
        "networkMode": "awsvpc",
        "requiresCompatibilities": ["FARGATE"],
        "cpu": "256",
        "memory": "512",
        **changes,
    }
    container = {"name": "box", "image": "image", "essential": True, "command": ["sleep", "600"]}
    whole["containerDefinitions"] = [{**container, **whole.pop("container", {})}]
    account.client("ecs").register_task_definition(**whole)
    return "work"


def run(account: AwsAccount, ecs: Any, n: int = 1, **changes: Any) -> Any:
    network = {"subnets": account.target["subnets"], "securityGroups": []}
    whole = {
        "cluster": "here",
        "taskDefinition": "work",
        "launchType": "FARGATE",
        "count": n,
        "networkConfiguration": {"awsvpcConfiguration": network},
        **changes,
    }
    return ecs.run_task(**whole)


@pytest.fixture
def ecs(used_account: AwsAccount) -> Any:
    used_account.client("ecs").create_cluster(clusterName="here")
    return client("ecs")


def task(ecs: Any, arn: str) -> Any:
    (found,) = ecs.describe_tasks(cluster="here", tasks=[arn])["tasks"]
    return found


def wait_for(ecs: Any, arn: str, status: str) -> Any:
    wait_until(lambda: task(ecs, arn)["lastStatus"] == status, f"{arn} is {status}", 30)
    return task(ecs, arn)


def refused(code: str) -> Any:
    return pytest.raises(ClientError, match=code)


def test_a_task_runs_and_tells_how_it_ended(used_account: AwsAccount, ecs: Any) -> None:
    command = ["sh", "-c", "echo $WORD; exit 7"]
    definition(used_account, container={"command": command})
    override = {"name": "box", "environment": [{"name": "WORD", "value": "hello"}]}
    answer = run(used_account, ecs, overrides={"containerOverrides": [override]})
    (started,) = answer["tasks"]
    assert started["lastStatus"] == "PROVISIONING"
    found = wait_for(ecs, started["taskArn"], "STOPPED")
    assert found["stopCode"] == "EssentialContainerExited"
    assert found["containers"][0]["exitCode"] == 7
