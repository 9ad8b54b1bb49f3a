"""Scalable's provider for this machine: each worker a process of its own, or threads of the client's.

Importing it imports nothing of Dask's.

Examples
--------
A target, and what its provider says of it:

>>> from scalable.manifest import parse_manifest
>>> from scalable.planning import build_plan
>>> from scalable.providers.base import DeploymentSpec
>>> from scalable.providers.local import LocalProvider
>>> manifest = parse_manifest('''
... version: 1
... project: {name: laptop}
... targets:
...   laptop: {provider: local, max_workers: 4}
... components:
...   gcam: {cpus: 2, memory: 100M}
...   stitches: {slots: 2}
... ''')
>>> spec = DeploymentSpec.from_manifest(manifest, target_name="laptop")
>>> LocalProvider().validate(spec).ok
True
>>> build_plan(spec, LocalProvider()).scale_plan.ranges_by_tag
{'gcam': (0, 4), 'stitches': (0, 4)}
"""

from scalable.providers.local.options import LocalOptions
from scalable.providers.local.provider import LocalProvider

__all__ = ["LocalOptions", "LocalProvider"]
