"""Options of a target on AWS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from scalable.manifest.schema import FrozenModel
from scalable.providers.options import (
    DaskImage,
    Matching,
    OneLine,
    RemoteTargetOptions,
    SpotCapacity,
    WorkerEnvironment,
)

__all__ = ["AWSOptions", "Kind", "SchedulerOptions"]

Region = Annotated[str, Matching("[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}", "a region such as us-east-1")]
VpcId = Annotated[str, Matching("vpc-[0-9a-f]{8,17}", "a VPC id such as vpc-0a1b2c3d")]
SubnetId = Annotated[str, Matching("subnet-[0-9a-f]{8,17}", "a subnet id such as subnet-0a1b2c3d")]
SecurityGroupId = Annotated[
    str, Matching("sg-[0-9a-f]{8,17}", "a security group id such as sg-0a1b2c3d")
]
RoleArn = Annotated[
    str,
    Matching(
        r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]+",
        "the ARN of a role such as arn:aws:iam::123456789012:role/name",
    ),
]
InstanceType = Annotated[
    str, Matching(r"[a-z][a-z0-9-]*\.[a-z0-9-]+", "an instance type such as c6i.large")
]
Cidr = Annotated[
    str,
    Matching(
        r"([0-9]{1,3}\.){3}[0-9]{1,3}/([1-9]|[12][0-9]|3[0-2])",
        "a range of IPv4 addresses such as 203.0.113.7/32; /0, which is everybody, is refused",
    ),
]
CpuUnits = Literal[256, 512, 1024, 2048, 4096, 8192, 16384, 32768]
MiB = Annotated[int, Field(ge=512, le=249856)]
AmiId = Annotated[
    str, Matching("ami-[0-9a-f]{8,17}", "the id of a machine image such as ami-0a1b2c3d")
]
InstanceProfile = Annotated[
    str, Matching(r"[\w+=,.@-]{1,128}", "the name of an instance profile, which is no ARN")
]
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/ecs-using-tags.html#tag-restrictions
TagKey = Annotated[
    str,
    Matching(
        r"(?![aA][wW][sS]:)[\w .:/=+@-]{1,128}",
        "the key of a tag: 128 letters, digits, blanks and _.:/=+@- at most, not beginning with aws:",
    ),
]
TagValue = Annotated[
    str,
    Matching(
        r"[\w .:/=+@-]{0,256}",
        "the value of a tag: 256 letters, digits, blanks and _.:/=+@- at most",
    ),
]


Kind = Literal["fargate", "ec2"]
"""As what something runs: as a Fargate task, or on an EC2 instance."""


class SchedulerOptions(FrozenModel):
    """Where the scheduler runs."""

    type: Kind = Field(description="Whether it is a Fargate task or an EC2 instance.")


class AWSOptions(RemoteTargetOptions):
    """Options of a target on AWS."""

    region: Region | None = Field(
        default=None, description="Region. By default the one of the AWS configuration."
    )
    cluster_type: Kind = Field(
        default="fargate", description="Whether workers are Fargate tasks or EC2 instances."
    )
    scheduler: SchedulerOptions | None = Field(
        default=None,
        description="Where the scheduler runs: `{type: fargate}` makes it a task also with `cluster_type: ec2`. "
        "By default it is what the workers are.",
    )
    image: DaskImage = None
    worker_cpu: CpuUnits | None = Field(
        default=None,
        description="CPU units, of which 1024 are one vCPU, of a Fargate worker whose component "
        "does not set cpus.",
    )
    worker_mem: MiB | None = Field(
        default=None,
        description="Memory in MiB of a Fargate worker whose component does not set memory.",
    )
    instance_type: InstanceType | None = Field(
        default=None,
        description="Instance type of EC2 workers. By default chosen by what a component requires.",
    )
    vpc: VpcId | None = Field(
        default=None, description="VPC. By default the account's default VPC."
    )
    subnets: tuple[SubnetId, ...] = Field(
        default=(), description="Subnets of the VPC. By default all of them."
    )
    security_groups: tuple[SecurityGroupId, ...] = Field(
        default=(),
        description="Security groups of scheduler and workers. By default one is created for the run.",
    )
    execution_role_arn: RoleArn | None = Field(
        default=None,
        description="Role with which Fargate pulls images and writes logs. By default one is created for the run.",
    )
    task_role_arn: RoleArn | None = Field(
        default=None,
        description="Role with which the workers themselves call AWS. By default none.",
    )
    public_ip: bool = Field(
        default=True,
        description="Whether scheduler and workers have public addresses. Without them, the subnets need a NAT "
        "gateway or VPC endpoints, and this machine must reach the VPC's own addresses.",
    )
    client_cidr: Cidr | None = Field(
        default=None,
        description="Addresses from which the scheduler may be reached. By default this machine's alone.",
    )
    scheduler_cpu: CpuUnits = Field(
        default=1024, description="CPU units of the scheduler's Fargate task."
    )
    scheduler_mem: MiB = Field(
        default=4096, description="Memory in MiB of the scheduler's Fargate task."
    )
    python: OneLine = Field(
        default="python3",
        description="Python in the images, by its path or by its name on the PATH.",
    )
    scheduler_instance_type: InstanceType = Field(
        default="t3.medium", description="Instance type of a scheduler that is an EC2 instance."
    )
    ami: AmiId | None = Field(
        default=None,
        description="Machine image of EC2 instances: cloud-init, curl, the AWS command line, and Docker or dnf. "
        "By default Amazon Linux 2023, or, for GPUs, AWS's base image with NVIDIA's driver.",
    )
    volume_size: Annotated[int, Field(ge=8, le=16384)] = Field(
        default=50,
        description="Size in GiB of the volume of an EC2 instance; that of its machine image if that is larger.",
    )
    instance_profile: InstanceProfile | None = Field(
        default=None,
        description="Instance profile with whose role EC2 instances read the key, write logs and pull images, and "
        "workers call AWS. By default one is created for the run.",
    )
    spot: SpotCapacity = False
    spot_fallback: bool = Field(
        default=False,
        description="Whether workers for which there is no spare capacity are started on demand.",
    )
    environment: WorkerEnvironment = Field(default_factory=dict)
    # 50 is the limit of AWS; some are reserved for the labels of Scalable itself.
    tags: Annotated[Mapping[TagKey, TagValue], Field(max_length=40)] = Field(
        default_factory=dict, description="Tags of everything that a run creates."
    )

    @property
    def scheduler_type(self) -> Kind:
        """What the scheduler is."""
        return self.scheduler.type if self.scheduler else self.cluster_type

    @property
    def kinds(self) -> frozenset[Kind]:
        """What there is in a run."""
        return frozenset((self.cluster_type, self.scheduler_type))

    @property
    def own_roles(self) -> frozenset[Kind]:
        """For what the target names a role, so that a run makes none."""
        named = {"fargate": self.execution_role_arn, "ec2": self.instance_profile}
        return frozenset(kind for kind in self.kinds if named[kind] is not None)
