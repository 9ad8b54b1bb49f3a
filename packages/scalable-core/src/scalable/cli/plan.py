"""``scalable plan``: what a run would start, and what that costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scalable.cli.options import debug_option, json_option, manifest_arguments
from scalable.cli.output import as_table, print_json, print_status, print_warnings

if TYPE_CHECKING:
    from scalable.costing import CostEstimate
    from scalable.planning import Plan
    from scalable.providers.base import Artifact, ResourceRequest, ScalePlan
    from scalable.session import ScalableSession

__all__ = ["describe", "describe_count", "describe_session", "plan"]


@click.command()
@manifest_arguments
@click.option(
    "--render", is_flag=True, help="Also show the scripts or requests that a run would send."
)
@click.option("--dry-run", is_flag=True, hidden=True, help="What a plan is anyway.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the plan to FILE, as JSON.",
)
@json_option
@debug_option
def plan(
    manifest: str | None,
    target: str | None,
    overlay: str | None,
    render: bool,
    dry_run: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Show what a run of MANIFEST would start, and what that costs.

    The same manifest gives the same plan, byte for byte, until `scalable prices refresh` brings other prices. Works
    offline; nothing is started.
    """
    from scalable.planning import check_limits
    from scalable.session import ScalableSession

    session = ScalableSession.from_yaml(manifest, target=target, overlay=overlay)
    result = session.plan()
    artifacts = _render(session, result) if render else []
    if not as_json:
        print_warnings(session)
        click.echo(describe_session(session, result))
        for artifact in artifacts:
            click.echo(f"\n--- {artifact.name}\n{artifact.content.rstrip()}")
    check_limits(session.spec, session.provider, result.scale_plan)
    if output is not None:
        output.write_text(result.to_json(), encoding="utf-8")
        print_status(f"wrote {output}")
    if as_json:  # only now, because a program reads one document: the plan, or the error
        document = json.loads(result.to_json())
        if render:
            document["artifacts"] = [asdict(artifact) for artifact in artifacts]
        print_json(document)


def _render(session: ScalableSession, plan: Plan) -> Sequence[Artifact]:
    from scalable.providers.base import Renders

    provider = session.provider
    if not isinstance(provider, Renders):
        raise click.UsageError(f"provider {plan.provider!r} has nothing to render")
    return provider.render(session.spec, plan.scale_plan)


def describe_session(session: ScalableSession, plan: Plan) -> str:
    """Return a plan as text, with its largest size and with the limits of its target."""
    from scalable.planning import describe_limits, estimate_cost, most_expensive_plan, plan_budget

    spec, provider, scale = session.spec, session.provider, plan.scale_plan
    largest = most_expensive_plan(spec, provider, scale)
    cost = estimate_cost(spec, provider, largest) if scale.ranges_by_tag else None
    budget = plan_budget(spec, provider, scale)
    limits = describe_limits(budget, scale.workers_by_tag, largest.workers_by_tag)
    return "\n".join(
        [describe(plan, cost), *(["limits:"] if limits else []), *(f"  {each}" for each in limits)]
    )


def describe(plan: Plan, largest: CostEstimate | None = None) -> str:
    """Return a plan as text.

    Parameters
    ----------
    plan : Plan
        The plan.
    largest : CostEstimate, optional
        The cost with adaptive groups at their largest.
    """
    scale = plan.scale_plan
    tasks: dict[str, list[str]] = {tag: [] for tag in scale.workers_by_tag}
    for task, component in plan.components_by_task.items():
        tasks[component].append(task)
    rows = [
        [
            tag,
            describe_count(scale, tag),
            *_resources(scale.resources_by_tag[tag]),
            ", ".join(tasks[tag]) or "-",
        ]
        for tag in scale.workers_by_tag
    ]
    lines = [
        f"target {plan.target} ({plan.provider}), manifest {plan.manifest_lock[:12]}",
        "",
        as_table(("group", "workers", "cpus", "memory", "gpus", "walltime", "tasks"), rows),
        "",
    ]
    if scale.max_workers is not None:
        lines += [f"at most {scale.max_workers} workers in all groups together", ""]
    if plan.cost is None:
        lines.append(f"provider {plan.provider} has no prices")
    else:
        lines += ["cost at the start:", *(f"  {line}" for line in plan.cost.lines())]
    if largest is not None:
        *_, total = largest.lines()
        lines += ["cost at the largest size:", f"  {total}"]
    return "\n".join(lines)


def describe_count(scale: ScalePlan, tag: str) -> str:
    """Return how many workers a group gets, as text.

    Examples
    --------
    >>> from scalable.providers.base import ScalePlan
    >>> scale = ScalePlan({"fair": 2, "gcam": 4}, ranges_by_tag={"fair": (0, 8)})
    >>> describe_count(scale, "fair"), describe_count(scale, "gcam")
    ('2 (0 to 8)', '4')
    """
    count = str(scale.workers_by_tag[tag])
    if tag in scale.ranges_by_tag:
        minimum, maximum = scale.ranges_by_tag[tag]
        count += f" ({minimum} to {maximum})"
    return count


def _resources(request: ResourceRequest) -> list[object]:
    from scalable.manifest.units import format_duration, format_memory

    memory = "-" if request.memory is None else format_memory(request.memory)
    walltime = "-" if request.walltime is None else format_duration(request.walltime)
    return [request.cpus, memory, request.gpus or "-", walltime]
