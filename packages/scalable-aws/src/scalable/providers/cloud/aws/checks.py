"""What is wrong with a target and its components, as far as that can be known offline. Pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from pydantic import TypeAdapter, ValidationError

from scalable.manifest.issues import ValidationIssue
from scalable.providers.base import DeploymentSpec
from scalable.providers.checks import find_processor_clashes
from scalable.providers.cloud.aws.fargate import (
    LARGEST_TASK,
    MEMORY_BY_CPU,
    UNITS_PER_VCPU,
    describe_memory,
    next_memory,
)
from scalable.providers.cloud.aws.instances import MAX_USER_DATA, user_data, worker_script
from scalable.providers.cloud.aws.machines import machine_named, smallest_machine
from scalable.providers.cloud.aws.names import Run, run_prefix
from scalable.providers.cloud.aws.options import AWSOptions, TagKey, TagValue
from scalable.providers.cloud.aws.request import worker_request
from scalable.providers.cloud.aws.tasks import MAX_DEFINITION, Place, worker_definition

__all__ = [
    "check_definitions",
    "check_fargate",
    "check_labels",
    "check_machines",
    "check_options",
    "check_processors",
    "check_user_data",
]

_ONLY_FOR = MappingProxyType(
    {
        "task_role_arn": "fargate",
        "worker_cpu": "fargate",
        "worker_mem": "fargate",
        "instance_type": "ec2",
        "ami": "ec2",
        "volume_size": "ec2",
        "instance_profile": "ec2",
    }
)
"""Options that are valid for one `cluster_type` only."""
_ONLY_FOR_SCHEDULERS = MappingProxyType(
    {
        "execution_role_arn": "fargate",
        "scheduler_cpu": "fargate",
        "scheduler_mem": "fargate",
        "scheduler_instance_type": "ec2",
    }
)
"""Options that are valid for one kind of scheduler only."""

# https://docs.aws.amazon.com/ec2/latest/instancetypes/ac.html: families g and p, and gr with more memory.
_WITH_GPU = re.compile(r"(g|gr|p)[0-9]")

# https://docs.aws.amazon.com/ec2/latest/instancetypes/instance-type-names.html: a g after the number is Graviton.
_ARM = re.compile(r"(a1|[a-z]+[0-9]+g[a-z0-9-]*)\..+")

_MAX_TAGS = 50
_OUR_TAGS = {"fargate": 4, "ec2": 5}
"""Tags of a worker that are Scalable's; an instance also has a name."""

_TAGS: TypeAdapter[Mapping[str, str]] = TypeAdapter(Mapping[TagKey, TagValue])

_CERTIFICATE_BYTES = 512
"""What a run's certificate adds to user data at most, which has been packed."""
_CERTIFICATES_BYTES = 4096
"""What it adds to a task definition at most, in which it is four times, together with names of the account."""


def check_options(spec: DeploymentSpec, options: AWSOptions) -> Iterator[ValidationIssue]:
    """Find options of the other cluster type, or of the other kind of scheduler."""
    for option, cluster_type in _ONLY_FOR.items():
        if option in options.model_fields_set and options.cluster_type != cluster_type:
            message = f"goes with cluster_type: {cluster_type} only; remove it"
            yield spec.option_issue(option, "E_NOT_SUPPORTED", message)
    if options.cluster_type == "fargate" and options.scheduler_type == "ec2":
        message = "goes with cluster_type: ec2 only; with Fargate, the scheduler is a task, too"
        yield spec.option_issue(("scheduler", "type"), "E_NOT_SUPPORTED", message)
        return
    for option, kind in _ONLY_FOR_SCHEDULERS.items():
        if option in options.model_fields_set and options.scheduler_type != kind:
            what = "cluster_type" if options.scheduler is None else "scheduler type"
            message = f"goes with {what}: {kind} only; remove it"
            yield spec.option_issue(option, "E_NOT_SUPPORTED", message)


def check_definitions(spec: DeploymentSpec, options: AWSOptions) -> Iterator[ValidationIssue]:
    """Find components whose variables make their task definition larger than AWS takes."""
    run, place = _example(spec, options)
    for name, component in spec.components.items():
        request = worker_request(component, options, "")
        if request.task is None:  # which has an issue of its own
            continue
        definition = worker_definition(run, place, request, options, "tls://10.0.0.1:8786")
        size = len(json.dumps(definition.params, ensure_ascii=False).encode()) + _CERTIFICATES_BYTES
        if size > MAX_DEFINITION:
            message = (
                f"makes a task definition of {size} bytes with the rest that a task is told, and AWS takes "
                f"{MAX_DEFINITION}; set fewer or shorter variables"
            )
            yield spec.component_issue(name, "env", "E_TOO_LARGE", message)


def _example(spec: DeploymentSpec, options: AWSOptions) -> tuple[Run, Place]:
    """Return a run and its place as far as they matter for the size of a request."""
    run = Run(f"{run_prefix(spec.target_name)}-00000000", "", options.tags)
    return run, Place(options.region or "us-east-1", "", (), (), key="", certificate="")


