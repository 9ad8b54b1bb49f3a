"""What a plan costs, by the prices that are known. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from scalable.costing import HOURS_PER_MONTH, CostEstimate, CostLineItem
from scalable.providers.cloud.gcp.machines import Machine, machine_named
from scalable.providers.cloud.gcp.options import GCPOptions
from scalable.providers.cloud.gcp.prices import ADDRESS, AS_OF, SOURCE, disk_rate, hourly_rate
from scalable.providers.cloud.gcp.request import WorkerRequest

__all__ = ["estimate"]

_NOTES = (
    "included: scheduler, workers, boot disks, external addresses; left out: data transfer, Cloud NAT, storage of "
    "images, and discounts, which Google gives for sustained and committed use",
)
_SPOT_NOTE = "prices of Spot machines change up to daily; the scheduler is on demand"


def estimate(
    options: GCPOptions, requests: Mapping[str, WorkerRequest], counts: Mapping[str, int]
) -> CostEstimate:
    """Return what scheduler and workers cost as machines with their disks.

    Parameters
    ----------
    options : GCPOptions
        The target's options.
    requests : mapping of str to WorkerRequest
        The workers of each group.
    counts : mapping of str to int
        How many there are.
    """
    region = options.own_region
    scheduler = machine_named(options.scheduler_machine_type)
    items = [_machines("scheduler", 1, scheduler, region)]
    for tag, request in requests.items():
        n = counts.get(tag, 0)
        items.append(_machines(tag, n, request.machine, region, spot=options.spot))
        if request.attached:
            kind, count = request.attached
            items.append(_item(f"{tag} GPUs", Decimal(n * count), kind, None))
    n = 1 + sum(counts.get(tag, 0) for tag in requests)
    disk = disk_rate(region)
    price = None if disk is None else round(disk / HOURS_PER_MONTH, 8)
    items.append(_item("disks", Decimal(n * options.disk_gb), "GB", price))
    if options.external_ips:
        items.append(_item("external addresses", Decimal(n), "address", ADDRESS))
    return CostEstimate(tuple(items), (*_NOTES, *((_SPOT_NOTE,) if options.spot else ())))


def _machines(
    what: str, n: int, machine: Machine, region: str, *, spot: bool = False
) -> CostLineItem:
    price = None
    if not machine.gpus and machine.gpus is not None:
        price = hourly_rate(region, machine.series, machine.vcpus, machine.memory, spot=spot)
    unit = f"{machine.name} (Spot)" if spot else machine.name
    return _item(what, Decimal(n), unit, price)


def _item(what: str, quantity: Decimal, unit: str, price: Decimal | None) -> CostLineItem:
    if price is None:
        return CostLineItem(what, quantity, unit)
    return CostLineItem(what, quantity, unit, price, source=SOURCE, as_of=AS_OF)
