"""What a plan costs, by the prices that its target names. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal

from scalable.costing import CostEstimate, CostLineItem
from scalable.providers.kubernetes.options import KubernetesOptions, Prices
from scalable.providers.kubernetes.request import WorkerRequest

__all__ = ["estimate"]

_GB = Decimal(10**9)


def estimate(
    options: KubernetesOptions, requests: Mapping[str, WorkerRequest], counts: Mapping[str, int]
) -> CostEstimate | None:
    """Return what scheduler and workers cost by what they request; None where the target names no prices.

    Parameters
    ----------
    options : KubernetesOptions
        The target's options.
    requests : mapping of str to WorkerRequest
        The workers of each group.
    counts : mapping of str to int
        How many there are.
    """
    prices = options.prices
    if prices is None:
        return None
    scheduler = Decimal(options.scheduler_cpu) / 1000, Decimal(options.scheduler_memory) / _GB
    items = [*_items(prices, "scheduler", *scheduler)]
    for tag, request in requests.items():
        requested = {
            name: amount * counts.get(tag, 0)
            for name, amount in request.pod_resources["requests"].items()
        }
        memory = requested.pop("memory", None)
        items += _items(prices, tag, requested.pop("cpu"), memory and memory / _GB)
        for name, amount in requested.items():
            is_gpu = name == request.options.gpu_resource
            what, unit = (f"{tag} GPUs", "GPU") if is_gpu else (f"{tag} {name}", name)
            items.append(CostLineItem(what, amount, unit, currency=prices.currency))
    return CostEstimate(tuple(items), ("what nodes cost beyond what pods request is not included",))


def _items(
    prices: Prices, what: str, cpus: Decimal, memory: Decimal | None
) -> Iterator[CostLineItem]:
    facts = {"currency": prices.currency, "source": prices.source}
    yield CostLineItem(what, cpus, "core", prices.cpu_hour, **facts, as_of=prices.as_of)
    if memory is not None:
        yield CostLineItem(
            f"{what} memory", memory, "GB", prices.gb_hour, **facts, as_of=prices.as_of
        )
