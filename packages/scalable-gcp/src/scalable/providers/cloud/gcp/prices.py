"""Prices on demand and of spare capacity, with their source and day. Pure functions and data.

A vCPU and a GiB of each series have a price of their own, as have GPUs, a GB of disk, and an address.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from functools import partial
from types import MappingProxyType

from scalable.costing import HOURS_PER_MONTH
from scalable.providers.prices import Price, PriceList

__all__ = [
    "ADDRESS",
    "DISK_GB",
    "PRICES",
    "disk_unit",
    "gib_unit",
    "gpu_unit",
    "price_of_table",
    "table_rate",
    "vcpu_unit",
]

# https://github.com/Cyclenerd/google-cloud-pricing-cost-calculator, pricing.yml of this day.
_price = partial(
    Price,
    source="Cloud Billing Catalog, by google-cloud-pricing-cost-calculator",
    as_of=date(2026, 7, 30),
)

ADDRESS = "IPv4 address"
"""Unit: an external address in use, whose price is the same everywhere."""
DISK_GB = "GB of pd-balanced"
"""Unit: a GB of the boot disk of most machines."""


def disk_unit(kind: str) -> str:
    """Return the unit of a GB of a disk of some type.

    Examples
    --------
    >>> disk_unit("pd-balanced") == DISK_GB
    True
    """
    return f"GB of {kind}"


def vcpu_unit(rates: str, *, spot: bool = False) -> str:
    """Return the unit of a vCPU.

    Examples
    --------
    >>> vcpu_unit("n2"), gib_unit("n2 custom", spot=True), gpu_unit("nvidia-l4")
    ('vCPU of n2', 'GiB of n2 custom (Spot)', 'nvidia-l4')
    """
    return _unit(f"vCPU of {rates}", spot)


def gib_unit(rates: str, *, spot: bool = False) -> str:
    """Return the unit of a GiB of memory."""
    return _unit(f"GiB of {rates}", spot)


def gpu_unit(kind: str, *, spot: bool = False) -> str:
    """Return the unit of a GPU of this type."""
    return _unit(kind, spot)


def _unit(what: str, spot: bool) -> str:
    return f"{what} (Spot)" if spot else what


# Series: on demand and spot, each vCPU and GiB, for us-central1 = us-east1 = us-west1, europe-west1 and asia-east1.
_TABLE = """
e2  0.021812 0.002924 0.013090 0.001754 0.023993 0.003216 0.011620 0.001558 0.025255 0.003385 0.013200 0.001769
n1  0.031611 0.004237 0.011150 0.001494 0.034773 0.004661 0.014500 0.001944 0.036602 0.004906 0.007160 0.000960
n2  0.031611 0.004237 0.014990 0.002010 0.034773 0.004661 0.007630 0.001023 0.036602 0.004906 0.013600 0.001823
n2d 0.027502 0.003686 0.007960 0.001067 0.030253 0.004055 0.013130 0.001760 0.031844 0.004268 0.016700 0.002239
n4  0.031190 0.003540 0.015400 0.001748 0.034343 0.003898 0.005060 0.000574 0.036115 0.004099 0.018910 0.002146
c2d 0.029563 0.003959 0.009930 0.001330 0.032551 0.004359 0.004170 0.000559 0.034231 0.004584 0.007480 0.001002
c3  0.034650 0.003938 0.008490 0.000965 0.038153 0.004336 0.014570 0.001656 0.040121 0.004560 0.009690 0.001101
c3d 0.029563 0.003959 0.006590 0.000882 0.032552 0.004359 0.008390 0.001124 0.034231 0.004584 0.012420 0.001663
c4  0.034650 0.003938 0.020790 0.002363 0.038153 0.004336 0.020920 0.002377 0.040121 0.004560 0.021900 0.002489
"""
_REGIONS = (("us-central1", "us-east1", "us-west1"), ("europe-west1",), ("asia-east1",))


def _table() -> Mapping[tuple[str, str], Price]:
    """Return prices by region and unit."""
    everywhere = [region for regions in _REGIONS for region in regions]
    disk = _price(Decimal("0.10") / HOURS_PER_MONTH)
    found = {(region, DISK_GB): disk for region in everywhere}
    for line in _TABLE.strip().split("\n"):
        series, *columns = line.split()
        numbers = iter(map(Decimal, columns))
        for regions in _REGIONS:
            for spot in (False, True):
                for unit in (vcpu_unit(series, spot=spot), gib_unit(series, spot=spot)):
                    price = _price(next(numbers))
                    found.update({(region, unit): price for region in regions})
    return MappingProxyType(found)


_BY_UNIT = _table()


def price_of_table(region: str, unit: str) -> Price | None:
    """Return the price of a unit in a region, as this version has it; None if it has none.

    Examples
    --------
    >>> price_of_table("us-central1", "vCPU of e2").usd, price_of_table("us-central1", "vCPU of a3")
    (Decimal('0.021812'), None)
    """
    return _price(Decimal("0.005")) if unit == ADDRESS else _BY_UNIT.get((region, unit))


def table_rate(series: str, vcpus: int | None, memory: int | None) -> Decimal | None:
    """Return what a machine costs per hour in us-central1, in USD, by this version; None if it is not known.

    Examples
    --------
    >>> round(table_rate("n2", 4, 16 * 2**30), 5)
    Decimal('0.19424')
    """
    vcpu = price_of_table("us-central1", vcpu_unit(series))
    gib = price_of_table("us-central1", gib_unit(series))
    if vcpu is None or gib is None or vcpus is None or memory is None:
        return None
    return vcpu.usd * vcpus + gib.usd * memory / 2**30


PRICES = PriceList("gcp", price_of_table)
"""The prices of this version, and the file in which this user keeps newer ones."""
