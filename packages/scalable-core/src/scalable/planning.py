"""How many workers each group gets, as a plan that is made before anything is started.

Everything here depends on the manifest alone: no clock, no environment, no network. The same manifest gives the same
plan, byte for byte, and a plan has none of the values that the manifest has from the environment. Prices are those that
the provider has on this machine; each names its source and date.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import Any, NamedTuple, Self

from scalable.cluster.adaptive import AdaptivePolicy
from scalable.cluster.budget import Budget, largest_counts
from scalable.costing import CostEstimate
from scalable.errors import LimitExceededError, ValidationFailedError
from scalable.manifest.issues import ValidationIssue, ValidationReport
from scalable.manifest.lock import manifest_lock
from scalable.manifest.references import References, find_unknown_tags
from scalable.manifest.schema import ComponentConfig
from scalable.providers.base import (
    DeploymentProvider,
    DeploymentSpec,
    EstimatesCost,
    PlansScale,
    ResourceRequest,
    ScalePlan,
)
from scalable.providers.options import Limits, TargetOptions, WorkerRange, common_options

__all__ = [
    "GroupSize",
    "Plan",
    "build_plan",
    "check_counts",
    "check_limits",
    "component_request",
    "describe_limits",
    "estimate_cost",
    "group_size",
    "most_expensive_plan",
    "plan_budget",
    "scale_plan",
]

_FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """What a run of one target would start.

    Parameters
    ----------
    target : str
        The target.
    provider : str
        The name of its provider.
    manifest_lock : str
        SHA-256 of the merged, unexpanded manifest.
    scale_plan : ScalePlan
        How many workers each group starts with, and the range of each adaptive group.
    components_by_task : mapping of str to str
        The component that runs each manifest task.
    cost : CostEstimate or None
        The cost of the workers that it starts with; None if the provider has no prices.
    """

    target: str
    provider: str
    manifest_lock: str
    scale_plan: ScalePlan
    components_by_task: Mapping[str, str]
    cost: CostEstimate | None = None

    def to_json(self) -> str:
        """Return the plan as text; equal plans give equal texts."""
        document = {
            "format": _FORMAT,
            "target": self.target,
            "provider": self.provider,
            "manifest_lock": self.manifest_lock,
            "scale_plan": asdict(self.scale_plan),
            "components_by_task": dict(self.components_by_task),
            "cost": None if self.cost is None else self.cost.to_dict(),
        }
        return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the plan that `to_json` has written.

        Raises
        ------
        ValueError
            The text is not a plan, or is one of another format.
        """
        try:
            document = json.loads(text)
            if document["format"] != _FORMAT:
                raise ValueError(document["format"])
            cost = document["cost"]
            return cls(
                target=document["target"],
                provider=document["provider"],
                manifest_lock=document["manifest_lock"],
                scale_plan=_read_scale_plan(document["scale_plan"]),
                components_by_task=document["components_by_task"],
                cost=None if cost is None else CostEstimate.from_dict(cost),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"this is not a plan of format {_FORMAT}; make one with `scalable plan --json`"
            ) from error


def build_plan(spec: DeploymentSpec, provider: DeploymentProvider) -> Plan:
    """Return the plan of one target.

    Parameters
    ----------
    spec : DeploymentSpec
        The target, which its provider has validated.
    provider : DeploymentProvider
        Its provider, whose `plan_scale` and `estimate_cost` are used if it has them.

    Raises
    ------
    ValidationFailedError
        The counts are not valid, or contradict each other.
    """
    if isinstance(provider, PlansScale):
        scale = provider.plan_scale(spec)
    else:
        options, issues = common_options(spec)
        if options is None:
            raise ValidationFailedError(ValidationReport.of(issues))
        scale = scale_plan(spec, options)
    return Plan(
        target=spec.target_name,
        provider=provider.name,
        manifest_lock=manifest_lock(spec.raw_manifest),
        scale_plan=scale,
        components_by_task=spec.components_by_task,
        cost=estimate_cost(spec, provider, scale),
    )


