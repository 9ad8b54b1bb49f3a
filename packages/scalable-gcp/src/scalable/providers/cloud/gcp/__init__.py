"""Scalable's provider for Google Cloud: Compute Engine VMs.

Importing it imports neither an SDK nor Dask; validating and planning work offline and read no credentials.

==========  =======================================================
`options`   the options of a target
`machines`  the size of a machine, from the name of its type
`provider`  the provider, which validates and plans in this version
==========  =======================================================

Examples
--------
A target, and what its provider makes of it:

>>> from scalable.manifest import parse_manifest
>>> from scalable.planning import build_plan
>>> from scalable.providers.base import DeploymentSpec
>>> from scalable.providers.cloud.gcp import GCPProvider
>>> manifest = parse_manifest('''
... version: 1
... project: {name: engine}
... targets:
...   gcp:
...     provider: gcp
...     project_id: climate-lab
...     zone: europe-west4-a
...     machine_type: n2-standard-4
...     n_workers: 4
... components:
...   stitches: {cpus: 4, memory: 8G}
... ''')
>>> spec = DeploymentSpec.from_manifest(manifest, target_name="gcp")
>>> GCPProvider().validate(spec).ok
True
>>> build_plan(spec, GCPProvider()).scale_plan.workers_by_tag
{'stitches': 4}
"""

from scalable.providers.cloud.gcp.options import GCPOptions
from scalable.providers.cloud.gcp.provider import GCPProvider

__all__ = ["GCPOptions", "GCPProvider"]
