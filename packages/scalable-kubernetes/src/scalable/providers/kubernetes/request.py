"""What one worker requests and runs: component and target merged. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from scalable.manifest.schema import ComponentConfig
from scalable.providers.kubernetes.mounts import mounted
from scalable.providers.kubernetes.options import KubernetesOptions
from scalable.providers.kubernetes.template import merge_template, pod_amounts
from scalable.providers.options import explicit_or_default

__all__ = ["WorkerRequest", "worker_request"]

_DEFAULT_MILLICORES = 1000


@dataclass(frozen=True)
class WorkerRequest:
    """A worker of a component.

    Parameters
    ----------
    tag : str
        The component.
    image : str
        Its image.
    options : KubernetesOptions
        The target's options for the component.
    slots, cpus, millicores : int
        Tasks at a time; cores for the model; thousandths of a core to request.
    memory, memory_limit : int or None
        Bytes to request, and bytes that must not be exceeded.
    gpus : int
        GPUs.
    limit_millicores : int or None
        Thousandths of a core that must not be exceeded; None for no limit.
    env, mounts, labels : mapping
        The component's variables, mounts and labels.
    preload : str or None
        Script or module that it runs first.
    """

    tag: str
    image: str
    options: KubernetesOptions
    slots: int
    millicores: int
    memory: int | None
    memory_limit: int | None
    gpus: int = 0
    limit_millicores: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    preload: str | None = None

    @property
    def cpus(self) -> int:
        """Whole cores for the model."""
        return math.ceil(self.millicores / 1000)

    @property
    def resources(self) -> dict[str, dict[str, str]]:
        """Its resources, as a container has them. The operator's CRDs accept quantities as text only."""
        gpus = {self.options.gpu_resource: str(self.gpus)} if self.gpus else {}
        requests, limits = {"cpu": f"{self.millicores}m", **gpus}, {**gpus}
        if self.memory:
            requests["memory"] = str(self.memory)
        if self.memory_limit:
            limits["memory"] = str(self.memory_limit)
        if self.limit_millicores:
            limits["cpu"] = f"{self.limit_millicores}m"
        return {"requests": requests, "limits": limits}

    @property
    def pod_resources(self) -> dict[str, dict[str, Decimal]]:
        """The resources of its pod, as numbers: with what the target's template changes and adds."""
        ours = {"spec": {"containers": [{"name": "worker", "resources": self.resources}]}}
        spec = merge_template(ours, self.options.pod_template)["spec"]
        return {part: pod_amounts(spec, part) for part in ("requests", "limits")}

    @property
    def volumes(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Its volumes, and where its container mounts them."""
        return mounted(self.mounts)


def worker_request(
    component: ComponentConfig, options: KubernetesOptions, default_image: str
) -> WorkerRequest:
    """Return the request of a component's worker; what the component says takes precedence over the target.

    Parameters
    ----------
    component : ComponentConfig
        The component.
    options : KubernetesOptions
        The target's options.
    default_image : str
        The image if neither has one.
    """
    own = options.for_component(component.name)
    requests, limits = own.resources.requests, own.resources.limits
    limit: int | None = limits.cpu
    millicores = requests.cpu or limits.cpu or _DEFAULT_MILLICORES
    if "cpus" in component.model_fields_set:
        millicores, limit = component.cpus * 1000, None
    return WorkerRequest(
        tag=component.name,
        image=component.image or own.image or default_image,
        options=own,
        slots=component.slots,
        millicores=millicores,
        # A request without a limit would let a worker take its neighbours' memory.
        memory=explicit_or_default(component, "memory", requests.memory or limits.memory),
        memory_limit=explicit_or_default(component, "memory", limits.memory or requests.memory),
        gpus=component.gpus,
        limit_millicores=limit,
        env=component.env,
        mounts=component.mounts,
        labels=component.tags,
        preload=component.preload_script,
    )
