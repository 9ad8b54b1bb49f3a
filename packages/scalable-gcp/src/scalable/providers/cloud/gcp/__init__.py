"""Scalable's provider for Google Cloud: Compute Engine VMs.

Importing it imports neither an SDK nor Dask; validating and planning work offline and read no credentials.

================  ==================================================================
`options`         the options of a target
`machines`        machine types, and the choice of the cheapest one
`prices`          prices, with their source and day
`refresh`         the prices that Google lists now
`provider`        the steps of a provider: validate, render, build, list, reap
`request`         what one worker requires and runs: component and target merged
`names`           names and labels of what a run creates
`instances`       machines and what they do when they boot, as requests
`scheduler`       the scheduler's machine, and the place in which a run is
`keys`            the key of a run, and where its machines get it from
`secret_manager`  the secrets of runs: made, removed, listed
`backend`         the engine's port: launch, observe, stop, describe, sweep
`states`          states of machines as phases and reasons
`refusals`        refusals of Compute Engine, explained
`removal`         the removal of a run's machines, with a limit
`owned`           what runs have left at a target, and its removal
`preflight`       the checks of ``scalable check``
`render`          requests as text
`costs`           what a plan costs
`api`             the only module that talks to Google Cloud
================  ==================================================================

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