def check_user_data(spec: DeploymentSpec, options: AWSOptions) -> Iterator[ValidationIssue]:
    """Find components whose variables make the user data of their instances larger than AWS takes."""
    run, place = _example(spec, options)
    for name, component in spec.components.items():
        script = worker_script(
            run, place, worker_request(component, options, ""), options, "tls://10.0.0.1:8786", 0
        )
        size = len(user_data(script)) + _CERTIFICATE_BYTES
        if size > MAX_USER_DATA:
            message = (
                f"makes user data of {size} bytes with the rest that an instance is told, and AWS takes "
                f"{MAX_USER_DATA}; set fewer or shorter variables"
            )
            yield spec.component_issue(name, "env", "E_TOO_LARGE", message)


def check_machines(spec: DeploymentSpec, options: AWSOptions) -> Iterator[ValidationIssue]:
    """Find components that no type of instance can run, or not the one that the target names."""
    named = machine_named(options.instance_type or "")
    for name, component in spec.components.items():
        memory = component.memory or 0
        if options.instance_type and component.gpus and not _WITH_GPU.match(options.instance_type):
            message = "the target's instance_type has no GPU; choose a type of family g or p"
            yield spec.component_issue(name, "gpus", "E_NOT_SUPPORTED", message)
        elif named and component.gpus > named.gpus:
            message = f"is more than the target's instance_type has ({named}); choose a larger one"
            yield spec.component_issue(name, "gpus", "E_NO_MACHINE", message)
        if options.instance_type is None:
            if smallest_machine(component.cpus, memory, component.gpus) is None:
                message = "no instance type that is known here has these cpus, memory and gpus; set instance_type"
                yield spec.component_issue(name, "cpus", "E_NO_MACHINE", message)
        elif named and component.cpus > named.vcpus:
            message = f"is more than the target's instance_type has ({named}); choose a larger one"
            yield spec.component_issue(name, "cpus", "E_NO_MACHINE", message)
        elif named and memory > named.usable:
            usable = named.usable // 2**20
            message = f"is more than the target's instance_type leaves to a worker, {usable}Mi; choose a larger one"
            yield spec.component_issue(name, "memory", "E_NO_MACHINE", message)


def check_processors(spec: DeploymentSpec, options: AWSOptions) -> Iterator[ValidationIssue]:
    """Find types of instances whose processor does not run the machine image."""
    named = {"instance_type": options.instance_type}
    if options.scheduler_type == "ec2":
        named["scheduler_instance_type"] = options.scheduler_instance_type
    # What is chosen for a component is never for ARM.
    is_arm = {option: bool(_ARM.fullmatch(name or "")) for option, name in named.items()}
    yield from find_processor_clashes(spec, is_arm, "ami")


def check_labels(spec: DeploymentSpec, options: AWSOptions) -> Iterator[ValidationIssue]:
    """Find labels of components that AWS does not accept as tags, and more tags than it takes."""
    for name, component in spec.components.items():
        try:
            _TAGS.validate_python(dict(component.tags))
        except ValidationError:
            message = (
                "AWS takes 128 letters, digits, blanks and _.:/=+@- as the key of a tag, which must not begin with "
                "aws:, and 256 as its value"
            )
            yield spec.component_issue(name, "tags", "E_BAD_VALUE", message)
        n = len({*options.tags, *component.tags}) + _OUR_TAGS[options.cluster_type]
        if n > _MAX_TAGS:
            message = f"makes {n} tags with those of the target and of Scalable, and AWS takes {_MAX_TAGS}; use fewer"
            yield spec.component_issue(name, "tags", "E_BAD_VALUE", message)


def check_fargate(spec: DeploymentSpec, options: AWSOptions) -> Iterator[ValidationIssue]:
    """Find options and components for which Fargate has no task."""
    yield from _check_size(spec, "worker_cpu", options.worker_cpu, "worker_mem", options.worker_mem)
    yield from _check_size(
        spec, "scheduler_cpu", options.scheduler_cpu, "scheduler_mem", options.scheduler_mem
    )
    vcpus, gib = LARGEST_TASK.cpu // UNITS_PER_VCPU, LARGEST_TASK.memory // 1024
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


def _check_size(
    spec: DeploymentSpec, cpu_option: str, cpu: int | None, memory_option: str, memory: int | None
) -> Iterator[ValidationIssue]:
    if memory is None:
        return
    if cpu is not None:
        if memory not in MEMORY_BY_CPU[cpu]:
            message = (
                f"does not go with this {cpu_option} in Fargate; choose {describe_memory(cpu)}"
            )
            yield spec.option_issue(memory_option, "E_FARGATE_SIZE", message)
    elif memory != next_memory(memory):
        message = f"is not an amount that Fargate has; the next larger one is {next_memory(memory)}"
        yield spec.option_issue(memory_option, "E_FARGATE_SIZE", message)
