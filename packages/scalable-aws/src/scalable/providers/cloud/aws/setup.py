"""Making what a run's scheduler and workers stand on, in the network that the target names."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from scalable.cluster.port import Explanation, Reason
from scalable.providers.cloud.aws.api import AwsApi, AwsError, AwsUnreachableError
from scalable.providers.cloud.aws.foundation import (
    allow_ingress,
    create_cluster,
    create_log_group,
    create_profile,
    create_role,
    create_security_group,
    fill_profile,
    key_arn,
    put_key,
    put_role_policy,
    role_arn,
)
from scalable.providers.cloud.aws.names import Run, profile_name, resource_name, role_name
from scalable.providers.cloud.aws.options import AWSOptions
from scalable.providers.cloud.aws.refusals import is_missing, is_there_already
from scalable.providers.cloud.aws.tasks import MachineImage, Place, Request

if TYPE_CHECKING:
    from scalable.providers.tls import Credentials

__all__ = [
    "Network",
    "SetupError",
    "create_when_known",
    "find_images",
    "find_network",
    "make_place",
]

_PATIENCE = 60.0
"""Seconds in which what is new becomes known in all of AWS; it usually takes ten."""

_POLL = 2.0

_MAX_SUBNETS = 16
"""Subnets of a Fargate task:
https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_AwsVpcConfiguration.html."""

# https://docs.aws.amazon.com/linux/al2023/ug/ec2.html, https://docs.aws.amazon.com/dlami/latest/devguide/find-dlami-id.html
_AMI = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
_GPU_AMI = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-amazon-linux-2023/latest/ami-id"
"""The public parameters with the newest machine images of AWS."""


class SetupError(Exception):
    """The account or the target has not what a run needs.

    Parameters
    ----------
    explanation : Explanation
        What is missing, and what to do.
    """

    def __init__(self, explanation: Explanation) -> None:
        self.explanation = explanation
        super().__init__(str(explanation))


@dataclass(frozen=True)
class Network:
    """A VPC and those of its subnets that a run uses, as DescribeSubnets has them."""

    vpc: str
    subnets: tuple[Mapping[str, Any], ...]

    @property
    def subnet_ids(self) -> list[str]:
        """The ids of the subnets."""
        return [each["SubnetId"] for each in self.subnets]

    def roomiest(self, n: int) -> list[str]:
        """Return the ids of the `n` subnets with the most free addresses."""
        ordered = sorted(
            self.subnets, key=lambda each: each.get("AvailableIpAddressCount", 0), reverse=True
        )
        return [each["SubnetId"] for each in ordered[:n]]


async def find_network(api: AwsApi, options: AWSOptions) -> Network:
    """Return the target's VPC and subnets: those that it names, else the default VPC and all of its subnets.

    Raises
    ------
    SetupError
        There are none, or they do not belong together, or have no free addresses.
    """
    vpc = options.vpc
    if options.subnets:
        found = await api.call("ec2", "DescribeSubnets", SubnetIds=[*options.subnets])
        subnets = found["Subnets"]
        vpc = vpc or subnets[0]["VpcId"]
        elsewhere = [each["SubnetId"] for each in subnets if each["VpcId"] != vpc]
        if elsewhere:
            raise _missing(
                f"subnets of another VPC than {vpc}: {', '.join(elsewhere)}",
                "let the target's vpc and subnets belong together",
            )
    else:
        vpc = vpc or await _default_vpc(api)
        only = [{"Name": "vpc-id", "Values": [vpc]}]
        subnets = await api.pages("ec2", "DescribeSubnets", "Subnets", Filters=only)
        if not subnets:
            raise _missing(f"VPC {vpc} has no subnets", "set the target's vpc and subnets")
    free = tuple(each for each in subnets if each.get("AvailableIpAddressCount", 1) > 0)
    if not free:
        names = ", ".join(each["SubnetId"] for each in subnets)
        raise _missing(f"no free addresses in {names}", "set the target's subnets to others")
    return Network(vpc, free)


async def _default_vpc(api: AwsApi) -> str:
    only = [{"Name": "is-default", "Values": ["true"]}]
    found = (await api.call("ec2", "DescribeVpcs", Filters=only))["Vpcs"]
    if not found:
        raise _missing(
            f"region {api.region} has no default VPC", "set the target's vpc and subnets"
        )
    return str(found[0]["VpcId"])


async def make_place(
    api: AwsApi, run: Run, options: AWSOptions, credentials: Credentials, *, gpus: bool = False
) -> Place:
    """Make what scheduler and workers stand on, and return it.

    Whatever interrupts it, `removal.remove_run` removes what was made, by its name.

    Raises
    ------
    AwsError, AwsUnreachableError
        AWS refuses a call, or does not answer.
    SetupError
        The account has not what a run needs.
    """
    network = await find_network(api, options)
    clients = [] if options.security_groups else [await _client_range(api, network, options)]
    kinds = options.kinds
    if "fargate" in kinds:
        # The first one of an account also creates a role of AWS's own, which ECS may not know at once.
        made = await create_when_known(
            api,
            create_cluster(run, options.cluster_type),
            lambda error: "service linked role" in error.text,
        )
        arn = made["cluster"]["clusterArn"]
    else:
        arn = (await api.call("sts", "GetCallerIdentity"))["Arn"]
    _, partition, _, _, account, _ = arn.split(":", 5)
    await _make(api, create_log_group(run))
    await _make(api, put_key(run, credentials.key))
    groups = [*options.security_groups]
    if not groups:
        groups = [await _make_group(api, run, network.vpc)]
        await _make(api, allow_ingress(groups[0], clients))
    place = Place(
        region=api.region,
        vpc=network.vpc,
        subnets=(
            network.roomiest(_MAX_SUBNETS)
            if "fargate" in kinds and len(network.subnets) > _MAX_SUBNETS
            else network.subnet_ids
        ),
        security_groups=groups,
        key=key_arn(run, api.region, partition, account),
        certificate=credentials.cert,
    )
    if "fargate" in kinds:
        own = options.execution_role_arn
        if own is None:
            await _make_role(api, run, role_name(run.name), "ecs-tasks", partition, account)
        place = replace(place, execution_role=own or role_arn(run, partition, account))
    if "ec2" not in kinds:
        return place
    own = options.instance_profile
    if own is None:
        name = profile_name(run.name)
        await _make_role(api, run, name, "ec2", partition, account)
        await _make(api, create_profile(run))
        await _make(api, fill_profile(run))
    image, gpu_image = await find_images(api, options, gpus=gpus)
    return replace(place, profile=own or name, ami=image, gpu_ami=gpu_image)


async def _make_role(
    api: AwsApi,
    run: Run,
    name: str,
    service: Literal["ecs-tasks", "ec2"],
    partition: str,
    account: str,
) -> None:
    await _make(api, create_role(run, name, service))
    await _make(api, put_role_policy(run, name, api.region, partition, account))


async def find_images(
    api: AwsApi, options: AWSOptions, *, gpus: bool
) -> tuple[MachineImage, MachineImage]:
    """Return the machine images of instances without and with GPUs.

    Raises
    ------
    SetupError
        There is none.
    """
    ami = options.ami or await _newest(api, _AMI)
    gpu_ami = (options.ami or await _newest(api, _GPU_AMI)) if gpus else ami
    answer = await api.call("ec2", "DescribeImages", ImageIds=sorted({ami, gpu_ami}))
    images = {each["ImageId"]: _machine_image(each) for each in answer["Images"]}
    for each in (ami, gpu_ami):
        if each not in images:
            raise _missing(f"there is no machine image {each}", "set the target's ami")
    return images[ami], images[gpu_ami]


def _machine_image(image: Mapping[str, Any]) -> MachineImage:
    root = image.get("RootDeviceName", "/dev/xvda")
    sizes = {
        each["DeviceName"]: each["Ebs"].get("VolumeSize", 0)
        for each in image.get("BlockDeviceMappings", ())
        if "Ebs" in each
    }
    gib = sizes.pop(root, 0)
    return MachineImage(image["ImageId"], root, gib, tuple(sizes))


async def _newest(api: AwsApi, parameter: str) -> str:
    return str((await api.call("ssm", "GetParameter", Name=parameter))["Parameter"]["Value"])


async def _make(api: AwsApi, request: Request) -> None:
    """Create something whose name nobody else has; that it exists shows that an answer was lost."""
    try:
        await create_when_known(api, request, is_missing)
    except AwsError as error:
        if not is_there_already(error):
            raise


async def create_when_known(
    api: AwsApi, request: Request, is_early: Callable[[AwsError], bool]
) -> dict[str, Any]:
    """Create something that refers to what is new, which may not be known everywhere for some seconds.

    Parameters
    ----------
    api : AwsApi
        AWS.
    request : Request
        The call.
    is_early : callable
        Returns whether a refusal says so.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE
    while True:
        try:
            return await api.create(request)
        except AwsError as error:
            # https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot.html,
            # https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html
            if not is_early(error) or loop.time() > deadline:
                raise
            await asyncio.sleep(_POLL)


