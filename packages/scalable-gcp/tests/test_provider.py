from __future__ import annotations

import pytest

from scalable.providers.base import DeploymentProvider
from scalable.providers.cloud.gcp import GCPProvider
from scalable.providers.registry import get_provider
from scalable.testing.offline import manifest_of, modules_of_planning, spec_of


def issues_of(components: str, options: str) -> list[tuple[str, str]]:
    report = GCPProvider().validate(spec_of("gcp", options, components))
    return [(issue.path, issue.code) for issue in report.issues]


def test_it_is_found_by_name() -> None:
    provider = get_provider("gcp")
    assert isinstance(provider, GCPProvider)
    assert isinstance(provider, DeploymentProvider)


@pytest.mark.parametrize(
    ("options", "issues"),
    [
        ("", [("targets.here.zone", "E_MISSING_KEY")]),
        (
            "region: us-central1\nzone: europe-west4-a",
            [("targets.here.zone", "E_OUTSIDE_REGION")],
        ),
        ("region: us-east1\nzone: us-east12-a", [("targets.here.zone", "E_OUTSIDE_REGION")]),
        (
            "zone: us-east1-b\nmachine_type: e2-micro\ninstance_type: e2-small",
            [("targets.here.instance_type", "E_DUPLICATE_KEY")],
        ),
    ],
)
def test_options_that_conflict(options: str, issues: list[tuple[str, str]]) -> None:
    assert issues_of("gcam: {}", options) == issues


@pytest.mark.parametrize("option", ["machine_type", "instance_type"])
def test_components_that_are_too_large_for_the_machine(option: str) -> None:
    components = "a: {cpus: 4, memory: 7Gi}\nb: {cpus: 5, memory: 9Gi, gpus: 1}"
    driver = "boot_image: projects/lab/global/images/with-driver"
    assert issues_of(components, f"zone: us-east1-b\n{driver}\n{option}: n2-custom-4-8192") == [
        ("components.b.cpus", "E_MACHINE_TOO_SMALL"),
        ("components.b.memory", "E_MACHINE_TOO_SMALL"),
        ("components.b.gpus", "E_NOT_SUPPORTED"),
    ]


def test_gpus_are_valid_if_the_machine_has_some_or_is_not_chosen_yet() -> None:
    driver = "boot_image: projects/lab/global/images/family/with-driver"
    options = f"zone: us-east1-b\n{driver}"
    assert issues_of("ml: {gpus: 1}", f"{options}\nmachine_type: g2-standard-4") == []
    assert issues_of("ml: {gpus: 1}", options) == []
    assert issues_of("ml: {gpus: 1}", "zone: us-east1-b") == [
        ("targets.here.boot_image", "E_MISSING_KEY")
    ]


def test_mounts_have_no_effect() -> None:
    issues = issues_of("a: {mounts: {/data: /data}}\nb: {}", "zone: us-east1-b")
    assert issues == [("components.a.mounts", "W_NO_EFFECT")]


def test_components_whose_machines_would_have_one_name() -> None:
    issues = issues_of("gcam_a: {}\nGCAM-a: {}", "zone: us-east1-b")
    assert issues == [("components.GCAM-a", "E_NAME_CLASH")]


def test_labels_that_compute_engine_does_not_take() -> None:
    issues = issues_of("a: {tags: {Model: GCAM}}\nb: {tags: {model: gcam}}", "zone: us-east1-b")
    assert issues == [("components.a.tags", "E_BAD_VALUE")]


def test_zones() -> None:
    assert issues_of("a: {}", "zones: [us-east1-b, us-west1-a, us-east1-b]") == [
        ("targets.here.zones[1]", "E_OUTSIDE_REGION"),
        ("targets.here.zones[2]", "E_DUPLICATE_KEY"),
    ]


def test_neither_finding_nor_validating_nor_planning_imports_dask_or_an_sdk() -> None:
    sdk = {"dask", "distributed", "google.cloud.compute", "google.auth"}
    assert not sdk & modules_of_planning(manifest_of("gcp", "region: us-east1"))
