"""The provider `slurm`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from scalable.manifest.issues import ValidationIssue
from scalable.manifest.schema import ComponentConfig
from scalable.providers.base import ClusterHandle, DeploymentSpec, ResourceRequest
from scalable.providers.common import BaseProvider, component_issue, option_issue
from scalable.providers.slurm.options import SlurmOptions
from scalable.providers.slurm.request import container_runtime

__all__ = ["SlurmProvider"]


class SlurmProvider(BaseProvider[SlurmOptions]):
    """Runs each worker as an element of a Slurm job array."""

    name = "slurm"
    options_model = SlurmOptions

    def check(self, spec: DeploymentSpec, options: SlurmOptions) -> Iterator[ValidationIssue]:
        """Find what has no effect: an obsolete option, and mounts without a container."""
        if options.comm_port is not None:
            message = "has no effect, since ports are chosen freely; remove it"
            yield option_issue(spec, "comm_port", "W_NO_EFFECT", message, "warning")
        for name, component in spec.components.items():
            if component.mounts and container_runtime(component, options) == "none":
                message = (
                    "have no effect without a container; "
                    "give the component an image and a container runtime"
                )
                yield component_issue(spec, name, "mounts", "W_NO_EFFECT", message, "warning")

    def request(self, component: ComponentConfig, options: SlurmOptions) -> ResourceRequest:
        """Ask for what the component says, for as long as the target says."""
        return replace(super().request(component, options), walltime=options.walltime)

    def _build(self, spec: DeploymentSpec, options: SlurmOptions) -> ClusterHandle:
        from scalable.client import ScalableClient
        from scalable.providers.slurm.cluster import SlurmCluster

        cluster = SlurmCluster(options, components=spec.components.values())
        tasks = {name: task.component for name, task in spec.tasks.items()}
        return ClusterHandle(
            cluster,
            lambda: ScalableClient(cluster, tasks=tasks),
            metadata={"run": cluster.name, "logs": cluster.logs_location},
        )
