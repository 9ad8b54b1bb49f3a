"""The policy in the documentation: what the calls of a run need is in it, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from aws_account import AwsAccount
from aws_clusters import cluster, spec_in

from scalable.providers.cloud.aws import AWSBatchProvider

PAGE = Path(__file__).parents[2] / "docs/providers/aws.md"

# What AWS asks for in addition, where tags are given at the creation, or a role is handed on. These are no calls.
IMPLIED = {
    "ec2:CreateTags",
    "ecs:TagResource",
    "iam:PassRole",
    "iam:TagInstanceProfile",
    "iam:TagRole",
    "logs:TagResource",
    "ssm:AddTagsToResource",
}
# Only where a target names neither VPC nor subnets, has public addresses, or is on spare capacity; for the reason of an
# end.
AT_TIMES = {
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSpotInstanceRequests",
    "ec2:DescribeVpcs",
    "ec2:GetConsoleOutput",
    "logs:GetLogEvents",
    "ssm:GetParameter",
}
NEEDS_NONE = {"sts:GetCallerIdentity"}


def policies() -> list[set[str]]:
    """Return the actions of each policy on the page: of Fargate, and those that EC2 adds."""
    found = []
    for text in re.findall(r"```json\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL):
        actions = [statement["Action"] for statement in json.loads(text)["Statement"]]
        found.append({a for each in actions for a in ([each] if isinstance(each, str) else each)})
    return found


@pytest.mark.parametrize("kind", ["fargate", "ec2"])
def test_a_run_needs_what_the_policy_allows_and_nothing_else(
    account: AwsAccount, kind: str
) -> None:
    provider, spec = AWSBatchProvider(), spec_in(account, cluster_type=kind)
    with cluster(account, cluster_type=kind) as handle:
        handle.backend.scale_groups({"gcam": 1})
        handle.backend.wait_for_group("gcam", timeout=120)
        handle.backend.scale_groups({"gcam": 0})
        owned = provider.list_owned(spec)
    assert owned
    needed = account.actions - NEEDS_NONE
    fargate, ec2 = policies()
    allowed = fargate if kind == "fargate" else fargate | ec2
    assert needed <= allowed
    unused = allowed - needed - IMPLIED - AT_TIMES
    if kind == "ec2":
        unused = {action for action in unused if not action.startswith("ecs:")}
    assert unused == set()
