"""The provider `slurm`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from scalable.errors import NotSupportedError
from scalable.manifest.issues import ValidationIssue
from scalable.manifest.schema import ComponentConfig
from scalable.providers.base import ClusterHandle, DeploymentSpec, ResourceRequest
from scalable.providers.common import BaseProvider, component_issue, option_issue
from scalable.providers.slurm.options import SlurmOptions

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
            if component.mounts and not _in_container(component, options):
                message = (
                    "have no effect without a container; "
                    "give the component an image and a container runtime"
                )
                yield component_issue(spec, name, "mounts", "W_NO_EFFECT", message, "warning")

    def request(self, component: ComponentConfig, options: SlurmOptions) -> ResourceRequest:
        """Ask for what the component says, for as long as the target says."""
        return replace(super().request(component, options), walltime=options.walltime)

    def _build(self, spec: DeploymentSpec, options: SlurmOptions) -> ClusterHandle:
        raise NotSupportedError(
            "provider 'slurm' cannot build clusters in this version: it validates and plans only; "
            "use a target with `provider: local`"
        )


def _in_container(component: ComponentConfig, options: SlurmOptions) -> bool:
    auto = options.container_runtime == "auto"
    runtime = component.runtime if auto else options.container_runtime
    return component.image is not None and runtime != "none"
