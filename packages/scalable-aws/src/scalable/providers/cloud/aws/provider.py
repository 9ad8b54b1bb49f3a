"""The provider `aws`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from types import MappingProxyType

from scalable.manifest.issues import ValidationIssue
from scalable.manifest.schema import ComponentConfig
from scalable.providers.base import DeploymentSpec, ResourceRequest
from scalable.providers.cloud.aws.fargate import (
    LARGEST_TASK,
    MEMORY_BY_CPU,
    describe_memory,
    next_memory,
)
from scalable.providers.cloud.aws.options import AWSOptions
from scalable.providers.common import PlansOnly, explicit_or_default, no_effect_warnings

__all__ = ["AWSBatchProvider"]

_UNITS_PER_VCPU = 1024
_MIB = 2**20

_ONLY_FOR = MappingProxyType(
    {
        "execution_role_arn": "fargate",
        "task_role_arn": "fargate",
        "worker_cpu": "fargate",
        "worker_mem": "fargate",
        "instance_type": "ec2",
    }
)
"""Options that are valid for one `cluster_type` only."""

# https://docs.aws.amazon.com/ec2/latest/instancetypes/ac.html: families g and p, and gr with more memory.
_WITH_GPU = re.compile(r"(g|gr|p)[0-9]")


class AWSBatchProvider(PlansOnly[AWSOptions]):
    """Runs each worker as a Fargate task or on an EC2 instance of its own."""

    name = "aws"
    options_model = AWSOptions

    def check(self, spec: DeploymentSpec, options: AWSOptions) -> Iterator[ValidationIssue]:
        """Find options of the other cluster type, and components that its machines cannot run."""
        for option, cluster_type in _ONLY_FOR.items():
            if option in options.model_fields_set and options.cluster_type != cluster_type:
                message = f"goes with cluster_type: {cluster_type} only; remove it"
                yield spec.option_issue(option, "E_NOT_SUPPORTED", message)
        yield from no_effect_warnings(
            spec, "mounts", "machines of AWS do not have your directories"
        )
        if options.cluster_type == "fargate":
            yield from _check_fargate(spec, options)
        elif options.instance_type and not _WITH_GPU.match(options.instance_type):
            for name, component in spec.components.items():
                if component.gpus:
                    message = (
                        "the target's instance_type has no GPU; choose a type of family g or p"
                    )
                    yield spec.component_issue(name, "gpus", "E_NOT_SUPPORTED", message)

    def request(self, component: ComponentConfig, options: AWSOptions) -> ResourceRequest:
        """Return the component's own request, completed by the target's options for its workers."""
        cpus = options.worker_cpu and math.ceil(options.worker_cpu / _UNITS_PER_VCPU)
        memory = options.worker_mem and options.worker_mem * _MIB
        return replace(
            super().request(component, options),
            cpus=explicit_or_default(component, "cpus", cpus),
            memory=explicit_or_default(component, "memory", memory),
        )


def _check_fargate(spec: DeploymentSpec, options: AWSOptions) -> Iterator[ValidationIssue]:
    memory = options.worker_mem
    if memory is not None and options.worker_cpu is not None:
        if memory not in MEMORY_BY_CPU[options.worker_cpu]:
            fitting = describe_memory(options.worker_cpu)
            message = f"does not go with this worker_cpu in Fargate; choose {fitting}"
            yield spec.option_issue("worker_mem", "E_FARGATE_SIZE", message)
    elif memory is not None and memory != next_memory(memory):
        message = f"is not an amount that Fargate has; the next larger one is {next_memory(memory)}"
        yield spec.option_issue("worker_mem", "E_FARGATE_SIZE", message)

    vcpus, gib = LARGEST_TASK.cpu // _UNITS_PER_VCPU, LARGEST_TASK.memory // 1024
    for name, component in spec.components.items():
        if component.cpus > vcpus:
            message = f"is more than a Fargate task has, {vcpus} vCPUs; use cluster_type: ec2"
            yield spec.component_issue(name, "cpus", "E_FARGATE_SIZE", message)
        if component.memory and component.memory > gib * 2**30:
            message = f"is more than a Fargate task has, {gib} GiB; use cluster_type: ec2"
            yield spec.component_issue(name, "memory", "E_FARGATE_SIZE", message)
        if component.gpus:
            message = "Fargate has no GPUs; use cluster_type: ec2"
            yield spec.component_issue(name, "gpus", "E_NOT_SUPPORTED", message)
