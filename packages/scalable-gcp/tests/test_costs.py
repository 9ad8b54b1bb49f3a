from __future__ import annotations

from decimal import Decimal

import pytest

from scalable.costing import HOURS_PER_MONTH, CostEstimate
from scalable.planning import build_plan
from scalable.providers.cloud.gcp import GCPProvider
from scalable.testing.offline import spec_of


def estimate(options: str, components: str = "gcam: {cpus: 4, memory: 8G}") -> CostEstimate:
    cost = build_plan(spec_of("gcp", options, components), GCPProvider()).cost
    assert cost is not None
    return cost


def test_a_scheduler_and_workers() -> None:
    cost = estimate("zone: us-east1-b\nmachine_type: n2-standard-4\nworkers: 3")
    vcpu, gib = Decimal("0.031611"), Decimal("0.004237")
    workers = 3 * (4 * vcpu + 16 * gib)
    scheduler = 2 * Decimal("0.021812") + 8 * Decimal("0.002924")
    disks = 4 * 50 * Decimal("0.10") / HOURS_PER_MONTH
    expected = workers + scheduler + disks + 4 * Decimal("0.005")
    assert cost.hourly == pytest.approx(expected, abs=Decimal("0.00001"))
    assert not cost.unknown


def test_spare_capacity_has_its_own_price() -> None:
    demand = estimate("zone: us-east1-b\nworkers: 3").hourly
    spot = estimate("zone: us-east1-b\nworkers: 3\nspot: true").hourly
    assert demand is not None
    assert spot is not None
    assert spot < demand


@pytest.mark.parametrize(
    "options",
    [
        "zone: australia-southeast1-a",
        "zone: us-east1-b\nmachine_type: m3-ultramem-32",
        "zone: us-east1-b\nmachine_type: n2-custom-4-8192",
    ],
)
def test_what_has_no_price_is_unknown(options: str) -> None:
    cost = estimate(f"{options}\nworkers: 3")
    assert cost.hourly is None
    assert cost.unknown


def test_a_disk_of_another_type_has_no_price_of_the_usual_one() -> None:
    cost = estimate("zone: us-east1-b\nmachine_type: n4-standard-4\nworkers: 3")
    disks = {item.description: item for item in cost.items if item.unit == "GB"}
    assert {name: int(disk.quantity) for name, disk in disks.items()} == {
        "disks": 50,
        "disks, hyperdisk-balanced": 150,
    }
    assert disks["disks"].unit_price
    assert "disks, hyperdisk-balanced" in cost.unknown


def test_a_shared_core_is_paid_for_in_part() -> None:
    cost = estimate("zone: us-east1-b\nscheduler_machine_type: e2-small\nworkers: 0")
    [scheduler] = [item for item in cost.items if item.description == "scheduler"]
    assert scheduler.unit_price == Decimal("0.021812") / 2 + 2 * Decimal("0.002924")


def test_gpus_are_unknown() -> None:
    options = "zone: us-east1-b\nboot_image: projects/lab/global/images/with-driver\nworkers: 1"
    assert estimate(options, "gcam: {gpus: 1}").hourly is None


def test_a_limit_where_there_are_no_prices() -> None:
    options = "zone: australia-southeast1-a\nlimits: {max_hourly_cost: 3}"
    [issue] = GCPProvider().validate(spec_of("gcp", options)).errors
    assert issue.path == "targets.here.limits.max_hourly_cost"
