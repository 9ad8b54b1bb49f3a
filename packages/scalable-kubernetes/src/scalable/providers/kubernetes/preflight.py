"""The checks of ``scalable check``: read-only questions to the API server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from scalable.errors import ProviderNotSetUpError
from scalable.providers.base import CheckResult
from scalable.providers.kubernetes.api import ApiError, ApiUnreachableError
from scalable.providers.kubernetes.mounts import volume
from scalable.providers.kubernetes.quantities import format_quantity, parse_quantity
from scalable.providers.kubernetes.refusals import INSTALL

if TYPE_CHECKING:
    from scalable.providers.kubernetes.api import KubernetesApi
    from scalable.providers.kubernetes.options import KubernetesOptions
    from scalable.providers.kubernetes.request import WorkerRequest

__all__ = ["PERMISSIONS", "over_quota", "preflight", "wanted_amounts"]

_DASK = "kubernetes.dask.org"

PERMISSIONS: Mapping[tuple[str, str], Sequence[str]] = {
    (_DASK, "daskclusters"): ("get", "list", "create", "patch", "delete"),
    (_DASK, "daskworkergroups"): ("get", "list", "create", "patch", "delete"),
    ("apps", "deployments"): ("list", "delete"),
    ("", "pods"): ("list",),
    ("", "events"): ("list",),
    ("", "pods/log"): ("get",),
    ("", "pods/portforward"): ("get", "create"),
    ("", "services"): ("list", "delete"),
    ("", "secrets"): ("list", "create", "patch", "delete"),
}
"""The verbs that a run needs, by API group and resource. The Role in the documentation has them."""

QUEUE_PERMISSIONS: Mapping[tuple[str, str], Sequence[str]] = {
    ("kueue.x-k8s.io", "workloads"): ("list",)
}
"""What a run needs beside these where the target names a queue."""

WORKFLOW_PERMISSIONS: Mapping[tuple[str, str], Sequence[str]] = {
    ("batch", "jobs"): ("create", "get", "list", "patch", "delete")
}
"""What a workflow inside the cluster needs beside these, where the target says how it runs."""

_REMEDY_PERMISSIONS = "ask for the Role that docs/providers/kubernetes.md shows, and a RoleBinding"

Plan = Mapping[str, tuple["WorkerRequest", int]]
"""The workers of each group, and how many."""


async def preflight(
    api: KubernetesApi, options: KubernetesOptions, plan: Plan
) -> list[CheckResult]:
    """Check credentials, API server, operator, namespace, permissions, what workers name, and quotas.

    Parameters
    ----------
    api : KubernetesApi
        The API server, not opened.
    options : KubernetesOptions
        The target's options.
    plan : mapping
        The workers that a run starts with, by tag: their request, and how many.
    """
    try:
        await api.open()
    except ProviderNotSetUpError as error:
        return [CheckResult("credentials", False, _line(error.missing), error.remedy)]
    try:
        version = (await api.ask("GET", "/version"))["gitVersion"]
    except (ApiError, ApiUnreachableError) as error:
        remedy = "check the network, a VPN, and that `kubectl version` answers"
        return [CheckResult("API server", False, _line(error), remedy)]
    results = [CheckResult("API server", True, f"{api.server} answers: Kubernetes {version}")]
    results += await asyncio.gather(
        _ask("operator", _check_operator, api),
        _ask("namespace", _check_namespace, api),
        _ask("permissions", _check_permissions, api, _needed(options, plan)),
    )
    results += await asyncio.gather(
        *(
            _ask(what, _check_object, api, kind, name)
            for what, kind, name in _named_objects(options, plan)
        )
    )
    results.append(await _ask("quota", _check_quotas, api, options, plan))
    return results


async def _ask(name: str, check: Callable[..., Awaitable[CheckResult]], *args: Any) -> CheckResult:
    """Return the result of a check, or that it could not be made."""
    try:
        return await check(*args)
    except (ApiError, ApiUnreachableError) as error:
        return CheckResult(name, None, f"not known: {_line(error)}")


async def _check_operator(api: KubernetesApi) -> CheckResult:
    try:
        answer = await api.ask("GET", f"/apis/{_DASK}/v1")
    except ApiError as error:
        if error.code != 404:
            raise
        detail = "its definitions are not installed (kubernetes.dask.org/v1)"
        return CheckResult("operator", False, detail, INSTALL)
    kinds = {each["name"] for each in answer["resources"]}
    missing = {"daskclusters", "daskworkergroups"} - kinds
    if missing:
        return CheckResult("operator", False, f"it has no {', '.join(sorted(missing))}", INSTALL)
    detail = "its definitions are installed; whether it runs shows when a cluster is created"
    return CheckResult("operator", None, detail)


async def _check_namespace(api: KubernetesApi) -> CheckResult:
    name = api.namespace
    try:
        found = await api.ask("GET", f"/api/v1/namespaces/{name}")
    except ApiError as error:
        if error.code != 404:
            raise
        remedy = f"`kubectl create namespace {name}`, or set the target's namespace to another"
        return CheckResult("namespace", False, f"there is no namespace {name!r}", remedy)
    phase = found.get("status", {}).get("phase", "Active")
    if phase != "Active":
        return CheckResult("namespace", False, f"{name!r} is {phase}", "choose another namespace")
    return CheckResult("namespace", True, f"{name!r} exists")


def _needed(options: KubernetesOptions, plan: Plan) -> Mapping[tuple[str, str], Sequence[str]]:
    queued = any(request.options.queue for request, _ in plan.values())
    return {
        **PERMISSIONS,
        **(QUEUE_PERMISSIONS if queued else {}),
        **(WORKFLOW_PERMISSIONS if _has_workflow(options) else {}),
    }


def _has_workflow(options: KubernetesOptions) -> bool:
    """Return whether the target says how a workflow runs inside the cluster."""
    return "workflow" in options.model_fields_set


async def _check_permissions(
    api: KubernetesApi, permissions: Mapping[tuple[str, str], Sequence[str]]
) -> CheckResult:
    asked = [
        (group, resource, verb)
        for (group, resource), verbs in permissions.items()
        for verb in verbs
    ]
    allowed = await asyncio.gather(*(_is_allowed(api, *each) for each in asked))
    missing = [
        f"{verb} {resource}"
        for (_, resource, verb), ok in zip(asked, allowed, strict=True)
        if not ok
    ]
    if missing:
        detail = f"not allowed in namespace {api.namespace!r}: {', '.join(missing)}"
        return CheckResult("permissions", False, detail, _REMEDY_PERMISSIONS)
    return CheckResult("permissions", True, f"all {len(asked)} that a run needs are given")


async def _is_allowed(api: KubernetesApi, group: str, resource: str, verb: str) -> bool:
    name, _, part = resource.partition("/")
    attributes = {"namespace": api.namespace, "group": group, "resource": name, "verb": verb}
    if part:
        attributes["subresource"] = part
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    return bool((await api.ask("POST", path, body=review))["status"]["allowed"])


def _named_objects(options: KubernetesOptions, plan: Plan) -> Iterator[tuple[str, str, str]]:
    """Yield what must exist in the namespace: what it is for, its kind and its name."""
    kinds = {
        "persistentVolumeClaim": ("persistentvolumeclaims", "claimName"),
        "configMap": ("configmaps", "name"),
        "secret": ("secrets", "secretName"),
    }
    found = {("pull secret", "secrets", name) for name in options.image_pull_secrets}
    mounts = {f"mount of {tag}": request.mounts for tag, (request, _) in plan.items()}
    for request, _ in plan.values():
        account = request.options.worker_service_account
        if account:
            found.add(("service account", "serviceaccounts", account))
        if request.options.queue:
            found.add(("queue", "localqueues", request.options.queue))
    if _has_workflow(options):
        mounts["mount of the workflow"] = options.workflow.mounts
        account = options.workflow.service_account
        found.add(("service account of the workflow", "serviceaccounts", account))
    for what, sources in mounts.items():
        for source in sources:
            ((kind, value),) = volume(source).items()
            if kind in kinds:
                found.add((what, kinds[kind][0], value[kinds[kind][1]]))
    yield from sorted(found)


async def _check_object(api: KubernetesApi, kind: str, name: str) -> CheckResult:
    what = f"{kind} {name}"
    try:
        await api.get(kind, name)
    except ApiError as error:
        if error.code != 404:
            raise
        remedy = "create it, or correct its name"
        detail = f"namespace {api.namespace!r} has no {what}"
        return CheckResult(what, False, detail, remedy)
    return CheckResult(what, True, "exists")


async def _check_quotas(api: KubernetesApi, options: KubernetesOptions, plan: Plan) -> CheckResult:
    quotas = await api.list("resourcequotas")
    if not quotas:
        return CheckResult("quota", True, "the namespace has none")
    wanted = wanted_amounts(options, plan)
    problems = [problem for quota in quotas for problem in over_quota(quota, wanted)]
    if problems:
        remedy = "start fewer or smaller workers, or ask for a larger quota"
        return CheckResult("quota", False, "; ".join(problems), remedy)
    return CheckResult("quota", True, "leaves room for the scheduler and the first workers")


def wanted_amounts(options: KubernetesOptions, plan: Plan) -> dict[str, Decimal]:
    """Return what the scheduler and the first workers take, by the names that quotas have for it."""
    workers = sum(n for _, n in plan.values())
    wanted = {"pods": Decimal(workers + 1), "count/deployments.apps": Decimal(workers + 1)}
    scheduler = {
        "cpu": Decimal(options.scheduler_cpu) / 1000,
        "memory": Decimal(options.scheduler_memory),
    }
    pods: list[tuple[Mapping[str, Mapping[str, Decimal]], int]] = [
        ({"requests": scheduler, "limits": {"memory": scheduler["memory"]}}, 1),
        *((request.pod_resources, n) for request, n in plan.values()),
    ]
    for resources, n in pods:
        for part, amounts in resources.items():
            for name, amount in amounts.items():
                # A quota of "cpu" is one of requests.cpu.
                for key in (f"{part}.{name}", *((name,) if part == "requests" else ())):
                    wanted[key] = wanted.get(key, Decimal(0)) + n * amount
    return wanted


def over_quota(quota: Mapping[str, Any], wanted: Mapping[str, Decimal]) -> Iterable[str]:
    """Yield what is wanted beyond what a quota leaves, in words."""
    if not _counts_all(quota):
        return
    status = quota.get("status", {})
    for name, hard in status.get("hard", {}).items():
        left = parse_quantity(hard) - parse_quantity(status.get("used", {}).get(name, "0"))
        if wanted.get(name, Decimal(0)) > left:
            yield (
                f"{quota['metadata']['name']} leaves {format_quantity(left)} of {name}, "
                f"{format_quantity(wanted[name])} are wanted"
            )


def _counts_all(quota: Mapping[str, Any]) -> bool:
    """Return whether a quota counts every pod of a run, by its scopes.

    Source: https://kubernetes.io/docs/concepts/policy/resource-quotas/#quota-scopes
    """
    spec = quota.get("spec", {})
    selected = spec.get("scopeSelector", {}).get("matchExpressions", [])
    scopes = {*spec.get("scopes", []), *(each["scopeName"] for each in selected)}
    return scopes <= {"NotTerminating", "NotBestEffort"}


def _line(error: object) -> str:
    return " ".join(str(error).split())
