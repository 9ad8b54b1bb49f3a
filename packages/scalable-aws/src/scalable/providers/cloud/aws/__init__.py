"""Scalable's provider for AWS: workers as Fargate tasks or EC2 instances.

Importing it imports neither an SDK nor Dask; validating and planning work offline and read no credentials.

=================  ======================================================================
`options`          the options of a target
`fargate`          the sizes of Fargate tasks
`machines`         types of EC2 instances
`checks`           what is wrong with a target and its components, offline
`provider`         the steps of a provider: validate, render, build, list, reap
`request`          what one worker requires and runs: component and target merged
`names`            names and tags of what a run creates
`foundation`       what a run stands on, as requests: cluster, role, key, security group
`tasks`            task definitions and tasks, as requests
`instances`        instances and what they do when they boot, as requests
`setup`            the network that the target names, and the making of the foundation
`scheduler`        the scheduler as a task or an instance
`fargate_backend`  the engine's port on Fargate: launch, observe, stop, describe, sweep
`ec2_backend`      the same on EC2
`launches`         calls that start workers, none of which has its effect twice
`states`           states of tasks and instances as phases and reasons
`refusals`         refusals of AWS, explained
`logs`             the end of a log
`removal`          the removal of a run, with a limit
`owned`            what runs have left at a target, and its removal
`preflight`        the checks of ``scalable check``
`quotas`           the quotas of vCPUs that a run needs
`render`           requests as text
`prices`           prices on demand, with their sources
`refresh`          the prices that AWS lists now
`costs`            what a plan costs
`api`              the only module that talks to AWS
=================  ======================================================================

dask-cloudprovider's clusters are not used: a scheduler elsewhere is the engine's own (`scalable.cluster.remote`), and
what else they do, creating and deleting what a run stands on, is here in the hands of `setup` and `removal`.

Examples
--------
A target, and what its provider makes of it:

>>> from scalable.manifest import parse_manifest
>>> from scalable.planning import build_plan
>>> from scalable.providers.base import DeploymentSpec
>>> from scalable.providers.cloud.aws import AWSBatchProvider
>>> manifest = parse_manifest('''
... version: 1
... project: {name: fargate}
... targets:
...   aws:
...     provider: aws
...     region: us-east-1
...     cluster_type: fargate
...     n_workers: 4
...     worker_cpu: 1024
...     worker_mem: 4096
... components:
...   stitches: {}
... ''')
>>> spec = DeploymentSpec.from_manifest(manifest, target_name="aws")
>>> AWSBatchProvider().validate(spec).ok
True
>>> build_plan(spec, AWSBatchProvider()).scale_plan.resources_by_tag["stitches"].memory
4294967296
"""

from scalable.providers.cloud.aws.options import AWSOptions
from scalable.providers.cloud.aws.provider import AWSBatchProvider

__all__ = ["AWSBatchProvider", "AWSOptions"]
