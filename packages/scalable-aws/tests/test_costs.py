from __future__ import annotations

from decimal import Decimal

import pytest

from scalable.costing import CostEstimate
from scalable.errors import LimitExceededError
from scalable.planning import build_plan, check_limits
from scalable.providers.cloud.aws import AWSBatchProvider
from scalable.providers.cloud.aws.prices import FARGATE
from scalable.testing.offline import spec_of

AWS = AWSBatchProvider()


def estimate(options: str, components: str = "gcam: {cpus: 4, memory: 16Gi}") -> CostEstimate:
    cost = build_plan(spec_of("aws", options, components), AWS).cost
    assert cost is not None
    return cost


def test_a_plan_is_priced_by_the_sizes_of_its_tasks() -> None:
    cost = estimate("region: us-east-1\nworkers: 3")
    scheduler = Decimal("0.04048") + 4 * Decimal("0.004445")
    worker = 4 * Decimal("0.04048") + 16 * Decimal("0.004445")
    assert cost.hourly == scheduler + 3 * worker + 4 * Decimal("0.005")


def test_the_plan_names_the_chosen_size_and_its_price() -> None:
    lines = estimate("region: us-east-1\nworkers: 3", "gcam: {cpus: 3, memory: 9G}").lines()
    assert any(
        line.startswith("gcam (3 of 4 vCPU, 9 GB), vCPU: 12 vCPU of Fargate at 0.04048 USD/h")
        for line in lines
    )


def test_a_scheduler_on_a_task_is_priced_as_one() -> None:
    options = "region: us-east-1\ncluster_type: ec2\nscheduler: {type: fargate}\nworkers: 2"
    cost = estimate(options)
    scheduler = Decimal("0.04048") + 4 * Decimal("0.004445")
    volumes = 2 * 50 * Decimal("0.08") / 730
    expected = scheduler + 2 * Decimal("0.252") + volumes + 3 * Decimal("0.005")
    assert cost.hourly == pytest.approx(expected, abs=Decimal("0.0001"))


def test_no_public_addresses_cost_nothing() -> None:
    items = estimate("region: us-east-1\npublic_ip: false").items
    assert not any("address" in item.description for item in items)


@pytest.mark.parametrize("options", ["", "region: sa-east-1", "region: us-east-1\nspot: true"])
def test_what_has_no_known_price_is_unknown(options: str) -> None:
    cost = estimate(options)
    assert cost.hourly is None
    assert any("gcam" in each for each in cost.unknown)


@pytest.mark.parametrize("options", ["", "region: sa-east-1", "region: us-east-1\nspot: true"])
def test_a_limit_without_prices_is_refused(options: str) -> None:
    spec = spec_of("aws", f"{options}\nlimits: {{max_hourly_cost: 3}}")
    (issue,) = AWS.validate(spec).errors
    assert issue.path == "targets.here.limits.max_hourly_cost"


def test_a_limit_counts_what_adaptive_groups_may_become() -> None:
    def check(allowed: str) -> None:
        options = f"region: us-east-1\nadaptive: {{minimum: 0, maximum: 10}}\nlimits: {{max_hourly_cost: {allowed}}}"
        spec = spec_of("aws", options, "gcam: {cpus: 4, memory: 16Gi}")
        assert AWS.validate(spec).ok
        check_limits(spec, AWS, build_plan(spec, AWS).scale_plan)

    check("2.5")
    with pytest.raises(LimitExceededError, match=r"may cost 2\.4"):
        check("2.4")


def test_every_price_has_its_source_and_its_day() -> None:
    for price in (each for prices in FARGATE.values() for each in prices):
        assert price.source
        assert price.as_of.year >= 2026
        assert 0 < price.usd < 1
