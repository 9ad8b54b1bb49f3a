"""What a plan would take: the real controller in virtual time, on durations and starts that were recorded or stated."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalable.cli.failures import USAGE, Failure
from scalable.cli.logs import read_rows

if TYPE_CHECKING:
    from scalable.cluster.budget import Budget
    from scalable.cluster.port import GroupSpec
    from scalable.providers.base import ScalePlan
    from scalable.session import ScalableSession

__all__ = ["Assumptions", "Forecast", "assume", "parse_start", "parse_work", "recorded", "simulate"]

_LIMIT = 366 * 86400.0
"""Virtual seconds after which a simulation ends: nobody waits for longer."""

_STEPS = 5000
"""Turns of the controller that a simulation should have about, so that weeks do not take minutes."""

_MAX_TICK = 5.0


@dataclass(frozen=True)
class Assumptions:
    """What a simulation takes for granted. Times are in seconds.

    Parameters
    ----------
    durations : mapping of str to sequence of float
        How long each task takes, by component.
    starts : mapping of str to (float, float)
        How long a worker waits for its machine, and how long it takes to start on it, by component.
    sources : sequence of str
        Where these are from, one line each.
    """

    durations: Mapping[str, Sequence[float]] = field(default_factory=dict)
    starts: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    sources: Sequence[str] = ()


@dataclass(frozen=True)
class Forecast:
    """What a run would take.

    Parameters
    ----------
    makespan : float
        Seconds until the last task has ended.
    tasks, failed : int
        Tasks, and those of them that fail because a limit is reached.
    worker_hours : dict of str to float
        Hours for which workers have machines, by component.
    cost : float or None
        What they and the scheduler cost; None where a price is not known.
    currency : str
        Its currency.
    most_workers : dict of str to int
        The most workers at a time, by component.
    limit : str
        The limit that is reached, if one is.
    sources : tuple of str
        What the forecast assumes, one line each.
    """

    makespan: float
    tasks: int
    failed: int
    worker_hours: dict[str, float]
    cost: float | None
    currency: str
    most_workers: dict[str, int]
    limit: str = ""
    sources: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """Yield it as text.

        Examples
        --------
        >>> for line in Forecast(5400, 200, 0, {"gcam": 12.5}, 4.2, "USD", {"gcam": 10}).lines():
        ...     print(line)
        simulated: 200 tasks in 1:30:00
        worker-hours: 12.5 (gcam 12.5, at most 10 workers)
        cost: 4.2 USD
        >>> [*Forecast(60, 1, 0, {"gcam": 0.5}, 1.2, "USD", {"gcam": 1}).lines()][1]
        'worker-hours: 0.5 (gcam 0.5, at most 1 worker)'
        """
        from datetime import timedelta

        failed = f", {self.failed} of them fail" if self.failed else ""
        yield f"simulated: {self.tasks} tasks in {timedelta(seconds=round(self.makespan))}{failed}"
        each = "; ".join(
            f"{tag} {hours:.3g}, at most {_workers(self.most_workers.get(tag, 0))}"
            for tag, hours in self.worker_hours.items()
        )
        yield f"worker-hours: {sum(self.worker_hours.values()):.3g} ({each})"
        known = "unknown, because a price is" if self.cost is None else f"{self.cost:.3g}"
        yield f"cost: {known} {self.currency if self.cost is not None else ''}".rstrip()
        if self.limit:
            yield self.limit
        yield from (f"assumed: {source}" for source in self.sources)


def _workers(number: int) -> str:
    return "1 worker" if number == 1 else f"{number} workers"


def parse_work(text: str) -> tuple[str, list[float]]:
    """Return the component and the durations that a statement gives.

    Examples
    --------
    >>> parse_work("gcam=3x90s")
    ('gcam', [90.0, 90.0, 90.0])
    """
    from scalable.manifest.units import parse_duration

    tag, _, rest = text.partition("=")
    count, _, duration = rest.partition("x")
    try:
        if int(count) < 1:
            raise ValueError(count)
        return tag, [float(parse_duration(duration))] * int(count)
    except ValueError as error:
        raise Failure(
            f"--work {text}: write COMPONENT=COUNTxDURATION, as in gcam=200x90s", USAGE
        ) from error


def parse_start(text: str) -> tuple[str, tuple[float, float]]:
    """Return the component, and the times in a queue and for the start, that a statement gives.

    Examples
    --------
    >>> parse_start("gcam=10m+30s"), parse_start("gcam=30s")
    (('gcam', (600.0, 30.0)), ('gcam', (0.0, 30.0)))
    """
    from scalable.manifest.units import parse_duration

    tag, _, rest = text.partition("=")
    queue, plus, boot = rest.rpartition("+")
    try:
        return tag, (float(parse_duration(queue)) if plus else 0.0, float(parse_duration(boot)))
    except ValueError as error:
        raise Failure(
            f"--starts {text}: write COMPONENT=[QUEUE+]START, as in gcam=10m+30s", USAGE
        ) from error


def recorded(directory: Path, record: Mapping[str, Any], first: str) -> Assumptions:
    """Return what the record of a run tells about its tasks and its starts.

    Parameters
    ----------
    directory : Path
        The record's directory.
    record : mapping
        The record.
    first : str
        The component for tasks without one.
    """
    from scalable.runs.shape import TASK

    durations: dict[str, list[float]] = {}
    try:
        for row in read_rows(directory / "tasks.jsonl", TASK):
            began, ended = row.get("started"), row.get("ended")
            # What was loaded says nothing of how long it takes to compute.
            if row.get("status") != "kept" and began is not None and ended is not None:
                taken = max(0.0, ended - began)
                durations.setdefault(row.get("component") or first, []).append(taken)
    except OSError as error:
        raise Failure(f"{directory / 'tasks.jsonl'}: {error.strerror}", USAGE) from error
    starts = {
        tag: (each["queue"], each["boot"])
        for tag, each in ((record.get("summary") or {}).get("starts") or {}).items()
    }
    return Assumptions(durations, starts, (f"durations and starts of run {record['id']}",))


def assume(
    known: Assumptions, work: Sequence[str], starts: Sequence[str], tags: Sequence[str]
) -> Assumptions:
    """Return what was recorded, with what is stated in its place, for the components of a plan.

    Raises
    ------
    Failure
        A statement names no component, or there are no tasks.
    """
    from scalable.errors import did_you_mean

    stated = dict(map(parse_work, work))
    stated_starts = dict(map(parse_start, starts))
    for tag in (*stated, *stated_starts):
        if tag not in tags:
            raise Failure(f"there is no component {tag!r}{did_you_mean(tag, tags)}", USAGE)
    durations: Mapping[str, Sequence[float]] = stated or {
        tag: each for tag, each in known.durations.items() if tag in tags
    }
    if not durations:
        raise Failure(
            "no task is known: state some with --work, as in --work "
            f"{tags[0]}=200x90s, or run the workflow once, for its record",
            USAGE,
        )
    found = {**{tag: known.starts[tag] for tag in known.starts if tag in tags}, **stated_starts}
    sources = [*(known.sources if not stated or set(found) - set(stated_starts) else ())]
    sources += [f"stated: {text}" for text in (*work, *starts)]
    if unknown := [tag for tag in durations if tag not in found]:
        sources.append(f"workers of {', '.join(unknown)} start at once, because no start is known")
    sources.append("all tasks can run from the beginning")
    return Assumptions(durations, found, sources)


def simulate(session: ScalableSession, plan: ScalePlan, assumptions: Assumptions) -> Forecast:
    """Return what a run of a plan would take, by the real controller in virtual time.

    Parameters
    ----------
    session : ScalableSession
        The session of the plan.
    plan : ScalePlan
        The plan.
    assumptions : Assumptions
        Tasks and starts.

    Raises
    ------
    Failure
        The tasks would not end.
    """
    from scalable.planning import plan_budget
    from scalable.providers.common import group_specs
    from scalable.providers.options import common_options
    from scalable.testing.simulation import DeadlockError, VirtualTimeLoop

    for tag in assumptions.durations:
        _, most = plan.ranges_by_tag.get(tag, (0, plan.workers_by_tag.get(tag, 0)))
        if not most:
            raise Failure(
                f"the tasks of {tag} never run, because the plan has no worker for them", USAGE
            )
    options, _ = common_options(session.spec)
    specs = group_specs(session.spec, options) if options else []
    budget = plan_budget(session.spec, session.provider, plan)
    try:
        with _without_log(), asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(_LIMIT)) as runner:
            return runner.run(_simulate(plan, specs, budget, assumptions))
    except DeadlockError as error:
        raise Failure("the tasks would not end within a year", USAGE) from error


async def _simulate(
    plan: ScalePlan, specs: Sequence[GroupSpec], budget: Budget, assumptions: Assumptions
) -> Forecast:
    from scalable.cluster.pace import Pace
    from scalable.testing.simulation import Simulation, TaskState, UnitBehavior

    specs = [
        replace(
            spec,
            expected_queue=assumptions.starts[spec.tag][0],
            expected_boot=assumptions.starts[spec.tag][1],
        )
        if spec.tag in assumptions.starts
        else spec
        for spec in specs
    ]
    tick = _tick(plan, assumptions)
    pace = Pace(tick=tick, poll=2 * tick)
    world = Simulation(*specs, max_workers=plan.max_workers, pace=pace, budget=budget)
    for spec in specs:
        queue, boot = assumptions.starts.get(spec.tag, (0.0, 0.0))
        walltime = (
            plan.resources_by_tag[spec.tag].walltime if spec.tag in plan.resources_by_tag else None
        )
        world.backend.behavior[spec.tag] = UnitBehavior(
            queue=queue, boot=boot, walltime=math.inf if walltime is None else float(walltime)
        )
    most: dict[str, int] = {}

    def finished() -> bool:
        for spec in specs:
            most[spec.tag] = max(most.get(spec.tag, 0), len(world.backend.alive(spec.tag)))
        return all(task.state in (TaskState.DONE, TaskState.ERRED) for task in tasks)

    async with world:
        fixed = {t: n for t, n in plan.workers_by_tag.items() if t not in plan.ranges_by_tag}
        start = {t: n for t, n in plan.workers_by_tag.items() if t in plan.ranges_by_tag}
        await world.controller.scale_groups({**fixed, **start})
        await world.controller.adapt_groups(plan.ranges_by_tag, plan.policies_by_tag)
        tasks = [
            task
            for tag, durations in assumptions.durations.items()
            for seconds in durations
            for task in world.scheduler.submit(tag, seconds=seconds)
        ]
        await world.until(finished, within=_LIMIT)
        makespan, meter = world.time, world.controller.meter
        hours = dict(meter.worker_hours)
        forecast = Forecast(
            makespan,
            len(tasks),
            sum(task.state is TaskState.ERRED for task in tasks),
            hours,
            meter.cost,
            budget.currency,
            most,
            meter.exceeded,
            tuple(assumptions.sources),
        )
        world.scheduler.release(tasks)
        await world.close()
        world.invariants.violations.clear()  # of its own strictness, such as an abort that takes work away
    return forecast


@contextmanager
def _without_log() -> Iterator[None]:
    """Keep what the simulated cluster says out of what is said of the real one."""
    logger = logging.getLogger("scalable.cluster")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _tick(plan: ScalePlan, assumptions: Assumptions) -> float:
    """Return the seconds of a turn: those of a real one for short runs, longer ones for long runs."""
    longest = max(
        (
            math.fsum(durations)
            / max(1, plan.ranges_by_tag.get(tag, (0, plan.workers_by_tag[tag]))[1])
            for tag, durations in assumptions.durations.items()
        ),
        default=0.0,
    )
    return min(max(0.5, longest / _STEPS), _MAX_TICK)
