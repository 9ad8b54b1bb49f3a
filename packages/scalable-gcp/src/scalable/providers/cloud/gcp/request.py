"""What one worker requires and runs: component and target merged. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from scalable.manifest.schema import ComponentConfig
from scalable.providers.cloud.gcp.machines import (
    Machine,
    attached_gpus,
    cheapest_machine,
    machine_named,
)
from scalable.providers.cloud.gcp.options import GCPOptions

__all__ = ["WorkerRequest", "worker_request"]


@dataclass(frozen=True)
class WorkerRequest:
    """A worker of a component.

    Parameters
    ----------
    tag, image : str
        The component, and its image.
    slots, cpus : int
        Tasks at a time; cores.
    machine : Machine
        The type of its machine.
    memory : int or None
        Bytes that it may use; None for what its machine leaves to it.
    gpus : int
        GPUs that it requires.
    attached : tuple of (str, int) or None
        GPUs that are attached to its machine, and how many.
    env, labels : mapping
        Its variables, and the component's labels.
    preload : str or None
        Script or module that it runs first.
    """

    tag: str
    image: str
    slots: int
    cpus: int
    machine: Machine
    memory: int | None = None
    gpus: int = 0
    attached: tuple[str, int] | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    preload: str | None = None


def worker_request(
    component: ComponentConfig, options: GCPOptions, default_image: str
) -> WorkerRequest | None:
    """Return the request of a component's worker; None if no machine that is known here holds it.

    Parameters
    ----------
    component : ComponentConfig
        The component.
    options : GCPOptions
        The target's options.
    default_image : str
        The image if neither has one.
    """
    if options.machine:
        machine: Machine | None = machine_named(options.machine)
    else:
        machine = cheapest_machine(
            component.cpus, component.memory or 0, component.gpus, options.gpu_type
        )
    if machine is None:
        return None
    attached = None
    if component.gpus and machine.series == "n1":
        n = attached_gpus(machine.vcpus or 0, component.gpus)
        attached = (options.gpu_type or "nvidia-tesla-t4", n) if n else None
    return WorkerRequest(
        tag=component.name,
        image=component.image or options.image or default_image,
        slots=component.slots,
        cpus=component.cpus,
        machine=machine,
        memory=component.memory or machine.usable,
        gpus=component.gpus,
        attached=attached,
        env={**options.environment, **component.env},
        labels=component.tags,
        preload=component.preload_script,
    )
