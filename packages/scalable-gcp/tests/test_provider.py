from __future__ import annotations

import subprocess
import sys

import pytest

from scalable.errors import NotSupportedError, ValidationFailedError
from scalable.manifest import parse_manifest
from scalable.planning import build_plan
from scalable.providers.base import DeploymentProvider, DeploymentSpec, ResourceRequest
from scalable.providers.cloud.gcp import GCPProvider
from scalable.providers.registry import get_provider


def spec_of(
    components: str = "gcam: {cpus: 4, memory: 16G}", options: str = "zone: us-central1-a"
) -> DeploymentSpec:
    manifest = parse_manifest(
        f"version: 1\nproject: {{name: x}}\ncomponents: {{{components}}}\n"
        f"targets: {{gcp: {{provider: gcp, {options}}}}}\n"
    )
    return DeploymentSpec.from_manifest(manifest, target_name="gcp")


def issues_of(components: str, options: str) -> list[tuple[str, str]]:
    report = GCPProvider().validate(spec_of(components, options))
    return [(issue.path, issue.code) for issue in report.issues]


def test_it_is_found_by_name() -> None:
    provider = get_provider("gcp")
    assert isinstance(provider, GCPProvider)
    assert isinstance(provider, DeploymentProvider)


@pytest.mark.parametrize(
    ("options", "issues"),
    [
        ("", [("targets.gcp.zone", "E_MISSING_KEY")]),
        (
            "region: us-central1, zone: europe-west4-a",
            [("targets.gcp.zone", "E_OUTSIDE_REGION")],
        ),
        ("region: us-east1, zone: us-east12-a", [("targets.gcp.zone", "E_OUTSIDE_REGION")]),
        (
            "zone: us-east1-b, machine_type: e2-micro, instance_type: e2-small",
            [("targets.gcp.instance_type", "E_DUPLICATE_KEY")],
        ),
    ],
)
def test_options_that_do_not_fit_together(options: str, issues: list[tuple[str, str]]) -> None:
    assert issues_of("gcam: {}", options) == issues


@pytest.mark.parametrize("option", ["machine_type", "instance_type"])
def test_components_that_the_machine_cannot_hold(option: str) -> None:
    components = "a: {cpus: 4, memory: 8Gi}, b: {cpus: 5, memory: 9Gi, gpus: 1}"
    assert issues_of(components, f"zone: us-east1-b, {option}: n2-custom-4-8192") == [
        ("components.b.cpus", "E_MACHINE_TOO_SMALL"),
        ("components.b.memory", "E_MACHINE_TOO_SMALL"),
        ("components.b.gpus", "E_NOT_SUPPORTED"),
    ]


def test_gpus_are_fine_where_the_machine_has_some_or_is_yet_to_be_chosen() -> None:
    assert issues_of("ml: {gpus: 1}", "zone: us-east1-b, machine_type: g2-standard-4") == []
    assert issues_of("ml: {gpus: 1}", "zone: us-east1-b") == []


def test_mounts_have_no_effect() -> None:
    issues = issues_of("a: {mounts: {/data: /data}}, b: {}", "zone: us-east1-b")
    assert issues == [("components.a.mounts", "W_NO_EFFECT")]


def test_components_whose_machines_would_have_one_name() -> None:
    issues = issues_of("gcam_a: {}, GCAM-a: {}", "zone: us-east1-b")
    assert issues == [("components.GCAM-a", "E_NAME_CLASH")]


def test_a_plan_has_counts_in_order_of_precedence() -> None:
    spec = spec_of(
        "gcam: {cpus: 2, memory: 4Gi}, plots: {}",
        "zone: us-east1-b, workers: {gcam: 8}, adaptive: {minimum: 1, maximum: 16}, n_workers: 4",
    )
    plan = build_plan(spec, GCPProvider()).scale_plan
    assert plan.workers_by_tag == {"gcam": 8, "plots": 4}
    assert plan.ranges_by_tag == {"plots": (1, 16)}
    assert plan.resources_by_tag == {
        "gcam": ResourceRequest(cpus=2, memory=2**32),
        "plots": ResourceRequest(cpus=1),
    }


def test_building_says_that_it_cannot() -> None:
    with pytest.raises(NotSupportedError) as caught:
        GCPProvider().build_cluster(spec_of())
    assert "provider 'gcp' cannot build clusters in this version" in str(caught.value)
    assert isinstance(caught.value, NotImplementedError)
    assert "\n" not in str(caught.value)


def test_what_is_wrong_is_told_before_what_cannot_be_done() -> None:
    with pytest.raises(ValidationFailedError):
        GCPProvider().build_cluster(spec_of(options="region: us"))


def test_neither_finding_nor_validating_nor_planning_imports_dask_or_an_sdk() -> None:
    code = """
import sys
from scalable.manifest import parse_manifest
from scalable.planning import build_plan
from scalable.providers.base import DeploymentSpec
from scalable.providers.registry import get_provider
manifest = parse_manifest({
    "version": 1, "project": {"name": "x"}, "targets": {"gcp": {"provider": "gcp", "region": "us-east1"}},
    "components": {"gcam": {}},
})
spec = DeploymentSpec.from_manifest(manifest, target_name="gcp")
provider = get_provider("gcp")
assert provider.validate(spec).ok
build_plan(spec, provider).to_json()
sys.exit(" ".join({"dask", "distributed", "google.cloud.compute", "google.auth"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == ""
