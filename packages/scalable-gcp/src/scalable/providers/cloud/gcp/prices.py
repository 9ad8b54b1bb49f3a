"""Prices on demand and of spare capacity, with their source and day. Pure functions and data."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import NamedTuple

__all__ = [
    "ADDRESS",
    "AS_OF",
    "DISK_GB",
    "SOURCE",
    "Rate",
    "disk_rate",
    "has_rates",
    "hourly_rate",
    "machine_rate",
]

SOURCE = "Cloud Billing Catalog, by google-cloud-pricing-cost-calculator"
"""Where the prices are from: https://github.com/Cyclenerd/google-cloud-pricing-cost-calculator, pricing.yml."""
AS_OF = date(2026, 7, 30)
"""The day of the list."""

ADDRESS = Decimal("0.005")
"""An external IPv4 address in use, per hour, in USD."""
DISK_GB = {"pd-standard": Decimal("0.04"), "pd-balanced": Decimal("0.10")}
"""A GB of a disk per month, in USD, in the regions below."""


class Rate(NamedTuple):
    """What a machine of a series costs per hour, in USD: its vCPUs and its GiB.

    Parameters
    ----------
    vcpu, gib : Decimal
        One vCPU; one GiB.
    """

    vcpu: Decimal
    gib: Decimal


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


def _rates() -> dict[tuple[str, str, bool], Rate]:
    """Return the rates by region, series, and whether of spare capacity."""
    found = {}
    for line in _TABLE.split("\n"):
        series, *columns = line.split() or [""]
        numbers = iter(map(Decimal, columns))
        for regions in _REGIONS if series else ():
            for spot in (False, True):
                rate = Rate(next(numbers), next(numbers))
                found.update({(region, series, spot): rate for region in regions})
    return found


_RATES = _rates()


def machine_rate(region: str, series: str, *, spot: bool = False) -> Rate | None:
    """Return the rate of a series in a region; None if it is not known.

    Examples
    --------
    >>> machine_rate("us-central1", "e2").vcpu, machine_rate("us-central1", "a3")
    (Decimal('0.021812'), None)
    """
    return _RATES.get((region, series, spot))


def hourly_rate(
    region: str, series: str, vcpus: int | None, memory: int | None, *, spot: bool = False
) -> Decimal | None:
    """Return what a machine costs per hour, in USD; None if it is not known.

    Examples
    --------
    >>> round(hourly_rate("us-central1", "n2", 4, 16 * 2**30), 5)
    Decimal('0.19424')
    """
    rate = machine_rate(region, series, spot=spot)
    if rate is None or vcpus is None or memory is None:
        return None
    return rate.vcpu * vcpus + rate.gib * memory / 2**30


def disk_rate(region: str) -> Decimal | None:
    """Return what a GB of a machine's boot disk costs per month, in USD; None if it is not known."""
    return DISK_GB["pd-balanced"] if has_rates(region) else None


def has_rates(region: str) -> bool:
    """Return whether there are prices for a region."""
    return any(region in regions for regions in _REGIONS)
