from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from aws_stubs import StubbedApi

from scalable.providers.base import CheckResult
from scalable.providers.cloud.aws import AWSBatchProvider, provider
from scalable.providers.cloud.aws.preflight import preflight
from scalable.testing.offline import spec_of

ECR = "123456789012.dkr.ecr.us-east-1.amazonaws.com/gcam:7"
ROLE = "arn:aws:iam::123456789012:role/run"
GATEWAY = {"DestinationCidrBlock": "0.0.0.0/0", "GatewayId": "igw-1", "State": "active"}
NAT = {"DestinationCidrBlock": "0.0.0.0/0", "NatGatewayId": "nat-1", "State": "active"}


def subnet(name: str, free: int = 100, zone: str = "us-east-1a", vpc: str = "vpc-1") -> Any:
    return {
        "SubnetId": name,
        "VpcId": vpc,
        "AvailableIpAddressCount": free,
        "AvailabilityZone": zone,
    }


class Account(StubbedApi):
    """An account that has all that a run needs, but for what a test changes."""

    def credentials(self) -> None:
        arn = {"Arn": "arn:aws:sts::123456789012:assumed-role/me"}
        self.answer("sts", "get_caller_identity", arn)

    def network(self, *subnets: Any) -> None:
        default = [{"Name": "is-default", "Values": ["true"]}]
        self.answer("ec2", "describe_vpcs", {"Vpcs": [{"VpcId": "vpc-1"}]}, {"Filters": default})
        found = [*subnets] or [subnet("subnet-1")]
        self.answer("ec2", "describe_subnets", {"Subnets": found})

    def routes(self, *routes: Any, of: str | None = None) -> None:
        association = {"SubnetId": of} if of else {"Main": True}
        table = {"Associations": [association], "Routes": [*routes]}
        self.answer("ec2", "describe_route_tables", {"RouteTables": [table]})

    def endpoints(self, *services: str) -> None:
        found = [{"ServiceName": f"com.amazonaws.us-east-1.{each}"} for each in services]
        self.answer("ec2", "describe_vpc_endpoints", {"VpcEndpoints": found})

    def newest_image(self) -> None:
        newest = "ami-0a1b2c3d"
        self.answer("ssm", "get_parameter", {"Parameter": {"Value": newest}})
        self.answer("ec2", "describe_images", {"Images": [{"ImageId": newest}]})

    def quota(self, value: float = 100.0) -> None:
        self.answer("service-quotas", "get_service_quota", {"Quota": {"Value": value}})


@pytest.fixture
def account() -> Account:
    found = Account()
    found.credentials()
    return found


def checks(
    account: Account, options: str = "", components: str = "gcam: {cpus: 4}"
) -> dict[str, CheckResult]:
    """Return what is found, by name; all calls that were expected have been made."""
    spec = spec_of("aws", f"region: us-east-1\n{options}", components)
    aws = AWSBatchProvider()
    parsed = aws.parse_options(spec)
    requests = provider._worker_requests(spec, parsed)
    machines = {} if parsed.cluster_type == "fargate" else provider._machines(parsed, requests)
    counts = aws.plan_scale(spec).workers_by_tag
    found = asyncio.run(preflight(account, parsed, "own/image", requests, machines, counts))
    account.check()
    return {each.name: each for each in found}


def test_an_account_that_has_everything(account: Account) -> None:
    account.network()
    account.routes(GATEWAY)
    account.answer("ecr", "describe_images", {"imageDetails": []})
    account.quota()
    found = checks(account, "workers: 3", f"gcam: {{cpus: 4, image: '{ECR}'}}")
    assert {name: each.ok for name, each in found.items()} == {
        "credentials": True,
        "size of gcam": True,
        "network": True,
        "route": True,
        f"image {ECR}": True,
        "image own/image": None,
        "quota of Fargate": True,
    }
    assert "13 vCPUs" in found["quota of Fargate"].detail  # with the scheduler's one


def test_nothing_else_is_asked_without_credentials() -> None:
    account = Account()
    account.refuse("sts", "get_caller_identity", "ExpiredToken", "has expired", 403)
    (found,) = checks(account).values()
    assert (found.name, found.ok) == ("credentials", False)
    assert "has expired" in found.detail
    assert "aws sso login" in found.remedy


