"""A client that is killed at each of its calls: what it has started ends by itself, and the rest is reaped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import aws_account
import killed_clients
import pytest
from aws_account import AwsAccount
from killed_clients import ORPHAN_TIMEOUT
from slurm_site import wait_until


def kill_at(account: AwsAccount, manifest: Path, operation: str) -> None:
    """Kill a client at its first call of this name, which AWS answers all the same."""

    def arrange(kill: Callable[[], None]) -> object:
        return account.fault(operation, after=True, before=kill)

    killed = killed_clients.run_until_killed(manifest, arrange, account.gateway.faults.remove)
    assert killed, f"{operation} was not called"


KINDS: dict[str, dict[str, Any]] = {
    "fargate": {"cluster_type": "fargate"},
    "ec2": {"cluster_type": "ec2"},
    "both": {"cluster_type": "ec2", "scheduler": {"type": "fargate"}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_killed_client_has_made_ends_or_is_reaped(
    account: AwsAccount, kind: str, tmp_path: Path
) -> None:
    target = {**account.target, **KINDS[kind], "orphan_timeout": ORPHAN_TIMEOUT}
    manifest = tmp_path / "scalable.yaml"
    manifest.write_text(aws_account.manifest(target, components={"gcam": {}}), encoding="utf-8")
    killed_clients.run(manifest)
    operations = [*dict.fromkeys(call.operation for call in account.log)]
    assert len(operations) >= 20
    for operation in operations:
        kill_at(account, manifest, operation)
    wait_until(
        lambda: not (account.tasks or account.instances),
        "all tasks and instances have ended by themselves",
        ORPHAN_TIMEOUT + 240,
    )
    left = killed_clients.reap(manifest)
    print(f"{len(operations)} kills; what was left: {left}")
    assert account.inventory() == []
