"""``scalable runs``: the records of runs from this directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from scalable.cli.failures import USAGE, Failure
from scalable.cli.options import debug_option, json_option
from scalable.cli.output import as_table, print_json, print_problem, print_text

__all__ = ["describe_cost", "find_run", "latest_run", "run_directory", "runs"]


@click.group(invoke_without_command=True)
@json_option
@debug_option
@click.pass_context
def runs(context: click.Context, as_json: bool) -> None:
    """List the runs that were started from this directory, oldest first."""
    if context.invoked_subcommand is not None:
        return
    documents = _read_all()
    if as_json:
        print_json(documents)
        return
    if not documents:
        print_text(_no_runs())
        return
    header = (
        "run",
        "status",
        "started",
        "seconds",
        "target",
        "tasks",
        "kept",
        "failed",
        "workflow",
    )
    print_text(as_table(header, map(_row, documents)))


@runs.command()
@click.argument("run", required=False)
@click.option(
    "--latest", is_flag=True, help="Show the latest run, which is also shown without RUN."
)
@json_option
@debug_option
def show(run: str | None, latest: bool, as_json: bool) -> None:
    """Show one run: what ran, how it ended, what became of its tasks, and what it took.

    RUN is its id, the beginning of it, or "latest".
    """
    if run is not None and latest:
        raise click.UsageError("give RUN or --latest, not both")
    document = find_run(run)
    if as_json:
        print_json(document)
    else:
        print_text("\n".join(describe(document)))


def describe_cost(cost: Mapping[str, Any]) -> str:
    """Return what a run has cost as a line.

    Examples
    --------
    >>> cost = {"currency": "USD", "estimated_hourly": "2.4", "actual": "1.2034", "unknown": []}
    >>> describe_cost(cost)
    'cost: 1.2034 USD (planned: 2.4 USD an hour)'
    >>> describe_cost(cost | {"estimated_hourly": None, "unknown": ["gcam GPUs"]})
    'cost: at least 1.2034 USD (planned: unknown); no price is known for gcam GPUs'
    """
    currency, hourly = cost["currency"], cost["estimated_hourly"]
    planned = "unknown" if hourly is None else f"{hourly} {currency} an hour"
    if cost["actual"] is None:
        text = f"cost: unknown (planned: {planned})"
    else:
        at_least = "at least " if cost["unknown"] else ""
        text = f"cost: {at_least}{cost['actual']} {currency} (planned: {planned})"
    missing = f"; no price is known for {', '.join(cost['unknown'])}" if cost["unknown"] else ""
    return text + missing


def _read_all() -> list[dict[str, Any]]:
    from scalable.runs import find_records, read_record

    documents = []
    for directory in find_records():
        try:
            document = read_record(directory)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            print_problem(f"{directory}: {why}", severity="warning")
            continue
        if document is not None:
            documents.append(document)
    return documents


def latest_run(target: str) -> dict[str, Any] | None:
    """Return the record of the latest run on a target that ran tasks; None if there is none."""
    found = [
        document
        for document in _read_all()
        if document.get("target") == target and (document.get("summary") or {}).get("tasks")
    ]
    return found[-1] if found else None


def find_run(run: str | None) -> dict[str, Any]:
    """Return the record of a run, by its id or the beginning of it; the latest for None and "latest".

    Raises
    ------
    Failure
        There is no such run, or there are several.
    """
    from scalable.errors import did_you_mean

    by_id = {str(document.get("id")): document for document in _read_all()}
    if not by_id:
        raise Failure(_no_runs(), USAGE)
    if run is None or run == "latest":
        return [*by_id.values()][-1]
    found = [each for each in by_id if each.startswith(run)]
    if len(found) == 1:
        return by_id[found[0]]
    if found:
        raise Failure(f"several runs begin with {run!r}: {', '.join(found)}", USAGE)
    raise Failure(
        f"there is no run {run!r}{did_you_mean(run, by_id)}; `scalable runs` lists them", USAGE
    )


def _no_runs() -> str:
    from scalable.runs import records_directory

    return f"there are no runs in {records_directory()}; `scalable run` makes one"


def _row(document: dict[str, Any]) -> list[object]:
    summary = document.get("summary") or {}
    tasks = summary.get("tasks", [])
    return [
        document.get("id"),
        _status(document),
        document.get("started"),
        "-" if "seconds" not in summary else f"{summary['seconds']:.1f}",
        document.get("target"),
        sum(task["done"] + task["failed"] + task["left"] + task["cancelled"] for task in tasks),
        sum(task.get("kept", 0) for task in tasks),
        sum(task["failed"] for task in tasks),
        _shown_path((document.get("workflow") or {}).get("path")),
    ]


def _shown_path(path: str | None) -> str:
    """Return the path of a workflow as one would write it here."""
    if path is None:
        return "-"
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def run_directory(document: Mapping[str, Any]) -> Path:
    """Return the directory of a recorded run."""
    from scalable.runs import records_directory

    return records_directory() / str(document["id"])


def _status(document: dict[str, Any]) -> str:
    from scalable.runs import run_state

    return run_state(document, run_directory(document)).text


def describe(document: dict[str, Any]) -> list[str]:
    r"""Return a record as lines of text.

    Examples
    --------
    >>> record = {"id": "r1", "status": "failed", "exit_status": 1, "target": "hpc", "provider": "slurm"}
    >>> print(*describe(record | {"started": "12:00", "ended": "12:05", "error": "ValueError: x"}), sep="\n")
    run r1: failed, exit status 1
    target hpc (slurm)
    from 12:00 to 12:05
    error: ValueError: x
    """
    from scalable.runs.tally import Tally, TaskCount, TaskFailures

    summary = document.get("summary") or {}
    status = f", exit status {document['exit_status']}" if document.get("exit_status") else ""
    lines = [
        f"run {document['id']}: {_status(document)}{status}",
        f"target {document['target']} ({document['provider']})",
        f"from {document['started']}" + (f" to {document['ended']}" if document["ended"] else ""),
    ]
    if (document.get("workflow") or {}).get("path"):
        lines.append(f"workflow {document['workflow']['path']}")
    if document.get("error"):
        lines.append(f"error: {document['error']}")
    counts, tags = {}, {}
    for task in summary.get("tasks", []):
        tag = task["component"]
        # As the scheduler has it: one function may run under several tags.
        name = f"{tag.replace('-', ':')}.{task['name']}" if tag else task["name"]
        counts[name] = TaskCount(
            *(task.get(key, 0) for key in ("done", "failed", "left", "cancelled", "kept"))
        )
        if tag:
            tags[name] = tag
    known = TaskFailures.__dataclass_fields__
    failures = [
        TaskFailures(**{key: each[key] for key in known if key in each})
        for each in summary.get("failures", [])
    ]
    logs = run_directory(document) / "logs"
    lines += Tally(counts, failures, tags, summary.get("lost", {})).lines(logs)
    if used := {tag: hours for tag, hours in summary.get("worker_hours", {}).items() if hours}:
        lines.append(
            f"worker-hours: {', '.join(f'{tag} {hours:.3g}' for tag, hours in used.items())}"
        )
    if cost := summary.get("cost"):
        lines.append(describe_cost(cost))
    if logs.is_dir():
        lines.append(f"logs of workers in {logs}; `scalable logs {document['id']}` shows them")
    lines += [
        f"{event['time']} {event['group'] or 'cluster'}: {event['text']}"
        for event in document.get("events", [])
    ]
    return lines
