"""``scalable attach``, ``scalable scale`` and ``scalable down``: using and ending what ``scalable up`` has started."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from scalable.cli.endings import show_error
from scalable.cli.failures import FAILED
from scalable.cli.options import debug_option, json_option, wants_debug
from scalable.cli.output import print_json, print_status
from scalable.cli.owned import reap_run
from scalable.cli.runs import find_run
from scalable.cli.script import run_script
from scalable.cli.up import LogFollower
from scalable.cli.workflow import ARGUMENTS, WithArguments, compile_workflow, workflow_option

__all__ = ["attach", "down", "scale"]

_run_option = click.option(
    "--run",
    metavar="RUN",
    help="The id of a run, or the beginning of it; by default, the only one that is up.",
)


@click.command(cls=WithArguments)
@click.argument("run", required=False)
@workflow_option
@debug_option
@click.pass_context
def attach(context: click.Context, run: str | None, workflow: Path) -> None:
    """Run a workflow on a session that `scalable up` has started, and leave that as it is.

    RUN is its id, or the beginning of it; by default, the only one that is up. In the script,
    ScalableSession.from_yaml() returns the session. The exit status is the script's own.
    """
    from scalable.session import ScalableSession, set_current_session

    code = compile_workflow(workflow)
    session = ScalableSession.attach(run)
    session.start()
    try:
        with set_current_session(session):
            outcome = run_script(code, workflow, context.meta[ARGUMENTS])
        show_error(outcome, session, debug=wants_debug(context))
    finally:
        session.close()
    context.exit(outcome.code)


@click.command()
@click.argument("counts", nargs=-1, required=True, metavar="TAG=N...")
@_run_option
@json_option
@debug_option
def scale(counts: tuple[str, ...], run: str | None, as_json: bool) -> None:
    """Set the number of workers of a session that `scalable up` has started: gcam=8, or a range: gcam=0..8.

    Returns at once. Surplus workers finish their tasks first; limits hold.
    """
    from scalable.session.control import ask, find_managed

    workers, ranges = parse_counts(counts)
    directory, _ = find_managed(run)
    ask(directory, do="scale", workers=workers, ranges=ranges)
    if as_json:
        print_json({"run": directory.name, "workers": workers, "ranges": ranges})
    else:
        print_status(f"run {directory.name}: {', '.join(counts)}")


def parse_counts(texts: tuple[str, ...]) -> tuple[dict[str, int], dict[str, tuple[int, int]]]:
    """Return counts and ranges by tag.

    Examples
    --------
    >>> parse_counts(("gcam=8", "plots=0..4"))
    ({'gcam': 8}, {'plots': (0, 4)})
    """
    workers: dict[str, int] = {}
    ranges: dict[str, tuple[int, int]] = {}
    for text in texts:
        match = re.fullmatch(r"([^=]+)=([0-9]{1,9})(?:\.\.([0-9]{1,9}))?", text)
        if match is None:
            raise click.UsageError(f"{text!r} is not TAG=N, such as gcam=8, or TAG=MIN..MAX")
        tag, low, high = match.groups()
        if tag in workers or tag in ranges:
            raise click.UsageError(f"{tag!r} is there twice")
        if high is None:
            workers[tag] = int(low)
        else:
            ranges[tag] = int(low), int(high)
    return workers, ranges


@click.command()
@click.argument("run", required=False)
@json_option
@debug_option
@click.pass_context
def down(context: click.Context, run: str | None, as_json: bool) -> None:
    """End a session that `scalable up` has started, and remove its workers.

    RUN is its id, or the beginning of it; by default, the only one that is up. If its manager was killed, what it has
    left is removed, as by `scalable reap`. The exit status is 1 if something could not be removed.
    """
    from scalable.errors import SessionError
    from scalable.runs import run_state
    from scalable.session.control import find_managed

    try:
        directory, record = find_managed(run)
    except SessionError:
        if run is None:
            raise
        record = find_run(run)
        if record.get("status") == "running":  # of some other kind, or elsewhere
            raise
        if record.get("everything_removed"):
            print_status(f"run {record['id']} has ended already, and nothing is left of it")
            _print_end(record, as_json=as_json)
            return
        directory = None
    if directory is not None and run_state(record, directory).lives:
        record = _end(directory)
        _print_end(record, as_json=as_json)
        if record.get("status") != "finished":
            context.exit(FAILED)
        return
    from scalable.runs import records_directory

    where = directory or records_directory() / str(record["id"])
    print_status(
        f"the manager of run {where.name} is gone without having removed everything; "
        "removing what it has left, as `scalable reap` does"
    )
    reap_run(context, where, as_json=as_json)


def _end(directory: Path) -> dict[str, Any]:
    """Have a manager end, show what it prints meanwhile, and return the record."""
    from scalable.runs import read_record, run_state
    from scalable.session.control import LOG, ask

    log = directory / LOG
    with (log if log.exists() else Path(os.devnull)).open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        ask(directory, do="down")
        follower = LogFollower(stream)
        while True:
            record = read_record(directory) or {}
            follower.copy()
            if not run_state(record, directory).lives:
                return read_record(directory) or {}
            time.sleep(0.1)


def _print_end(record: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(record)
