"""What goes wrong on AWS: what users read, what goes on, and that nothing is left."""

from __future__ import annotations

import asyncio
import math
import os
import time
import uuid

import aws_account
import dask
import pytest
from awkward import VALUES
from aws_account import AwsAccount, Image
from aws_clusters import cluster, spec_in
from slurm_site import wait_until

from scalable.cluster.port import Reason
from scalable.errors import (
    GroupFailedError,
    LeftoverError,
    ProviderNotSetUpError,
    SchedulerStartError,
)
from scalable.manifest.parser import parse_manifest
from scalable.providers.base import DeploymentSpec
from scalable.providers.cloud.aws import AWSBatchProvider, AWSOptions
from scalable.providers.cloud.aws.api import AwsApi
from scalable.providers.cloud.aws.names import Run
from scalable.providers.cloud.aws.scheduler import AwsScheduler, Ec2Scheduler, FargateScheduler
from scalable.providers.tls import make_credentials
from scalable.testing.conformance import by_value
from scalable.testing.conformance.running import square

CREATES = {
    "fargate": {
        "CreateCluster": "ecs:CreateCluster",
        "CreateLogGroup": "logs:CreateLogGroup",
        "PutParameter": "ssm:PutParameter",
        "CreateSecurityGroup": "ec2:CreateSecurityGroup",
        "AuthorizeSecurityGroupIngress": "ec2:AuthorizeSecurityGroupIngress",
        "CreateRole": "iam:CreateRole",
        "PutRolePolicy": "iam:PutRolePolicy",
        "RegisterTaskDefinition": "ecs:RegisterTaskDefinition",
        "RunTask": "ecs:RunTask",
    },
    "ec2": {
        "CreateInstanceProfile": "iam:CreateInstanceProfile",
        "AddRoleToInstanceProfile": "iam:AddRoleToInstanceProfile",
        "RunInstances": "ec2:RunInstances",
    },
}
"""The calls that create something for a run's start, and the permission that each needs."""

ON_A_TASK = {"cluster_type": "ec2", "scheduler": {"type": "fargate"}}
"""Options with which the scheduler is a task, and workers are instances."""


def scheduler_in(account: AwsAccount, kind: str) -> AwsScheduler:
    options = AWSOptions.model_validate({**account.target, "cluster_type": kind})
    run = Run(f"here-{uuid.uuid4().hex[:8]}", "me")
    cls = FargateScheduler if kind == "fargate" else Ec2Scheduler
    return cls(
        AwsApi(run.name, "us-east-1"),
        run,
        options,
        make_credentials(),
        "image",
        gpus=False,
        close_timeout=60,
    )


async def start_and_end(scheduler: AwsScheduler) -> None:
    """Start a scheduler without waiting for it, and remove it again; its start may fail."""
    try:
        await scheduler.start()
    finally:
        left = [*await scheduler.stop(), *await scheduler.remove()]
        assert left == []


@pytest.mark.parametrize("kind", CREATES)
def test_a_denied_call_is_one_line_and_leaves_nothing(account: AwsAccount, kind: str) -> None:
    for call, action in CREATES[kind].items():
        account.deny(action)
        began = time.monotonic()
        with pytest.raises(SchedulerStartError) as error:
            asyncio.run(start_and_end(scheduler_in(account, kind)))
        account.gateway.denied.clear()
        assert time.monotonic() - began < 30
        assert error.value.explanation.reason is Reason.CREDENTIALS
        message = str(error.value)
        assert action in message
        assert "docs/providers/aws.md" in message
        assert "\n" not in message
        assert account.calls(call) == 1
        assert account.inventory() == [], f"is left when {action} is denied"
        account.gateway.log.clear()


@pytest.mark.parametrize("kind", CREATES)
def test_a_throttled_call_is_repeated(account: AwsAccount, kind: str) -> None:
    for call in CREATES[kind]:
        account.fault(call, "ThrottlingException", times=2)
        asyncio.run(start_and_end(scheduler_in(account, kind)))
        assert account.calls(call) == 3, call
        assert account.inventory() == [], f"is left when {call} is throttled"
        account.gateway.log.clear()


