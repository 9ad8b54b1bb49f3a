"""What a run has cost, by the time for which its workers had machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from scalable.providers.base import EstimatesCost

if TYPE_CHECKING:
    from scalable.costing import CostEstimate
    from scalable.providers.base import DeploymentProvider, DeploymentSpec, ScalePlan

__all__ = ["actual_cost"]

_CENT = Decimal("0.0001")


def actual_cost(
    provider: DeploymentProvider,
    spec: DeploymentSpec,
    plan: ScalePlan,
    worker_hours: Mapping[str, float],
    hours: float,
) -> dict[str, Any]:
    """Return what a run has cost as JSON values, beside the estimate of its plan; empty where nothing has a price.

    Parameters
    ----------
    provider, spec
        The provider of the target, and the target.
    plan : ScalePlan
        The workers with which the run has started.
    worker_hours : mapping of str to float
        The hours for which the workers of each group had machines.
    hours : float
        Hours for which the cluster was there, for what costs money beside workers.

    Returns
    -------
    dict
        ``currency``; ``estimated_hourly`` of the plan; ``components``, the cost of each; ``rest``, of what is beside
        workers; ``actual``, the sum; and ``unknown``, the things without a known price, for which the sum has nothing.
        Amounts are text; None where nothing of it is known.
    """
    if not isinstance(provider, EstimatesCost):
        return {}
    planned = provider.estimate_cost(spec, plan)
    none = dict.fromkeys(worker_hours, 0)
    empty = replace(plan, workers_by_tag=none, ranges_by_tag={})
    beside = provider.estimate_cost(spec, empty)
    if planned is None or beside is None:
        return {}
    rest, unknown = _known(beside, hours), [*_unknown(beside)]
    components: dict[str, Decimal | None] = {}
    for tag, each in worker_hours.items():
        one = provider.estimate_cost(spec, replace(empty, workers_by_tag={**none, tag: 1}))
        if one is None:
            continue
        hourly = one.known_hourly - beside.known_hourly
        missing = _unknown(one) - _unknown(beside)
        components[tag] = hourly * Decimal(each) if hourly or not missing else None
        unknown += [what for what in missing if each]
    known = [cost for cost in (rest, *components.values()) if cost is not None]
    return {
        "currency": planned.currency,
        "estimated_hourly": None if planned.hourly is None else str(planned.hourly),
        "components": {tag: _text(cost) for tag, cost in components.items()},
        "rest": _text(rest),
        "actual": _text(sum(known, Decimal(0)) if known else None),
        "unknown": sorted({*unknown}),
    }


def _known(estimate: CostEstimate, hours: float) -> Decimal | None:
    """Return the cost of some hours; None if nothing is known of it, or there is nothing."""
    return estimate.known_hourly * Decimal(hours) if estimate.known_hourly else None


def _unknown(estimate: CostEstimate) -> set[str]:
    """Return what has no price, of that which there is."""
    return {item.description for item in estimate.items if item.hourly is None and item.quantity}


def _text(cost: Decimal | None) -> str | None:
    return None if cost is None else f"{cost.quantize(_CENT):f}"
