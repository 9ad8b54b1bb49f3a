"""The prices that Google lists now, as its Cloud Billing Catalog API answers.

Of the products of Compute Engine, those are kept that a run can use: vCPUs and memory of the series that are known
here, on demand and of spare capacity, GPUs, and balanced disks. The price of an address is that of this version.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from scalable.costing import HOURS_PER_MONTH
from scalable.errors import ProviderError
from scalable.providers.base import RefreshedPrices
from scalable.providers.cloud.gcp.api import GceError, GceUnreachableError
from scalable.providers.cloud.gcp.prices import DISK_GB, PRICES, gib_unit, gpu_unit, vcpu_unit
from scalable.providers.cloud.gcp.refusals import explain_refusal
from scalable.providers.prices import Price

if TYPE_CHECKING:
    from scalable.providers.cloud.gcp.api import GceApi
    from scalable.providers.cloud.gcp.options import GCPOptions

__all__ = ["refresh_prices"]

_SOURCE = "Google's Cloud Billing Catalog API"

# https://cloud.google.com/billing/v1/how-tos/catalog-api: the id of Compute Engine, and the largest page.
_PRODUCTS = "/v1/services/6F81-5844-456A/skus"
_QUERY = {"currencyCode": "USD", "pageSize": "5000"}

_RATES = {
    "A2 Instance": "a2",
    "C2D AMD Instance": "c2d",
    "C3 Instance": "c3",
    "C3D Instance": "c3d",
    "C4 Instance": "c4",
    "C4D Instance": "c4d",
    "Compute optimized": "c2",
    "Custom Instance": "n1 custom",
    "E2 Instance": "e2",
    "G2 Instance": "g2",
    "N1 Predefined Instance": "n1",
    "N2 Custom Instance": "n2 custom",
    "N2 Instance": "n2",
    "N2D AMD Custom Instance": "n2d custom",
    "N2D AMD Instance": "n2d",
    "N4 Custom Instance": "n4 custom",
    "N4 Instance": "n4",
    "T2D AMD Instance": "t2d",
}
"""Series by the words with which descriptions of products begin. Other words mean other offers: ``Sole Tenancy``."""

_GPUS = {"L4": "nvidia-l4", "Tesla A100": "nvidia-tesla-a100", "Tesla T4": "nvidia-tesla-t4"}

_MACHINE = re.compile(r"(Spot Preemptible )?(.+) (Core|Ram) running in .+")
_GPU = re.compile(r"Nvidia (.+) GPU (running in|attached to Spot Preemptible VMs running in) .+")
_DISK = re.compile(r"Balanced PD Capacity(?: in .+)?")


def _all_units() -> list[str]:
    rates = sorted({*_RATES.values()})
    return [
        *(
            unit(each, spot=spot)
            for each in rates
            for spot in (False, True)
            for unit in (vcpu_unit, gib_unit)
        ),
        *(gpu_unit(each, spot=spot) for each in _GPUS.values() for spot in (False, True)),
        DISK_GB,
    ]


async def refresh_prices(api: GceApi, targets: Sequence[GCPOptions]) -> RefreshedPrices:
    """Fetch the prices of the targets' regions from Google, and save them for this user.

    Raises
    ------
    ProviderNotSetUpError
        There are no credentials.
    ProviderError
        There is no region, or Google refuses, is not reached, or lists nothing for a region. Nothing was saved.
    OSError
        The prices cannot be saved.
    """
    regions = sorted({options.own_region for options in targets} - {""})
    if not regions:
        raise ProviderError("no region is known; name one by --region")
    products = await _fetch(api)
    try:
        found = _read(products, regions)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        what = f"{type(error).__name__}: {error}"
        message = f"Google lists its prices in a form that this version cannot read ({what})"
        raise ProviderError(message) from error
    for region in regions:
        if not any(place == region for place, _ in found):
            raise ProviderError(f"Google lists no prices for {region!r}; is there such a region?")
    today = date.today()
    # Where two products contradict each other, it is not known which one holds.
    known = {key: Price(usd.pop(), _SOURCE, today) for key, usd in found.items() if len(usd) == 1}
    return PRICES.save(regions, _all_units(), known)


async def _fetch(api: GceApi) -> list[Mapping[str, Any]]:
    try:
        found: list[Mapping[str, Any]] = []
        query = {**_QUERY}
        while True:
            page = await api.rest("cloudbilling", "GET", f"{_PRODUCTS}?{urlencode(query)}")
            found += page.get("skus", [])
            if not page.get("nextPageToken"):
                return found
            query["pageToken"] = page["nextPageToken"]
    except GceError as error:
        told = explain_refusal(error, service="cloudbilling")
        remedy = f"; {told.remedy}" if told.remedy else ""
        message = f"Google does not tell its prices: {told.summary}{remedy}"
        raise ProviderError(message) from error
    except GceUnreachableError as error:
        raise ProviderError(f"Google does not tell its prices: {error}") from error


def _read(
    products: Iterable[Mapping[str, Any]], regions: Sequence[str]
) -> dict[tuple[str, str], set[Decimal]]:
    """Return the prices of each unit for one hour, by region and unit, of products as JSON."""
    found: dict[tuple[str, str], set[Decimal]] = {}
    for product in products:
        here = [region for region in regions if region in product["serviceRegions"]]
        unit = _unit(product["description"], product["category"]["usageType"]) if here else None
        usd = _hourly(product["pricingInfo"]) if unit else None
        if unit and usd:
            for region in here:
                found.setdefault((region, unit), set()).add(usd)
    return found


def _unit(description: str, usage: str) -> str | None:
    """Return the unit that a product means; None if a run has no use for it.

    Examples
    --------
    >>> _unit("Spot Preemptible N2D AMD Instance Ram running in Frankfurt", "Preemptible")
    'GiB of n2d (Spot)'
    >>> _unit("Nvidia L4 GPU attached to Spot Preemptible VMs running in Americas", "Preemptible")
    'nvidia-l4 (Spot)'
    >>> _unit("N2 Sole Tenancy Instance Core running in Americas", "OnDemand")
    """
    if _DISK.fullmatch(description):
        return DISK_GB if usage == "OnDemand" else None
    spot = usage == "Preemptible"
    if gpu := _GPU.fullmatch(description):
        name = _GPUS.get(gpu[1])
        return gpu_unit(name, spot=spot) if name and spot == gpu[2].startswith("attached") else None
    machine = _MACHINE.fullmatch(description)
    if machine is None or spot != bool(machine[1]) or usage not in ("OnDemand", "Preemptible"):
        return None
    rates = _RATES.get(machine[2])
    unit = vcpu_unit if machine[3] == "Core" else gib_unit
    return unit(rates, spot=spot) if rates else None


def _hourly(pricing: Sequence[Mapping[str, Any]]) -> Decimal | None:
    """Return a price for one hour; None if it is for something else, not in USD, or depends on the quantity."""
    expression = pricing[-1]["pricingExpression"]
    amounts = set()
    for tier in expression["tieredRates"]:
        price = tier["unitPrice"]
        if price["currencyCode"] != "USD":
            return None
        amounts.add(Decimal(price.get("units") or 0) + Decimal(price.get("nanos") or 0) / 10**9)
    amounts.discard(Decimal(0))  # a free part of an offer
    if len(amounts) != 1:
        return None
    usd = amounts.pop()
    hours = {"h": 1, "GiBy.h": 1, "GiBy.mo": HOURS_PER_MONTH}.get(expression["usageUnit"])
    return usd / hours if hours else None
