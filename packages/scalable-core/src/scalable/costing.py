"""What a plan costs: line items with sources, and sums that account for unknown prices.

A price that is not known is *unknown*, never 0. A sum with an unknown part has no value; the known part is a lower
bound.

Examples
--------
>>> from datetime import date
>>> from decimal import Decimal
>>> machines = CostLineItem(
...     "gcam", Decimal(4), "c6i.large", Decimal("0.085"), source="AWS Price List", as_of=date(2026, 11, 22)
... )
>>> disks = CostLineItem("gcam disks", Decimal(160), "GB")
>>> CostEstimate((machines,)).monthly
Decimal('248.200')
>>> for line in CostEstimate((machines, disks)).lines():
...     print(line)
gcam: 4 c6i.large at 0.085 USD/h = 0.34 USD/h (AWS Price List, 2026-11-22)
gcam disks: 160 GB, price unknown
total: at least 0.34 USD/h, 248.20 USD/month of 730 h; unknown: gcam disks
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Self

__all__ = ["HOURS_PER_MONTH", "CostEstimate", "CostLineItem"]

HOURS_PER_MONTH = 730
"""A twelfth of a year, with which cloud providers convert hourly prices into monthly ones."""


@dataclass(frozen=True)
class CostLineItem:
    """One thing that costs money as long as it exists.

    Parameters
    ----------
    description : str
        What it is for: ``gcam``, ``scheduler``, ``public addresses of gcam``.
    quantity : Decimal
        How many units there are at a time.
    unit : str
        What is counted: ``vCPU``, ``GB``, ``c6i.large``.
    unit_price : Decimal or None
        Price of one unit for one hour; None if it is not known.
    currency : str
        ISO 4217 code.
    source : str
        Where the price is from; required with a price.
    as_of : date or None
        The day on which the source listed it; required with a price.

    Raises
    ------
    ValueError
        A number is negative or not finite, or a price has no source or no date.
    """

    description: str
    quantity: Decimal
    unit: str
    unit_price: Decimal | None = None
    currency: str = "USD"
    source: str = ""
    as_of: date | None = None

    def __post_init__(self) -> None:
        for number in (self.quantity, self.unit_price):
            if number is not None and not (number.is_finite() and number >= 0):
                raise ValueError(f"{self.description}: {number} is not a valid quantity or price")
        if self.unit_price is not None and not (self.source and self.as_of):
            raise ValueError(
                f"{self.description}: give the price its source and as_of, or None for unknown"
            )

    @property
    def hourly(self) -> Decimal | None:
        """Cost of one hour; None if the price is not known."""
        return None if self.unit_price is None else self.quantity * self.unit_price

    def __str__(self) -> str:
        what = f"{self.description}: {_format_number(self.quantity)} {self.unit}"
        if self.unit_price is None or self.hourly is None:
            return f"{what}, price unknown"
        return (
            f"{what} at {_format_number(self.unit_price)} {self.currency}/h = "
            f"{_format_number(self.hourly)} {self.currency}/h ({self.source}, {self.as_of})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the item as JSON values; numbers as text, so that none is rounded."""
        return {
            "description": self.description,
            "quantity": str(self.quantity),
            "unit": self.unit,
            "unit_price": None if self.unit_price is None else str(self.unit_price),
            "currency": self.currency,
            "source": self.source,
            "as_of": None if self.as_of is None else self.as_of.isoformat(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the item that `to_dict` has written."""
        price, as_of = data["unit_price"], data["as_of"]
        return cls(
            description=data["description"],
            quantity=Decimal(data["quantity"]),
            unit=data["unit"],
            unit_price=None if price is None else Decimal(price),
            currency=data["currency"],
            source=data["source"],
            as_of=None if as_of is None else date.fromisoformat(as_of),
        )


@dataclass(frozen=True)
class CostEstimate:
    """What a plan costs as long as it runs.

    Parameters
    ----------
    items : tuple of CostLineItem
        One per thing that costs money, including those without a known price. An empty tuple means that nothing
        costs money; a provider that does not know returns no estimate.
    notes : tuple of str
        What the estimate assumes or leaves out, one line each.

    Raises
    ------
    ValueError
        The items are in several currencies.
    """

    items: tuple[CostLineItem, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        currencies = {item.currency for item in self.items}
        if len(currencies) > 1:
            raise ValueError(
                f"an estimate has one currency, not {' and '.join(sorted(currencies))}"
            )

    @property
    def currency(self) -> str:
        """The currency of every item and sum."""
        return self.items[0].currency if self.items else "USD"

    @property
    def unknown(self) -> tuple[str, ...]:
        """The descriptions of the items without a known price."""
        return tuple(item.description for item in self.items if item.hourly is None)

    @property
    def known_hourly(self) -> Decimal:
        """Cost of one hour of the items whose price is known: a lower bound."""
        return sum((item.hourly for item in self.items if item.hourly is not None), Decimal(0))

    @property
    def hourly(self) -> Decimal | None:
        """Cost of one hour; None if a part of it is not known."""
        return None if self.unknown else self.known_hourly

    @property
    def monthly(self) -> Decimal | None:
        """Cost of 730 hours; None if a part of it is not known."""
        return None if self.hourly is None else self.hourly * HOURS_PER_MONTH

    def lines(self) -> list[str]:
        """Return the estimate as lines of text: one per item, the total, the notes."""
        return [*map(str, self.items), self._total(), *self.notes]

    def _total(self) -> str:
        known = self.known_hourly
        sums = (
            f"{_format_number(known)} {self.currency}/h, "
            f"{known * HOURS_PER_MONTH:.2f} {self.currency}/month of {HOURS_PER_MONTH} h"
        )
        if not self.unknown:
            return f"total: {sums}"
        at_least = f"at least {sums}; " if known else ""
        return f"total: {at_least}unknown: {', '.join(self.unknown)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON values, including its sums."""
        return {
            "currency": self.currency,
            "hourly": None if self.hourly is None else str(self.hourly),
            "monthly": None if self.monthly is None else str(self.monthly),
            "unknown": list(self.unknown),
            "items": [item.to_dict() for item in self.items],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the estimate that `to_dict` has written; its sums are computed from the items again."""
        return cls(
            items=tuple(CostLineItem.from_dict(item) for item in data["items"]),
            notes=tuple(data["notes"]),
        )


def _format_number(number: Decimal) -> str:
    """Return a number as text without exponent and without trailing zeros.

    Examples
    --------
    >>> _format_number(Decimal("0.3400")), _format_number(Decimal("4E+2"))
    ('0.34', '400')
    """
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
