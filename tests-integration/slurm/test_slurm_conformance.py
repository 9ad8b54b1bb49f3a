"""The requirements of every provider, on a real Slurm."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from scalable.testing.conformance import ProviderConformance


@pytest.mark.usefixtures("work")
class TestConformance(ProviderConformance):
    manifest = """
        version: 1
        project: {name: conformance}
        targets:
          here:
            provider: slurm
            queue: short
            walltime: 00:10:00
            interface: lo
            components: {alpha: {workers_per_job: 2}}  # and one of beta
        components: {alpha: {memory: 300M}, beta: {memory: 300M, slots: 2}}
    """

    def leftovers(self) -> Sequence[str]:
        """List the jobs that have not ended, and the keys that are still on disk."""
        states = "--states=PENDING,RUNNING,CONFIGURING,SUSPENDED"
        jobs = subprocess.run(
            ["squeue", "-h", "-r", states, "-o", "%F_%K %j"],
            capture_output=True,
            text=True,
            check=True,
        )
        return [*jobs.stdout.split(), *map(str, Path().rglob("*.pem"))]
