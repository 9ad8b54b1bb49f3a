"""The prices that AWS lists now, as its Price List API answers.

Of the products of a region, those are asked for that a run can use: Fargate on Linux and x86, instances of Linux on
demand, gp3 volumes and public addresses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from scalable.errors import ProviderError
from scalable.providers.base import RefreshedPrices
from scalable.providers.cloud.aws.api import AwsError, AwsUnreachableError
from scalable.providers.cloud.aws.machines import MACHINES, OTHERS
from scalable.providers.cloud.aws.prices import (
    ADDRESS,
    GB,
    HOURS_OF_A_MONTH,
    PRICES,
    VCPU,
    VOLUME_GB,
)
from scalable.providers.cloud.aws.refusals import explain_refusal
from scalable.providers.prices import Price

if TYPE_CHECKING:
    from scalable.providers.cloud.aws.api import AwsApi
    from scalable.providers.cloud.aws.options import AWSOptions

__all__ = ["refresh_prices"]

# The API has few endpoints, and each answers for all regions:
# https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-query-api.html
_ENDPOINT = "us-east-1"
_SOURCE = "AWS's Price List API"


# There is a row for each type of instance: in pages, they take fewer calls than a question for each type.
_QUESTIONS: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("AmazonECS", {"productFamily": "Compute"}),
    (
        "AmazonEC2",
        {
            "operatingSystem": "Linux",
            "tenancy": "Shared",
            "preInstalledSw": "NA",
            "capacitystatus": "Used",
            "marketoption": "OnDemand",
        },
    ),
    ("AmazonEC2", {"productFamily": "Storage", "volumeApiName": "gp3"}),
    ("AmazonVPC", {"group": "VPCPublicIPv4Address"}),
)
"""Services, and what attributes of their products are to be."""

_UNITS = {
    "Fargate-vCPU-Hours:perCPU": VCPU,
    "Fargate-GB-Hours": GB,
    "EBS:VolumeUsage.gp3": VOLUME_GB,
    "PublicIPv4:InUseAddress": ADDRESS,
}
"""Units by the kind of usage. Other kinds of capacity have others: ``Fargate-ARM-GB-Hours``, ``SpotUsage:…``."""

_INSTANCE = "BoxUsage:"
_REGION = re.compile(r"^[A-Z0-9]+-")
"""What kinds of usage begin with, but for many in us-east-1: ``EUC1-``."""


async def refresh_prices(api: AwsApi, targets: Sequence[AWSOptions]) -> RefreshedPrices:
    """Fetch the prices of the targets' regions from AWS, and save them for this user.

    Raises
    ------
    ProviderNotSetUpError
        There are no credentials, or no region.
    ProviderError
        AWS refuses, is not reached, or lists nothing for a region. Nothing was saved.
    OSError
        The prices cannot be saved.
    """
    await api.check_credentials()
    regions = sorted({options.region or api.region for options in targets})
    named = {t for o in targets for t in (o.instance_type, o.scheduler_instance_type) if t}
    machines = [each.name for each in (*MACHINES, *OTHERS)]
    units = dict.fromkeys((VCPU, GB, VOLUME_GB, ADDRESS, *machines, *sorted(named)))
    today = date.today()
    found: dict[tuple[str, str], Price] = {}
    for region in regions:
        listed = await _ask(api, region, units)
        if not listed:
            raise ProviderError(f"AWS lists no prices for {region!r}; is there such a region?")
        found |= {(region, unit): Price(usd, _SOURCE, today) for unit, usd in listed.items()}
    return PRICES.save(regions, [*units], found)


async def _ask(api: AwsApi, region: str, units: Collection[str]) -> dict[str, Decimal]:
    rows: list[str] = []
    try:
        for service, wanted in _QUESTIONS:
            filters = [
                {"Type": "TERM_MATCH", "Field": field, "Value": value}
                for field, value in {"regionCode": region, **wanted}.items()
            ]
            question = {"ServiceCode": service, "Filters": filters}
            rows += await api.pages_in(_ENDPOINT, "pricing", "GetProducts", "PriceList", **question)
    except AwsError as error:
        raise ProviderError(f"AWS does not tell its prices: {explain_refusal(error)}") from error
    except AwsUnreachableError as error:
        raise ProviderError(f"AWS does not tell its prices: {error}") from error
    try:
        found = _read(rows)
    except (ValueError, KeyError, TypeError, AttributeError, InvalidOperation) as error:
        what = f"{type(error).__name__}: {error}"
        message = f"AWS lists prices of {region} in a form that this version cannot read ({what})"
        raise ProviderError(message) from error
    # Where two rows contradict each other, it is not known which one holds.
    return {unit: next(iter(usd)) for unit, usd in found.items() if unit in units and len(usd) == 1}


def _read(rows: Iterable[str]) -> dict[str, set[Decimal]]:
    """Return the prices of each unit for one hour, of products as JSON."""
    found: dict[str, set[Decimal]] = {}
    for product in map(json.loads, rows):
        unit = _unit(product["product"]["attributes"].get("usagetype", ""))
        for term in product["terms"].get("OnDemand", {}).values():
            for dimension in term["priceDimensions"].values():
                usd = _hourly(dimension)
                if unit and usd:  # what costs nothing is a part of an offer, and no price
                    found.setdefault(unit, set()).add(usd)
    return found


def _unit(usage: str) -> str | None:
    """Return the unit that a kind of usage means; None if a run has no use for it.

    Examples
    --------
    >>> _unit("EUC1-Fargate-GB-Hours"), _unit("BoxUsage:c6i.large"), _unit("EUC1-Fargate-ARM-GB-Hours")
    ('GB of Fargate', 'c6i.large', None)
    """
    kind = _REGION.sub("", usage)
    return kind.removeprefix(_INSTANCE) if kind.startswith(_INSTANCE) else _UNITS.get(kind)


def _hourly(dimension: Mapping[str, Any]) -> Decimal | None:
    """Return a price for one hour; None if it is for something else, or not in USD."""
    usd = dimension["pricePerUnit"].get("USD")
    if usd is None:
        return None
    if dimension["unit"] == "GB-Mo":
        return Decimal(usd) / HOURS_OF_A_MONTH
    hourly = dimension["unit"].lower().endswith(("hrs", "hours"))
    return Decimal(usd).normalize() if hourly else None