def test_subnets_of_another_vpc(account: Account) -> None:
    found = [subnet("subnet-0a1b2c3d"), subnet("subnet-0a1b2c3e", vpc="vpc-2")]
    account.answer("ec2", "describe_subnets", {"Subnets": found})
    account.quota()
    network = checks(account, "subnets: [subnet-0a1b2c3d, subnet-0a1b2c3e]")["network"]
    assert network.ok is False
    assert "subnet-0a1b2c3e" in network.detail
    assert network.remedy


def test_a_subnet_that_does_not_exist(account: Account) -> None:
    account.refuse("ec2", "describe_subnets", "InvalidSubnetID.NotFound", "does not exist")
    account.quota()
    network = checks(account, "subnets: [subnet-0a1b2c3d]")["network"]
    assert network.ok is False
    assert "does not exist" in network.detail
    assert network.remedy


@pytest.mark.parametrize("free", [0, 3])
def test_too_few_addresses(account: Account, free: int) -> None:
    account.network(subnet("subnet-1", free))
    if free:
        account.routes(GATEWAY)
    account.quota()
    network = checks(account, "workers: 3")["network"]  # and one for the scheduler
    assert network.ok is False
    assert network.remedy


@pytest.mark.parametrize(
    ("public", "route", "ok"),
    [
        (True, GATEWAY, True),
        (True, NAT, False),
        (False, NAT, True),
        (False, GATEWAY, False),
        (False, {**NAT, "State": "blackhole"}, False),  # its gateway was deleted
        (True, {"DestinationPrefixListId": "pl-1", "GatewayId": "vpce-1"}, False),
    ],
)
def test_a_route_for_images(account: Account, public: bool, route: Any, ok: bool) -> None:
    account.network()
    account.routes(route)
    if not ok:
        account.endpoints("s3")
    account.quota()
    found = checks(account, f"public_ip: {str(public).lower()}")["route"]
    assert found.ok is ok
    assert ok or ("subnet-1" in found.detail and found.remedy)


def test_endpoints_bring_images_of_ecr_alone(account: Account) -> None:
    account.network()
    account.routes()
    account.endpoints("ecr.dkr", "ecr.api", "s3")
    account.quota()
    assert checks(account, "public_ip: false")["route"].ok is None


def test_what_may_not_be_asked_is_not_checked(account: Account) -> None:
    account.network()
    account.refuse("ec2", "describe_route_tables", "UnauthorizedOperation", status=403)
    account.refuse("service-quotas", "get_service_quota", "AccessDeniedException")
    found = checks(account)
    assert (found["route"].ok, found["quota of Fargate"].ok) == (None, None)
    assert found["route"].detail.startswith("not checked: DescribeRouteTables")


def test_what_the_target_names(account: Account) -> None:
    account.network()
    account.routes(GATEWAY)
    group = {"SecurityGroups": [{"GroupId": "sg-0a1b2c3d", "VpcId": "vpc-2"}]}
    account.answer("ec2", "describe_security_groups", group)
    account.refuse("iam", "get_role", "NoSuchEntity", status=404)
    account.quota()
    found = checks(account, f"security_groups: [sg-0a1b2c3d]\nexecution_role_arn: {ROLE}")
    assert found["group sg-0a1b2c3d"].ok is False
    assert "vpc-2" in found["group sg-0a1b2c3d"].detail
    assert found["execution role"].ok is False
    assert ROLE in found["execution role"].detail


def test_an_image_that_is_not_in_its_registry(account: Account) -> None:
    account.network()
    account.routes(GATEWAY)
    account.refuse("ecr", "describe_images", "ImageNotFoundException", "gcam:7 does not exist")
    account.quota()
    found = checks(account, "", f"gcam: {{image: '{ECR}'}}")[f"image {ECR}"]
    assert found.ok is False
    assert "gcam:7" in found.detail


QUOTAS = {"L-3032A538": "Fargate", "L-36FBB829": "Fargate Spot"}


