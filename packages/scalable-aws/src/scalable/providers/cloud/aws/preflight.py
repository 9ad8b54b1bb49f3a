"""The checks of ``scalable check``: read-only questions to AWS."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Set
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from scalable.errors import NativeTimeoutError, ProviderNotSetUpError
from scalable.providers.base import CheckResult
from scalable.providers.cloud.aws.api import AwsApi, AwsError, AwsUnreachableError
from scalable.providers.cloud.aws.instances import ECR
from scalable.providers.cloud.aws.machines import machine_named
from scalable.providers.cloud.aws.quotas import Quota, fargate_quotas, instance_quotas
from scalable.providers.cloud.aws.refusals import is_missing
from scalable.providers.cloud.aws.setup import Network, SetupError, find_images, find_network

if TYPE_CHECKING:
    from scalable.providers.cloud.aws.options import AWSOptions
    from scalable.providers.cloud.aws.request import WorkerRequest

__all__ = ["preflight"]

_LOGIN = "run `aws configure` or `aws sso login`; `aws sts get-caller-identity` must work"

_IN_REGISTRY = re.compile(r"(?P<name>[^:@]+)(:(?P<tag>[^@]+))?(@(?P<digest>.+))?")
"""An image as its registry calls it."""


async def preflight(
    api: AwsApi,
    options: AWSOptions,
    image: str,
    requests: Mapping[str, WorkerRequest],
    machines: Mapping[str, str],
    counts: Mapping[str, int],
) -> list[CheckResult]:
    """Check credentials, network, security groups, roles, images, instance types, and the quotas of vCPUs.

    Parameters
    ----------
    api : AwsApi
        AWS.
    options : AWSOptions
        The target's options.
    image : str
        The scheduler's image.
    requests : mapping of str to WorkerRequest
        The workers of each group, by tag.
    machines : mapping of str to str
        The type of instance of each group; empty with Fargate.
    counts : mapping of str to int
        How many a run has at most.
    """
    first = await _check_credentials(api)
    if not first.ok:
        return [first]
    results = [first]
    if not machines:
        results += _check_sizes(requests)
    try:
        network = await find_network(api, options)
    except SetupError as error:
        why = error.explanation
        results.append(CheckResult("network", False, why.summary, why.remedy))
    except (AwsError, AwsUnreachableError, NativeTimeoutError) as error:
        results.append(_not_known("network", error, "check the target's vpc and subnets"))
    else:
        results.append(_check_addresses(network, counts))
        results.append(await _ask("route", _check_route, api, network, options))
        for machine in sorted({*machines.values(), *_scheduler_machines(options)}):
            results.append(await _ask(f"type {machine}", _check_machine, api, network, machine))
        for group in options.security_groups:
            results.append(await _ask(f"group {group}", _check_group, api, network, group))
    for what, role in (
        ("execution role", options.execution_role_arn),
        ("task role", options.task_role_arn),
    ):
        if role:
            results.append(await _ask(what, _check_role, api, what, role))
    if "ec2" in options.kinds:
        gpus = any(request.gpus for request in requests.values())
        results.append(await _ask("machine image", _check_machine_image, api, options, gpus))
    if options.instance_profile:
        profile = options.instance_profile
        results.append(await _ask("instance profile", _check_profile, api, profile))
    images = {image, *(request.image for request in requests.values())}
    results += await asyncio.gather(
        *(_ask(f"image {each}", _check_image, api, each) for each in sorted(images))
    )
    return results + await _check_quotas(api, options, requests, machines, counts)


def _scheduler_machines(options: AWSOptions) -> list[str]:
    return [options.scheduler_instance_type] if options.scheduler_type == "ec2" else []


async def _check_machine(api: AwsApi, network: Network, machine: str) -> CheckResult:
    """Find out in which of the zones a type of instance is offered."""
    name = f"type {machine}"
    zones = {each["AvailabilityZone"] for each in network.subnets}
    offered = await api.pages(
        "ec2",
        "DescribeInstanceTypeOfferings",
        "InstanceTypeOfferings",
        LocationType="availability-zone",
        Filters=[{"Name": "instance-type", "Values": [machine]}],
    )
    there = zones & {each["Location"] for each in offered}
    if not there:
        detail = f"is not offered in {', '.join(sorted(zones))}"
        remedy = "choose another instance_type, or subnets in other zones"
        return CheckResult(name, False, detail, remedy)
    return CheckResult(name, True, f"is offered in {', '.join(sorted(there))}")


async def _ask(
    name: str, check: Callable[..., Awaitable[CheckResult]], api: AwsApi, *args: Any
) -> CheckResult:
    """Return the result of a check, or that it could not be made."""
    try:
        return await check(api, *args)
    except (AwsError, AwsUnreachableError, NativeTimeoutError) as error:
        return _not_known(name, error, "")


def _not_known(name: str, error: Exception, remedy: str) -> CheckResult:
    if isinstance(error, AwsError) and ("NotFound" in error.code or "Malformed" in error.code):
        return CheckResult(name, False, str(error), remedy or "correct it, or create it")
    return CheckResult(name, None, f"not checked: {error}")


async def _check_credentials(api: AwsApi) -> CheckResult:
    try:
        await api.check_credentials()
        region = api.region
        found = await api.call("sts", "GetCallerIdentity")
    except ProviderNotSetUpError as error:
        return CheckResult("credentials", False, error.missing, error.remedy)
    except AwsError as error:
        return CheckResult("credentials", False, str(error), _LOGIN)
    except (AwsUnreachableError, NativeTimeoutError) as error:
        remedy = "check the network, and that the target's region exists"
        return CheckResult("credentials", False, str(error), remedy)
    return CheckResult("credentials", True, f"{found['Arn']} in {region}")


def _check_sizes(requests: Mapping[str, WorkerRequest]) -> Iterator[CheckResult]:
    for tag, request in requests.items():
        if request.task is not None:
            yield CheckResult(f"size of {tag}", True, f"a Fargate task of {request.task}")


def _check_addresses(network: Network, counts: Mapping[str, int]) -> CheckResult:
    free = sum(each.get("AvailableIpAddressCount", 0) for each in network.subnets)
    wanted = sum(counts.values()) + 1
    detail = f"{network.vpc}, {len(network.subnets)} subnets with {free} free addresses"
    if free < wanted:
        remedy = "set the target's subnets to larger ones, or start fewer workers"
        return CheckResult("network", False, f"{detail}, and {wanted} are wanted", remedy)
    return CheckResult("network", True, detail)


async def _check_route(api: AwsApi, network: Network, options: AWSOptions) -> CheckResult:
    """Find out whether images can be pulled: through an internet gateway, a NAT gateway or endpoints."""
    only = [{"Name": "vpc-id", "Values": [network.vpc]}]
    tables = await api.pages("ec2", "DescribeRouteTables", "RouteTables", Filters=only)
    without = [each for each in network.subnet_ids if not _leads_out(tables, each, options)]
    if not without:
        way = "an internet gateway" if options.public_ip else "a NAT gateway"
        return CheckResult("route", True, f"{way} leads out of each subnet")
    endpoints = await api.pages("ec2", "DescribeVpcEndpoints", "VpcEndpoints", Filters=only)
    services = {each["ServiceName"].rpartition(".")[2] for each in endpoints}
    if {"dkr", "s3"} <= services:
        return CheckResult("route", None, "images of ECR come through endpoints, others do not")
    detail = f"no route leads out of {', '.join(without)}, so images cannot be pulled"
    remedy = "set the target's subnets to public ones, or, with public_ip: false, to ones with a NAT gateway"
    return CheckResult("route", False, detail, remedy)


def _leads_out(tables: list[Mapping[str, Any]], subnet: str, options: AWSOptions) -> bool:
    own = [t for t in tables if any(a.get("SubnetId") == subnet for a in t["Associations"])]
    main = [t for t in tables if any(a.get("Main") for a in t["Associations"])]
    # A task without a public address gets nowhere through an internet gateway.
    kind = "GatewayId" if options.public_ip else "NatGatewayId"
    return any(
        route.get("DestinationCidrBlock") == "0.0.0.0/0"
        and route.get("State") != "blackhole"
        and (route.get(kind) or route.get("TransitGatewayId"))
        for table in own or main
        for route in table["Routes"]
    )


async def _check_group(api: AwsApi, network: Network, group: str) -> CheckResult:
    name = f"group {group}"
    (found,) = (await api.call("ec2", "DescribeSecurityGroups", GroupIds=[group]))["SecurityGroups"]
    if found.get("VpcId") != network.vpc:
        detail = f"belongs to VPC {found.get('VpcId')}, not to {network.vpc}"
        return CheckResult(name, False, detail, "set the target's security_groups to others")
    return CheckResult(name, True, "exists; it must let its members reach each other")


async def _check_role(api: AwsApi, what: str, arn: str) -> CheckResult:
    try:
        await api.call("iam", "GetRole", RoleName=arn.rpartition("/")[2])
    except AwsError as error:
        if not is_missing(error):
            raise
        return CheckResult(what, False, f"there is no role {arn}", "correct its ARN, or create it")
    return CheckResult(what, True, arn)


async def _check_machine_image(api: AwsApi, options: AWSOptions, gpus: bool) -> CheckResult:
    try:
        found = await find_images(api, options, gpus=gpus)
    except SetupError as error:
        why = error.explanation
        return CheckResult("machine image", False, why.summary, why.remedy)
    return CheckResult("machine image", True, ", ".join(dict.fromkeys(each.id for each in found)))


async def _check_profile(api: AwsApi, name: str) -> CheckResult:
    what = "instance profile"
    try:
        found = await api.call("iam", "GetInstanceProfile", InstanceProfileName=name)
    except AwsError as error:
        if not is_missing(error):
            raise
        remedy = "correct its name, or create it"
        return CheckResult(what, False, f"there is no instance profile {name}", remedy)
    if not found["InstanceProfile"]["Roles"]:
        return CheckResult(what, False, f"{name} has no role", "add one to it")
    return CheckResult(what, True, name)


async def _check_image(api: AwsApi, image: str) -> CheckResult:
    name = f"image {image}"
    host, _, rest = image.partition("/")
    registry, found = ECR.fullmatch(host), _IN_REGISTRY.fullmatch(rest)
    if registry is None or found is None:
        return CheckResult(name, None, "not checked: it is not in ECR")
    which = (
        {"imageDigest": found["digest"]}
        if found["digest"]
        else {"imageTag": found["tag"] or "latest"}
    )
    try:
        await api.call_in(
            registry["region"],
            "ecr",
            "DescribeImages",
            registryId=registry["account"],
            repositoryName=found["name"],
            imageIds=[which],
        )
    except AwsError as error:
        if "NotFound" not in error.code:
            raise
        return CheckResult(name, False, str(error), "correct its name, or push it")
    return CheckResult(name, True, "exists")


async def _check_quotas(
    api: AwsApi,
    options: AWSOptions,
    requests: Mapping[str, WorkerRequest],
    machines: Mapping[str, str],
    counts: Mapping[str, int],
) -> list[CheckResult]:
    """Compare what a run has at most with the quotas of vCPUs that there are for it."""
    if not machines:
        wanted = fargate_quotas(options, requests.values(), counts)
    else:
        every = {*machines.values(), *_scheduler_machines(options)}
        try:
            vcpus = await _vcpus(api, every)
        except (AwsError, AwsUnreachableError, NativeTimeoutError) as error:
            return [_not_known("quota", error, "correct instance_type")]
        wanted = instance_quotas(options, machines, vcpus, counts)
    return [
        await _ask(f"quota of {quota.kind}", _check_quota, api, quota, n)
        for quota, n in wanted.items()
    ]


async def _vcpus(api: AwsApi, machines: Set[str]) -> dict[str, int]:
    """Return the vCPUs of types of instances; AWS is asked for those that are not known here."""
    known = {name: machine for name in machines if (machine := machine_named(name))}
    found = {name: machine.vcpus for name, machine in known.items()}
    others = sorted(machines - {*known})
    if others:
        answer = await api.call("ec2", "DescribeInstanceTypes", InstanceTypes=others)
        for each in answer["InstanceTypes"]:
            found[each["InstanceType"]] = each["VCpuInfo"]["DefaultVCpus"]
    return found


async def _check_quota(api: AwsApi, quota: Quota, wanted: Decimal) -> CheckResult:
    name = f"quota of {quota.kind}"
    answer = await api.call(
        "service-quotas", "GetServiceQuota", ServiceCode=quota.service, QuotaCode=quota.code
    )
    limit = Decimal(str(answer["Quota"]["Value"]))
    detail = f"{wanted:f} vCPUs are wanted, and the account may have {limit:f}"
    if wanted > limit:
        remedy = f"ask for a larger quota ({quota.code}) in the Service Quotas console, or start fewer workers"
        return CheckResult(name, False, detail, remedy)
    # How many of them others use is not known.
    return CheckResult(name, True, detail)
