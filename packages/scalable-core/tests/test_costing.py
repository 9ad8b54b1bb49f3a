from __future__ import annotations

import json
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalable.costing import CostEstimate, CostLineItem

AS_OF = date(2026, 11, 22)


def item(name: str, quantity: str, price: str | None, **kwargs: str) -> CostLineItem:
    return CostLineItem(
        name,
        Decimal(quantity),
        "vCPU",
        None if price is None else Decimal(price),
        source="price list",
        as_of=AS_OF,
        **kwargs,
    )


amounts = st.decimals(min_value=0, max_value=10**9, places=6)
items = st.builds(
    CostLineItem,
    description=st.text(max_size=8),
    quantity=amounts,
    unit=st.text(max_size=4),
    unit_price=st.none() | amounts,
    source=st.text(min_size=1, max_size=8),
    as_of=st.dates(),
)
estimates = st.builds(
    CostEstimate,
    items=st.lists(items, max_size=4).map(tuple),
    notes=st.lists(st.text(max_size=8), max_size=2).map(tuple),
)


def test_sums_are_exact() -> None:
    estimate = CostEstimate((item("a", "3", "0.1"), item("b", "1", "0.2")))
    assert estimate.hourly == Decimal("0.5")
    assert estimate.monthly == Decimal(365)
    assert estimate.unknown == ()


def test_one_unknown_price_makes_the_sums_unknown_but_not_zero() -> None:
    estimate = CostEstimate((item("a", "2", "0.25"), item("disk", "40", None)))
    assert estimate.hourly is None
    assert estimate.monthly is None
    assert estimate.unknown == ("disk",)
    assert estimate.known_hourly == Decimal("0.5")


def test_nothing_known_shows_no_number() -> None:
    lines = CostEstimate((item("a", "2", None), item("b", "1", None))).lines()
    assert lines == ["a: 2 vCPU, price unknown", "b: 1 vCPU, price unknown", "total: unknown: a, b"]


def test_a_price_of_nothing_is_a_known_price() -> None:
    estimate = CostEstimate((item("free tier", "1", "0"),))
    assert estimate.hourly == 0
    assert estimate.unknown == ()


def test_no_items_cost_nothing() -> None:
    estimate = CostEstimate(())
    assert estimate.hourly == 0
    assert estimate.lines() == ["total: 0 USD/h, 0.00 USD/month of 730 h"]


def test_lines_name_source_and_date_and_end_with_the_notes() -> None:
    estimate = CostEstimate(
        (item("gcam", "4", "0.040480", currency="EUR"),), notes=("Without traffic.",)
    )
    assert estimate.lines() == [
        "gcam: 4 vCPU at 0.04048 EUR/h = 0.16192 EUR/h (price list, 2026-11-22)",
        "total: 0.16192 EUR/h, 118.20 EUR/month of 730 h",
        "Without traffic.",
    ]


@pytest.mark.parametrize(
    ("quantity", "price"), [("-1", "1"), ("1", "-1"), ("NaN", "1"), ("1", "Infinity")]
)
def test_invalid_quantities_and_prices_are_refused(quantity: str, price: str) -> None:
    with pytest.raises(ValueError, match="not a valid quantity or price"):
        item("a", quantity, price)


@pytest.mark.parametrize("facts", [{"source": "", "as_of": AS_OF}, {"source": "price list"}])
def test_a_price_needs_source_and_date(facts: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="source and as_of"):
        CostLineItem("a", Decimal(1), "vCPU", Decimal(1), **facts)  # type: ignore[arg-type]  # checked when run


def test_two_currencies_have_no_sum() -> None:
    with pytest.raises(ValueError, match="EUR and USD"):
        CostEstimate((item("a", "1", "1"), item("b", "1", "1", currency="EUR")))


@given(estimates)
def test_an_estimate_survives_json(estimate: CostEstimate) -> None:
    text = json.dumps(estimate.to_dict())
    again = CostEstimate.from_dict(json.loads(text))
    assert again == estimate
    assert json.dumps(again.to_dict()) == text


@given(estimates)
def test_the_known_part_is_never_above_the_whole(estimate: CostEstimate) -> None:
    assert (estimate.hourly is None) == bool(estimate.unknown)
    assert estimate.hourly in (None, estimate.known_hourly)
