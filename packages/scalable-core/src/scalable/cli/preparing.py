"""What precedes a run: its plan, and all that can be refused before anything is started."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scalable.cli.failures import USAGE, Failure, ReportedFailure
from scalable.cli.inside import submission
from scalable.cli.output import print_json, print_problem, print_status, print_text, print_warnings
from scalable.cli.plan import describe_session
from scalable.cli.script import Outcome, find_mentions, find_other_target
from scalable.errors import ScalableError, SessionError, UnknownTagError, UnknownTaskError

if TYPE_CHECKING:
    from scalable.planning import Plan
    from scalable.providers.base import Submission
    from scalable.runs import RunRecord
    from scalable.session import ScalableSession

__all__ = ["Prepared", "Request", "prepare"]


@dataclass(frozen=True)
class Request:
    """What is to be run, and how. The names are those of the options of ``scalable run``.

    Parameters
    ----------
    arguments : sequence of str
        The arguments of the workflow.
    workflow : Path or None
        The script; None if `drive` takes its place.
    resumes : str, optional
        The id of the run that this one goes on with.
    explain : callable, optional
        Called with the session, the record, and what `Results.on_calls` is called with.
    drive : callable, optional
        Called with the session and the record in place of a script; returns how it ended.
    """

    manifest: str | None
    target: str | None
    overlay: str | None
    workflow: Path | None
    arguments: Sequence[str]
    in_cluster: bool = False
    plan_file: Path | None = None
    dry_run: bool = False
    quiet: bool = False
    as_json: bool = False
    resumes: str | None = None
    explain: Callable[..., None] | None = None
    drive: Callable[[ScalableSession, RunRecord], Outcome] | None = None


@dataclass(frozen=True)
class Prepared:
    """A run that can begin: nothing is started, and its record has begun.

    Parameters
    ----------
    session : ScalableSession
        The session, not started.
    record : RunRecord
        The record.
    request : Request
        What is to be run.
    inside : Submission or None
        What runs the workflow inside of its cluster, where that was asked for.
    """

    session: ScalableSession
    record: RunRecord
    request: Request
    inside: Submission | None


def prepare(request: Request) -> Prepared | None:
    """Plan a run, refuse what cannot run, and begin its record; None, with the plan shown, for a dry run."""
    from scalable.planning import check_limits
    from scalable.session import ScalableSession

    workflow, as_json = request.workflow, request.as_json
    saved, request = _read_plan(request)
    session = ScalableSession.from_yaml(
        request.manifest,
        target=request.target,
        overlay=request.overlay,
        workflow=Path.cwd() if workflow is None else workflow.resolve().parent,
    )
    plan = session.plan()
    if saved is not None:
        _check_unchanged(session, plan, saved, request.overlay)
    check_limits(session.spec, session.provider, plan.scale_plan)
    print_warnings(session)
    if workflow is not None:
        _check_requested_target(workflow, session)
        _check_mentions(workflow, session)
    if request.dry_run:
        if as_json:
            print_json(json.loads(plan.to_json()))
        else:
            print_text(describe_session(session, plan))
        return None
    inside = None
    if request.in_cluster and workflow is not None:
        inside = submission(session, workflow, request.arguments)
    return Prepared(session, _begin_record(session, plan, request), request, inside)


def _read_plan(request: Request) -> tuple[Mapping[str, Any] | None, Request]:
    """Return the saved plan of a request, if it names one, and the request for its target and overlay."""
    path, target = request.plan_file, request.target
    if path is None:
        return None, request
    from scalable.cli.saved_plan import read_plan

    saved = read_plan(path)
    if target not in (None, saved["target"]):
        raise Failure(f"{path} is a plan for target {saved['target']!r}, not {target!r}", USAGE)
    overlay = request.overlay or saved["launch"].get("overlay")
    return saved, replace(request, target=saved["target"], overlay=overlay)


def _check_unchanged(
    session: ScalableSession,
    plan: Plan,
    saved: Mapping[str, Any],
    overlay: str | None,
) -> None:
    """End the command if a run would not be what a saved plan says, with a line for each change."""
    from scalable.cli.saved_plan import changes_since, plan_document, render_plan

    now = plan_document(session, plan, render_plan(session, plan), overlay)
    if changes := changes_since(saved, now):
        for change in changes:
            print_problem(change)
        print_status("nothing was started; look at `scalable plan --diff`, and write a new plan")
        raise ReportedFailure("; ".join(changes), USAGE)


def _check_requested_target(workflow: Path, session: ScalableSession) -> None:
    """Raise before the start what `ScalableSession.from_yaml` would raise in the running workflow."""
    from scalable.session import AUTO

    found = find_other_target(workflow.read_bytes(), {AUTO, session.target})
    if found is None:
        return
    line, target = found
    try:
        session.check_requested_target(target)
    except SessionError as error:
        print_problem(str(error), where=f"{workflow}:{line}")
        raise ReportedFailure(str(error), USAGE) from error


def _check_mentions(workflow: Path, session: ScalableSession) -> None:
    """Refuse, or warn of, tags and tasks of the workflow that the manifest lacks, before the start.

    What is named in any case ends the command; what is in a branch may be meant for another target.
    """
    tags, tasks = session.spec.components, session.spec.tasks
    certain: list[str] = []
    for each in find_mentions(workflow.read_bytes()):
        error: ScalableError
        if each.keyword == "tag" and each.name not in tags:
            error = UnknownTagError(each.name, tags)
        elif each.keyword == "task" and each.name not in tasks:
            error = UnknownTaskError(each.name, tasks)
        else:
            continue
        severity: Literal["error", "warning"] = "error" if each.is_certain else "warning"
        where, text = f"{workflow}:{each.line}", session.manifest.redact(str(error))
        print_problem(text, severity=severity, where=where)
        if each.is_certain:
            certain.append(f"{where}: {text}")
    if certain:
        raise ReportedFailure("; ".join(certain), USAGE)


def _begin_record(session: ScalableSession, plan: Plan, request: Request) -> RunRecord:
    from scalable.runs import RunRecord

    try:
        return RunRecord.begin(
            session,
            plan,
            workflow=request.workflow,
            arguments=request.arguments,
            overlay=request.overlay,
            in_cluster=request.in_cluster,
            resumes=request.resumes,
        )
    except OSError as error:
        place = error.filename
        with suppress(FileNotFoundError):  # the current directory is gone
            place = Path(place).absolute()
        raise Failure(
            f"the run's record cannot be kept: {place}: {error.strerror}; "
            "run it from a directory that you can write to, or name another one in SCALABLE_RUNS_DIR",
            USAGE,
        ) from error
