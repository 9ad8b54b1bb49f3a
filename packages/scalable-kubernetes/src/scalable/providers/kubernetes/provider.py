"""The provider `kubernetes`."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from scalable.cluster.ledger import new_run_id
from scalable.cluster.port import Leftover
from scalable.costing import CostEstimate
from scalable.errors import did_you_mean
from scalable.manifest.issues import ValidationIssue
from scalable.manifest.schema import ComponentConfig
from scalable.planning import most_expensive_plan
from scalable.providers.base import (
    Artifact,
    CheckResult,
    ClusterHandle,
    DeploymentSpec,
    Owned,
    ResourceRequest,
    ScalePlan,
    Submission,
    current_owner,
)
from scalable.providers.checks import find_bad_images, find_name_clashes
from scalable.providers.common import BaseProvider, cluster_handle, group_specs
from scalable.providers.kubernetes.costs import estimate
from scalable.providers.kubernetes.labels import label_problem
from scalable.providers.kubernetes.mounts import volume
from scalable.providers.kubernetes.names import run_prefix
from scalable.providers.kubernetes.objects import Run, dask_cluster, keys_secret, worker_group
from scalable.providers.kubernetes.options import KubernetesOptions, WorkerOptions
from scalable.providers.kubernetes.request import WorkerRequest, worker_request
from scalable.providers.kubernetes.template import (
    is_our_mount,
    is_our_variable,
    template_problems,
)
from scalable.providers.labels import dns_label
from scalable.providers.logs import kept_logs
from scalable.providers.options import explicit_or_default
from scalable.providers.queries import run_now
from scalable.providers.scheduler import scheduler_image

if TYPE_CHECKING:
    from scalable.providers.kubernetes.api import KubernetesApi

__all__ = ["KubernetesProvider"]

T = TypeVar("T")

_MAX_LOG = 1_000_000
"""Bytes that are read of the log of a worker that has ended, before its pod is removed."""

_OPERATOR_DELAY = 60.0
"""Seconds after `orphan_timeout` in which the operator should have removed a cluster that nobody drives."""

_CLOSE_TIMEOUT = 90.0
"""Seconds for each of the two removals at the end: of the workers, and of everything else."""


_OUR_VARIABLE = "replaces what connects a worker with its scheduler; remove it"


class KubernetesProvider(BaseProvider[KubernetesOptions]):
    """Runs each component as worker groups of the Dask operator."""

    name = "kubernetes"
    options_model = KubernetesOptions

    def check(self, spec: DeploymentSpec, options: KubernetesOptions) -> Iterator[ValidationIssue]:
        """Find what Kubernetes would refuse, and what would replace what a worker needs."""
        yield from find_name_clashes(spec, dns_label)
        yield from find_bad_images(spec)
        for name in options.components.keys() - spec.components.keys():
            message = f"there is no component {name!r}{did_you_mean(name, spec.components)}"
            yield spec.option_issue(("components", name), "E_UNKNOWN_COMPONENT", message)
        yield from _template_issues(spec, (), options)
        for name, own in options.components.items():
            yield from _template_issues(spec, ("components", name), own)
        for source, problem in _mount_problems(options.workflow.mounts, hidden=False):
            where = ("workflow", "mounts", source)
            yield spec.option_issue(where, "E_BAD_VALUE", problem)
        for variable in filter(is_our_variable, options.env):
            yield spec.option_issue(("env", variable), "E_BAD_VALUE", _OUR_VARIABLE)
        for name, component in spec.components.items():
            if any(map(is_our_variable, component.env)):
                yield spec.component_issue(name, "env", "E_BAD_VALUE", _OUR_VARIABLE)
            for _, problem in _mount_problems(component.mounts):
                yield spec.component_issue(name, "mounts", "E_BAD_VALUE", problem)
            yield from _label_issues(spec, name, component)

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

    def knows_prices(self, spec: DeploymentSpec) -> bool:
        """Return whether the target names prices."""
        return spec.target.options.get("prices") is not None

    def estimate_cost(self, spec: DeploymentSpec, plan: ScalePlan) -> CostEstimate | None:
        """Return what the plan costs by the prices that the target names; None where it names none."""
        options = self.parse_options(spec)
        # The image is no part of what is paid for.
        requests = {
            tag: worker_request(component, options, "")
            for tag, component in spec.components.items()
        }
        return estimate(options, requests, plan.workers_by_tag)

    def preflight(self, spec: DeploymentSpec) -> Sequence[CheckResult]:
        """Check whether a start would work: API server, operator, namespace, permissions, quotas, and what is named."""
        from scalable.providers.kubernetes.preflight import preflight

        options = self.parse_options(spec)
        requests = _worker_requests(spec, options)
        counts = most_expensive_plan(spec, self, self.plan_scale(spec)).workers_by_tag
        plan = {tag: (request, counts.get(tag, 0)) for tag, request in requests.items()}
        return _ask(options, lambda api: preflight(api, options, plan))

    def render(self, spec: DeploymentSpec, plan: ScalePlan) -> Sequence[Artifact]:
        """Return the objects of a run, one of them for each component, without the keys.

        A name stands for that of the run. Values that the manifest takes from the environment are shown as ``${VAR}``.
        """
        from scalable.providers.kubernetes.render import rendered

        options = self.parse_options(spec)
        run = Run(f"{run_prefix(spec.target_name)}-000000", current_owner())
        requests = _worker_requests(spec, options)
        objects = {
            "cluster": dask_cluster(run, scheduler_image(spec, options.image), options),
            "keys": keys_secret(run, None, None),
            **{
                tag: worker_group(
                    run,
                    request,
                    number=1,
                    replicas=plan.workers_by_tag.get(tag, 0),
                    request_id="0",
                    owner=None,
                )
                for tag, request in requests.items()
            },
        }
        return [
            Artifact(f"{name}.yaml", "application/yaml", rendered(made, spec.manifest.redact))
            for name, made in objects.items()
        ]

    def list_owned(self, spec: DeploymentSpec) -> Sequence[Owned]:
        """Return what the runs of all users have left in the target's namespace.

        Raises
        ------
        ProviderNotSetUpError
            This machine has no credentials for the cluster.
        """
        from scalable.providers.kubernetes.owned import list_owned

        return _ask(self.parse_options(spec), list_owned)

    def reap(self, spec: DeploymentSpec, owned: Sequence[Owned]) -> Sequence[Leftover]:
        """Remove these; with a DaskCluster, everything of its run."""
        from scalable.providers.kubernetes.owned import reap

        return _ask(self.parse_options(spec), lambda api: reap(api, owned)) if owned else []

    def run_inside(
        self, spec: DeploymentSpec, submission: Submission, write: Callable[[str], object]
    ) -> int:
        """Run a workflow as a Job beside the scheduler, and return its exit status.

        Raises
        ------
        SessionError
            It cannot be started there, or was removed by somebody else.
        """
        from scalable.providers.kubernetes.inside import run_inside

        options = self.parse_options(spec)
        run = Run(new_run_id(run_prefix(spec.target_name), 6), current_owner())
        image = options.workflow.image or scheduler_image(spec, options.image)
        return _ask(options, lambda api: run_inside(api, run, submission, image, options, write))

    def _build(self, spec: DeploymentSpec, options: KubernetesOptions) -> ClusterHandle:
        from scalable.cluster import Pace
        from scalable.cluster.remote import RemoteHost, build_remote_cluster
        from scalable.providers.kubernetes.api import KubernetesApi
        from scalable.providers.kubernetes.backend import KubernetesBackend
        from scalable.providers.kubernetes.scheduler import KubernetesScheduler
        from scalable.providers.tls import make_credentials

        run = Run(new_run_id(run_prefix(spec.target_name), 6), current_owner())
        requests = _worker_requests(spec, options)
        api = KubernetesApi(options.context, options.namespace)
        credentials = make_credentials()
        scheduler = KubernetesScheduler(
            api,
            run,
            dask_cluster(run, scheduler_image(spec, options.image), options),
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
        log_bytes = _MAX_LOG if kept_logs() else 0
        cluster = build_remote_cluster(
            host,
            lambda _: KubernetesBackend(
                api,
                run,
                requests,
                scheduler.owner,
                close_timeout=_CLOSE_TIMEOUT,
                log_bytes=log_bytes,
            ),
            group_specs(spec, options),
            max_workers=options.max_workers,
            pace=Pace(
                close_timeout=_CLOSE_TIMEOUT + 30, scheduler_timeout=options.scheduler_timeout
            ),
            orphan_timeout=_own_orphan_timeout(options.orphan_timeout),
        )
        return cluster_handle(cluster, spec, {"run": run.name, "namespace": api.namespace})


def _own_orphan_timeout(orphan_timeout: float) -> float:
    """Return when a scheduler that nobody drives ends by itself, if the operator has not removed it by then."""
    return orphan_timeout + _OPERATOR_DELAY if orphan_timeout else 0.0


def _worker_requests(spec: DeploymentSpec, options: KubernetesOptions) -> dict[str, WorkerRequest]:
    from scalable.cluster.versions import matching_image  # imports Dask

    return {
        tag: worker_request(component, options, matching_image())
        for tag, component in spec.components.items()
    }


def _ask(options: KubernetesOptions, question: Callable[[KubernetesApi], Awaitable[T]]) -> T:
    """Return the target's answer, also on a thread whose event loop is running, such as a notebook's."""
    from scalable.providers.kubernetes.api import KubernetesApi

    async def ask() -> T:
        api = KubernetesApi(options.context, options.namespace)
        try:
            return await question(api)
        finally:
            await api.close()

    return run_now(ask())


def _template_issues(
    spec: DeploymentSpec, where: tuple[str, ...], options: WorkerOptions
) -> Iterator[ValidationIssue]:
    for path, message in template_problems(options.pod_template):
        yield spec.option_issue((*where, "pod_template", *path), "E_BAD_VALUE", message)


def _mount_problems(mounts: Mapping[str, str], *, hidden: bool = True) -> Iterator[tuple[str, str]]:
    """Yield the sources of mounts that are none, or that would hide what a worker needs, and what is wrong."""
    paths: set[str] = set()
    for source, path in mounts.items():
        try:
            volume(source)
        except ValueError as error:
            yield source, f"{source!r}: the source of a mount {error}"
        if ":" in path:
            yield (
                source,
                f"{path!r} has a colon, which Kubernetes does not take in the path of a mount",
            )
        if path in paths:
            yield source, f"{path!r} is the path of another mount, too"
        paths.add(path)
        if hidden and is_our_mount(path):
            yield source, f"{path!r} would hide what a worker needs; choose another path"


def _label_issues(
    spec: DeploymentSpec, name: str, component: ComponentConfig
) -> Iterator[ValidationIssue]:
    for key, value in component.tags.items():
        problem = label_problem(key, value)
        if problem:
            yield spec.manifest.issue(("components", name, "tags", key), "E_BAD_VALUE", problem)
