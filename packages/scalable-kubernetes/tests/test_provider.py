from __future__ import annotations

from pathlib import Path

import pytest

from scalable.errors import ProviderNotSetUpError
from scalable.planning import build_plan
from scalable.providers.base import DeploymentProvider, ResourceRequest
from scalable.providers.kubernetes import KubernetesProvider
from scalable.providers.registry import get_provider
from scalable.testing.offline import manifest_of, modules_of_planning, spec_of


def test_it_is_found_by_name() -> None:
    provider = get_provider("kubernetes")
    assert isinstance(provider, KubernetesProvider)
    assert isinstance(provider, DeploymentProvider)


def test_components_whose_objects_would_have_one_name() -> None:
    spec = spec_of("kubernetes", components="GCAM_core: {}\ngcam-core: {}\ngcam: {}")
    report = KubernetesProvider().validate(spec)
    assert [(issue.path, issue.code) for issue in report.errors] == [
        ("components.gcam-core", "E_NAME_CLASH")
    ]
    assert "'GCAM_core'" in report.errors[0].message


def test_a_component_takes_precedence_over_the_resources_of_its_target() -> None:
    resources = "resources: {requests: {cpu: 1500m, memory: 2Gi}, limits: {memory: 4Gi}}"
    spec = spec_of("kubernetes", resources, "gcam: {cpus: 4, memory: 16Gi}\nplots: {}")
    assert build_plan(spec, KubernetesProvider()).scale_plan.resources_by_tag == {
        "gcam": ResourceRequest(cpus=4, memory=2**34),
        "plots": ResourceRequest(cpus=2, memory=2**31),
    }


def test_a_limit_without_a_request_is_the_request() -> None:
    # https://kubernetes.io/docs/concepts/configuration/manage-resources-containers
    spec = spec_of("kubernetes", "resources: {limits: {cpu: 3, memory: 4Gi}}", "plots: {}")
    assert build_plan(spec, KubernetesProvider()).scale_plan.resources_by_tag == {
        "plots": ResourceRequest(cpus=3, memory=2**32)
    }


def test_building_without_credentials_says_where_they_are_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ProviderNotSetUpError, match="set KUBECONFIG"):
        KubernetesProvider().build_cluster(spec_of("kubernetes"))


def test_neither_finding_nor_validating_nor_planning_imports_dask_or_a_client() -> None:
    clients = {"dask", "distributed", "dask_kubernetes", "kr8s", "kubernetes"}
    assert not clients & modules_of_planning(manifest_of("kubernetes"))
