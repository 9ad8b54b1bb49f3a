"""Prices on demand, in USD per hour, with their sources. Nothing here is guessed.

A region without an entry has no known price. Prices on spare capacity change by the hour, and are in no table.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from types import MappingProxyType
from typing import NamedTuple

from scalable.providers.prices import Price, PriceList

__all__ = [
    "ADDRESS",
    "FARGATE",
    "GB",
    "HOURS_OF_A_MONTH",
    "PRICES",
    "PUBLIC_ADDRESS",
    "VCPU",
    "VOLUME",
    "VOLUME_GB",
    "FargatePrice",
    "instance_price",
    "price_of_table",
]

VCPU, GB = "vCPU of Fargate", "GB of Fargate"
VOLUME_GB = "GB of gp3"
ADDRESS = "IPv4 address"
"""Units that have a price. Types of instances are the others, by their names."""


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

_SKYPILOT = "SkyPilot's catalogue of AWS's price list"
_TABLES = "public tables that agree"

# The price of a size is proportional to its vCPUs; `large` has two.
_LARGE: Mapping[str, Mapping[str, Price]] = MappingProxyType(
    {
        family: MappingProxyType(
            {
                region: Price(Decimal(usd), source, _AS_OF)
                for region, usd in zip(("us-east-1", "us-west-2", "eu-west-1"), prices, strict=True)
            }
        )
        for family, prices, source in (
            ("c6i", ("0.085", "0.085", "0.0912"), _SKYPILOT),
            ("m6i", ("0.096", "0.096", "0.107"), _TABLES),
            ("r5", ("0.126", "0.126", "0.141"), _TABLES),
            ("t3", ("0.0832", "0.0832", "0.0912"), _TABLES),
        )
    }
)

HOURS_OF_A_MONTH = 730

VOLUME: Mapping[str, Price] = MappingProxyType(
    {
        region: Price(Decimal(usd) / HOURS_OF_A_MONTH, _TABLES, _AS_OF)
        for region, usd in (("us-east-1", "0.08"), ("us-west-2", "0.08"), ("eu-west-1", "0.088"))
    }
)
"""Prices of one GB of a gp3 volume for one hour, by region."""

_OF_LARGE = {"medium": Decimal("0.5"), "large": Decimal(1), "xlarge": Decimal(2)}


def instance_price(machine: str, region: str) -> Price | None:
    """Return the price of a type of instance on demand; None if it is not known.

    Examples
    --------
    >>> instance_price("c6i.4xlarge", "us-east-1").usd, instance_price("p5.48xlarge", "us-east-1")
    (Decimal('0.680'), None)
    """
    family, _, size = machine.partition(".")
    large = _LARGE.get(family, {}).get(region)
    times = _OF_LARGE.get(size)
    if times is None and size.endswith("xlarge") and size.removesuffix("xlarge").isdecimal():
        times = Decimal(size.removesuffix("xlarge")) * 2
    if large is None or times is None:
        return None
    return large._replace(usd=large.usd * times)


def price_of_table(region: str, unit: str) -> Price | None:
    """Return the price of a unit in a region, as this version has it; None if it has none.

    Examples
    --------
    >>> price_of_table("us-east-1", VCPU).usd, price_of_table("us-east-1", "p5.48xlarge")
    (Decimal('0.04048'), None)
    """
    if unit == ADDRESS:
        return PUBLIC_ADDRESS
    if unit == VOLUME_GB:
        return VOLUME.get(region)
    if unit in (VCPU, GB):
        fargate = FARGATE.get(region)
        return fargate and (fargate.vcpu if unit == VCPU else fargate.gb)
    return instance_price(unit, region)


PRICES = PriceList("aws", price_of_table)
"""The prices of this version, and the file in which this user keeps newer ones."""
