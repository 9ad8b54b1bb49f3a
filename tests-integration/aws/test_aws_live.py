"""A run in a real account, which costs some cents: with ``SCALABLE_LIVE_AWS='{"region": "us-east-1"}'``.

The variable has options of the target. A target above 1 USD an hour is refused, and what a test leaves ends by itself
within minutes.
"""

from __future__ import annotations

import json
import os

import aws_account
import pytest

from scalable.manifest.parser import parse_manifest
from scalable.providers.base import DeploymentSpec
from scalable.providers.cloud.aws import AWSBatchProvider
from scalable.session import ScalableSession
from scalable.testing.conformance import by_value

TARGET = os.environ.get("SCALABLE_LIVE_AWS", "")

pytestmark = [
    pytest.mark.skipif(not TARGET, reason="SCALABLE_LIVE_AWS names no account"),
    pytest.mark.timeout(1800),
]


def square(number: int) -> int:
    return number * number


@pytest.mark.parametrize("kind", ["fargate", "ec2"])
def test_a_run_in_a_real_account(kind: str) -> None:
    target = {
        **json.loads(TARGET),
        "cluster_type": kind,
        "orphan_timeout": 120,
        "workers": 1,
        "limits": {"max_hourly_cost": 1},
    }
    manifest = parse_manifest(aws_account.manifest(target, components={"gcam": {}, "plots": {}}))
    spec = DeploymentSpec.from_manifest(manifest, target_name="here")
    provider = AWSBatchProvider()
    failed = [str(check) for check in provider.preflight(spec) if check.ok is False]
    assert failed == []
    before = {owned.run_id for owned in provider.list_owned(spec)}
    with ScalableSession(manifest, target="here") as client:
        for tag in ("gcam", "plots"):
            assert client.submit(by_value(square), 3, tag=tag).result(600) == 9
    assert {owned.run_id for owned in provider.list_owned(spec)} <= before
