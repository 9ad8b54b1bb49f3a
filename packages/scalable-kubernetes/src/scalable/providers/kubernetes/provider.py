"""The provider `kubernetes`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from scalable.manifest.issues import ValidationIssue
from scalable.manifest.schema import ComponentConfig
from scalable.providers.base import DeploymentSpec, ResourceRequest
from scalable.providers.common import PlansOnly, dns_label, explicit_or_default, find_name_clashes
from scalable.providers.kubernetes.options import KubernetesOptions

__all__ = ["KubernetesProvider"]


class KubernetesProvider(PlansOnly[KubernetesOptions]):
    """Runs each component as a worker group of the Dask operator."""

    name = "kubernetes"
    options_model = KubernetesOptions

    def check(self, spec: DeploymentSpec, options: KubernetesOptions) -> Iterator[ValidationIssue]:
        """Find components whose objects would have the same name."""
        yield from find_name_clashes(spec, dns_label)

    def request(self, component: ComponentConfig, options: KubernetesOptions) -> ResourceRequest:
        """Return the component's own request, completed by the target's resources."""
        requests, limits = options.resources.requests, options.resources.limits
        millicores = requests.cpu or limits.cpu
        cpus = None if millicores is None else math.ceil(millicores / 1000)
        return replace(
            super().request(component, options),
            cpus=explicit_or_default(component, "cpus", cpus),
            memory=explicit_or_default(component, "memory", requests.memory or limits.memory),
        )
