"""What runs have left at a target, and its removal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scalable.cluster.port import Leftover
from scalable.providers.base import Owned
from scalable.providers.cloud.aws.api import AwsError
from scalable.providers.cloud.aws.names import OWNER, RUN, WORKERS, log_group, owner_tag, run_of
from scalable.providers.cloud.aws.refusals import is_missing
from scalable.providers.cloud.aws.removal import remove_run
from scalable.providers.labels import owner_of_label

if TYPE_CHECKING:
    from scalable.providers.cloud.aws.api import AwsApi
    from scalable.providers.cloud.aws.options import Kind

__all__ = ["CLUSTER", "INSTANCES", "LOG_GROUP", "list_owned", "reap"]

CLUSTER = "ECS cluster"
CLUSTER_WITH_INSTANCES = "ECS cluster with EC2 instances"
LOG_GROUP = "log group"
INSTANCES = "EC2 instances"
_KINDS: Mapping[str, Set[Kind]] = {
    CLUSTER: {"fargate"},
    CLUSTER_WITH_INSTANCES: {"fargate", "ec2"},
    LOG_GROUP: {"ec2"},
    INSTANCES: {"ec2"},
}
"""What a run has, by what it is found by."""

_REAP_TIMEOUT = 300.0
_DESCRIBED_AT_ONCE = 100


async def list_owned(api: AwsApi, kinds: Set[Kind] = frozenset({"fargate"})) -> list[Owned]:
    """Return the ECS clusters of all runs, and the log groups of those on EC2: each stands for everything of its run.

    Instances whose log group somebody has removed stand for themselves.

    Parameters
    ----------
    api : AwsApi
        AWS.
    kinds : set of {"fargate", "ec2"}
        What the target has. Whoever has tasks alone need not be allowed to ask for instances.

    Raises
    ------
    ProviderNotSetUpError
        There are no credentials, or no region.
    AwsError, AwsUnreachableError
        AWS refuses the request, or does not answer.
    """
    await api.check_credentials()
    arns = await api.pages("ecs", "ListClusters", "clusterArns")
    ours = [arn for arn in arns if run_of(arn.rpartition("/")[2])]
    found: list[Mapping[str, Any]] = []
    for start in range(0, len(ours), _DESCRIBED_AT_ONCE):
        some = ours[start : start + _DESCRIBED_AT_ONCE]
        found += (await api.call("ecs", "DescribeClusters", clusters=some, include=["TAGS"]))[
            "clusters"
        ]
    clusters = [*_owned(found)]
    runs = {each.run_id for each in clusters}
    listed = [*clusters, *(each for each in await _log_groups(api) if each.run_id not in runs)]
    return _with_instances(listed, await _instances(api)) if "ec2" in kinds else listed


async def _instances(api: AwsApi) -> list[Owned]:
    """Return the instances of all runs, those of each run as one."""
    reservations = await api.pages(
        "ec2",
        "DescribeInstances",
        "Reservations",
        Filters=[
            {"Name": "tag-key", "Values": [RUN]},
            {
                "Name": "instance-state-name",
                "Values": ["pending", "running", "stopping", "stopped"],
            },
        ],
    )
    counts: Counter[tuple[str, str, str]] = Counter()
    for reservation in reservations:
        for instance in reservation["Instances"]:
            tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
            counts[tags[RUN], _owner(tags), f"{reservation['OwnerId']} {api.region}"] += 1
    return [
        Owned(INSTANCES, run, run, owner, f"{n} exist", place)
        for (run, owner, place), n in counts.items()
    ]


def _with_instances(listed: Sequence[Owned], instances: Sequence[Owned]) -> list[Owned]:
    """Return what is listed, with how many instances its run has, and instances of other runs."""
    of_run = {each.run_id: each for each in instances}
    runs = {each.run_id for each in listed}
    detailed = []
    for each in listed:
        found = of_run.get(each.run_id)
        details = [
            *filter(None, [each.detail]),
            *([f"{INSTANCES}: {found.detail}"] if found else []),
        ]
        detailed.append(replace(each, detail=", ".join(details)))
    return [*detailed, *(each for each in instances if each.run_id not in runs)]


async def _log_groups(api: AwsApi) -> list[Owned]:
    """Return the log groups of runs."""
    groups = await api.pages(
        "logs", "DescribeLogGroups", "logGroups", logGroupNamePrefix=log_group("")
    )
    found = []
    for each in groups:
        arn = each["arn"].removesuffix(":*")
        try:
            tags = (await api.call("logs", "ListTagsForResource", resourceArn=arn))["tags"]
        except AwsError as error:
            if is_missing(error):  # its run has ended meanwhile
                continue
            raise
        name = each["logGroupName"]
        # Not the name alone, which people may use, too.
        if name == log_group(tags.get(RUN, "")):
            _, _, _, region, account, _ = arn.split(":", 5)
            place = f"{account} {region}"
            found.append(Owned(LOG_GROUP, name, tags[RUN], _owner(tags), place=place))
    return found


def _owned(clusters: Iterable[Mapping[str, Any]]) -> Iterable[Owned]:
    for each in clusters:
        tags = {tag["key"]: tag["value"] for tag in each.get("tags", ())}
        name = each["clusterName"]
        # Not the name alone, which people may use, too.
        if tags.get(RUN) != run_of(name) or each["status"] == "INACTIVE":
            continue
        running, pending = each.get("runningTasksCount", 0), each.get("pendingTasksCount", 0)
        detail = f"{running} tasks run" + (f", {pending} start" if pending else "")
        _, _, _, region, account, _ = each["clusterArn"].split(":", 5)
        kind = CLUSTER_WITH_INSTANCES if tags.get(WORKERS) == "ec2" else CLUSTER
        yield Owned(kind, name, tags[RUN], _owner(tags), detail, f"{account} {region}")


def _owner(tags: Mapping[str, str]) -> str:
    return owner_of_label(tags.get(OWNER, ""), owner_tag)


async def reap(
    api: AwsApi, owned: Sequence[Owned], own_roles: Set[Kind] = frozenset()
) -> list[Leftover]:
    """Remove everything of the runs of these; return what could not be removed.

    Parameters
    ----------
    api, owned : AwsApi, sequence of Owned
        AWS, and what stands for the runs.
    own_roles : set of {"fargate", "ec2"}
        For what the target names a role.
    """
    left: list[Leftover] = []
    kinds = {each.run_id: each.kind for each in owned}
    for run, kind in kinds.items():
        left += await remove_run(api, run, _REAP_TIMEOUT, _KINDS[kind], own_roles)
    return left
