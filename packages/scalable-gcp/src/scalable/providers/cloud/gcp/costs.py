"""What a plan costs, by the prices that are known. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from scalable.costing import CostEstimate
from scalable.providers.cloud.gcp.machines import Machine, machine_named
from scalable.providers.cloud.gcp.options import GCPOptions
from scalable.providers.cloud.gcp.prices import ADDRESS, disk_unit, gib_unit, gpu_unit, vcpu_unit
from scalable.providers.cloud.gcp.request import WorkerRequest
from scalable.providers.prices import Price, Prices, priced_item

__all__ = ["estimate"]

_NOTES = (
    "included: scheduler, workers, boot disks, external addresses; left out: data transfer, Cloud NAT, storage of "
    "images, and discounts, which Google gives for sustained and committed use",
)
_SPOT_NOTE = "prices of Spot machines change up to daily; the scheduler is on demand"


def estimate(
    options: GCPOptions,
    requests: Mapping[str, WorkerRequest],
    counts: Mapping[str, int],
    prices: Prices,
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
    prices : Prices
        The prices that are known.
    """
    region, spot = options.own_region, options.spot
    scheduler = machine_named(options.scheduler_machine_type)
    price = _machine_price(prices, region, scheduler, spot=False)
    items = [priced_item("scheduler", Decimal(1), scheduler.name, price)]
    for tag, request in requests.items():
        n, machine = counts.get(tag, 0), request.machine
        unit = f"{machine.name} (Spot)" if spot else machine.name
        price = _machine_price(prices, region, machine, spot=spot)
        items.append(priced_item(tag, Decimal(n), unit, price))
        if request.attached:
            kind, count = request.attached
            unit = gpu_unit(kind, spot=spot)
            quantity = Decimal(n * count)
            items.append(priced_item(f"{tag} GPUs", quantity, unit, prices.find(region, unit)))
    machines = [(scheduler, 1), *((r.machine, counts.get(tag, 0)) for tag, r in requests.items())]
    for kind in dict.fromkeys(machine.disk for machine, _ in machines):
        n = sum(n for machine, n in machines if machine.disk == kind)
        what = "disks" if kind == "pd-balanced" else f"disks, {kind}"
        disk = prices.find(region, disk_unit(kind))
        items.append(priced_item(what, Decimal(n * options.disk_gb), "GB", _rounded(disk)))
    n = sum(n for _, n in machines)
    if options.external_ips:
        address = prices.find(region, ADDRESS)
        items.append(priced_item("external addresses", Decimal(n), ADDRESS, address))
    return CostEstimate(tuple(items), (*_NOTES, *((_SPOT_NOTE,) if spot else ())))


def _machine_price(prices: Prices, region: str, machine: Machine, *, spot: bool) -> Price | None:
    """Return the price of a machine with its GPUs, as old as the oldest of its parts; None if one is not known."""
    vcpus = machine.vcpus if machine.paid_vcpus is None else machine.paid_vcpus
    if vcpus is None or machine.memory is None or machine.gpus is None or machine.rates is None:
        return None
    parts = {
        vcpu_unit(machine.rates, spot=spot): Decimal(vcpus),
        gib_unit(machine.rates, spot=spot): Decimal(machine.memory) / 2**30,
    }
    if machine.gpus:
        parts[gpu_unit(machine.gpu_type, spot=spot)] = Decimal(machine.gpus)
    usd, found = Decimal(0), []
    for unit, quantity in parts.items():
        price = prices.find(region, unit)
        if price is None:
            return None
        usd += price.usd * quantity
        found.append(price)
    return min(found, key=lambda each: each.as_of)._replace(usd=usd)


def _rounded(price: Price | None) -> Price | None:
    """Return a price of a part of a month without digits that nobody reads."""
    return price and price._replace(usd=round(price.usd, 8))
