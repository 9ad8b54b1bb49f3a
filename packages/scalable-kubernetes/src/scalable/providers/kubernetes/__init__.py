"""Scalable's provider for Kubernetes clusters that have the Dask operator.

Importing it imports neither a client of Kubernetes nor Dask; validating and planning work offline.

============  =======================================================
`options`     the options of a target
`quantities`  amounts of CPU as Kubernetes writes them
`provider`    the provider, which validates and plans in this version
============  =======================================================

Examples
--------
A target, and what its provider makes of it:

>>> from scalable.manifest import parse_manifest
>>> from scalable.planning import build_plan
>>> from scalable.providers.base import DeploymentSpec
>>> from scalable.providers.kubernetes import KubernetesProvider
>>> manifest = parse_manifest('''
... version: 1
... project: {name: gke}
... targets:
...   gke:
...     provider: kubernetes
...     namespace: scalable
...     image: ghcr.io/jgcri/scalable-worker:2026.8
...     n_workers: 4
...     adaptive: {minimum: 1, maximum: 16}
... components:
...   stitches: {cpus: 2, memory: 8Gi}
... ''')
>>> spec = DeploymentSpec.from_manifest(manifest, target_name="gke")
>>> KubernetesProvider().validate(spec).ok
True
>>> build_plan(spec, KubernetesProvider()).scale_plan.ranges_by_tag
{'stitches': (1, 16)}
"""

from scalable.providers.kubernetes.options import KubernetesOptions
from scalable.providers.kubernetes.provider import KubernetesProvider

__all__ = ["KubernetesOptions", "KubernetesProvider"]
