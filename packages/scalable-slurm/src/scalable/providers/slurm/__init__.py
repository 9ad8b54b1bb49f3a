"""Scalable's provider for HPC clusters that run Slurm.

Importing it calls no command of Slurm's and imports nothing of Dask's; validating and planning work anywhere.

Examples
--------
A target, and what its provider says of it:

>>> from scalable.manifest import parse_manifest
>>> from scalable.planning import build_plan
>>> from scalable.providers.base import DeploymentSpec
>>> from scalable.providers.slurm import SlurmProvider
>>> manifest = parse_manifest('''
... version: 1
... project: {name: hpc}
... targets:
...   hpc:
...     provider: slurm
...     queue: short
...     account: climate
...     walltime: 02:00:00
...     container_runtime: apptainer
...     workers: {gcam: 8}
... components:
...   gcam: {cpus: 4, memory: 16G, image: /projects/images/gcam.sif}
... ''')
>>> spec = DeploymentSpec.from_manifest(manifest, target_name="hpc")
>>> SlurmProvider().validate(spec).ok
True
>>> build_plan(spec, SlurmProvider()).scale_plan.workers_by_tag
{'gcam': 8}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scalable.providers.slurm.options import SlurmOptions
from scalable.providers.slurm.output import SlurmJob
from scalable.providers.slurm.provider import SlurmProvider

if TYPE_CHECKING:
    from scalable.providers.slurm.cluster import SlurmCluster

__all__ = ["SlurmCluster", "SlurmJob", "SlurmOptions", "SlurmProvider"]


def __getattr__(name: str) -> Any:
    if name != "SlurmCluster":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # It needs Dask, which validating and planning do without.
    from scalable.providers.slurm.cluster import SlurmCluster

    return SlurmCluster
