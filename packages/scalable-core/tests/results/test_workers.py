"""Workers that have Dask and none of our packages keep results too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from distributed import LocalCluster
from results_user import User

from scalable.client import ScalableClient
from scalable.results import cached


def test_a_stock_worker_keeps_and_loads_results(
    user: User, cluster: LocalCluster, connect: Callable[..., ScalableClient], tmp_path: Path
) -> None:
    stub = tmp_path / "stub" / "scalable"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("raise ImportError('there is no scalable here')\n")
    path = os.pathsep.join([str(stub.parent), str(tmp_path)])
    simulate, total = cached(user.module.simulate), cached(user.module.total)
    cluster.scale(0)
    client = connect(user.results())
    client.retire_workers([*client.scheduler_info()["workers"]])
    command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address]
    with subprocess.Popen(
        [
            *command,
            "--no-nanny",
            "--no-dashboard",
            "--name",
            "stock",
            "--local-directory",
            tmp_path,
        ],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as worker:
        try:
            client.wait_for_workers(1, timeout=60)
            futures = client.map(simulate, range(3))
            assert client.gather(futures) == [0, 2, 4]
            client = connect(user.results())
            futures = client.map(simulate, range(3))
            assert client.submit(total, futures).result() == 6
            assert user.starts() == ["simulate 0", "simulate 1", "simulate 2", "total"]
            assert len(user.objects()) == 4
        finally:
            worker.terminate()
