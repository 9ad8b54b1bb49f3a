"""A provider that starts each worker by a command."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from scalable.manifest import ValidationIssue
from scalable.providers.base import ClusterHandle, DeploymentSpec
from scalable.providers.common import BaseProvider, cluster_handle
from scalable.providers.options import OneLine, TargetOptions

__all__ = ["ShellOptions", "ShellProvider"]


class ShellOptions(TargetOptions):
    """Options of a target of this provider."""

    launcher: tuple[OneLine, ...] = Field(
        default=(), description="Words before the command of each worker: `[nice, -n, '10']`."
    )


class ShellProvider(BaseProvider[ShellOptions]):
    """Runs each worker as a command."""

    name = "shell"
    options_model = ShellOptions

    def check(self, spec: DeploymentSpec, options: ShellOptions) -> Iterator[ValidationIssue]:
        """Refuse containers, which a bare command does not have."""
        for tag, component in spec.components.items():
            if component.image is not None:
                message = "a command runs in no container; remove the image"
                yield spec.component_issue(tag, "image", "E_NOT_SUPPORTED", message)

    def _build(self, spec: DeploymentSpec, options: ShellOptions) -> ClusterHandle:
        # Here and not above: `scalable validate` imports this module, and is to stay quick.
        from distributed import LocalCluster

        from scalable.cluster import GroupedCluster
        from scalable.cluster.port import GroupSpec
        from scalable_shell.backend import ShellBackend

        groups = [
            GroupSpec(tag, component.slots, options.startup_timeout)
            for tag, component in spec.components.items()
        ]
        host = LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0")
        try:
            backend = ShellBackend(spec.components, host.scheduler_address, options.launcher)
            cluster = GroupedCluster(host, backend, groups, max_workers=options.max_workers)
        except BaseException:
            host.close()  # all or nothing: what was made is gone if this raises
            raise
        return cluster_handle(cluster, spec)
