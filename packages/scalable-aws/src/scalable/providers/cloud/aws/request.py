"""What one worker requires and runs: component and target merged. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from scalable.manifest.schema import ComponentConfig
from scalable.providers.cloud.aws.fargate import UNITS_PER_VCPU, TaskSize, task_size
from scalable.providers.cloud.aws.options import AWSOptions
from scalable.providers.options import explicit_or_default

__all__ = ["WorkerRequest", "worker_request"]

_MIB = 2**20


@dataclass(frozen=True)
class WorkerRequest:
    """A worker of a component.

    Parameters
    ----------
    tag : str
        The component.
    image : str
        Its image.
    slots, cpu_units : int
        Tasks at a time; CPU units, of which 1024 are one vCPU.
    memory : int or None
        Bytes; None leaves it to the size of the machine.
    gpus : int
        GPUs.
    env, labels : mapping
        Its variables, and the component's labels.
    preload : str or None
        Script or module that it runs first.
    """

    tag: str
    image: str
    slots: int
    cpu_units: int
    memory: int | None = None
    gpus: int = 0
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    preload: str | None = None

    @property
    def cpus(self) -> int:
        """Whole cores for the model."""
        return math.ceil(self.cpu_units / UNITS_PER_VCPU)

    @property
    def task(self) -> TaskSize | None:
        """The smallest Fargate task that holds it; None if there is none."""
        return task_size(self.cpu_units, math.ceil((self.memory or 0) / _MIB))


def worker_request(
    component: ComponentConfig, options: AWSOptions, default_image: str
) -> WorkerRequest:
    """Return the request of a component's worker; what the component says takes precedence over the target.

    Parameters
    ----------
    component : ComponentConfig
        The component.
    options : AWSOptions
        The target's options.
    default_image : str
        The image if neither has one.
    """
    units = component.cpus * UNITS_PER_VCPU
    if options.worker_cpu is not None and "cpus" not in component.model_fields_set:
        units = options.worker_cpu
    return WorkerRequest(
        tag=component.name,
        image=component.image or options.image or default_image,
        slots=component.slots,
        cpu_units=units,
        memory=explicit_or_default(
            component, "memory", options.worker_mem and options.worker_mem * _MIB
        ),
        gpus=component.gpus,
        env={**options.environment, **component.env},
        labels=component.tags,
        preload=component.preload_script,
    )
