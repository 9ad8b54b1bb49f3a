"""``scalable resume``: a run of a record again, with what is kept."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scalable.cli.failures import USAGE, Failure
from scalable.cli.options import debug_option, json_option
from scalable.cli.output import print_note, print_problem, print_status
from scalable.cli.preparing import Request
from scalable.cli.running import run_workflow
from scalable.cli.runs import find_run, run_directory

if TYPE_CHECKING:
    from scalable.results.history import EarlierRun
    from scalable.results.naming import NamedCall
    from scalable.runs import RunRecord
    from scalable.session import ScalableSession

__all__ = ["request_of", "resume"]

_AGAIN_FILE = "again.jsonl"
"""The file of a record that says why each call was computed again."""

_MAX_DIFF = 200
"""Lines of a difference that are shown; the record has all of them."""


@click.command()
@click.argument("run")
@click.option("-t", "--target", metavar="NAME", help="Another target than that of RUN.")
@click.option(
    "--explain",
    is_flag=True,
    help="Say why each member is computed that is: what has changed since RUN, with the difference of the sources.",
)
@click.option("--dry-run", is_flag=True, help="Show the plan, and run nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Show only problems, no progress.")
@json_option
@debug_option
@click.pass_context
def resume(
    context: click.Context,
    run: str,
    target: str | None,
    explain: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run the workflow of RUN again, with the results that are kept.

    RUN is the id of a run that was started from this directory, or the beginning of it; `scalable runs` lists them.
    It may have failed, or have been interrupted or killed. The manifest, the workflow and the arguments are those of
    RUN, as the files are now. Tasks with `cache: true` whose results are in the store are not computed again, on
    whichever target.
    """
    from scalable.runs import run_state

    record = find_run(run)
    state = run_state(record, run_directory(record))
    if state.lives:
        raise Failure(
            f"run {record['id']} is {state.text} (process {record['process']['pid']}); "
            "wait for its end, or end it",
            USAGE,
        )
    if state.lives is None:
        print_note(
            f"run {record['id']} is {state.text}; if it still runs there, both compute the same"
        )
    request = request_of(record, os.environ)
    if target is not None:
        request = replace(request, target=target, overlay=None)
    request = replace(request, dry_run=dry_run, quiet=quiet, as_json=as_json)
    run_workflow(context, replace(request, explain=_Explain(record) if explain else None))


def request_of(record: Mapping[str, Any], env: Mapping[str, str]) -> Request:
    """Return what a recorded run was asked for.

    Parameters
    ----------
    record : mapping
        The record.
    env : mapping
        The variables whose values the record does not have.
    """
    run = record.get("id")
    workflow, manifest = record.get("workflow") or {}, record.get("manifest") or {}
    if not workflow.get("path"):
        raise Failure(f"run {run} was not started from a script, so it cannot be resumed", USAGE)
    if not manifest.get("path"):
        raise Failure(f"run {run} had no manifest file, so it cannot be resumed", USAGE)
    path = Path(
        _expand(workflow["path"], env) if workflow.get("path_redacted") else workflow["path"]
    )
    for file in (path, Path(manifest["path"])):
        if not file.is_file():
            started = record.get("directory")
            where = f"; it was started in {started}" if started else ""
            raise Failure(f"run {run} cannot be resumed here: there is no {file}{where}", USAGE)
    if lost := workflow.get("lost"):
        shown = workflow["arguments"][lost[0]]
        raise Failure(
            f"run {run} cannot be resumed: its argument {shown} had a part or another spelling of its value, "
            "which no record keeps; start it again with `scalable run`, which also uses the results that were kept",
            USAGE,
        )
    hidden = workflow.get("redacted") or []
    arguments = [
        _expand(text, env) if number in hidden else text
        for number, text in enumerate(workflow.get("arguments") or [])
    ]
    return Request(
        manifest=manifest["path"],
        target=record["target"],
        overlay=manifest.get("overlay"),
        workflow=path,
        arguments=arguments,
        in_cluster=bool(workflow.get("in_cluster")),
        resumes=str(run),
    )


def _expand(text: str, env: Mapping[str, str]) -> str:
    """Return an argument with the values that its record does not show."""

    def value(match: re.Match[str]) -> str:
        try:
            return env[match[1]]
        except KeyError:
            raise Failure(
                f"an argument of the run contains ${{{match[1]}}}, which is not set; set it, and resume again",
                USAGE,
            ) from None

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", value, text)


class _Explain:
    """Says why calls are computed again, and writes it into the record.

    Parameters
    ----------
    earlier : mapping
        The record of the run that is resumed.
    """

    def __init__(self, earlier: Mapping[str, Any]) -> None:
        self._record = earlier
        self._earlier: EarlierRun | None = None

    def __call__(
        self,
        session: ScalableSession,
        record: RunRecord,
        task: str,
        calls: Sequence[NamedCall],
        found: Collection[str],
    ) -> None:
        from scalable.results.history import group_by_reason, numbers

        again = self._open(session).explain(task, calls, found)
        record.append(_AGAIN_FILE, map(asdict, again))
        for call, members in group_by_reason(again):
            what = f"{len(members)} to do" if len(calls) > 1 else "to do"
            which = f" (members {numbers(members)})" if len(calls) > 1 else ""
            print_status(
                session.manifest.redact(f"{task}: {what}: {'; '.join(call.reasons)}{which}")
            )
            lines = session.manifest.redact(call.diff).splitlines()
            for line in lines[:_MAX_DIFF]:
                click.echo(f"    {line}", err=True)
            if len(lines) > _MAX_DIFF:
                print_status(
                    f"{len(lines) - _MAX_DIFF} more lines are in {record.directory / _AGAIN_FILE}"
                )

    def _open(self, session: ScalableSession) -> EarlierRun:
        from scalable.results.history import CALLS_FILE, EarlierRun
        from scalable.runs import read_rows, records_directory

        if self._earlier is None:
            run = str(self._record["id"])
            directory = records_directory() / run
            rows: dict[str, list[dict[str, Any]]] = {CALLS_FILE: [], "tasks.jsonl": []}
            for name in rows:
                try:
                    rows[name] = read_rows(directory, name)
                except (OSError, ValueError) as error:
                    print_problem(f"{directory / name}: {error}", severity="warning")
            calls, ends = rows.values()
            self._earlier = EarlierRun(run, calls, ends, session.describe_result)
        return self._earlier
