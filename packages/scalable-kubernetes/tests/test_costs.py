from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from scalable.costing import CostEstimate
from scalable.planning import build_plan
from scalable.providers.kubernetes import KubernetesProvider
from scalable.testing.offline import spec_of

PRICES = "prices: {cpu_hour: 0.04, gb_hour: 0.005, as_of: 2026-11-01, source: our contract}"
COMPONENTS = "gcam: {cpus: 4, memory: 16G}\nplots: {cpus: 1, gpus: 1}"


def estimate_of(options: str) -> CostEstimate | None:
    spec = spec_of("kubernetes", options, COMPONENTS)
    provider = KubernetesProvider()
    assert provider.validate(spec).ok, provider.validate(spec).errors
    return provider.estimate_cost(spec, build_plan(spec, provider).scale_plan)


def test_costs_are_those_of_what_pods_request() -> None:
    estimate = estimate_of(f"{PRICES}\nworkers: {{gcam: 3, plots: 1}}\nscheduler_memory: 2G")
    assert estimate is not None
    found = {item.description: item.hourly for item in estimate.items}
    assert found == {
        "scheduler": Decimal("0.04"),
        "scheduler memory": Decimal("0.010"),
        "gcam": Decimal("0.48"),
        "gcam memory": Decimal("0.240"),
        "plots": Decimal("0.04"),
        "plots GPUs": None,
    }
    assert (estimate.hourly, estimate.unknown) == (None, ("plots GPUs",))
    assert {item.as_of for item in estimate.items if item.unit_price} == {date(2026, 11, 1)}


def test_costs_are_those_of_the_whole_pod() -> None:
    template = """
pod_template:
  spec:
    initContainers: [{name: data, resources: {requests: {cpu: "2", memory: 20G}}}]
    containers:
      - {name: worker, resources: {requests: {cpu: "8", example.org/fpga: "2"}, limits: {example.org/fpga: "2"}}}
      - {name: aside, resources: {limits: {cpu: 500m, memory: 1G}}}
"""
    estimate = estimate_of(f"{PRICES}\nworkers: {{gcam: 2, plots: 0}}\n{template}")
    assert estimate is not None
    found = {item.description: item.quantity for item in estimate.items}
    assert (found["gcam"], found["gcam memory"]) == (Decimal(17), Decimal(40))
    assert found["gcam example.org/fpga"] == 4
    assert "gcam example.org/fpga" in estimate.unknown


def test_without_prices_costs_are_unknown_and_no_limit_can_be_kept() -> None:
    assert estimate_of("") is None
    spec = spec_of("kubernetes", "limits: {max_hourly_cost: 3}")
    (issue,) = KubernetesProvider().validate(spec).errors
    assert (issue.path, issue.code) == ("targets.here.limits.max_hourly_cost", "E_NOT_SUPPORTED")
    assert (
        KubernetesProvider()
        .validate(spec_of("kubernetes", f"limits: {{max_hourly_cost: 3}}\n{PRICES}"))
        .ok
    )


@pytest.mark.parametrize(
    ("prices", "path"),
    [
        ("{cpu_hour: 0, as_of: 2026-11-01, source: a}", "prices.cpu_hour"),
        ("{cpu_hour: 1, as_of: today, source: a}", "prices.as_of"),
        ("{cpu_hour: 1, source: a}", "prices"),
    ],
)
def test_a_price_has_an_amount_and_a_day(prices: str, path: str) -> None:
    report = KubernetesProvider().validate(spec_of("kubernetes", f"prices: {prices}"))
    assert [issue.path.startswith(f"targets.here.{path}") for issue in report.errors] == [True]
