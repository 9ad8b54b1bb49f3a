"""What a plan costs, by the prices that are known. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal

from scalable.costing import CostEstimate, CostLineItem
from scalable.providers.cloud.aws.fargate import TaskSize
from scalable.providers.cloud.aws.options import AWSOptions
from scalable.providers.cloud.aws.prices import ADDRESS, GB, VCPU, VOLUME_GB
from scalable.providers.cloud.aws.request import WorkerRequest
from scalable.providers.prices import Prices, priced_item

__all__ = ["estimate_ec2", "estimate_fargate"]

_NOTES = (
    "included: scheduler, workers, public addresses; left out: logs, data transfer, NAT gateways, VPC endpoints, "
    "storage of images",
    "tasks are paid for by the second, from the pull of their image on, a minute at least",
)
_EC2_NOTES = (
    "included: scheduler, workers, volumes, public addresses; left out: logs, data transfer, NAT gateways, "
    "VPC endpoints, storage of images",
    "a volume is larger than volume_size where its machine image is",
)
_SPOT_NOTE = "prices of Fargate Spot change, and are not known here; the scheduler is on demand"


def estimate_fargate(
    options: AWSOptions,
    requests: Mapping[str, WorkerRequest],
    counts: Mapping[str, int],
    prices: Prices,
) -> CostEstimate:
    """Return what scheduler and workers cost as Fargate tasks of the sizes that are chosen for them.

    Parameters
    ----------
    options : AWSOptions
        The target's options. Without a region, nothing has a known price.
    requests : mapping of str to WorkerRequest
        The workers of each group.
    counts : mapping of str to int
        How many there are.
    prices : Prices
        The prices that are known.
    """
    size = TaskSize(options.scheduler_cpu, options.scheduler_mem)
    region = options.region
    items = [*_task_items("scheduler", size, 1, region, prices, spot=False)]
    for tag, request in requests.items():
        if request.task is not None:
            n = counts.get(tag, 0)
            items += _task_items(tag, request.task, n, region, prices, spot=options.spot)
    if options.public_ip:
        n = 1 + sum(counts.get(tag, 0) for tag in requests)
        address = prices.find(region, ADDRESS)
        items.append(priced_item("public addresses", Decimal(n), ADDRESS, address))
    return CostEstimate(tuple(items), (*_NOTES, *((_SPOT_NOTE,) if options.spot else ())))


def estimate_ec2(
    options: AWSOptions, machines: Mapping[str, str], counts: Mapping[str, int], prices: Prices
) -> CostEstimate:
    """Return what scheduler and workers cost as EC2 instances with their volumes.

    Parameters
    ----------
    options : AWSOptions
        The target's options. Without a region, only addresses have a known price.
    machines : mapping of str to str
        The type of instance of each group.
    counts : mapping of str to int
        How many there are.
    prices : Prices
        The prices that are known.
    """
    region = options.region
    if options.scheduler_type == "fargate":
        size = TaskSize(options.scheduler_cpu, options.scheduler_mem)
        items = [*_task_items("scheduler", size, 1, region, prices, spot=False)]
    else:
        scheduler = options.scheduler_instance_type
        items = [priced_item("scheduler", Decimal(1), scheduler, prices.find(region, scheduler))]
    for tag, machine in machines.items():
        price = None if options.spot else prices.find(region, machine)
        unit = f"{machine} (Spot)" if options.spot else machine
        items.append(priced_item(tag, Decimal(counts.get(tag, 0)), unit, price))
    workers = sum(counts.get(tag, 0) for tag in machines)
    instances = workers + (options.scheduler_type == "ec2")
    volume = prices.find(region, VOLUME_GB)
    items.append(priced_item("volumes", Decimal(instances * options.volume_size), "GB", volume))
    if options.public_ip:
        address = prices.find(region, ADDRESS)
        items.append(priced_item("public addresses", Decimal(1 + workers), ADDRESS, address))
    return CostEstimate(tuple(items), _EC2_NOTES)


def _task_items(
    what: str, size: TaskSize, n: int, region: str | None, prices: Prices, *, spot: bool
) -> Iterator[CostLineItem]:
    what = f"{what} ({n} of {size})"
    for part, quantity, unit in (("vCPU", size.vcpus, VCPU), ("memory", size.gb, GB)):
        price = None if spot else prices.find(region, unit)
        shown = f"{unit} Spot" if spot else unit
        yield priced_item(f"{what}, {part}", n * quantity, shown, price)
