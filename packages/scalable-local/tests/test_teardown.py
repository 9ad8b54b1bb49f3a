"""However a client ends in the middle of closing, no process of its cluster outlives it."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

CLIENT = """
import os, signal, sys, time
import psutil
from scalable.cluster.controller import GroupController
from scalable.cluster.link import RpcLink
from scalable.manifest import parse_manifest
from scalable.providers.base import DeploymentSpec
from scalable.providers.local import LocalProvider
from scalable.providers.local.processes import ProcessBackend
from distributed import LocalCluster

def die_at(owner, name, after):
    method = getattr(owner, name)
    def dying(self, *args, **kwargs):
        if after:
            result = method(self, *args, **kwargs)
            if hasattr(result, "__await__"):
                async def wait():
                    await result
                    os.kill(os.getpid(), signal.SIGKILL)
                return wait()
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, dying)

manifest = parse_manifest({
    "version": 1,
    "project": {"name": "x"},
    "targets": {"here": {"provider": "local", "workers": {"a": 2}}},
    "components": {"a": {}},
})
spec = DeploymentSpec.from_manifest(manifest, target_name="here")
provider = LocalProvider()
handle = provider.build_cluster(spec)
provider.scale(handle, provider.plan_scale(spec))
cluster = handle.backend
cluster.wait_for_group("a", 2)
client = handle.client_factory()
# A model that the worker runs as a program of its own, and that does not listen to SIGTERM.
model = "trap '' TERM; echo $$; sleep 600"
future = client.submit(lambda: __import__("subprocess").run(["sh", "-c", model]), tag="a")
while not any("sleep" in p.name() for p in psutil.Process().children(recursive=True)):
    time.sleep(0.05)
print(*[p.pid for p in psutil.Process().children(recursive=True)], flush=True)

owners = {"controller": GroupController, "link": RpcLink, "backend": ProcessBackend, "host": LocalCluster}
owner, name, when = sys.argv[1].split(".")
die_at(owners[owner], name, when == "after")
cluster.close()
raise SystemExit("it was to die on the way")
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["link.cancel_all", "backend.stop", "backend.sweep", "host.close"])
def test_a_client_killed_at_any_step_of_close_leaves_nothing(step: str, when: str) -> None:
    client = subprocess.run(
        [sys.executable, "-c", CLIENT, f"{step}.{when}"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    assert client.returncode == -9
    pids = [int(pid) for pid in client.stdout.split()]
    assert len(pids) >= 4  # the watchdog, two workers, the model
    deadline = time.monotonic() + 60
    while left := [pid for pid in pids if _lives(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.1)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
