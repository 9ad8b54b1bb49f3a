"""``scalable report``: a run as a page for a browser."""

from __future__ import annotations

import os
from pathlib import Path

import click

from scalable.cli.logs import read_rows
from scalable.cli.options import debug_option, json_option
from scalable.cli.output import print_json, print_text
from scalable.cli.runs import find_run, run_directory

__all__ = ["report"]


@click.command()
@click.argument("run", required=False)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write it; by default report.html in the directory of the run.",
)
@click.option("--latest", is_flag=True, help="The latest run, which is also reported without RUN.")
@json_option
@debug_option
def report(run: str | None, output: Path | None, latest: bool, as_json: bool) -> None:
    """Write a report of a run, as one HTML file that needs no network.

    It has when workers and tasks ran, what they waited for, what failed and why, the memory that was asked for and
    used, worker-hours and cost. RUN is the id of a run, the beginning of it, or "latest", which is also reported
    without RUN. Prints the path of the file.
    """
    from scalable.runs import run_state
    from scalable.runs.report import render_report
    from scalable.runs.shape import TASK, WORKER

    if run is not None and latest:
        raise click.UsageError("give RUN or --latest, not both")
    document = find_run(run)
    directory = run_directory(document)
    tasks = list(read_rows(directory / "tasks.jsonl", TASK))
    workers = list(read_rows(directory / "workers.jsonl", WORKER))
    logs = frozenset() if output else frozenset(p.stem for p in (directory / "logs").glob("*.log"))
    text = render_report(document, tasks, workers, logs, run_state(document, directory))
    path = output or directory / "report.html"
    # Only for its owner, as all of the record is.
    how = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | (0 if output else os.O_NOFOLLOW)
    file = os.open(path, how, 0o600)
    with os.fdopen(file, "w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(text)
    if as_json:
        print_json({"run": document["id"], "path": str(path)})
    else:
        print_text(str(path))
