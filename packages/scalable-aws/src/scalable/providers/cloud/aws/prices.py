"""Prices on demand, in USD per hour, with their sources. Nothing here is computed or guessed.

A region without an entry has no known price. Prices on spare capacity change by the hour, and are in no table.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["FARGATE", "PUBLIC_ADDRESS", "FargatePrice", "Price"]


class Price(NamedTuple):
    """A price of one unit for one hour.

    Parameters
    ----------
    usd : Decimal
        USD.
    source : str
        Where it is from.
    as_of : date
        The day on which it was looked up.
    """

    usd: Decimal
    source: str
    as_of: date


class FargatePrice(NamedTuple):
    """Prices of Fargate on Linux and x86 in one region."""

    vcpu: Price
    gb: Price


_AS_OF = date(2026, 11, 22)


def _fargate(vcpu: str, gb: str, source: str) -> FargatePrice:
    return FargatePrice(Price(Decimal(vcpu), source, _AS_OF), Price(Decimal(gb), source, _AS_OF))


FARGATE: Mapping[str, FargatePrice] = MappingProxyType(
    {
        "us-east-1": _fargate("0.04048", "0.004445", "vantage.sh, cloudburn.io, wring.co"),
        "us-west-2": _fargate("0.04048", "0.004445", "published estimates by AWS's price list"),
        "eu-west-1": _fargate("0.04048", "0.004445", "a bill of July 2026"),
        "eu-central-1": _fargate("0.04656", "0.00511", "AWS's price list of 2026-07-07"),
        "ap-northeast-1": _fargate("0.05056", "0.00553", "AWS's price list, as published"),
    }
)
"""Prices of Fargate by region. Regions on which public tables contradict each other are left out."""

PUBLIC_ADDRESS = Price(Decimal("0.005"), "a bill of July 2026", _AS_OF)
"""Price of a public IPv4 address, which is the same everywhere."""
