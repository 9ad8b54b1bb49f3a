from __future__ import annotations

import pytest

from scalable.planning import build_plan
from scalable.providers.base import DeploymentProvider, ResourceRequest
from scalable.providers.cloud.aws import AWSBatchProvider
from scalable.providers.registry import get_provider
from scalable.testing.offline import manifest_of, modules_of_planning, rendered, spec_of


def issues_of(components: str, options: str = "") -> list[tuple[str, str]]:
    report = AWSBatchProvider().validate(spec_of("aws", options, components))
    return [(issue.path.removeprefix("components."), issue.code) for issue in report.issues]


def test_it_is_found_by_name() -> None:
    provider = get_provider("AWS")
    assert isinstance(provider, AWSBatchProvider)
    assert isinstance(provider, DeploymentProvider)


def test_components_that_are_too_large_for_fargate() -> None:
    components = "a: {cpus: 32, memory: 244Gi}\nb: {cpus: 33, memory: 245Gi, gpus: 1}"
    assert issues_of(components) == [
        ("b.cpus", "E_FARGATE_SIZE"),
        ("b.memory", "E_FARGATE_SIZE"),
        ("b.gpus", "E_NOT_SUPPORTED"),
    ]
    assert issues_of(components, "cluster_type: ec2") == []


@pytest.mark.parametrize(
    ("instance_type", "has_gpu"),
    [("g5.xlarge", True), ("p4d.24xlarge", True), ("gr6.4xlarge", True), ("c6i.large", False)],
)
def test_gpus_need_an_instance_type_with_gpus(instance_type: str, has_gpu: bool) -> None:
    options = f"cluster_type: ec2\ninstance_type: {instance_type}"
    expected = [] if has_gpu else [("ml.gpus", "E_NOT_SUPPORTED")]
    assert issues_of("ml: {gpus: 1}\nplots: {}", options) == expected


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ("scheduler: {type: ec2}", "targets.here.scheduler.type"),
        (
            "cluster_type: ec2\nscheduler: {type: fargate}\nscheduler_instance_type: t3.large",
            "targets.here.scheduler_instance_type",
        ),
        ("cluster_type: ec2\nscheduler_cpu: 512", "targets.here.scheduler_cpu"),
        ("cluster_type: ec2\nscheduler: {type: fargate}\nscheduler_cpu: 512", ""),
        ("cluster_type: ec2\nscheduler: {type: batch}", "targets.here.scheduler.type"),
    ],
)
def test_where_the_scheduler_runs(options: str, path: str) -> None:
    assert [where for where, _ in issues_of("plots: {}", options)] == ([path] if path else [])


def test_a_scheduler_on_a_task_is_rendered_as_one() -> None:
    options = "cluster_type: ec2\nscheduler: {type: fargate}"
    names = [*rendered(AWSBatchProvider(), spec_of("aws", options, "gcam: {}"))]
    operations = [name.partition("-")[2].removesuffix(".json") for name in names]
    assert operations[0] == "CreateCluster"
    assert operations[-3:] == [
        "RegisterTaskDefinition-scheduler",
        "RunTask-scheduler",
        "RunInstances-gcam",
    ]
    assert operations.count("CreateRole") == 2


@pytest.mark.parametrize("cluster_type", ["fargate", "ec2"])
def test_mounts_have_no_effect(cluster_type: str) -> None:
    issues = issues_of("a: {mounts: {/data: /data}}\nb: {}", f"cluster_type: {cluster_type}")
    assert issues == [("a.mounts", "W_NO_EFFECT")]


def test_a_component_takes_precedence_over_its_target() -> None:
    options = "worker_cpu: 512\nworker_mem: 4096"
    spec = spec_of("aws", options, "gcam: {cpus: 4, memory: 16Gi}\nplots: {}")
    assert build_plan(spec, AWSBatchProvider()).scale_plan.resources_by_tag == {
        "gcam": ResourceRequest(cpus=4, memory=2**34),
        "plots": ResourceRequest(cpus=1, memory=2**32),
    }


def test_a_target_without_options_does_not_change_a_component() -> None:
    plan = build_plan(spec_of("aws", components="plots: {}"), AWSBatchProvider()).scale_plan
    assert plan.resources_by_tag == {"plots": ResourceRequest(cpus=1)}


def test_neither_finding_nor_validating_nor_planning_imports_dask_or_an_sdk() -> None:
    sdk = {"dask", "distributed", "dask_cloudprovider", "boto3", "botocore"}
    assert not sdk & modules_of_planning(manifest_of("aws"))
