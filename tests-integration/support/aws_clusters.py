"""Clusters in an account of AWS: see `aws_account`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import aws_account
import clusters
from aws_account import AwsAccount

from scalable.providers.base import ClusterHandle, DeploymentSpec


def spec_in(account: AwsAccount, components: Any = None, **options: Any) -> DeploymentSpec:
    target = {**account.target, **options}
    return clusters.spec_of(aws_account.manifest(target, components=components or {"gcam": {}}))


def cluster(
    account: AwsAccount, components: Any = None, **options: Any
) -> AbstractContextManager[ClusterHandle]:
    return clusters.built(spec_in(account, components, **options))
