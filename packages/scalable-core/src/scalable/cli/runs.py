"""``scalable runs``: the records of runs from this directory."""

from __future__ import annotations

from typing import Any

import click

from scalable.cli.failures import USAGE, Failure
from scalable.cli.options import debug_option, json_option
from scalable.cli.output import as_table, print_json, print_problem

__all__ = ["find_run", "runs"]


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
        click.echo(_no_runs())
        return
    header = ("run", "status", "started", "seconds", "target", "tasks", "failed", "workflow")
    click.echo(as_table(header, map(_row, documents)))


@runs.command()
@click.argument("run", required=False)
@click.option(
    "--latest", is_flag=True, help="Show the latest run, which is also shown without RUN."
)
@json_option
@debug_option
def show(run: str | None, latest: bool, as_json: bool) -> None:
    """Show one run: what ran, how it ended, what became of its tasks, and what it took.

    RUN is its id, or the beginning of it.
    """
    if run is not None and latest:
        raise click.UsageError("give RUN or --latest, not both")
    document = find_run(run)
    if as_json:
        print_json(document)
    else:
        click.echo("\n".join(describe(document)))


def _read_all() -> list[dict[str, Any]]:
    from scalable.runs import find_records, read_record

    documents = []
    for directory in find_records():
        try:
            document = read_record(directory)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not a record of a run"
            print_problem(f"{directory}: {why}", severity="warning")
            continue
        if document is not None:
            documents.append(document)
    return documents


def find_run(run: str | None) -> dict[str, Any]:
    """Return the record of a run, whose id begins with a text; of the latest one without it."""
    from scalable.errors import did_you_mean

    by_id = {str(document.get("id")): document for document in _read_all()}
    if not by_id:
        raise Failure(_no_runs(), USAGE)
    if run is None:
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
        document.get("status"),
        document.get("started"),
        "-" if "seconds" not in summary else f"{summary['seconds']:.1f}",
        document.get("target"),
        sum(task["done"] + task["failed"] + task["left"] + task["cancelled"] for task in tasks),
        sum(task["failed"] for task in tasks),
        (document.get("workflow") or {}).get("path") or "-",
    ]


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
    from scalable.cli.status import TaskCount
    from scalable.cli.tally import Tally, TaskFailures
    from scalable.runs import records_directory

    summary = document.get("summary") or {}
    status = f", exit status {document['exit_status']}" if document.get("exit_status") else ""
    lines = [
        f"run {document['id']}: {document['status']}{status}",
        f"target {document['target']} ({document['provider']})",
        f"from {document['started']} to {document['ended'] or 'now, or it was killed'}",
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
        counts[name] = TaskCount(*(task[key] for key in ("done", "failed", "left", "cancelled")))
        if tag:
            tags[name] = tag
    failures = [TaskFailures(**each) for each in summary.get("failures", [])]
    lines += Tally(counts, failures, tags).lines()
    if used := {tag: hours for tag, hours in summary.get("worker_hours", {}).items() if hours}:
        lines.append(
            f"worker-hours: {', '.join(f'{tag} {hours:.3g}' for tag, hours in used.items())}"
        )
    logs = records_directory() / str(document["id"]) / "logs"
    if logs.is_dir():
        lines.append(f"logs of workers in {logs}")
    lines += [
        f"{event['time']} {event['group'] or 'cluster'}: {event['text']}"
        for event in document.get("events", [])
    ]
    return lines
