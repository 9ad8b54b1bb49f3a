"""Scalable's provider for AWS: Fargate tasks and EC2 instances.

Importing it imports neither an SDK nor Dask; validating and planning work offline and read no credentials.

==========  =======================================================
`options`   the options of a target
`fargate`   the sizes of Fargate tasks
`provider`  the provider, which validates and plans in this version
==========  =======================================================

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
