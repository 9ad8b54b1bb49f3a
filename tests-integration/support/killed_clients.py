"""Clients that are killed, and what ``scalable reap`` says of what they leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

ORPHAN_TIMEOUT = 10

_SCALABLE = Path(sysconfig.get_path("scripts"), "scalable")
_CLIENT = """
import sys
from scalable.manifest import load_manifest
from scalable.providers.base import DeploymentSpec
from scalable.providers.registry import get_provider

spec = DeploymentSpec.from_manifest(load_manifest(sys.argv[1]), target_name="here")
provider = get_provider(spec.provider_name)
handle = provider.build_cluster(spec)
handle.backend.scale_groups({"gcam": 1})
handle.backend.wait_for_group("gcam", timeout=240)
provider.close(handle)
"""


def _start(manifest: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _CLIENT, manifest], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def _finish(client: subprocess.Popen[bytes]) -> None:
    _, errors = client.communicate(timeout=300)
    assert client.returncode in (0, -signal.SIGKILL), errors.decode()


def run(manifest: Path) -> None:
    """Run a client that builds a cluster with a worker of ``gcam``, and closes it."""
    _finish(_start(manifest))


def run_until_killed(
    manifest: Path, arrange: Callable[[Callable[[], None]], Any], withdraw: Callable[[Any], None]
) -> bool:
    """Run such a client, and return whether it was killed.

    Parameters
    ----------
    manifest : Path
        Its manifest.
    arrange : callable
        Lets what it is given, which kills the client, be called at some time.
    withdraw : callable
        Takes that back, which is given as `arrange` has returned it.
    """
    clients: list[subprocess.Popen[bytes]] = []
    arranged = arrange(lambda: os.kill(clients[0].pid, signal.SIGKILL))
    clients.append(_start(manifest))
    _finish(clients[0])
    withdraw(arranged)
    return clients[0].returncode == -signal.SIGKILL


def reap(manifest: Path) -> int:
    """Remove what killed clients have left, and return of how many things it was listed before."""
    listed = subprocess.run(
        [_SCALABLE, "ps", manifest, "--json"], capture_output=True, text=True, check=False
    )
    reaped = subprocess.run(
        [_SCALABLE, "reap", "--all", "--yes", "--manifest", manifest],
        capture_output=True,
        text=True,
        check=False,
    )
    assert reaped.returncode == 0, reaped.stdout + reaped.stderr
    return len(json.loads(listed.stdout))
