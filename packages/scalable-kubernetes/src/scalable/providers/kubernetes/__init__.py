"""Scalable's provider for Kubernetes clusters that have the Dask operator.

Importing it imports neither a client of Kubernetes nor Dask; validating and planning work offline.

============  =======================================================
`options`     the options of a target
`labels`      labels as Kubernetes accepts them
`quantities`  amounts of CPU as Kubernetes writes them
`provider`    the steps of a provider: validate, render, build, list, reap
`request`     what one worker requests and runs: component and target merged
`mounts`      a component's mounts as volumes
`template`    the user's template of a pod: its problems, and its merge with ours
`names`       names and labels of what a run creates
`objects`     DaskCluster, worker groups and Secret of a run
`workflow`    Job and Secret of a workflow that runs inside the cluster
`inside`      that Job, from its creation to the exit status
`scheduler`   the scheduler as a DaskCluster
`backend`     the engine's port: launch, observe, stop, describe, sweep
`pods`        states of pods, and what the operator says, as phases and reasons
`refusals`    refusals of the API server, explained
`owned`       what runs have left at a target, and its removal
`preflight`   the checks of ``scalable check``
`render`      objects as text
`costs`       what a plan costs, by the prices that its target names
`removal`     the removal of a run, with a limit
`forward`     a port of this machine that leads to one of a pod
`api`         the only module that talks to the API server
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
