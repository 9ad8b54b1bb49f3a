"""What plans make of prices that were saved."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from scalable.costing import CostEstimate, CostLineItem
from scalable.planning import build_plan
from scalable.providers.cloud.aws import AWSBatchProvider
from scalable.providers.cloud.aws.prices import ADDRESS, GB, PRICES, PUBLIC_ADDRESS, VCPU
from scalable.providers.prices import Price
from scalable.testing.offline import manifest_of, modules_of_planning, spec_of

AWS = AWSBatchProvider()
NEW, OLD = date(2027, 1, 2), date(2020, 1, 2)


def price(usd: str, as_of: date = NEW) -> Price:
    return Price(Decimal(usd), "AWS's Price List API", as_of)


def estimate(options: str = "region: us-east-1") -> CostEstimate:
    cost = build_plan(spec_of("aws", options), AWS).cost
    assert cost is not None
    return cost


def items(unit: str) -> list[CostLineItem]:
    return [item for item in estimate().items if item.unit == unit]


def test_a_plan_takes_the_newer_price_with_its_source_and_day() -> None:
    prices = {("us-east-1", VCPU): price("0.05"), ("us-east-1", ADDRESS): price("7", OLD)}
    PRICES.save(["us-east-1"], [], prices)
    for item in items(VCPU):
        assert (item.unit_price, item.as_of) == (Decimal("0.05"), NEW)
        assert item.source == "AWS's Price List API"
    (address,) = items(ADDRESS)
    assert (address.unit_price, address.source) == (PUBLIC_ADDRESS.usd, PUBLIC_ADDRESS.source)
    assert any("0.05 USD/h" in line and "2027-01-02" in line for line in estimate().lines())


def test_of_two_prices_of_one_day_that_of_aws_counts() -> None:
    same_day = price("0.006", PUBLIC_ADDRESS.as_of)
    PRICES.save(["us-east-1"], [], {("us-east-1", ADDRESS): same_day})
    (address,) = items(ADDRESS)
    assert address.unit_price == Decimal("0.006")


def test_a_region_that_only_the_file_has_can_be_limited() -> None:
    spec = spec_of("aws", "region: sa-east-1\nlimits: {max_hourly_cost: 3}")
    assert not AWS.validate(spec).ok
    PRICES.save(
        ["sa-east-1"], [], {("sa-east-1", VCPU): price("0.07"), ("sa-east-1", GB): price("1")}
    )
    assert AWS.validate(spec).ok
    assert estimate("region: sa-east-1").hourly is not None
    assert estimate("region: sa-east-1\ncluster_type: ec2").hourly is None


def test_the_same_file_gives_the_same_plan() -> None:
    PRICES.save(["us-east-1"], [], {("us-east-1", VCPU): price("0.05")})
    spec = spec_of("aws", "region: us-east-1")
    assert build_plan(spec, AWS).to_json() == build_plan(spec, AWS).to_json()


def test_planning_with_the_file_imports_no_sdk() -> None:
    PRICES.save(["us-east-1"], [], {("us-east-1", VCPU): price("0.05")})
    sdk = {"dask", "distributed", "boto3", "botocore"}
    assert not sdk & modules_of_planning(manifest_of("aws", "region: us-east-1"))


def test_a_file_that_cannot_be_used_is_one_warning_and_no_price() -> None:
    before = estimate()
    path = PRICES.path
    path.parent.mkdir(parents=True)
    path.write_text('{"some": "other program"}')
    assert estimate() == before
    report = AWS.validate(spec_of("aws", "region: us-east-1"))
    (warning,) = report.warnings
    assert report.ok
    assert warning.code == "W_PRICES"
    assert warning.path == "targets.here"
    assert warning.message.startswith(f"{path}: ")
    assert "scalable prices refresh" in warning.message
    PRICES.save(["us-east-1"], [], {("us-east-1", VCPU): price("0.05")})
    assert AWS.validate(spec_of("aws", "region: us-east-1")).warnings == ()
