"""The requirements of every provider, and of those whose scheduler runs elsewhere, on an account of AWS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import another_python
import pytest
from aws_account import AwsAccount, Image

from scalable.providers.cloud.aws import AWSBatchProvider
from scalable.testing.remote import RemoteConformance


def manifest(kind: str) -> str:
    return f"""
        version: 1
        project: {{name: conformance}}
        targets:
          there:
            provider: aws
            cluster_type: {kind}
            region: us-east-1
            vpc: "${{SCALABLE_TESTS_VPC}}"
            subnets: ["${{SCALABLE_TESTS_SUBNET}}"]
            public_ip: false
        components: {{alpha: {{}}, beta: {{slots: 2}}}}
        """


class _Aws(RemoteConformance):
    other_image = "another-image"

    @pytest.fixture(autouse=True)
    def _there(self, account: AwsAccount, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.account, self.directory = account, tmp_path
        monkeypatch.setenv("SCALABLE_TESTS_VPC", account.target["vpc"])
        monkeypatch.setenv("SCALABLE_TESTS_SUBNET", account.target["subnets"][0])
        account.images[self.other_image] = Image(env={"SCALABLE_CONFORMANCE_IMAGE": "other"})

    def another_python(self) -> Mapping[str, Any]:
        return {"python": another_python.write(self.directory / "another")}

    def leftovers(self) -> Sequence[str]:
        return self.account.inventory()

    def _wait_for_the_end(self) -> None:
        """What costs money ends by itself, and the rest is reaped."""
        self._wait_until(
            lambda: not (self.account.tasks or self.account.instances), "nothing runs any more"
        )
        provider, spec = AWSBatchProvider(), self.spec()
        assert not provider.reap(spec, provider.list_owned(spec))
        super()._wait_for_the_end()


class TestFargate(_Aws):
    manifest = manifest("fargate")


class TestEc2(_Aws):
    manifest = manifest("ec2")
