"""The file of prices: what is saved, and what plans make of it."""

from __future__ import annotations

import json
import stat
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from scalable.costing import CostEstimate, CostLineItem
from scalable.errors import ProviderNotSetUpError
from scalable.planning import build_plan
from scalable.providers.cloud.aws import AWSBatchProvider
from scalable.providers.cloud.aws.price_file import price_path, read_prices, save_prices
from scalable.providers.cloud.aws.prices import ADDRESS, GB, PUBLIC_ADDRESS, VCPU, Price
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


def test_what_is_saved_is_read() -> None:
    prices = {("us-east-1", VCPU): price("0.05"), ("us-east-1", GB): price("0.0043210987654321")}
    assert save_prices(["us-east-1"], prices) == price_path()
    assert read_prices().prices.refreshed == prices
    assert read_prices().problem == ""


def test_the_file_is_for_the_user_alone(data_home: Path) -> None:
    path = save_prices(["us-east-1"], {("us-east-1", VCPU): price("0.05")})
    assert path.parent.parent == data_home
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_prices_of_other_regions_stay_and_those_of_the_region_go() -> None:
    save_prices(["us-east-1"], {("us-east-1", VCPU): price("1"), ("us-east-1", GB): price("1")})
    save_prices(["eu-west-1"], {("eu-west-1", VCPU): price("2")})
    save_prices(["us-east-1"], {("us-east-1", VCPU): price("3")})
    assert read_prices().prices.refreshed == {
        ("us-east-1", VCPU): price("3"),
        ("eu-west-1", VCPU): price("2"),
    }


def test_a_save_that_fails_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_prices(["us-east-1"], {("us-east-1", VCPU): price("1")})
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("scalable.providers.cloud.aws.price_file.json.dump", full)
        with pytest.raises(OSError, match="No space left"):
            save_prices(["us-east-1"], {("us-east-1", VCPU): price("2")})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_relative_data_directory_is_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "data")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert price_path() == tmp_path / ".local" / "share" / "scalable" / "aws-prices.json"


def test_a_user_without_a_home_plans_and_cannot_save(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setattr(Path, "home", nowhere)
    assert read_prices().problem == ""
    with pytest.raises(ProviderNotSetUpError, match="set HOME"):
        save_prices([], {})


def test_a_plan_takes_the_newer_price_with_its_source_and_day() -> None:
    prices = {("us-east-1", VCPU): price("0.05"), ("us-east-1", ADDRESS): price("7", OLD)}
    save_prices(["us-east-1"], prices)
    for item in items(VCPU):
        assert (item.unit_price, item.as_of) == (Decimal("0.05"), NEW)
        assert item.source == "AWS's Price List API"
    (address,) = items(ADDRESS)
    assert (address.unit_price, address.source) == (PUBLIC_ADDRESS.usd, PUBLIC_ADDRESS.source)
    assert any("0.05 USD/h" in line and "2027-01-02" in line for line in estimate().lines())


def test_of_two_prices_of_one_day_that_of_aws_counts() -> None:
    same_day = price("0.006", PUBLIC_ADDRESS.as_of)
    save_prices(["us-east-1"], {("us-east-1", ADDRESS): same_day})
    (address,) = items(ADDRESS)
    assert address.unit_price == Decimal("0.006")


def test_a_region_that_only_the_file_has_can_be_limited() -> None:
    spec = spec_of("aws", "region: sa-east-1\nlimits: {max_hourly_cost: 3}")
    assert not AWS.validate(spec).ok
    save_prices(["sa-east-1"], {("sa-east-1", VCPU): price("0.07"), ("sa-east-1", GB): price("1")})
    assert AWS.validate(spec).ok
    assert estimate("region: sa-east-1").hourly is not None
    assert estimate("region: sa-east-1\ncluster_type: ec2").hourly is None


def test_the_same_file_gives_the_same_plan() -> None:
    save_prices(["us-east-1"], {("us-east-1", VCPU): price("0.05")})
    spec = spec_of("aws", "region: us-east-1")
    assert build_plan(spec, AWS).to_json() == build_plan(spec, AWS).to_json()


def test_planning_with_the_file_imports_no_sdk() -> None:
    save_prices(["us-east-1"], {("us-east-1", VCPU): price("0.05")})
    sdk = {"dask", "distributed", "boto3", "botocore"}
    assert not sdk & modules_of_planning(manifest_of("aws", "region: us-east-1"))


def entry(**changes: Any) -> str:
    given = {
        "region": "us-east-1",
        "unit": VCPU,
        "usd": "1",
        "source": "someone",
        "as_of": "2027-01-02",
    }
    return json.dumps({"format": 1, "prices": [{**given, **changes}]})


def test_an_entry_as_below_is_valid() -> None:
    path = price_path()
    path.parent.mkdir(parents=True)
    path.write_text(entry())
    assert items(VCPU)[0].unit_price == 1


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[" * 100_000,
        "\xff",
        '{"some": "other program"}',
        '{"format": 2, "prices": []}',
        entry(usd="NaN"),
        entry(usd="0"),
        entry(usd="-1"),
        entry(usd="1E+999999"),
        entry(source=""),
        entry(source="\x1b[2J"),
        entry(as_of="yesterday"),
        entry(region=None),
    ],
)
def test_a_file_that_cannot_be_used_is_one_warning_and_no_price(content: str) -> None:
    before = estimate()
    path = price_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(content.encode("latin-1"))
    assert estimate() == before
    report = AWS.validate(spec_of("aws", "region: us-east-1"))
    (warning,) = report.warnings
    assert report.ok
    assert warning.code == "W_PRICES"
    assert warning.path == "targets.here"
    assert warning.message.startswith(f"{path}: ")
    assert "scalable prices refresh" in warning.message
    assert "\n" not in warning.message
    save_prices(["us-east-1"], {("us-east-1", VCPU): price("0.05")})
    assert AWS.validate(spec_of("aws", "region: us-east-1")).warnings == ()


def test_a_file_that_cannot_be_read_is_one_warning() -> None:
    before = estimate()
    price_path().mkdir(parents=True)
    assert estimate() == before
    (warning,) = AWS.validate(spec_of("aws", "region: us-east-1")).warnings
    assert "cannot be read: Is a directory" in warning.message