@pytest.mark.parametrize(
    ("spot", "asked", "short"),
    [("false", ["L-3032A538"], "L-3032A538"), ("true", ["L-36FBB829", "L-3032A538"], "L-36FBB829")],
)
def test_more_than_the_quota(account: Account, spot: str, asked: list[str], short: str) -> None:
    account.network()
    account.routes(GATEWAY)
    for code in asked:
        which = {"ServiceCode": "fargate", "QuotaCode": code}
        account.answer("service-quotas", "get_service_quota", {"Quota": {"Value": 6.0}}, which)
    found = checks(account, f"spot: {spot}\nworkers: 2")
    quotas = {code: found[f"quota of {QUOTAS[code]}"] for code in asked}
    assert {code: each.ok for code, each in quotas.items()} == {
        code: code != short for code in asked
    }
    assert short in (quotas[short].remedy or "")


@pytest.mark.parametrize(("zones", "ok"), [(["us-east-1a"], True), (["us-east-1b"], False)])
def test_the_type_of_instances_is_offered_in_a_zone(
    account: Account, zones: list[str], ok: bool
) -> None:
    account.network()
    account.routes(GATEWAY)
    offered = [{"InstanceType": "c6i.xlarge", "Location": zone} for zone in zones]
    account.answer("ec2", "describe_instance_type_offerings", {"InstanceTypeOfferings": offered})
    there = [{"InstanceType": "t3.medium", "Location": "us-east-1a"}]
    account.answer("ec2", "describe_instance_type_offerings", {"InstanceTypeOfferings": there})
    account.newest_image()
    account.quota(6)
    found = checks(account, "cluster_type: ec2")
    assert (found["machine image"].ok, found["machine image"].detail) == (True, "ami-0a1b2c3d")
    assert found["type c6i.xlarge"].ok is ok
    assert found["type t3.medium"].ok is True
    quota = found["quota of standard instances"]
    assert (quota.ok, "6 vCPUs are wanted" in quota.detail) == (True, True)


def test_the_quotas_of_instances_that_aws_alone_knows(account: Account) -> None:
    account.network()
    account.routes(GATEWAY)
    for _ in range(2):
        account.answer("ec2", "describe_instance_type_offerings", {"InstanceTypeOfferings": []})
    account.newest_image()
    types = [{"InstanceType": "p5.4xlarge", "VCpuInfo": {"DefaultVCpus": 16}}]
    asked = {"InstanceTypes": ["p5.4xlarge"]}
    account.answer("ec2", "describe_instance_types", {"InstanceTypes": types}, asked)
    for code, value in (("L-1216C47A", 2.0), ("L-7212CCBC", 31.0)):
        which = {"ServiceCode": "ec2", "QuotaCode": code}
        account.answer("service-quotas", "get_service_quota", {"Quota": {"Value": value}}, which)
    found = checks(account, "cluster_type: ec2\ninstance_type: p5.4xlarge\nspot: true\nworkers: 2")
    assert found["quota of standard instances"].ok
    short = found["quota of P instances on spare capacity"]
    assert (short.ok, "L-7212CCBC" in (short.remedy or "")) == (False, True)


@pytest.mark.parametrize("roles", [None, [], ["run"]])
def test_what_instances_boot_and_act_as(account: Account, roles: list[str] | None) -> None:
    account.network()
    account.routes(GATEWAY)
    for _ in range(2):
        account.answer("ec2", "describe_instance_type_offerings", {"InstanceTypeOfferings": []})
    text = "The image id '[ami-0a1b2c3e]' does not exist"
    account.refuse("ec2", "describe_images", "InvalidAMIID.NotFound", text)
    if roles is None:
        account.refuse("iam", "get_instance_profile", "NoSuchEntity", status=404)
    else:
        account.answer("iam", "get_instance_profile", {"InstanceProfile": profile(roles)})
    account.quota()
    found = checks(account, "cluster_type: ec2\nami: ami-0a1b2c3e\ninstance_profile: mine")
    assert (found["machine image"].ok, text in found["machine image"].detail) == (False, True)
    assert found["instance profile"].ok is bool(roles)
    assert "mine" in found["instance profile"].detail


def profile(roles: list[str]) -> dict[str, Any]:
    made = datetime(2026, 1, 1, tzinfo=UTC)
    common = {"Path": "/", "CreateDate": made}
    found = [
        {**common, "RoleName": each, "RoleId": "A" * 16, "Arn": f"arn:aws:iam::1:role/{each}"}
        for each in roles
    ]
    arn = "arn:aws:iam::123456789012:instance-profile/mine"
    ids = {"InstanceProfileName": "mine", "InstanceProfileId": "A" * 16, "Arn": arn}
    return {**common, **ids, "Roles": found}
