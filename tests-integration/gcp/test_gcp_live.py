"""A run in a real project: with ``SCALABLE_LIVE_GCP='{"project_id": "climate-lab", "region": "us-central1"}'``.

The variable has options of the target. Compute Engine deletes each machine after 10 minutes, whatever happens.
"""

from __future__ import annotations

import json
import os

import gce_project
import live_run
import pytest

TARGET = os.environ.get("SCALABLE_LIVE_GCP", "")

pytestmark = [
    pytest.mark.skipif(not TARGET, reason="SCALABLE_LIVE_GCP names no project"),
    pytest.mark.timeout(1800),
]


def test_a_run_in_a_real_project() -> None:
    target = {
        "machine_type": "e2-small",
        "scheduler_machine_type": "e2-small",
        **json.loads(TARGET),
        "lifetime": "10m",
        "orphan_timeout": 120,
        "workers": 1,
    }
    live_run.check(gce_project.manifest(target, components={"gcam": {}, "plots": {}}))
