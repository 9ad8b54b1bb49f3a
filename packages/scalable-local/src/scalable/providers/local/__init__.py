"""Scalable's provider for this machine: each worker is a process, a container, or threads of the client's process.

Importing it does not import Dask.

=============  ======================================================================================
`options`      the options of a target
`provider`     the provider: validation, preflight, building a cluster
`command`      a component as the command line and the environment of one worker process
`containers`   the same for a worker in a container
`runtimes`     calls of the container runtimes: probing, pulling images, removing containers
`prepare`      which runtime runs each component, and what it needs before a cluster is built
`processes`    the backend whose units are processes, containers included
`memory`       how much memory the processes of a worker use
`exits`        why a worker's process ended
`termination`  which processes belong to a worker, and how they are terminated
`watchdog`     the process that terminates them when the client dies
`inprocess`    the backend whose units are workers in the client's process
=============  ======================================================================================

Examples
--------
A target, and what its provider makes of it:

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
