"""A provider that starts each worker as a command on this machine."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from scalable.manifest import ValidationIssue
from scalable.providers.base import ClusterHandle, DeploymentSpec
from scalable.providers.common import BaseProvider, cluster_handle, group_specs
from scalable.providers.options import OneLine, TargetOptions
from scalable.providers.tls import make_credentials

__all__ = ["ShellOptions", "ShellProvider"]


class ShellOptions(TargetOptions):
    """Options of a target of this provider."""

    launcher: tuple[OneLine, ...] = Field(
        default=(), description="Prefix of each worker's command: `[nice, -n, '10']`."
    )


class ShellProvider(BaseProvider[ShellOptions]):
    """Starts each worker as a command."""

    name = "shell"
    options_model = ShellOptions

    def check(self, spec: DeploymentSpec, options: ShellOptions) -> Iterator[ValidationIssue]:
        """Yield an error for each component with an image, because a command runs in no container."""
        for tag, component in spec.components.items():
            if component.image is not None:
                message = "this provider does not run containers; remove the image"
                yield spec.component_issue(tag, "image", "E_NOT_SUPPORTED", message)

    def _build(self, spec: DeploymentSpec, options: ShellOptions) -> ClusterHandle:
        # Imported here, because `scalable validate` imports this module and must stay quick.
        from distributed import LocalCluster

        from scalable.cluster import GroupedCluster
        from scalable_shell.backend import ShellBackend

        credentials = make_credentials()  # others on this machine reach the scheduler's port, too
        host = LocalCluster(
            n_workers=0,
            protocol="tls",
            security=credentials.security(),
            dashboard_address="127.0.0.1:0",
        )
        try:
            backend = ShellBackend(
                spec.components, host.scheduler_address, options.launcher, credentials
            )
            cluster = GroupedCluster(
                host, backend, group_specs(spec, options), max_workers=options.max_workers
            )
        except BaseException:
            host.close()  # all or nothing: if this method raises, nothing is left behind
            raise
        return cluster_handle(cluster, spec)