def scale_plan(
    spec: DeploymentSpec,
    options: TargetOptions,
    request: Callable[[ComponentConfig], ResourceRequest] | None = None,
) -> ScalePlan:
    """Return the size of each group, from the counts of a target.

    A component's count in `workers` takes precedence; then `adaptive`, which starts with `n_workers` or its minimum;
    then `n_workers`; then 1. With `max_workers` alone, every group adapts between 0 and that number.

    Parameters
    ----------
    spec : DeploymentSpec
        The target.
    options : TargetOptions
        Its options.
    request : callable, optional
        Returns the resources of one worker of a component; by default `component_request`.

    Raises
    ------
    ValidationFailedError
        `check_counts` finds an error.
    """
    report = ValidationReport.of(check_counts(spec, options))
    if not report.ok:
        raise ValidationFailedError(report)
    sizes = _group_sizes(spec, options)
    return ScalePlan(
        workers_by_tag={tag: size.initial for tag, size in sizes.items()},
        resources_by_tag={
            tag: (request or component_request)(component)
            for tag, component in spec.components.items()
        },
        ranges_by_tag={
            tag: (size.minimum, size.maximum) for tag, size in sizes.items() if size.adaptive
        },
        max_workers=options.max_workers,
        policies_by_tag={tag: size.policy for tag, size in sizes.items() if size.policy},
    )


def component_request(component: ComponentConfig) -> ResourceRequest:
    """Return the resources that a component specifies, without what its target adds."""
    return ResourceRequest(component.cpus, component.memory, gpus=component.gpus or None)


def check_counts(spec: DeploymentSpec, options: TargetOptions) -> Iterator[ValidationIssue]:
    """Yield counts of unknown groups, and counts that contradict each other or leave a group without workers."""
    if isinstance(options.workers, Mapping):
        names = References.of_manifest(spec.manifest)
        place = spec.manifest.place(("targets", spec.target_name))
        yield from find_unknown_tags(spec.target_name, options.workers, names, place)
    bounds, start = options.adaptive, options.n_workers
    if bounds and start is not None and not bounds.minimum <= start <= bounds.maximum:
        message = (
            "must lie between the minimum and the maximum of adaptive, because groups start with it"
        )
        yield spec.option_issue("n_workers", "E_OUT_OF_RANGE", message)
    if options.max_workers is not None:
        yield from _check_cap(spec, _group_sizes(spec, options), options.max_workers)


def _check_cap(
    spec: DeploymentSpec, sizes: Mapping[str, GroupSize], cap: int
) -> Iterator[ValidationIssue]:
    """Yield counts that exceed the cap on the total, and groups for which it leaves no worker."""
    too_large = {size.option_path for size in sizes.values() if size.initial > cap}
    total = sum(size.initial for size in sizes.values())
    minimum_total = sum(size.minimum for size in sizes.values())
    from_zero = [tag for tag, size in sizes.items() if not size.minimum and size.maximum]
    if too_large:
        for path in sorted(too_large):
            message = "is above max_workers; raise max_workers or ask for fewer"
            yield spec.option_issue(path, "E_ABOVE_MAX_WORKERS", message)
    elif total > cap:
        message = f"the groups start with {total} workers in total; raise it or ask for fewer"
        yield spec.option_issue("max_workers", "E_ABOVE_MAX_WORKERS", message)
        return
    elif from_zero and minimum_total >= cap:
        others = f"the other groups always have {minimum_total} workers"
        message = f"leaves no worker for {', '.join(from_zero)}, because {others}; raise it"
        yield spec.option_issue("max_workers", "E_NO_ROOM", message)
        return
    if len(from_zero) > 1 and cap == 1:
        # A draining worker moves its results to another worker, and here there never is another one.
        message = (
            "gives the groups one worker in turns, which cannot move its results to the next one; "
            "set it to 2, or let the workflow gather results and release their futures in between"
        )
        yield spec.option_issue("max_workers", "W_ONE_WORKER", message, "warning")