async def _make_group(api: AwsApi, run: Run, vpc: str) -> str:
    try:
        return str((await api.create(create_security_group(run, vpc)))["GroupId"])
    except AwsError as error:
        if not is_there_already(error):
            raise
    filters = [
        {"Name": "group-name", "Values": [resource_name(run.name)]},
        {"Name": "vpc-id", "Values": [vpc]},
    ]
    deadline = asyncio.get_running_loop().time() + _PATIENCE
    while asyncio.get_running_loop().time() < deadline:
        found = await api.call("ec2", "DescribeSecurityGroups", Filters=filters)
        if found["SecurityGroups"]:
            return str(found["SecurityGroups"][0]["GroupId"])
        await asyncio.sleep(_POLL)
    raise _missing(f"AWS does not show security group {resource_name(run.name)}", "try again")


async def _client_range(api: AwsApi, network: Network, options: AWSOptions) -> str:
    """Return the addresses from which the scheduler may be reached: those of the target, or this machine's."""
    if options.client_cidr:
        return options.client_cidr
    if not options.public_ip:
        return f"{_address_towards(network.subnets[0]['CidrBlock'].partition('/')[0])}/32"
    try:
        return f"{await api.public_address()}/32"
    except AwsUnreachableError as error:
        summary = f"the public address of this machine is not known: {error}"
        remedy = "set the target's client_cidr to the addresses from which you reach AWS"
        raise SetupError(Explanation(Reason.NETWORK, summary, remedy=remedy)) from error


def _address_towards(address: str) -> str:
    """Return the address of this machine that another one would see. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        return str(probe.getsockname()[0])


def _missing(summary: str, remedy: str) -> SetupError:
    return SetupError(Explanation(Reason.REFUSED, summary, remedy=remedy))
