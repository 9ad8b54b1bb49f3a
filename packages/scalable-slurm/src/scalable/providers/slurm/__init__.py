"""Scalable's provider for HPC clusters that run Slurm.

==============  =================================================================================
`options`       the options of a target
`provider`      the steps of a provider: validate, render, build, list, reap
`checking`      what can be known about a component before anything is asked of Slurm
`cluster`       `SlurmCluster`, for users and for the provider
`directives`    the options of ``sbatch`` that are Scalable's own, wherever others may set them
`site`          a site's defaults in dask-jobqueue's configuration, parsed
`jobqueue`      the only module that imports dask-jobqueue: its configuration, and the scheduler
`request`       what one worker requests and runs: component, target and site defaults merged
`sbatch`        a request as the command line of ``sbatch``
`script`        a request as a job script and its environment variables
`paths`         paths with variables that only the job knows
`packing`       how many workers fit into a job that gets whole nodes
`backend`       the engine's port: launch, observe, stop, describe, sweep
`submission`    the workers of a launch, submitted in arrays or in jobs that have room
`observation`   the state of every unit
`explanations`  why a unit waits, runs or has ended
`sweeping`      the end of all jobs of a run
`jobs`          jobs and the units in them
`jobfiles`      the files about the workers of a job that runs several
`nodes`         nodes on which workers cannot start
`labels`        what marks jobs as those of a run, of a group and of a launch
`recognition`   jobs that carry these marks, also where a site has rewritten their comments
`states`        Slurm's job states and reasons as phases and reasons of the engine
`commands`      the only module that runs Slurm's commands
`running`       how it runs one, whatever that leaves behind
`environ`       the environment variables that these commands get
`output`        what these commands print, parsed
`refusals`      what ``sbatch`` means by a refusal
`rundir`        the directory of a run: TLS keys and logs
`presence`      whether the client of a run lives
`watchdog`      cancels the jobs of a client that was killed
`preflight`     the checks of ``scalable check``
==============  =================================================================================

Importing the package runs no Slurm command and does not import Dask, so validating and planning work anywhere.

Examples
--------
A target, and the plan for it:

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
