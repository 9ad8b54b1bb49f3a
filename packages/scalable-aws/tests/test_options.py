from __future__ import annotations

import random

import pytest

from scalable.manifest.validate import ValidationReport
from scalable.providers.base import DeploymentSpec
from scalable.providers.cloud.aws import AWSBatchProvider, AWSOptions
from scalable.testing.offline import spec_of

FARGATE = """
    region: us-east-1
    cluster_type: fargate
    image: 123456789012.dkr.ecr.us-east-1.amazonaws.com/gcam:7.1
    n_workers: 4
    worker_cpu: 1024
    worker_mem: 4096
    vpc: vpc-0a1b2c3d4e5f60718
    subnets: [subnet-0a1b2c3d, subnet-0a1b2c3d4e5f60718]
    security_groups: [sg-0a1b2c3d]
    execution_role_arn: arn:aws:iam::123456789012:role/service-role/run
    task_role_arn: arn:aws-us-gov:iam::123456789012:role/task+1
    spot: true
    environment: {OMP_NUM_THREADS: "4"}
    tags: {"cost center": climate lab, owner: me@example.org}
    adaptive: {minimum: 1, maximum: 16, idle_timeout: 10m, target_duration: 5m}
"""

EC2 = """
    region: us-gov-west-1
    cluster_type: ec2
    instance_type: m7i-flex.large
    spot: false
"""


def report_of(options: str) -> ValidationReport:
    return AWSBatchProvider().validate(spec_of("aws", options))


@pytest.mark.parametrize("options", [FARGATE, EC2, ""])
def test_valid_options(options: str) -> None:
    assert report_of(options).issues == ()


def test_defaults() -> None:
    options = AWSBatchProvider().parse_options(spec_of("aws"))
    assert options.cluster_type == "fargate"
    assert options.spot is False
    assert (options.region, options.vpc, options.worker_cpu) == (None, None, None)


@pytest.mark.parametrize(
    ("line", "path", "message"),
    [
        ("region: us_east_1", "region", "must be a region such as us-east-1"),
        ("region: us-east-1a", "region", "must be a region such as us-east-1"),
        ("cluster_type: batch", "cluster_type", "must be 'fargate' or 'ec2'"),
        ("image: a b", "image", "must be a container image"),
        ("worker_cpu: 1000", "worker_cpu", "256, 512, 1024"),
        ("worker_cpu: 1", "worker_cpu", "256, 512, 1024"),
        ("worker_mem: 4G", "worker_mem", "must be a whole number"),
        ("worker_mem: 500000", "worker_mem", "must be at most 249856"),
        ("vpc: my-vpc", "vpc", "must be a VPC id"),
        ("subnets: subnet-0a1b2c3d", "subnets", "must be a list"),
        ("subnets: [sg-0a1b2c3d]", "subnets[0]", "must be a subnet id"),
        ("security_groups: [default]", "security_groups[0]", "must be a security group id"),
        ("execution_role_arn: run", "execution_role_arn", "must be the ARN of a role"),
        (
            "task_role_arn: arn:aws:iam::1234:role/x",
            "task_role_arn",
            "must be the ARN of a role",
        ),
        ("instance_type: c6i", "instance_type", "must be an instance type"),
        ("spot: maybe", "spot", "must be true or false"),
        ("environment: {A B: x}", 'environment."A B"', "the name of an environment variable"),
        ("tags: {aws:x: y}", 'tags."aws:x"', "not beginning with aws:"),
        (f"tags: {{x: {'y' * 257}}}", "tags.x", "must be the value of a tag"),
        ("regoin: us-east-1", "regoin", "did you mean 'region'?"),
    ],
)
def test_invalid_values(line: str, path: str, message: str) -> None:
    [issue] = report_of(line).errors
    assert (issue.path, issue.line) == (f"targets.here.{path}", 6)
    assert message in issue.message


def test_tags_leave_room_for_those_of_scalable() -> None:
    tags = ", ".join(f"k{i}: v" for i in range(41))
    [issue] = report_of(f"tags: {{{tags}}}").errors
    assert issue.path == "targets.here.tags"
    assert "40 at most" in issue.message


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["worker_mem: 4096"], None),
        (["worker_mem: 249856"], None),
        (["worker_mem: 5000"], "the next larger one is 5120"),
        (["worker_mem: 123000"], "the next larger one is 249856"),
        (["worker_cpu: 256", "worker_mem: 2048"], None),
        (["worker_cpu: 256", "worker_mem: 4096"], "choose 512, 1024 or 2048"),
        (["worker_cpu: 1024", "worker_mem: 1024"], "choose 2048 to 8192 in steps of 1024"),
        (["worker_cpu: 8192", "worker_mem: 17408"], "choose 16384 to 61440 in steps of 4096"),
    ],
)
def test_sizes_of_fargate_tasks(lines: list[str], problem: str | None) -> None:
    report = report_of("\n".join(lines))
    if problem is None:
        assert report.issues == ()
        return
    [issue] = report.issues
    assert (issue.path, issue.code) == ("targets.here.worker_mem", "E_FARGATE_SIZE")
    assert problem in issue.message