def check_limits(spec: DeploymentSpec, provider: DeploymentProvider, plan: ScalePlan) -> None:
    """Raise an error if a plan may have more workers, or cost more, than its target allows.

    The largest size counts, with adaptive groups at their maximum. A cost that is not known cannot be shown to be
    within a limit.

    Raises
    ------
    LimitExceededError
        A `ValueError`: the plan may exceed a limit, or its cost is not known.
    """
    options, _ = common_options(spec)
    if options is None:
        return
    limits, where = options.limits, f"targets.{spec.target_name}.limits"
    largest = most_expensive_plan(spec, provider, plan)
    workers = sum(largest.workers_by_tag.values())
    if limits.max_workers is not None and workers > limits.max_workers:
        raise LimitExceededError(
            f"the plan may have {workers} workers, which is above {where}.max_workers; "
            f"ask for fewer, set `max_workers: {limits.max_workers}` for the target, or raise the limit"
        )
    estimate = estimate_cost(spec, provider, largest)
    if estimate is None:
        return
    allowed = limits.max_hourly_cost
    if allowed is not None and estimate.known_hourly > allowed:
        raise LimitExceededError(
            f"the plan may cost {estimate.known_hourly:.2f} {estimate.currency}/h, "
            f"which is above {where}.max_hourly_cost; ask for fewer workers or raise the limit"
        )
    name = "max_cost" if allowed is None else "max_hourly_cost"
    if estimate.unknown and (allowed is not None or limits.max_cost is not None):
        raise LimitExceededError(
            f"{where}.{name} cannot be enforced, because the price of {', '.join(estimate.unknown)} is unknown; "
            "choose what has a price or remove the limit"
        )


def estimate_cost(
    spec: DeploymentSpec, provider: DeploymentProvider, plan: ScalePlan
) -> CostEstimate | None:
    """Return the cost of the workers that a plan starts with; None if the provider has no prices."""
    return provider.estimate_cost(spec, plan) if isinstance(provider, EstimatesCost) else None


def most_expensive_plan(
    spec: DeploymentSpec, provider: DeploymentProvider, plan: ScalePlan
) -> ScalePlan:
    """Return a plan with the most expensive counts that its ranges allow.

    Adaptive groups are at their maximum, the most expensive ones first if `max_workers` is too small for all.
    """
    minima = {**plan.workers_by_tag, **{tag: low for tag, (low, _) in plan.ranges_by_tag.items()}}

    def price(tag: str) -> Decimal:
        estimate = estimate_cost(spec, provider, _only(plan, tag))
        return estimate.known_hourly if estimate else Decimal(0)

    maxima = {tag: high for tag, (_, high) in plan.ranges_by_tag.items()}
    return replace(plan, workers_by_tag=largest_counts(minima, maxima, price, plan.max_workers))


def _only(plan: ScalePlan, tag: str | None) -> ScalePlan:
    """Return a plan of one worker of one group, or of none."""
    return replace(plan, workers_by_tag={} if tag is None else {tag: 1})


def plan_budget(spec: DeploymentSpec, provider: DeploymentProvider, plan: ScalePlan) -> Budget:
    """Return what a run of a target may use, with the prices of its workers as far as they are known."""
    options, _ = common_options(spec)
    limits = options.limits if options else Limits()
    nothing = estimate_cost(spec, provider, _only(plan, None))
    fixed = None if nothing is None else nothing.hourly
    prices = {}
    for tag in plan.workers_by_tag:
        one = estimate_cost(spec, provider, _only(plan, tag))
        if one is not None and one.hourly is not None and fixed is not None:
            prices[tag] = float(one.hourly - fixed)
    return Budget(
        limits.max_workers,
        None if limits.max_hourly_cost is None else float(limits.max_hourly_cost),
        None if limits.max_cost is None else float(limits.max_cost),
        limits.max_worker_hours,
        limits.on_exceed,
        prices,
        None if fixed is None else float(fixed),
        "" if nothing is None else nothing.currency,
    )


