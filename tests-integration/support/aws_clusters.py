"""Clusters in an account of AWS: see `aws_account`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aws_account
from aws_account import AwsAccount

from scalable.manifest.parser import parse_manifest
from scalable.providers.base import ClusterHandle, DeploymentSpec
from scalable.providers.cloud.aws import AWSBatchProvider


def spec_in(account: AwsAccount, components: Any = None, **options: Any) -> DeploymentSpec:
    text = aws_account.manifest(
        {**account.target, **options}, components=components or {"gcam": {}}
    )
    return DeploymentSpec.from_manifest(parse_manifest(text), target_name="here")


@contextmanager
def cluster(account: AwsAccount, components: Any = None, **options: Any) -> Iterator[ClusterHandle]:
    provider = AWSBatchProvider()
    handle = provider.build_cluster(spec_in(account, components, **options))
    try:
        yield handle
    finally:
        provider.close(handle)