@pytest.mark.parametrize("kind", CREATES)
def test_a_call_whose_answer_is_lost_creates_nothing_twice(account: AwsAccount, kind: str) -> None:
    for call in CREATES[kind]:
        account.fault(call, "ServiceUnavailable", after=True)
        asyncio.run(start_and_end(scheduler_in(account, kind)))
        assert account.calls(call) == 2, call
        assert account.inventory() == [], f"is left when the answer to {call} is lost"
        account.gateway.log.clear()


def test_a_scheduler_on_a_task_has_workers_on_instances(account: AwsAccount) -> None:
    with cluster(account, {"gcam": {}, "plots": {}}, **ON_A_TASK) as handle:
        assert (len(account.tasks), len(account.instances)) == (1, 0)
        handle.backend.scale_groups({"gcam": 2, "plots": 1})
        handle.backend.wait_for_group("gcam", 2, timeout=120)
        handle.backend.wait_for_group("plots", timeout=120)
        assert (len(account.tasks), len(account.instances)) == (1, 3)
        with handle.client_factory() as client:
            assert client.submit(by_value(square), 3, tag="gcam").result(60) == 9
        handle.backend.scale_groups({"gcam": 1})
        wait_until(lambda: len(account.instances) == 2, "one has gone")


def test_all_of_a_run_with_tasks_and_instances_is_reaped(account: AwsAccount) -> None:
    provider, spec = AWSBatchProvider(), spec_in(account, **ON_A_TASK)
    with cluster(account, **ON_A_TASK) as handle:
        handle.backend.scale_groups({"gcam": 1})
        wait_until(lambda: account.instances, "there is a worker")
        (owned,) = provider.list_owned(spec)
        assert owned.kind == "ECS cluster with EC2 instances"
        assert owned.detail.endswith("EC2 instances: 1 exist")
        assert provider.reap(spec, [owned]) == []
        assert account.inventory() == []
        assert provider.list_owned(spec) == []


def test_instances_whose_log_group_somebody_has_removed_are_reaped(account: AwsAccount) -> None:
    provider, spec = AWSBatchProvider(), spec_in(account, cluster_type="ec2")
    with cluster(account, cluster_type="ec2") as handle:
        account.client("logs").delete_log_group(logGroupName=f"/scalable/{handle.backend.name}")
        (owned,) = provider.list_owned(spec)
        assert (owned.kind, owned.run_id) == ("EC2 instances", handle.backend.name)
        assert provider.reap(spec, [owned]) == []
        assert account.inventory() == []


def test_a_new_role_takes_time(account: AwsAccount) -> None:
    account.conditions.roles_take = 5
    asyncio.run(start_and_end(scheduler_in(account, "fargate")))
    assert account.calls("RunTask") > 1


def test_ten_tasks_for_each_call_and_nothing_global_changes(account: AwsAccount) -> None:
    import distributed  # noqa: F401 - which adds its own defaults to Dask's configuration

    before = os.environ.copy(), dask.config.config.copy()
    with cluster(account, {"gcam": {}, "plots": {}}) as handle:
        started = account.calls("RunTask")
        handle.backend.scale_groups({"gcam": 12, "plots": 2})
        wait_until(lambda: len(account.tasks) == 15, "all tasks are there", 120)
        assert account.calls("RunTask") - started == 3
    assert (os.environ.copy(), dask.config.config) == before


def test_a_part_of_a_launch(account: AwsAccount) -> None:
    with cluster(account) as handle:
        account.capacity = 3
        handle.backend.scale_groups({"gcam": 5})
        wait_until(lambda: len(account.tasks) == 4, "three of five start", 60)
        wait_until(
            lambda: handle.backend.groups["gcam"].reason is Reason.CAPACITY,
            "the group waits for capacity",
            60,
        )
        account.capacity = None
        wait_until(lambda: len(account.tasks) == 6, "the others start", 30)


def test_an_image_that_does_not_exist_is_named(account: AwsAccount) -> None:
    account.images["missing:1"] = Image(is_missing=True)
    with pytest.raises(SchedulerStartError, match=r"missing:1") as error:
        AWSBatchProvider().build_cluster(spec_in(account, image="missing:1"))
    assert error.value.explanation.reason is Reason.IMAGE
    components = {"gcam": {"image": "missing:1"}}
    with cluster(account, components, image="image") as handle:
        handle.backend.scale_groups({"gcam": 1})
        with pytest.raises(GroupFailedError, match=r"missing:1"):
            handle.backend.wait_for_group("gcam", timeout=120)