def describe_limits(
    budget: Budget, start: Mapping[str, int], largest: Mapping[str, int]
) -> list[str]:
    """Return when a run reaches its limits, at its first and at its largest size, in one line for each limit.

    Examples
    --------
    >>> budget = Budget(max_worker_hours=10, max_cost=6, prices={"gcam": 2.0}, fixed_price=0.0, currency="USD")
    >>> for line in describe_limits(budget, {"gcam": 1}, {"gcam": 4}):
    ...     print(line)
    max_cost 6 USD: reached after 3 h at the size of the start, 0.75 h at the largest; then stop-scaling
    max_worker_hours 10: reached after 10 h at the size of the start, 2.5 h at the largest; then stop-scaling
    """

    def when(limit: float, rate: float | None) -> str:
        if rate is None:
            return "an unknown time"
        return f"{limit / rate:.3g} h" if rate else "no time"

    lines = []
    if budget.max_workers is not None:
        lines.append(
            f"max_workers {budget.max_workers}: the largest size has {sum(largest.values())}"
        )
    if (most := budget.max_hourly_cost) is not None:
        cost = budget.hourly_cost(largest)
        shown = "an unknown amount" if cost is None else f"{cost:.3g}"
        lines.append(f"max_hourly_cost {most:g} {budget.currency}: the largest size costs {shown}")
    for name, unit, limit, rates in (
        (
            "max_cost",
            f" {budget.currency}",
            budget.max_cost,
            (budget.hourly_cost(start), budget.hourly_cost(largest)),
        ),
        (
            "max_worker_hours",
            "",
            budget.max_worker_hours,
            (float(sum(start.values())), float(sum(largest.values()))),
        ),
    ):
        if limit is not None:
            first, last = (when(limit, rate) for rate in rates)
            lines.append(
                f"{name} {limit:g}{unit}: reached after {first} at the size of the start, {last} at the largest; "
                f"then {budget.on_exceed}"
            )
    return lines


class GroupSize(NamedTuple):
    """How many workers a group has, and the option that specifies it."""

    initial: int
    minimum: int
    maximum: int
    adaptive: bool
    option_path: tuple[str, ...]
    policy: AdaptivePolicy | None = None


def _group_sizes(spec: DeploymentSpec, options: TargetOptions) -> dict[str, GroupSize]:
    return {tag: group_size(tag, options) for tag in spec.components}


def group_size(tag: str, options: TargetOptions) -> GroupSize:
    """Return how many workers the options of a target give to one group.

    Parameters
    ----------
    tag : str
        The group.
    options : TargetOptions
        The options of its target.
    """
    by_tag = isinstance(options.workers, Mapping)
    configured = (
        options.workers.get(tag) if isinstance(options.workers, Mapping) else options.workers
    )
    if isinstance(configured, WorkerRange):
        return _adaptive(configured, configured.minimum, options, ("workers", tag, "minimum"))
    if configured is not None:
        return _fixed(configured, ("workers", tag) if by_tag else ("workers",))
    if options.adaptive is not None:
        if options.n_workers is not None:
            return _adaptive(options.adaptive, options.n_workers, options, ("n_workers",))
        bounds = options.adaptive
        return _adaptive(bounds, bounds.minimum, options, ("adaptive", "minimum"))
    if options.n_workers is not None:
        return _fixed(options.n_workers, ("n_workers",))
    if options.max_workers is not None and not options.workers:
        everything = WorkerRange(maximum=options.max_workers)
        return _adaptive(everything, 0, options, ("max_workers",))
    return _fixed(1, ("max_workers",))


def _fixed(count: int, option_path: tuple[str, ...]) -> GroupSize:
    return GroupSize(count, count, count, False, option_path)


def _adaptive(
    bounds: WorkerRange, initial: int, options: TargetOptions, option_path: tuple[str, ...]
) -> GroupSize:
    cap = bounds.maximum if options.max_workers is None else options.max_workers
    policy = None
    if bounds.idle_timeout is not None or bounds.target_duration is not None:
        policy = AdaptivePolicy(bounds.target_duration, bounds.idle_timeout)
    return GroupSize(initial, bounds.minimum, min(bounds.maximum, cap), True, option_path, policy)


def _read_scale_plan(data: Mapping[str, Any]) -> ScalePlan:
    return ScalePlan(
        workers_by_tag=data["workers_by_tag"],
        resources_by_tag={
            tag: ResourceRequest(**request) for tag, request in data["resources_by_tag"].items()
        },
        ranges_by_tag={tag: (low, high) for tag, (low, high) in data["ranges_by_tag"].items()},
        max_workers=data["max_workers"],
        policies_by_tag={
            tag: AdaptivePolicy(**policy) for tag, policy in data["policies_by_tag"].items()
        },
    )
