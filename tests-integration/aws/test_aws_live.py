"""A run in a real account: with ``SCALABLE_LIVE_AWS='{"region": "us-east-1"}'``.

The variable has options of the target. A target above 1 USD an hour is refused.
"""

from __future__ import annotations

import json
import os

import aws_account
import live_run
import pytest

TARGET = os.environ.get("SCALABLE_LIVE_AWS", "")

pytestmark = [
    pytest.mark.skipif(not TARGET, reason="SCALABLE_LIVE_AWS names no account"),
    pytest.mark.timeout(1800),
]


@pytest.mark.parametrize("kind", ["fargate", "ec2"])
def test_a_run_in_a_real_account(kind: str) -> None:
    target = {
        **json.loads(TARGET),
        "cluster_type": kind,
        "orphan_timeout": 120,
        "workers": 1,
        "limits": {"max_hourly_cost": 1},
    }
    live_run.check(aws_account.manifest(target, components={"gcam": {}, "plots": {}}))