def test_a_scheduler_that_ends_says_why(account: AwsAccount) -> None:
    account.images["broken:1"] = Image(command=["sh", "-c", "echo no such model; exit 3"])
    with pytest.raises(SchedulerStartError, match=r"(?s)exit code 3.*no such model"):
        AWSBatchProvider().build_cluster(spec_in(account, image="broken:1"))


def test_a_launch_that_is_denied_fails_its_group(account: AwsAccount) -> None:
    with cluster(account) as handle:
        account.deny("ecs:RunTask")
        handle.backend.scale_groups({"gcam": 1})
        with pytest.raises(GroupFailedError, match=r"ecs:RunTask"):
            handle.backend.wait_for_group("gcam", timeout=60)


@pytest.mark.parametrize("kind", ["fargate", "ec2"])
def test_variables_reach_workers_as_they_are(account: AwsAccount, kind: str) -> None:
    env = {f"V{n}": value for n, value in enumerate([*VALUES, "🌍 𠮷"])}
    with cluster(account, {"gcam": {"env": env}}, cluster_type=kind) as handle:
        handle.backend.scale_groups({"gcam": 1})
        handle.backend.wait_for_group("gcam", timeout=120)
        with handle.client_factory() as client:
            found = client.submit(by_value(_variables), [*env], tag="gcam").result(60)
    assert found == env


def _variables(names: list[str]) -> dict[str, str]:
    import os

    return {name: os.environ[name] for name in names}


def _double(number: int) -> int:
    return 2 * number


def test_looks_that_are_refused_lose_nothing(account: AwsAccount) -> None:
    with cluster(account) as handle:
        handle.backend.scale_groups({"gcam": 1})
        handle.backend.wait_for_group("gcam", timeout=120)
        (worker,) = handle.backend.groups["gcam"].workers
        expired = account.fault("*", "ExpiredTokenException", times=math.inf)
        wait_until(lambda: "ExpiredToken" in str(handle.backend.explain("gcam")), "it is told", 60)
        with handle.client_factory() as client:
            assert client.submit(by_value(_double), 4, tag="gcam").result(60) == 8
        account.gateway.faults.remove(expired)
        assert handle.backend.groups["gcam"].workers == (worker,)


def test_closing_waits_for_network_interfaces(account: AwsAccount) -> None:
    with cluster(account) as handle:
        handle.backend.scale_groups({"gcam": 1})
        handle.backend.wait_for_group("gcam", timeout=120)
        account.conditions.interfaces_linger = 15
        began = time.monotonic()
    assert time.monotonic() - began > 10
    assert account.inventory() == []


def test_what_cannot_be_removed_is_named_and_reaped_later(account: AwsAccount) -> None:
    provider, spec = AWSBatchProvider(), spec_in(account)
    handle = provider.build_cluster(spec)
    account.deny("iam:DeleteRole")
    with pytest.raises(LeftoverError, match=r"IAM role.*iam:DeleteRole.*scalable reap"):
        provider.close(handle)
    account.gateway.denied.clear()
    (owned,) = provider.list_owned(spec)
    assert owned.run_id == handle.backend.name
    assert not provider.reap(spec, [owned])
    assert account.inventory() == []


def test_other_peoples_resources_are_not_listed(used_account: AwsAccount) -> None:
    used_account.client("ecs").create_cluster(clusterName="scalable-theirs")
    used_account.client("logs").create_log_group(logGroupName="/scalable/theirs")
    assert AWSBatchProvider().list_owned(spec_in(used_account)) == []


def test_without_credentials_or_region(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    text = aws_account.manifest({"region": "us-east-1"}, components={"gcam": {}})
    spec = DeploymentSpec.from_manifest(parse_manifest(text), target_name="here")
    with pytest.raises(ProviderNotSetUpError, match="no credentials"):
        AWSBatchProvider().list_owned(spec)
    (check,) = AWSBatchProvider().preflight(spec)
    assert (check.name, check.ok) == ("credentials", False)
