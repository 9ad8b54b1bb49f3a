"""A run as one page of HTML, which needs nothing but itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from scalable.runs.figures import (
    Lane,
    Waits,
    function_name,
    lanes,
    last_of_each,
    spread,
    steps,
    time_span,
    used,
    waits,
)

__all__ = ["render_report"]

if TYPE_CHECKING:
    from scalable.runs.life import RunState

Row = Mapping[str, Any]

MAX_LANES = 60
MAX_HUES = 6
FINEST = 1 / 800
"""The part of the time below which tasks are drawn as one: about a pixel."""


def render_report(
    document: Row,
    tasks: Sequence[Row],
    workers: Iterable[Row],
    logs: frozenset[str] = frozenset(),
    state: RunState | None = None,
) -> str:
    """Return the report of a run as HTML.

    Parameters
    ----------
    document : mapping
        The record.
    tasks, workers : sequence of mapping
        The rows of ``tasks.jsonl`` and ``workers.jsonl``.
    logs : frozenset of str
        The workers whose logs are in ``logs/``, beside the report.
    state : RunState, optional
        What is known of the run; by default, what the record says.
    """
    workers = last_of_each(workers, "worker")
    span = time_span(document, tasks, workers)
    tags = _components(document, tasks, workers)
    parts = [
        _head(document, span, state),
        _tiles(document, tasks, span),
        _section("Workers", _worker_chart(tags, workers, span)),
        _section("Tasks", _task_chart(tasks, workers, span)),
        _section("Failures", _failures(document, logs)),
        _section("Waiting", _waiting(tags, tasks, workers)),
        _section("Memory and processors", _usage(document, tags, tasks)),
        _section("Worker-hours and cost", _cost(document)),
        _details("Events", _events(document)),
        _details("Versions", _versions(document)),
    ]
    style = files("scalable.runs").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Run {escape(str(document['id']))}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{''.join(parts)}</main>\n</body>\n</html>\n"
    )


def _components(document: Row, tasks: Iterable[Row], workers: Iterable[Row]) -> list[str]:
    planned = document.get("plan", {}).get("scale_plan", {}).get("workers_by_tag", {})
    named = [*planned, *(row.get("component") for row in workers)]
    named += [row.get("component") for row in tasks]
    return [str(tag) for tag in dict.fromkeys(named) if tag]


def _head(document: Row, span: tuple[float, float], state: RunState | None) -> str:
    status = state.text if state else str(document["status"])
    mark = "failed" if status == "killed" else str(document["status"])
    workflow = (document.get("workflow") or {}).get("path")
    facts = [
        ("Target", f"{document['target']} ({document['provider']})"),
        ("Workflow", workflow or "interactive"),
        ("Started", _when(document["started"])),
        ("Ended", _when(document["ended"]) if document.get("ended") else "-"),
        ("Took", _duration(span[1] - span[0])),
    ]
    listed = "".join(f"<div><dt>{name}</dt><dd>{escape(str(v))}</dd></div>" for name, v in facts)
    error = document.get("error")
    problem = f'<p class="error">{escape(str(error))}</p>' if error else ""
    return (
        f"<header><h1>Run {escape(str(document['id']))} "
        f'<span class="status {escape(mark)}">{escape(status)}</span></h1>'
        f"<dl>{listed}</dl>{problem}</header>\n"
    )


def _tiles(document: Row, tasks: Sequence[Row], span: tuple[float, float]) -> str:
    summary = document.get("summary") or {}
    counts = Counter(
        {
            name: sum(kind.get(name, 0) for kind in summary.get("tasks", ()))
            for name in ("done", "failed", "left", "cancelled", "kept")
        }
    )
    if not summary.get("tasks"):
        counts = Counter(str(row.get("status")) for row in tasks)
    hours = sum(summary.get("worker_hours", {}).values())
    cost = summary.get("cost") or {}
    kept = counts.pop("kept", 0)
    tiles = [
        *([(f"{kept}", "kept by earlier runs", "")] if kept else []),
        (f"{counts['done']}", f"of {counts.total()} tasks done", ""),
        (f"{counts['failed']}", "failed", "bad" if counts["failed"] else ""),
        (f"{counts['cancelled'] + counts['left']}", "cancelled or not run", ""),
        (f"{hours:.3g}", "worker-hours", ""),
    ]
    if cost.get("actual") is not None:
        at_least = ", at least" if cost.get("unknown") else ""
        tiles.append((f"{float(cost['actual']):.3g}", f"{cost['currency']}{at_least}", ""))
    cells = "".join(
        f'<div class="tile {mark}"><b>{escape(number)}</b><span>{escape(what)}</span></div>'
        for number, what, mark in tiles
    )
    return f'<div class="tiles">{cells}</div>\n'


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>\n"


def _details(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>\n"


# -- Charts


def _worker_chart(tags: Sequence[str], workers: Sequence[Row], span: tuple[float, float]) -> str:
    """Return how many workers of each group waited, started and ran, over time."""
    if not workers:
        return "<p>No worker was started.</p>"
    rows = []
    for tag in tags:
        mine = [row for row in workers if row.get("component") == tag]
        kinds = {
            "waiting": [(r.get("launched"), r.get("started") or r.get("ended")) for r in mine],
            "starting": [
                (r.get("started"), r.get("joined") or r.get("ended"))
                for r in mine
                if r.get("started")
            ],
            "running": [(r.get("joined"), r.get("ended")) for r in mine if r.get("joined")],
        }
        spans = {
            kind: [(a or span[0], span[1] if b is None else b) for a, b in times]
            for kind, times in kinds.items()
        }
        everything = steps([each for times in spans.values() for each in times])
        most = max((count for _, count in everything), default=0)
        ran = max((count for _, count in steps(spans["running"])), default=0)
        # From the top down, so that each area is above the next one: all, those with a machine, those that run.
        areas = (
            ("waiting", everything),
            ("starting", steps([*spans["starting"], *spans["running"]])),
            ("running", steps(spans["running"])),
        )
        drawn = "".join(
            f'<path class="{kind}" d="{_area(counts, most, span)}"/>' for kind, counts in areas
        )
        said = f"{len(mine)} in all, {ran} at most at a time"
        rows.append(
            f'<div class="lane tall"><span class="name">{escape(tag)}<small>{said}</small></span>'
            f'<svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
            f'aria-label="workers of {escape(tag)} over time: {said}">{drawn}</svg></div>'
        )
    legend = _legend([("running", "running"), ("starting", "starting"), ("waiting", "in a queue")])
    return f'<div class="chart">{"".join(rows)}{_axis(span)}</div>{legend}'


def _area(counts: Sequence[tuple[float, int]], most: int, span: tuple[float, float]) -> str:
    def x(time: float) -> str:
        return f"{1000 * (time - span[0]) / (span[1] - span[0]):.1f}"

    path, before = [f"M{x(counts[0][0]) if counts else 0} 100"], 0
    for time, count in counts:
        path.append(f"H{x(time)}V{100 - 100 * count / max(most, 1):.1f}")
        before = count
    return "".join(path) + ("H1000V100Z" if before else "V100Z")


def _task_chart(tasks: Sequence[Row], workers: Sequence[Row], span: tuple[float, float]) -> str:
    """Return what each worker ran, over time."""
    found = lanes(tasks, workers, span, finest=FINEST)
    if not found:
        return "<p>No task has ended.</p>"
    counts = Counter(
        function_name(str(task["task"]), task.get("component"))
        for task in tasks
        if task.get("started")
    )
    common = [name for name, _ in counts.most_common(MAX_HUES)]
    hues = {name: f"hue{n}" for n, name in enumerate(common)}
    order = {tag: n for n, tag in enumerate(dict.fromkeys(lane.component for lane in found))}
    found.sort(key=lambda lane: order[lane.component])
    dense = " dense" if len(found) > 16 else ""
    drawn = "".join(_lane(lane, hues) for lane in found[:MAX_LANES])
    more = ""
    if len(found) > MAX_LANES:
        more = f"<p>and {len(found) - MAX_LANES} more workers, which are in workers.jsonl</p>"
    named = [(hues[name], name) for name in common]
    if len(counts) > MAX_HUES:
        named.append(("other", "others"))
    if any(task.get("status") == "failed" for task in tasks) or any(lane.why for lane in found):
        named.append(("failed", "failed, or the worker was lost"))
    return f'<div class="chart{dense}">{drawn}{_axis(span)}</div>{_legend(named)}{more}'


def _lane(lane: Lane, hues: Mapping[str, str]) -> str:
    height = 100 / max(len(lane.rows), 1)
    there = 1000 * lane.since, 1000 * max(lane.until - lane.since, 0.001)
    shapes = [f'<rect class="there" x="{there[0]:.1f}" width="{there[1]:.1f}" height="100"/>']
    if lane.why:
        end = min(1000 * lane.until, 997)
        shapes.append(f'<rect class="failed" x="{end:.1f}" width="3" height="100"/>')
    for number, row in enumerate(lane.rows):
        paths: dict[str, list[str]] = {}
        for bar in row:
            kind = "failed" if bar.failed else hues.get(bar.function, "other")
            left, width = 1000 * bar.start, max(1000 * (bar.end - bar.start) - 0.4, 0.6)
            top = number * height + 8
            paths.setdefault(kind, []).append(
                f"M{left:.1f} {top:.0f}h{width:.1f}v{max(height - 16, 12):.0f}h-{width:.1f}z"
            )
        shapes += [f'<path class="{kind}" d="{"".join(d)}"/>' for kind, d in paths.items()]
    ran = sum(bar.count for row in lane.rows for bar in row)
    label = f"{ran} task{'s' * (ran != 1)}"
    title = f"<title>{escape(lane.why or label)}</title>"
    return (
        f'<div class="lane"><span class="name">{escape(lane.worker)}<small>{label}</small></span>'
        f'<svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
        f'aria-label="tasks of {escape(lane.worker)} over time: {label}">{title}{"".join(shapes)}</svg></div>'
    )


def _axis(span: tuple[float, float]) -> str:
    seconds = span[1] - span[0]
    marks = "".join(
        f'<i style="left:{100 * at / seconds:.2f}%">{_duration(at)}</i>'
        for at in spread(seconds, 5)
        if at <= 0.94 * seconds
    )
    return f'<div class="lane axis"><span class="name"></span><div>{marks}</div></div>'


def _legend(entries: Iterable[tuple[str, str]]) -> str:
    shown = "".join(
        f'<span><svg viewBox="0 0 10 10"><rect class="{kind}" width="10" height="10"/></svg>'
        f"{escape(text)}</span>"
        for kind, text in entries
    )
    return f'<p class="legend">{shown}</p>'


# -- Tables


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are HTML already; the first of each row names it."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _failures(document: Row, logs: frozenset[str]) -> str:
    summary = document.get("summary") or {}
    lost = "".join(
        f"<p>{number} result{'s' * (number != 1)} of {escape(str(name))} lost with their workers, "
        "and computed again.</p>"
        for name, number in summary.get("lost", {}).items()
    )
    failures = summary.get("failures", [])
    if not failures:
        return f"<p>No task has failed.</p>{lost}"
    items = []
    for each in failures:
        worker = str(each.get("worker") or "")
        log = f' · <a href="logs/{escape(worker)}.log">its log</a>' if worker in logs else ""
        items.append(
            f"<li><b>{each['count']} of {escape(str(each['task']))}</b> "
            f"<code>{escape(str(each['error']) or 'no reason is known')}</code>"
            f"<small>such as {escape(str(each['example']))}{log}</small></li>"
        )
    return f'<ul class="failures">{"".join(items)}</ul>{lost}'


def _waiting(tags: Sequence[str], tasks: Sequence[Row], workers: Sequence[Row]) -> str:
    rows = []
    for tag in tags:
        mine = [row for row in workers if row.get("component") == tag]
        ran = [row for row in tasks if row.get("component") == tag]
        rows.append(
            (
                escape(tag),
                _taken(waits(mine, "launched", "started")),
                _taken(waits(mine, "started", "joined")),
                _taken(waits(ran, "ready", "started")),
            )
        )
    header = ("Component", "Worker in a queue", "Worker starts", "Task for a worker")
    return (
        _table(header, rows)
        + '<p class="note">Half of them waited no longer than the first figure; the second is the longest.</p>'
    )


def _taken(wait: Waits | None) -> str:
    if wait is None:
        return "–"
    return f"{_duration(wait.half)} <small>max {_duration(wait.most)}</small>"


def _usage(document: Row, tags: Sequence[str], tasks: Sequence[Row]) -> str:
    asked = document.get("plan", {}).get("scale_plan", {}).get("resources_by_tag", {})
    rows = []
    for tag in tags:
        request = asked.get(tag, {})
        figures = used([task for task in tasks if task.get("component") == tag])
        memory, cpus = request.get("memory"), request.get("cpus") or 1
        peak = "–" if figures.peak_memory is None else _bytes(figures.peak_memory)
        if figures.peak_memory is not None and memory:
            part = figures.peak_memory / memory
            mark = "bad" if part > 0.9 else ""
            peak += (
                f'<span class="meter {mark}" title="{100 * part:.0f} % of what was asked for">'
                f'<i style="width:{min(100.0, 100 * part):.1f}%"></i></span>'
            )
        busy = "–"
        if figures.cpu_seconds is not None and figures.seconds:
            busy = f"{figures.cpu_seconds / figures.seconds:.2g} of {cpus:g}"
        rows.append((escape(tag), _bytes(memory) if memory else "–", peak, busy))
    note = (
        '<p class="note">Used is the peak of a worker\'s process while it ran a task; processors are those '
        "that tasks kept busy on average.</p>"
    )
    return _table(("Component", "Memory asked", "Memory used", "Processors busy"), rows) + note


def _cost(document: Row) -> str:
    summary = document.get("summary") or {}
    cost = summary.get("cost") or {}
    each = cost.get("components", {})
    rows = [
        (escape(str(tag)), f"{hours:.4g}", escape(str(each.get(tag) or "–")))
        for tag, hours in summary.get("worker_hours", {}).items()
    ]
    if not rows:
        return "<p>Not known.</p>"
    if cost.get("rest") is not None:
        rows.append(("beside workers", "", escape(str(cost["rest"]))))
    currency = f"Cost ({escape(str(cost['currency']))})" if cost else "Cost"
    table = _table(("Component", "Worker-hours", currency), rows)
    if not cost:
        return table + '<p class="note">The provider has no prices.</p>'
    said = [f"Planned: {cost['estimated_hourly'] or 'unknown'} {cost['currency']} an hour."]
    if cost.get("actual") is not None:
        said.append(f"This run: {cost['actual']} {cost['currency']}.")
    if cost.get("unknown"):
        said.append(f"Without a known price: {', '.join(cost['unknown'])}.")
    return table + f'<p class="note">{escape(" ".join(said))}</p>'


def _events(document: Row) -> str:
    began = datetime.fromisoformat(str(document["started"]))
    rows = [
        (
            _duration((datetime.fromisoformat(event["time"]) - began).total_seconds()),
            escape(str(event["group"] or "cluster")),
            escape(str(event["text"])),
        )
        for event in document.get("events", [])
    ]
    return _table(("After", "Group", "What happened"), rows) if rows else "<p>None.</p>"


def _versions(document: Row) -> str:
    found = {**document.get("versions", {}), **document.get("packages", {})}
    return _table(("What", "Version"), [(escape(k), escape(str(v))) for k, v in found.items()])


# -- Figures


def _when(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S %Z")


def _duration(seconds: float) -> str:
    """Return a length of time, as short as it can be told.

    Examples
    --------
    >>> [_duration(each) for each in (0, 0.25, 7.5, 90, 120, 4000, 200_000)]
    ['0 s', '0.25 s', '7.5 s', '1 min 30 s', '2 min', '1 h 07 min', '2 d 8 h']
    """
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    if seconds < 86400:
        hours, rest = divmod(round(seconds / 60), 60)
        return f"{hours} h" + (f" {rest:02} min" if rest else "")
    days, rest = divmod(round(seconds / 3600), 24)
    return f"{days} d" + (f" {rest} h" if rest else "")


def _bytes(number: float) -> str:
    """Return an amount of memory.

    Examples
    --------
    >>> _bytes(178118656), _bytes(2e9), _bytes(12.5e9)
    ('178 MB', '2 GB', '12.5 GB')
    """
    unit, name = (1e9, "GB") if number >= 1e9 else (1e6, "MB")
    return f"{number / unit:.3g} {name}"
