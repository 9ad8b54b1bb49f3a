from __future__ import annotations

import subprocess
import sys

import pytest

from scalable.errors import NotSupportedError, ValidationFailedError
from scalable.manifest import parse_manifest
from scalable.planning import build_plan
from scalable.providers.base import DeploymentProvider, DeploymentSpec, ResourceRequest
from scalable.providers.kubernetes import KubernetesProvider
from scalable.providers.registry import get_provider


def spec_of(components: str = "gcam: {cpus: 4, memory: 16G}", options: str = "") -> DeploymentSpec:
    manifest = parse_manifest(
        f"version: 1\nproject: {{name: x}}\ncomponents: {{{components}}}\n"
        f"targets: {{gke: {{provider: kubernetes, {options}}}}}\n"
    )
    return DeploymentSpec.from_manifest(manifest, target_name="gke")


def test_it_is_found_by_name() -> None:
    provider = get_provider("kubernetes")
    assert isinstance(provider, KubernetesProvider)
    assert isinstance(provider, DeploymentProvider)


def test_components_whose_objects_would_have_one_name() -> None:
    report = KubernetesProvider().validate(spec_of("GCAM_core: {}, gcam-core: {}, gcam: {}"))
    assert [(issue.path, issue.code) for issue in report.errors] == [
        ("components.gcam-core", "E_NAME_CLASH")
    ]
    assert "'GCAM_core'" in report.errors[0].message


def test_a_component_goes_before_the_resources_of_its_target() -> None:
    resources = "resources: {requests: {cpu: 1500m, memory: 2Gi}, limits: {memory: 4Gi}}"
    spec = spec_of("gcam: {cpus: 4, memory: 16Gi}, plots: {}", resources)
    assert build_plan(spec, KubernetesProvider()).scale_plan.resources_by_tag == {
        "gcam": ResourceRequest(cpus=4, memory=2**34),
        "plots": ResourceRequest(cpus=2, memory=2**31),
    }


def test_a_limit_without_a_request_is_the_request() -> None:
    # https://kubernetes.io/docs/concepts/configuration/manage-resources-containers
    spec = spec_of("plots: {}", "resources: {limits: {cpu: 3, memory: 4Gi}}")
    assert build_plan(spec, KubernetesProvider()).scale_plan.resources_by_tag == {
        "plots": ResourceRequest(cpus=3, memory=2**32)
    }


def test_a_plan_has_counts_in_order_of_precedence() -> None:
    spec = spec_of(
        "gcam: {}, plots: {}",
        "workers: {gcam: 8}, adaptive: {minimum: 1, maximum: 16}, n_workers: 4",
    )
    plan = build_plan(spec, KubernetesProvider()).scale_plan
    assert plan.workers_by_tag == {"gcam": 8, "plots": 4}
    assert plan.ranges_by_tag == {"plots": (1, 16)}


def test_building_says_that_it_cannot() -> None:
    with pytest.raises(NotSupportedError) as caught:
        KubernetesProvider().build_cluster(spec_of())
    assert "provider 'kubernetes' cannot build clusters in this version" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_wrong_is_told_before_what_cannot_be_done() -> None:
    with pytest.raises(ValidationFailedError):
        KubernetesProvider().build_cluster(spec_of(options="namespace: A"))


def test_neither_finding_nor_validating_nor_planning_imports_dask_or_a_client() -> None:
    code = """
import sys
from scalable.manifest import parse_manifest
from scalable.planning import build_plan
from scalable.providers.base import DeploymentSpec
from scalable.providers.registry import get_provider
manifest = parse_manifest({
    "version": 1, "project": {"name": "x"}, "targets": {"gke": {"provider": "kubernetes"}}, "components": {"gcam": {}},
})
spec = DeploymentSpec.from_manifest(manifest, target_name="gke")
provider = get_provider("kubernetes")
assert provider.validate(spec).ok
build_plan(spec, provider).to_json()
sys.exit(" ".join({"dask", "distributed", "dask_kubernetes", "kr8s", "kubernetes"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == ""
