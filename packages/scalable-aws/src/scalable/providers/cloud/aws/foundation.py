"""What a run's scheduler and workers stand on, as requests. Pure functions.

The first that is made and the last that is deleted is the ECS cluster, or, with instances of EC2, the log group:
whatever is left of a run is found by it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

from scalable.providers.cloud.aws.names import (
    WORKERS,
    Run,
    key_parameter,
    log_group,
    lower_tags,
    profile_name,
    resource_name,
    role_name,
    upper_tags,
)
from scalable.providers.cloud.aws.options import Kind
from scalable.providers.cloud.aws.tasks import PORT, Request

__all__ = [
    "POLICY_NAME",
    "allow_ingress",
    "create_cluster",
    "create_log_group",
    "create_profile",
    "create_role",
    "create_security_group",
    "fill_profile",
    "key_arn",
    "put_key",
    "put_role_policy",
    "role_arn",
]

POLICY_NAME = "run"


def create_cluster(run: Run, workers: Kind = "fargate") -> Request:
    """Return the request for the run's ECS cluster, which says whether its workers are elsewhere."""
    tags = {**run.all_tags, **({WORKERS: workers} if workers != "fargate" else {})}
    params = {
        "clusterName": resource_name(run.name),
        "capacityProviders": ["FARGATE", "FARGATE_SPOT"],
        "tags": lower_tags(tags),
    }
    return Request("ecs", "CreateCluster", params)


def create_log_group(run: Run) -> Request:
    """Return the request for the run's log group."""
    params = {"logGroupName": log_group(run.name), "tags": run.all_tags}
    return Request("logs", "CreateLogGroup", params)


def put_key(run: Run, key: str) -> Request:
    """Return the request for the parameter with the run's private key, which AWS encrypts."""
    params = {
        "Name": key_parameter(run.name),
        "Value": key,
        "Type": "SecureString",
        "Description": "Private key of a run of Scalable",
        "Tags": upper_tags(run.all_tags),
    }
    return Request("ssm", "PutParameter", params)


def key_arn(run: Run, region: str, partition: str, account: str) -> str:
    """Return the ARN of the parameter with the run's private key."""
    return f"arn:{partition}:ssm:{region}:{account}:parameter{key_parameter(run.name)}"


def role_arn(run: Run, partition: str, account: str) -> str:
    """Return the ARN of the role of the run's tasks."""
    return f"arn:{partition}:iam::{account}:role/{role_name(run.name)}"


def create_role(run: Run, name: str, service: Literal["ecs-tasks", "ec2"]) -> Request:
    """Return the request for the role with which tasks or instances pull images, write logs and read the key.

    Parameters
    ----------
    run : Run
        The run.
    name : str
        The role's name.
    service : {"ecs-tasks", "ec2"}
        Who may take it.
    """
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": "sts:AssumeRole",
                "Principal": {"Service": f"{service}.amazonaws.com"},
            }
        ],
    }
    params = {
        "RoleName": name,
        "Description": "Role of a run of Scalable",
        "AssumeRolePolicyDocument": json.dumps(trust),
        "Tags": upper_tags(run.all_tags),
    }
    return Request("iam", "CreateRole", params)


def create_profile(run: Run) -> Request:
    """Return the request for the instance profile of a run."""
    params = {
        "InstanceProfileName": profile_name(run.name),
        "Tags": upper_tags(run.all_tags),
    }
    return Request("iam", "CreateInstanceProfile", params)


def fill_profile(run: Run) -> Request:
    """Return the request that puts the role into the instance profile."""
    name = profile_name(run.name)
    params = {"InstanceProfileName": name, "RoleName": name}
    return Request("iam", "AddRoleToInstanceProfile", params)


def put_role_policy(run: Run, name: str, region: str, partition: str, account: str) -> Request:
    """Return the request for what that role may do, which is all that is needed of it."""
    pull = [
        "ecr:GetAuthorizationToken",
        "ecr:BatchCheckLayerAvailability",
        "ecr:GetDownloadUrlForLayer",
        "ecr:BatchGetImage",
    ]
    group = f"arn:{partition}:logs:{region}:{account}:log-group:{log_group(run.name)}:*"
    allowed: list[tuple[list[str], str]] = [
        (pull, "*"),
        (["logs:CreateLogStream", "logs:PutLogEvents"], group),
        (["ssm:GetParameter", "ssm:GetParameters"], key_arn(run, region, partition, account)),
    ]
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": actions, "Resource": resource}
            for actions, resource in allowed
        ],
    }
    params = {
        "RoleName": name,
        "PolicyName": POLICY_NAME,
        "PolicyDocument": json.dumps(policy),
    }
    return Request("iam", "PutRolePolicy", params)


def create_security_group(run: Run, vpc: str) -> Request:
    """Return the request for the security group of scheduler and workers."""
    params = {
        "GroupName": resource_name(run.name),
        "Description": "Scheduler and workers of a run of Scalable",
        "VpcId": vpc,
        "TagSpecifications": [{"ResourceType": "security-group", "Tags": upper_tags(run.all_tags)}],
    }
    return Request("ec2", "CreateSecurityGroup", params)


def allow_ingress(group: str, clients: Sequence[str]) -> Request:
    """Return the request by which the group reaches itself, and clients the scheduler's port.

    Parameters
    ----------
    group : str
        The security group.
    clients : sequence of str
        Ranges of addresses.
    """
    inside = {
        "IpProtocol": "tcp",
        "FromPort": 0,
        "ToPort": 65535,
        "UserIdGroupPairs": [{"GroupId": group}],
    }
    ranges = [{"CidrIp": cidr, "Description": "client of Scalable"} for cidr in clients]
    outside = {"IpProtocol": "tcp", "FromPort": PORT, "ToPort": PORT, "IpRanges": ranges}
    params = {"GroupId": group, "IpPermissions": [inside, outside]}
    return Request("ec2", "AuthorizeSecurityGroupIngress", params)
