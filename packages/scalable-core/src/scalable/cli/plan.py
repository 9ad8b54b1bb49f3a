"""``scalable plan``: what a run would start, and what that costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scalable.cli.failures import USAGE, Failure
from scalable.cli.options import debug_option, json_option, manifest_arguments
from scalable.cli.output import as_table, print_json, print_status, print_text, print_warnings

if TYPE_CHECKING:
    from scalable.cli.simulate import Forecast
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
@click.option(
    "--render-to",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write these to files in DIR.",
)
@click.option(
    "--diff",
    nargs=2,
    metavar="A B",
    help="Show in what two plans differ, each a target or a file that --output has written.",
)
@click.option(
    "--simulate",
    is_flag=True,
    help="Also show what a run would take: the real controller in virtual time, on the tasks and starts of the latest "
    "run on the target.",
)
@click.option("--run", "run_id", metavar="RUN", help="With --simulate: of this run.")
@click.option(
    "--work",
    multiple=True,
    metavar="COMPONENT=COUNTxTIME",
    help="With --simulate: such tasks instead, as in gcam=200x90s.",
)
@click.option(
    "--starts",
    multiple=True,
    metavar="COMPONENT=[QUEUE+]TIME",
    help="With --simulate: how long workers take to start, as in gcam=10m+30s.",
)
@click.option("--dry-run", is_flag=True, hidden=True, help="What a plan is anyway.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the plan to FILE, as JSON, for `scalable run --plan FILE`.",
)
@json_option
@debug_option
def plan(
    manifest: str | None,
    target: str | None,
    overlay: str | None,
    render: bool,
    render_to: Path | None,
    diff: tuple[str, str] | None,
    simulate: bool,
    run_id: str | None,
    work: tuple[str, ...],
    starts: tuple[str, ...],
    dry_run: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Show what a run of MANIFEST would start, and what that costs.

    The same manifest gives the same plan, byte for byte, until `scalable prices refresh` brings other prices. Works
    offline; nothing is started.
    """
    from scalable.planning import check_limits

    if diff is not None:
        _show_difference(diff, manifest, overlay, as_json=as_json)
        return
    if not simulate and (run_id or work or starts):
        raise click.UsageError("--run, --work and --starts say what --simulate takes; add it")
    session, result = _plan(manifest, target, overlay)
    artifacts = _render(session, result) if render or render_to else []
    if render_to is not None:
        _write_artifacts(render_to, artifacts)
    if not as_json:
        print_warnings(session)
        print_text(describe_session(session, result))
        for artifact in artifacts if render else ():
            print_text(f"\n--- {artifact.name}\n{artifact.content.rstrip()}")
    check_limits(session.spec, session.provider, result.scale_plan)
    forecast = _simulate(session, result, run_id, work, starts) if simulate else None
    if forecast is not None and not as_json:
        print_text("\n" + "\n".join(forecast.lines()))
    document = _document(session, result, overlay) if output is not None or as_json else {}
    if output is not None:
        text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        output.write_text(text, encoding="utf-8")
        print_status(f"wrote {output}")
    if as_json:  # only now, because a program reads one document: the plan, or the error
        if render:
            document["artifacts"] = [asdict(artifact) for artifact in artifacts]
        if forecast is not None:
            document["simulation"] = asdict(forecast)
        print_json(document)


def _plan(
    manifest: str | None, target: str | None, overlay: str | None
) -> tuple[ScalableSession, Plan]:
    from scalable.session import ScalableSession

    session = ScalableSession.from_yaml(manifest, target=target, overlay=overlay)
    return session, session.plan()


def _document(session: ScalableSession, plan: Plan, overlay: str | None) -> dict[str, Any]:
    from scalable.cli.saved_plan import plan_document, render_plan

    return plan_document(session, plan, render_plan(session, plan), overlay)


def _show_difference(
    diff: tuple[str, str], manifest: str | None, overlay: str | None, *, as_json: bool
) -> None:
    """Show in what two plans differ, each of a target or of a file."""
    from scalable.cli.saved_plan import compare_plans, read_plan

    first, second = (
        read_plan(Path(each))
        if Path(each).is_file()
        else _document(*_plan(manifest, each, overlay), overlay)
        for each in diff
    )
    found = compare_plans(first, second)
    if as_json:
        print_json([asdict(each) for each in found])
    elif found:
        rows = [[each.what, each.first, each.second] for each in found]
        print_text(as_table(("", *diff), rows))
    else:
        print_status("the plans are the same")


def _write_artifacts(directory: Path, artifacts: Sequence[Artifact]) -> None:
    """Write what a run would send into files of a directory, which only their owner can read."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for artifact in artifacts:
            path = directory / Path(artifact.name).name
            path.touch(mode=0o600)
            path.write_text(artifact.content, encoding="utf-8")
    except OSError as error:
        raise Failure(f"{error.filename}: {error.strerror}", USAGE) from error
    print_status(f"wrote {len(artifacts)} files to {directory}")


def _simulate(
    session: ScalableSession,
    plan: Plan,
    run_id: str | None,
    work: Sequence[str],
    starts: Sequence[str],
) -> Forecast:
    from scalable.cli.runs import find_run, latest_run
    from scalable.cli.simulate import Assumptions, assume, recorded, simulate
    from scalable.runs import records_directory

    record = find_run(run_id) if run_id else latest_run(session.target)
    tags = list(plan.scale_plan.workers_by_tag)
    known = Assumptions()
    if record is not None:
        known = recorded(records_directory() / record["id"], record, tags[0])
    return simulate(session, plan.scale_plan, assume(known, work, starts, tags))


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