@pytest.mark.parametrize(
    ("cluster_type", "option", "value"),
    [
        ("fargate", "instance_type", "c6i.large"),
        ("ec2", "worker_cpu", 1024),
        ("ec2", "worker_mem", 4096),
        ("ec2", "execution_role_arn", "arn:aws:iam::123456789012:role/run"),
        ("ec2", "task_role_arn", "arn:aws:iam::123456789012:role/run"),
    ],
)
def test_options_of_the_other_cluster_type(cluster_type: str, option: str, value: object) -> None:
    [issue] = report_of(f"cluster_type: {cluster_type}\n{option}: {value}").issues
    assert (issue.path, issue.code, issue.line) == (f"targets.here.{option}", "E_NOT_SUPPORTED", 7)


def test_user_data_that_are_too_large() -> None:
    # Text that gzip cannot make much smaller.
    noise = random.Random(1).randbytes(32000).hex()
    [issue] = AWSBatchProvider().validate(with_variable("ec2", noise)).errors
    assert (issue.path, issue.code) == ("components.gcam.env", "E_TOO_LARGE")
    assert "16384" in issue.message


def test_a_task_definition_that_is_too_large() -> None:
    assert AWSBatchProvider().validate(with_variable("fargate", "é" * 20_000)).errors == ()
    [issue] = AWSBatchProvider().validate(with_variable("fargate", "é" * 40_000)).errors
    assert (issue.path, issue.code) == ("components.gcam.env", "E_TOO_LARGE")
    assert "65536" in issue.message


def with_variable(cluster_type: str, value: str) -> DeploymentSpec:
    components = f"gcam: {{env: {{LONG: {value}}}}}\nplots: {{env: {{SHORT: a}}}}"
    return spec_of("aws", f"region: us-east-1\ncluster_type: {cluster_type}", components)


@pytest.mark.parametrize(
    ("instance_type", "gpus", "message"),
    [
        ("g5.12xlarge", 4, None),
        (
            "g5.xlarge",
            4,
            "is more than the target's instance_type has (g5.xlarge: 4 vCPU, 16 GiB, 1 GPUs)",
        ),
        ("c6i.large", 1, "has no GPU"),
    ],
)
def test_an_instance_type_has_the_gpus_of_a_component(
    instance_type: str, gpus: int, message: str | None
) -> None:
    options = f"region: us-east-1\ncluster_type: ec2\ninstance_type: {instance_type}"
    found = AWSBatchProvider().validate(spec_of("aws", options, f"gcam: {{gpus: {gpus}}}")).errors
    if message is None:
        assert found == ()
        return
    [issue] = found
    assert issue.path == "components.gcam.gpus"
    assert message in issue.message


def test_every_problem_is_found_at_once_and_located() -> None:
    report = report_of(
        "region: us\nsubnets: [a, subnet-0a1b2c3d, b]\ninstnce_type: x\n"
        "workers: {gcma: 2}\nlimits: {max_hourly_cost: 3}"
    )
    assert [(issue.path.removeprefix("targets.here."), issue.line) for issue in report.errors] == [
        ("region", 6),
        ("subnets[0]", 7),
        ("subnets[2]", 7),
        ("instnce_type", 8),
        ("workers.gcma", 9),
        ("limits.max_hourly_cost", 10),
    ]


def test_every_option_is_described() -> None:
    properties = AWSBatchProvider().options_schema()["properties"]
    assert set(properties) == set(AWSOptions.model_fields)
    assert all(option["description"].endswith(".") for option in properties.values())


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        ("instance_type: m7g.large", ["instance_type"]),
        ("instance_type: c6gn.large\nscheduler_instance_type: t4g.small\nami: ami-0a1b2c3d", []),
        ("instance_type: r8gd.large\nami: ami-0a1b2c3d", ["instance_type"]),
        ("scheduler_instance_type: t4g.small", ["scheduler_instance_type"]),
        ("instance_type: x2gd.large\nscheduler: {type: fargate}\nami: ami-0a1b2c3d", []),
        ("instance_type: g5.xlarge", []),
        ("instance_type: g5g.xlarge", ["instance_type"]),
    ],
)
def test_a_processor_that_does_not_run_the_machine_image(options: str, paths: list[str]) -> None:
    found = report_of(f"region: us-east-1\ncluster_type: ec2\n{options}").errors
    assert [issue.path for issue in found] == [f"targets.here.{path}" for path in paths]
    assert all("ARM" in issue.message for issue in found)


def test_an_image_that_no_registry_has() -> None:
    spec = spec_of("aws", "region: us-east-1", "gcam: {image: /images/model.sif}")
    (issue,) = AWSBatchProvider().validate(spec).errors
    assert (issue.path, issue.code) == ("components.gcam.image", "E_BAD_VALUE")
