"""Clusters in a project of Google Cloud: see `gce_project`."""

from __future__ import annotations

import math
import random
import threading
from contextlib import AbstractContextManager
from typing import Any

import clusters
import gce_project
from gce_project import GceProject

from scalable.providers.base import ClusterHandle, DeploymentSpec


def spec_in(project: GceProject, components: Any = None, **options: Any) -> DeploymentSpec:
    target = {**project.target, "external_ips": False, **options}
    return clusters.spec_of(gce_project.manifest(target, components=components or {"gcam": {}}))


def cluster(
    project: GceProject, components: Any = None, **options: Any
) -> AbstractContextManager[ClusterHandle]:
    return clusters.built(spec_in(project, components, **options))


def close_while_requesting(project: GceProject, times: int, seed: int) -> None:
    """Close clusters at random moments while each request for machines fails, and check that nothing comes after."""
    moments = random.Random(seed)
    for _ in range(times):
        fault = project.fault("instances.bulkInsert", 503, times=math.inf, skip=1)
        with cluster(project) as handle:
            handle.backend.scale_groups({"gcam": 3})
            threading.Event().wait(moments.uniform(0, 3))
        project.traffic.faults.remove(fault)
        assert project.inventory() == []
        before = project.calls("instances.bulkInsert")
        threading.Event().wait(2)
        assert project.calls("instances.bulkInsert") == before
        assert project.inventory() == []
