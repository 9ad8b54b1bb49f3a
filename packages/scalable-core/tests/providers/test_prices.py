"""The file of prices: what is saved, and what is read."""

from __future__ import annotations

import json
import os
import stat
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from scalable.errors import ProviderNotSetUpError
from scalable.providers.prices import Price, PriceList

VCPU, GB = "vCPU", "GB"
NEW = date(2027, 1, 2)


def price(usd: str, as_of: date = NEW) -> Price:
    return Price(Decimal(usd), "somebody's list", as_of)


OF_THE_TABLE = price("9", date(2026, 1, 2))
PRICES = PriceList("acme", lambda place, _: OF_THE_TABLE if place == "us-east-1" else None)


@pytest.fixture(autouse=True)
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of the user's data, which does not exist yet."""
    directory = tmp_path / "data"
    monkeypatch.setenv("XDG_DATA_HOME", str(directory))
    return directory


def test_what_is_saved_is_read() -> None:
    prices = {("us-east-1", VCPU): price("0.05"), ("us-east-1", GB): price("0.0043210987654321")}
    assert PRICES.save(["us-east-1"], [], prices).path == PRICES.path
    assert PRICES.read().prices.refreshed == prices
    assert PRICES.read().problem == ""


def test_the_file_is_for_the_user_alone(data_home: Path) -> None:
    path = PRICES.save(["us-east-1"], [], {("us-east-1", VCPU): price("0.05")}).path
    assert path.parent.parent == data_home
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_prices_of_other_regions_stay_and_those_of_the_region_go() -> None:
    PRICES.save(["us-east-1"], [], {("us-east-1", VCPU): price("1"), ("us-east-1", GB): price("1")})
    PRICES.save(["eu-west-1"], [], {("eu-west-1", VCPU): price("2")})
    PRICES.save(["us-east-1"], [], {("us-east-1", VCPU): price("3")})
    assert PRICES.read().prices.refreshed == {
        ("us-east-1", VCPU): price("3"),
        ("eu-west-1", VCPU): price("2"),
    }


def test_a_save_that_fails_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch) -> None:
    path = PRICES.save(["us-east-1"], [], {("us-east-1", VCPU): price("1")}).path
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("scalable.providers.prices.os.fdopen", full)
        with pytest.raises(OSError, match="No space left"):
            PRICES.save(["us-east-1"], [], {("us-east-1", VCPU): price("2")})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_relative_data_directory_is_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "data")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert PRICES.path == tmp_path / ".local" / "share" / "scalable" / "acme-prices.json"


def test_a_user_without_a_home_plans_and_cannot_save(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setattr(Path, "home", nowhere)
    assert PRICES.read().problem == ""
    with pytest.raises(ProviderNotSetUpError, match="set HOME"):
        PRICES.save([], [], {})


def test_what_was_asked_for_is_listed_with_and_without_a_price() -> None:
    listed = PRICES.save(["b"], [VCPU, GB], {("b", GB): price("2")}).prices
    assert [(each.place, each.unit, each.price) for each in listed] == [
        ("b", VCPU, None),
        ("b", GB, Decimal(2)),
    ]


@pytest.mark.parametrize(
    ("as_of", "expected"),
    [(date(2025, 1, 1), "9"), (OF_THE_TABLE.as_of, "1"), (NEW, "1")],
    ids=["older", "same-day", "newer"],
)
def test_the_newer_price_counts(as_of: date, expected: str) -> None:
    PRICES.save(["us-east-1"], [], {("us-east-1", VCPU): price("1", as_of)})
    found = PRICES.read().prices.find("us-east-1", VCPU)
    assert found is not None
    assert found.usd == Decimal(expected)


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
    path = PRICES.path
    path.parent.mkdir(parents=True)
    path.write_text(entry())
    found = PRICES.read().prices.find("us-east-1", VCPU)
    assert found is not None
    assert found.usd == 1


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
def test_a_file_that_cannot_be_used_is_one_line_and_no_price(content: str) -> None:
    path = PRICES.path
    path.parent.mkdir(parents=True)
    path.write_bytes(content.encode("latin-1"))
    prices, problem = PRICES.read()
    assert prices.find("us-east-1", VCPU) == OF_THE_TABLE
    assert problem.startswith(f"{path}: ")
    assert "scalable prices refresh --provider acme" in problem
    assert "\n" not in problem
    PRICES.save(["us-east-1"], [], {("us-east-1", VCPU): price("0.05")})
    assert PRICES.read().problem == ""


def test_a_file_that_cannot_be_read_is_one_line() -> None:
    PRICES.path.mkdir(parents=True)
    assert "cannot be read: Is a directory" in PRICES.read().problem
    PRICES.path.rmdir()
    os.mkfifo(PRICES.path)
    assert "cannot be read: it is a pipe to which no program writes" in PRICES.read().problem
