"""The account that other tests use: what it runs, and where it is stricter than moto."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from aws_account import AwsAccount, Image
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError
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


def test_a_task_knows_itself_and_its_log_can_be_read_while_it_runs(
    used_account: AwsAccount, ecs: Any
) -> None:
    give_role(used_account, ["logs:CreateLogStream", "logs:PutLogEvents"])
    used_account.client("logs").create_log_group(logGroupName="group")
    command = ["sh", "-c", 'curl -sf "$ECS_CONTAINER_METADATA_URI_V4/task"; echo; sleep 600']
    logged = {
        "logDriver": "awslogs",
        "options": {
            "awslogs-group": "group",
            "awslogs-stream-prefix": "a",
            "awslogs-region": "us-east-1",
        },
    }
    definition(
        used_account,
        executionRoleArn=ROLE_ARN,
        container={"command": command, "logConfiguration": logged},
    )
    (arn,) = started(used_account, ecs)
    stream = f"a/box/{arn.rpartition('/')[2]}"

    def lines() -> list[str]:
        logs = client("logs")
        try:
            answer = logs.get_log_events(logGroupName="group", logStreamName=stream)
        except ClientError:
            return []
        return [each["message"] for each in answer["events"]]

    wait_until(lines, "it has written", 30)
    assert json.loads(lines()[0])["TaskARN"] == arn


ROLE_ARN = "arn:aws:iam::123456789012:role/role"


def give_role(account: AwsAccount, actions: list[str], resource: str = "*") -> None:
    """Create an execution role that may do something."""
    statement = {"Effect": "Allow", "Action": actions, "Resource": resource}
    iam = account.client("iam")
    iam.create_role(RoleName="role", AssumeRolePolicyDocument=json.dumps(ROLE))
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_role_policy(RoleName="role", PolicyName="policy", PolicyDocument=policy)


def started(account: AwsAccount, ecs: Any, n: int = 1, **changes: Any) -> list[str]:
    return [each["taskArn"] for each in run(account, ecs, n, **changes)["tasks"]]


def test_a_secret_needs_the_right_of_the_role_and_its_parameter(
    used_account: AwsAccount, ecs: Any
) -> None:
    arn = "arn:aws:ssm:us-east-1:123456789012:parameter/keys/one"
    give_role(used_account, ["ssm:GetParameters"], "arn:aws:ssm:*:*:parameter/keys/*")
    needs = {"secrets": [{"name": "KEY", "valueFrom": arn}]}
    command = ["sh", "-c", 'test "$KEY" = secret']
    definition(used_account, executionRoleArn=ROLE_ARN, container={**needs, "command": command})
    (task_arn,) = started(used_account, ecs)
    found = wait_for(ecs, task_arn, "STOPPED")
    assert found["stopCode"] == "TaskFailedToStart"
    assert "invalid parameters: /keys/one" in found["stoppedReason"]
    used_account.client("ssm").put_parameter(Name="/keys/one", Value="secret", Type="SecureString")
    (task_arn,) = started(used_account, ecs)
    found = wait_for(ecs, task_arn, "STOPPED")
    assert found["containers"][0]["exitCode"] == 0
    used_account.client("iam").delete_role_policy(RoleName="role", PolicyName="policy")
    (task_arn,) = started(used_account, ecs)
    assert "not authorized" in wait_for(ecs, task_arn, "STOPPED")["stoppedReason"]


def test_an_image_that_is_missing_is_told(used_account: AwsAccount, ecs: Any) -> None:
    used_account.images["image"] = Image(is_missing=True)
    definition(used_account)
    (arn,) = started(used_account, ecs)
    found = wait_for(ecs, arn, "STOPPED")
    assert found["stoppedReason"].startswith("CannotPullContainerError")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cpu": "256", "memory": "4096"}, "No Fargate configuration exists"),
        ({"cpu": "300", "memory": "512"}, "No Fargate configuration exists"),
        ({"networkMode": "bridge"}, "network mode"),
        ({"container": {"stopTimeout": 121}}, "stop timeout"),
        ({"container": {"resourceRequirements": [{"type": "GPU", "value": "1"}]}}, "GPU"),
        ({"container": {"secrets": [{"name": "A", "valueFrom": "b"}]}}, "executionRoleArn"),
        ({"container": {"environment": [{"name": "A", "value": "b" * 65536}]}}, "64 KiB"),
        ({"tags": [{"key": f"{i}", "value": ""} for i in range(51)]}, "50 elements"),
    ],
)
def test_definitions_are_checked(
    used_account: AwsAccount, changes: dict[str, Any], text: str
) -> None:
    with refused(text):
        definition(used_account, **changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"n": 11}, "count must be from 1 to 10"),
        ({"overrides": {"containerOverrides": [{"name": "b" * 8192}]}}, "8192"),
        ({"clientToken": "a" * 65}, "64"),
        ({"tags": [{"key": "aws:a", "value": "b"}]}, "Invalid tag"),
        ({"cluster": "elsewhere"}, "ClusterNotFoundException"),
        ({"taskDefinition": "another"}, "TaskDefinition not found"),
    ],
)
def test_runs_are_checked(
    used_account: AwsAccount, ecs: Any, changes: dict[str, Any], text: str
) -> None:
    definition(used_account)
    with refused(text):
        run(used_account, ecs, **changes)


@pytest.mark.parametrize(
    "network",
    [{"subnets": []}, {"subnets": ["subnet-1"]}, {"securityGroups": ["sg-1"]}],
)
def test_networks_must_exist(used_account: AwsAccount, ecs: Any, network: dict[str, Any]) -> None:
    definition(used_account)
    whole = {"subnets": used_account.target["subnets"], **network}
    with refused("InvalidParameterException"):
        run(used_account, ecs, networkConfiguration={"awsvpcConfiguration": whole})


def test_a_role_must_exist_and_is_not_known_at_once(used_account: AwsAccount, ecs: Any) -> None:
    definition(used_account, executionRoleArn=ROLE_ARN)
    with refused("unable to assume the role"):
        run(used_account, ecs)
    used_account.conditions.roles_take = 1.0
    give_role(used_account, ["a:b"])
    with refused("unable to assume the role"):
        run(used_account, ecs)
    used_account.conditions.roles_take = 0.0
    assert started(used_account, ecs)


def test_a_token_names_one_launch(used_account: AwsAccount, ecs: Any) -> None:
    definition(used_account)
    first = started(used_account, ecs, 2, clientToken="one")
    assert started(used_account, ecs, 2, clientToken="one") == first
    assert len(used_account.tasks) == 2
    with refused("ConflictException"):
        run(used_account, ecs, 3, clientToken="one")
    assert {*started(used_account, ecs, 1, clientToken="two")}.isdisjoint(first)


def test_capacity_runs_out(used_account: AwsAccount, ecs: Any) -> None:
    definition(used_account)
    used_account.capacity = 3
    answer = run(used_account, ecs, 5)
    assert (len(answer["tasks"]), len(answer["failures"])) == (3, 2)
    with refused("Capacity is unavailable"):
        run(used_account, ecs)


def test_what_is_in_use_cannot_be_deleted(used_account: AwsAccount, ecs: Any) -> None:
    definition(used_account)
    ec2 = client("ec2")
    group = ec2.create_security_group(
        GroupName="group", Description="group", VpcId=used_account.target["vpc"]
    )["GroupId"]
    network = {"subnets": used_account.target["subnets"], "securityGroups": [group]}
    used_account.conditions.interfaces_linger = 1.0
    (arn,) = started(used_account, ecs, networkConfiguration={"awsvpcConfiguration": network})
    wait_for(ecs, arn, "RUNNING")
    with refused("DependencyViolation"):
        ec2.delete_security_group(GroupId=group)
    with refused("ClusterContainsTasksException"):
        ecs.delete_cluster(cluster="here")
    ecs.stop_task(cluster="here", task=arn)
    wait_for(ecs, arn, "STOPPED")
    with refused("DependencyViolation"):
        ec2.delete_security_group(GroupId=group)
    ecs.delete_cluster(cluster="here")

    def is_deleted() -> bool:
        try:
            ec2.delete_security_group(GroupId=group)
        except ClientError:
            return False
        return True

    wait_until(is_deleted, "its network interface is gone", 30)


def test_lists_come_in_pages_and_100_tasks_at_once(used_account: AwsAccount, ecs: Any) -> None:
    used_account.images["image"] = Image(command=["sleep", "600"])
    definition(used_account)
    arns = [arn for _ in range(11) for arn in started(used_account, ecs, 10)]
    first = ecs.list_tasks(cluster="here")
    assert len(first["taskArns"]) == 100
    rest = ecs.list_tasks(cluster="here", nextToken=first["nextToken"])
    assert {*first["taskArns"], *rest["taskArns"]} == {*arns}
    with refused("100 elements"):
        ecs.describe_tasks(cluster="here", tasks=[*arns])
    (counts,) = ecs.describe_clusters(clusters=["here"])["clusters"]
    assert counts["runningTasksCount"] + counts["pendingTasksCount"] == 110


def test_tags_are_for_whoever_asks(used_account: AwsAccount, ecs: Any) -> None:
    definition(used_account)
    (arn,) = started(used_account, ecs, tags=[{"key": "a", "value": "b"}])
    assert task(ecs, arn)["tags"] == []
    (found,) = ecs.describe_tasks(cluster="here", tasks=[arn], include=["TAGS"])["tasks"]
    assert found["tags"] == [{"key": "a", "value": "b"}]
    assert (
        ecs.describe_tasks(cluster="here", tasks=["0" * 32])["failures"][0]["reason"] == "MISSING"
    )


def test_spot_tells_a_task_before_it_ends(used_account: AwsAccount, ecs: Any) -> None:
    command = ["sh", "-c", "trap 'sleep 1; exit 3' TERM; while :; do sleep 0.1; done"]
    definition(used_account, container={"command": command, "stopTimeout": 60})
    (arn,) = started(used_account, ecs)
    wait_for(ecs, arn, "RUNNING")
    wait_until(lambda: used_account.tasks[0].status == "RUNNING", "it runs")
    used_account.interrupt(arn)
    told = task(ecs, arn)
    assert (told["desiredStatus"], told["stopCode"]) == ("STOPPED", "SpotInterruption")
    assert wait_for(ecs, arn, "STOPPED")["stopCode"] == "SpotInterruption"


def test_answers_are_lost_and_calls_fail_or_are_denied(used_account: AwsAccount) -> None:
    used_account.fault("CreateCluster", after=True)
    with pytest.raises(ConnectionClosedError):
        client("ecs").create_cluster(clusterName="lost")
    assert used_account.inventory() == ["cluster lost"]
    used_account.fault("CreateCluster", "ThrottlingException", times=2)
    client("ecs", attempts=4).create_cluster(clusterName="second")
    assert used_account.calls("CreateCluster") == 4
    used_account.deny("ecs:DeleteCluster", "ec2:DescribeVpcs", "iam:CreateRole")
    with refused("AccessDeniedException.*ecs:DeleteCluster"):
        client("ecs").delete_cluster(cluster="lost")
    with refused("UnauthorizedOperation.*ec2:DescribeVpcs"):
        client("ec2").describe_vpcs()
    with refused("AccessDenied.*iam:CreateRole"):
        client("iam").create_role(RoleName="a", AssumeRolePolicyDocument="{}")
    assert "ecs:CreateCluster" in used_account.actions


BOOT = """#!/bin/sh
BASE=http://169.254.169.254/latest
curl -sf $BASE/meta-data/instance-id || echo refused
TOKEN=$(curl -sf -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" $BASE/api/token)
ID=$(curl -sf -H "X-aws-ec2-metadata-token: $TOKEN" $BASE/meta-data/instance-id)
docker run --rm -e "A=b c" image sh -c 'echo "$A" "$0"' "$ID"
docker run --rm missing true || echo status $?
[ -n "$STAY" ] || shutdown -h now
"""


def run_instances(
    account: AwsAccount, ec2: Any, least: int = 1, most: int = 1, **changes: Any
) -> Any:
    ssm = account.client("ssm")
    name = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
    whole = {
        "ImageId": ssm.get_parameter(Name=name)["Parameter"]["Value"],
        "InstanceType": "m6i.large",
        "MinCount": least,
        "MaxCount": most,
        "SubnetId": account.target["subnets"][0],
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required"},
        "UserData": BOOT,
        **changes,
    }
    return ec2.run_instances(**whole)


def test_an_instance_runs_its_user_data_and_ends_itself(used_account: AwsAccount) -> None:
    used_account.images["missing"] = Image(is_missing=True)
    ec2 = client("ec2")
    (shown,) = run_instances(used_account, ec2)["Instances"]
    assert shown["State"]["Name"] == "pending"

    def now() -> Any:
        (reservation,) = ec2.describe_instances(InstanceIds=[shown["InstanceId"]])["Reservations"]
        return reservation["Instances"][0]

    wait_until(lambda: now()["State"]["Name"] == "terminated", "it has ended itself", 30)
    assert now()["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    output = ec2.get_console_output(InstanceId=shown["InstanceId"])["Output"]
    assert "refused" in output  # without a token
    assert f"b c {shown['InstanceId']}" in output
    assert "status 125" in output
    assert used_account.inventory() == []


def test_instances_have_tokens_capacity_and_limits(used_account: AwsAccount) -> None:
    ec2 = client("ec2")
    stay = "#!/bin/sh\n:"
    used_account.capacity = 2
    first = run_instances(used_account, ec2, most=3, ClientToken="a", UserData=stay)
    again = run_instances(used_account, ec2, most=3, ClientToken="a", UserData=stay)
    ids = [each["InstanceId"] for each in first["Instances"]]
    assert [each["InstanceId"] for each in again["Instances"]] == ids
    assert len(ids) == 2
    with refused("IdempotentParameterMismatch"):
        run_instances(used_account, ec2, most=2, ClientToken="a", UserData=stay)
    with refused("InsufficientInstanceCapacity"):
        run_instances(used_account, ec2, UserData=stay)
    used_account.capacity = None
    with refused("16384"):
        run_instances(used_account, ec2, UserData="#" * 16385)
    with refused("InvalidGroup.NotFound"):
        run_instances(used_account, ec2, SecurityGroupIds=["sg-0123456789abcdef0"])
    with refused("InvalidSubnetID.NotFound"):
        run_instances(used_account, ec2, SubnetId="subnet-0123456789abcdef0")
    with refused("InvalidAMIID"):
        run_instances(used_account, ec2, ImageId="ami-0123456789abcdef0")
    used_account.interrupt(ids[0], notice=0)
    wait_until(lambda: used_account.instances[0].reason is not None, "it is interrupted", 30)
    ec2.terminate_instances(InstanceIds=ids)
    ec2.terminate_instances(InstanceIds=ids)  # is fine
    wait_until(lambda: not used_account.inventory(), "nothing is left", 30)
    answer = ec2.describe_instances(InstanceIds=[ids[0]])["Reservations"][0]["Instances"][0]
    assert answer["StateReason"]["Code"] == "Server.SpotInstanceTermination"


def test_a_new_account_ends_what_still_starts(used_account: AwsAccount, ecs: Any) -> None:
    definition(used_account)
    used_account.conditions.provisioning = 600
    started(used_account, ecs, 2)
    run_instances(used_account, client("ec2"), UserData="sleep 600")
    used_account.renew()
    assert not used_account.inventory()


def test_nothing_outlives_whoever_was_killed(tmp_path: Path) -> None:
    code = """
import pathlib, sys
from aws_machines import Machines
machines = Machines(print)
here = pathlib.Path(sys.argv[1])
machines.start("a", ["sh", "-c", "echo $$; sleep 600 & echo $!; wait"], {"PATH": "/usr/bin:/bin"}, here, here / "log")
print("started", flush=True)
sys.stdin.read()
"""
    support = Path(__file__).parents[1] / "support"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(support)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        log = tmp_path / "log"
        wait_until(lambda: log.exists() and len(log.read_text().split()) == 2, "both run", 30)
        pids = [*map(int, log.read_text().split())]
        assert all(map(psutil.pid_exists, pids))
        process.kill()
    wait_until(lambda: not any(map(_runs, pids)), "both have ended", 30)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
