"""The climate ensemble gives the same result on AWS as on one machine."""

from __future__ import annotations

from pathlib import Path

import ensemble_result
import pytest
from aws_account import AwsAccount


@pytest.mark.parametrize("kind", ["fargate", "ec2"])
def test_the_ensemble_by_scalable_run(account: AwsAccount, kind: str, tmp_path: Path) -> None:
    target = {**account.target, "provider": "aws", "cluster_type": kind}
    ensemble_result.check_on(target, tmp_path)
