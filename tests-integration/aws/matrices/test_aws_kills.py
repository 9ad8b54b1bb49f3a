"""A client that is killed at each of its calls: what it has started ends by itself, and the rest is reaped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import aws_account
import pytest
from aws_account import AwsAccount
from slurm_site import wait_until

SCALABLE = Path(sysconfig.get_path("scripts"), "scalable")
ORPHAN_TIMEOUT = 10

CLIENT = """
import sys
from scalable.manifest import load_manifest
from scalable.providers.base import DeploymentSpec
from scalable.providers.cloud.aws import AWSBatchProvider

provider = AWSBatchProvider()
spec = DeploymentSpec.from_manifest(load_manifest(sys.argv[1]), target_name="here")
handle = provider.build_cluster(spec)
handle.backend.scale_groups({"gcam": 1})
handle.backend.wait_for_group("gcam", timeout=240)
provider.close(handle)
"""


def start(manifest: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, manifest], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish(client: subprocess.Popen[bytes]) -> None:
    _, errors = client.communicate(timeout=300)
    assert client.returncode in (0, -signal.SIGKILL), errors.decode()


def kill_at(account: AwsAccount, manifest: Path, operation: str) -> None:
    """Kill a client at its first call of this name, which AWS answers all the same."""
    clients: list[subprocess.Popen[bytes]] = []
    fault = account.fault(
        operation, after=True, before=lambda: os.kill(clients[0].pid, signal.SIGKILL)
    )
    clients.append(start(manifest))
    finish(clients[0])
    account.gateway.faults.remove(fault)
    assert clients[0].returncode == -signal.SIGKILL, f"{operation} was not called"


@pytest.mark.parametrize("kind", ["fargate", "ec2"])
def test_what_a_killed_client_has_made_ends_or_is_reaped(
    account: AwsAccount, kind: str, tmp_path: Path
) -> None:
    target = {**account.target, "cluster_type": kind, "orphan_timeout": ORPHAN_TIMEOUT}
    manifest = tmp_path / "scalable.yaml"
    manifest.write_text(aws_account.manifest(target, components={"gcam": {}}), encoding="utf-8")
    finish(start(manifest))
    operations = [*dict.fromkeys(call.operation for call in account.log)]
    assert len(operations) >= 20
    for operation in operations:
        kill_at(account, manifest, operation)
    wait_until(
        lambda: not (account.tasks or account.instances),
        "all tasks and instances have ended by themselves",
        ORPHAN_TIMEOUT + 240,
    )
    listed = subprocess.run(
        [SCALABLE, "ps", manifest, "--json"], capture_output=True, text=True, check=False
    )
    print(f"{len(operations)} kills; what was left: {len(json.loads(listed.stdout))}")
    reaped = subprocess.run(
        [SCALABLE, "reap", "--all", "--yes", "--manifest", manifest],
        capture_output=True,
        text=True,
        check=False,
    )
    assert reaped.returncode == 0, reaped.stdout + reaped.stderr
    assert account.inventory() == []
