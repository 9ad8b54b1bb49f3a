from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from scalable.cluster.port import Reason
from scalable.providers.base import CheckResult
from scalable.providers.kubernetes import KubernetesProvider
from scalable.providers.kubernetes.api import ApiError, KubernetesApi
from scalable.providers.kubernetes.preflight import over_quota, preflight, wanted_amounts
from scalable.providers.kubernetes.quantities import format_quantity, parse_quantity
from scalable.providers.kubernetes.refusals import explain_refusal, is_lasting
from scalable.providers.kubernetes.request import worker_request
from scalable.testing.offline import spec_of


def wanted(options: str, component: str, n: int) -> dict[str, Decimal]:
    spec = spec_of("kubernetes", options, f"gcam: {{{component}}}")
    parsed = KubernetesProvider().parse_options(spec)
    return wanted_amounts(
        parsed, {"gcam": (worker_request(spec.components["gcam"], parsed, "i"), n)}
    )


def test_the_scheduler_and_the_workers_count_against_a_quota() -> None:
    amounts = wanted(
        "scheduler_cpu: 500m\nscheduler_memory: 1Gi", "cpus: 2, memory: 4Gi, gpus: 1", 3
    )
    assert amounts["pods"] == amounts["count/deployments.apps"] == 4
    assert amounts["requests.cpu"] == amounts["cpu"] == Decimal("6.5")
    assert amounts["requests.memory"] == amounts["limits.memory"] == 13 * 2**30
    assert amounts["requests.nvidia.com/gpu"] == 3
    assert "limits.cpu" not in amounts


def test_what_a_template_adds_counts_against_a_quota() -> None:
    template = 'pod_template: {spec: {containers: [{name: a, resources: {requests: {cpu: "3"}}}]}}'
    amounts = wanted(f"scheduler_cpu: 1\n{template}", "cpus: 2", 2)
    assert amounts["requests.cpu"] == 11


class Cluster(KubernetesApi):
    """A cluster that has what a test says, and whose user may do what a test says."""

    def __init__(self, objects: set[str], forbidden: set[str]) -> None:
        super().__init__(None, "models")
        self.objects, self.forbidden = objects, forbidden

    async def open(self) -> None:
        pass

    async def ask(self, method: str, path: str, **given: Any) -> dict[str, Any]:
        if "body" in given:
            asked = given["body"]["spec"]["resourceAttributes"]
            words = f"{asked['verb']} {asked['resource']}"
            return {"status": {"allowed": words not in self.forbidden}}
        kinds = [{"name": each} for each in ("daskclusters", "daskworkergroups")]
        return {"gitVersion": "v1.30.0", "resources": kinds}

    async def get(self, kind: str, name: str) -> dict[str, Any]:
        if f"{kind}/{name}" not in self.objects:
            raise ApiError(404, f"{kind} {name} not found")
        return {}

    async def list(self, kind: str, selector: str = "", **_: str) -> list[dict[str, Any]]:
        return []


def checks(
    options: str, objects: set[str] | None = None, forbidden: set[str] | None = None
) -> dict[str, CheckResult]:
    spec = spec_of("kubernetes", options, "gcam: {}")
    parsed = KubernetesProvider().parse_options(spec)
    plan = {"gcam": (worker_request(spec.components["gcam"], parsed, "i"), 1)}
    cluster = Cluster(objects or set(), forbidden or set())
    return {each.name: each for each in asyncio.run(preflight(cluster, parsed, plan))}


@pytest.mark.parametrize("verb", ["create", "get", "list", "patch", "delete"])
def test_a_workflow_inside_needs_permissions_of_its_own(verb: str) -> None:
    forbidden = {f"{verb} jobs"}
    assert checks("", forbidden=forbidden)["permissions"].ok
    found = checks("workflow: {}", forbidden=forbidden)["permissions"]
    assert (found.ok, f"{verb} jobs" in found.detail) == (False, True)


def test_what_a_workflow_inside_names_is_looked_for() -> None:
    options = 'workflow: {service_account: me, mounts: {"pvc:results": /results}}\nqueue: slow'
    there = {"serviceaccounts/me", "persistentvolumeclaims/results", "localqueues/slow"}
    missing = {each.name for each in checks(options).values() if each.ok is False}
    assert missing == {"serviceaccounts me", "persistentvolumeclaims results", "localqueues slow"}
    assert not {e.name for e in checks(options, there).values() if e.ok is False}


def quota(hard: dict[str, str], used: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"name": "q"}, "status": {"hard": hard, "used": used}}


def test_what_is_above_a_quota_is_named() -> None:
    amounts = {"pods": Decimal(4), "requests.memory": Decimal(13 * 2**30)}
    hard = {"pods": "10", "requests.memory": "16Gi", "services": "1"}
    assert not [*over_quota(quota(hard, {"pods": "6", "requests.memory": "3Gi"}), amounts)]
    assert [*over_quota(quota(hard, {"pods": "7", "requests.memory": "4Gi"}), amounts)] == [
        "q leaves 3 of pods, 4 are wanted",
        "q leaves 12Gi of requests.memory, 13Gi are wanted",
    ]


@pytest.mark.parametrize(
    ("spec", "counts"),
    [
        ({"hard": {"pods": "1"}}, True),
        ({"scopes": ["NotTerminating"]}, True),
        ({"scopes": ["BestEffort"]}, False),
        ({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass"}]}}, False),
    ],
)
def test_a_quota_of_other_pods_is_none_for_a_run(spec: dict[str, Any], counts: bool) -> None:
    found = over_quota(quota({"pods": "1"}, {}) | {"spec": spec}, {"pods": Decimal(4)})
    assert bool([*found]) is counts


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("100", 100),
        ("1500m", "1.5"),
        ("2.5Gi", 2.5 * 2**30),
        ("1E", 10**18),
        ("1Ei", 2**60),
        ("2e3", 2000),
        ("2E3", 2000),
        ("5u", "0.000005"),
        ("-1k", -1000),
        (".5", "0.5"),
    ],
)
def test_quantities(text: str, amount: float | str) -> None:
    assert parse_quantity(text) == Decimal(amount)


@pytest.mark.parametrize("text", ["", "500MB", "lots", "1 Gi", "1gi", "Ki", "0x1", "1e"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("amount", "text"),
    [(Decimal("0.25"), "0.25"), (Decimal(2000), "2000"), (Decimal(2**31), "2Gi")],
)
def test_quantities_for_people(amount: Decimal, text: str) -> None:
    assert format_quantity(amount) == text


@pytest.mark.parametrize(
    ("code", "text", "reason", "lasting", "remedy"),
    [
        # As an API server has said it.
        (404, "404 page not found", Reason.REFUSED, True, "install the Dask operator"),
        (404, 'namespaces "nope" not found', Reason.REFUSED, True, "create the namespace 'models'"),
        (
            403,
            'daskclusters.kubernetes.dask.org is forbidden: User "user" cannot create resource',
            Reason.CREDENTIALS,
            True,
            "Role",
        ),
        (403, 'pods "a" is forbidden: exceeded quota: q', Reason.QUOTA, False, "larger quota"),
        (422, "spec.worker.replicas: Invalid value", Reason.REFUSED, True, "options"),
        (500, "etcdserver: request timed out", Reason.NETWORK, False, ""),
    ],
)
def test_refusals(code: int, text: str, reason: Reason, lasting: bool, remedy: str) -> None:
    error = ApiError(code, text)
    explanation = explain_refusal(error, "models")
    assert explanation.reason is reason
    assert is_lasting(error) is lasting
    assert remedy in explanation.remedy
