"""The provider `kubernetes`."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from dataclasses import replace

from scalable.errors import did_you_mean
from scalable.manifest.issues import ValidationIssue
from scalable.manifest.schema import ComponentConfig
from scalable.providers.base import ClusterHandle, DeploymentSpec, ResourceRequest, current_owner
from scalable.providers.common import (
    BaseProvider,
    cluster_handle,
    dns_label,
    explicit_or_default,
    find_name_clashes,
    group_specs,
)
from scalable.providers.kubernetes.mounts import volume
from scalable.providers.kubernetes.names import run_prefix
from scalable.providers.kubernetes.options import KubernetesOptions, WorkerOptions
from scalable.providers.kubernetes.template import template_problems

__all__ = ["KubernetesProvider"]

_CLOSE_TIMEOUT = 60.0
"""Seconds for each of the two removals at the end: of the workers, and of everything else."""


class KubernetesProvider(BaseProvider[KubernetesOptions]):
    """Runs each component as worker groups of the Dask operator."""

    name = "kubernetes"
    options_model = KubernetesOptions

    def check(self, spec: DeploymentSpec, options: KubernetesOptions) -> Iterator[ValidationIssue]:
        """Find what Kubernetes would refuse, and what would replace what a worker needs."""
        yield from find_name_clashes(spec, dns_label)
        for name in options.components.keys() - spec.components.keys():
            message = f"there is no component {name!r}{did_you_mean(name, spec.components)}"
            yield spec.option_issue(("components", name), "E_UNKNOWN_COMPONENT", message)
        yield from _template_issues(spec, (), options)
        for name, own in options.components.items():
            yield from _template_issues(spec, ("components", name), own)
        for name, component in spec.components.items():
            yield from _mount_issues(spec, name, component)

    def request(self, component: ComponentConfig, options: KubernetesOptions) -> ResourceRequest:
        """Return the component's own request, completed by the target's resources."""
        resources = options.for_component(component.name).resources
        requests, limits = resources.requests, resources.limits
        millicores = requests.cpu or limits.cpu
        cpus = None if millicores is None else math.ceil(millicores / 1000)
        return replace(
            super().request(component, options),
            cpus=explicit_or_default(component, "cpus", cpus),
            memory=explicit_or_default(component, "memory", requests.memory or limits.memory),
        )

    def _build(self, spec: DeploymentSpec, options: KubernetesOptions) -> ClusterHandle:
        from scalable.cluster import Pace
        from scalable.cluster.remote import RemoteHost, build_remote_cluster
        from scalable.cluster.versions import matching_image
        from scalable.providers.kubernetes.api import KubernetesApi
        from scalable.providers.kubernetes.backend import KubernetesBackend
        from scalable.providers.kubernetes.objects import Run, dask_cluster
        from scalable.providers.kubernetes.request import worker_request
        from scalable.providers.kubernetes.scheduler import KubernetesScheduler
        from scalable.providers.tls import make_credentials

        run = Run(f"{run_prefix(spec.target_name)}-{uuid.uuid4().hex[:6]}", current_owner())
        requests = {
            tag: worker_request(component, options, matching_image())
            for tag, component in spec.components.items()
        }
        image = options.image or next(
            (each.image for each in spec.components.values() if each.image), matching_image()
        )
        api = KubernetesApi(options.context, options.namespace)
        credentials = make_credentials()
        scheduler = KubernetesScheduler(
            api,
            run,
            dask_cluster(run, image, options),
            credentials,
            close_timeout=_CLOSE_TIMEOUT,
        )
        host = RemoteHost(
            scheduler,
            name=run.name,
            security=credentials.security(),
            start_timeout=options.startup_timeout,
            close_timeout=_CLOSE_TIMEOUT + 30,
            poll=0.3,
        )
        cluster = build_remote_cluster(
            host,
            lambda _: KubernetesBackend(
                api, run, requests, scheduler.owner, close_timeout=_CLOSE_TIMEOUT
            ),
            group_specs(spec, options),
            max_workers=options.max_workers,
            pace=Pace(
                close_timeout=_CLOSE_TIMEOUT + 30, scheduler_timeout=options.scheduler_timeout
            ),
            orphan_timeout=options.orphan_timeout,
        )
        return cluster_handle(cluster, spec, {"run": run.name, "namespace": api.namespace})


def _template_issues(
    spec: DeploymentSpec, where: tuple[str, ...], options: WorkerOptions
) -> Iterator[ValidationIssue]:
    for path, message in template_problems(options.pod_template):
        yield spec.option_issue((*where, "pod_template", *path), "E_BAD_VALUE", message)


def _mount_issues(
    spec: DeploymentSpec, name: str, component: ComponentConfig
) -> Iterator[ValidationIssue]:
    for source in component.mounts:
        try:
            volume(source)
        except ValueError as error:
            yield spec.component_issue(
                name, "mounts", "E_BAD_VALUE", f"{source!r}: the source of a mount {error}"
            )
