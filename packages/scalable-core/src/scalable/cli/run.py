"""``scalable run``: a workflow, from its manifest to its exit status."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from scalable.cli.failures import FAILED, USAGE, Failure, exit_status, report_error
from scalable.cli.inside import run_inside, submission
from scalable.cli.options import debug_option, json_option, manifest_arguments, wants_debug
from scalable.cli.output import print_problem, print_status, print_warnings
from scalable.cli.plan import describe_session
from scalable.cli.runs import describe_cost
from scalable.cli.script import (
    Outcome,
    compile_script,
    find_mentions,
    find_other_target,
    run_script,
    trim_tracebacks,
)
from scalable.errors import (
    ScalableError,
    SessionError,
    TasksFailedError,
    UnknownTagError,
    UnknownTaskError,
)
from scalable.progress.showing import progress_on_stderr

if TYPE_CHECKING:
    from types import CodeType, TracebackType

    from scalable.planning import Plan
    from scalable.providers.base import Submission
    from scalable.results.naming import NamedCall
    from scalable.runs import RunRecord
    from scalable.runs.tally import Tally
    from scalable.session import ScalableSession

__all__ = [
    "ARGUMENTS",
    "Request",
    "WithArguments",
    "compile_workflow",
    "run",
    "run_workflow",
    "show_error",
    "workflow_option",
]

ARGUMENTS = "scalable.arguments"


class WithArguments(click.Command):
    """A command that keeps everything after ``--`` for the workflow."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse what is before ``--``."""
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[ARGUMENTS] = args[at + 1 :]
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the parts of the usage line, with the arguments."""
        return [*super().collect_usage_pieces(ctx), "[-- ARGS...]"]


workflow_option = click.option(
    "-w",
    "--workflow",
    required=True,
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    help="The Python script to run, with ARGS as its arguments.",
)


@click.command(cls=WithArguments)
@manifest_arguments
@workflow_option
@click.option(
    "--in-cluster",
    is_flag=True,
    help="Run the workflow at the target too, beside the scheduler: it needs no connection to this machine.",
)
@click.option(
    "--plan",
    "plan_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Run what `scalable plan --output FILE` has planned, and nothing else.",
)
@click.option("--dry-run", is_flag=True, help="Show the plan, and run nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Show only problems, no progress.")
@json_option
@debug_option
@click.pass_context
def run(
    context: click.Context,
    manifest: str | None,
    target: str | None,
    overlay: str | None,
    workflow: Path,
    in_cluster: bool,
    plan_file: Path | None,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run a workflow on a target of MANIFEST.

    Validates, plans and checks limits, then runs the script as Python would. ScalableSession.from_yaml() returns the
    run's session in it, and nothing is started before the script needs workers. They are removed whatever happens, and
    the exit status is the script's own. Progress goes to stderr. Stdout is for the script's output, or with
    --json for the record of the run, which is also kept in .scalable/runs.
    """
    run_workflow(
        context,
        Request(
            manifest=manifest,
            target=target,
            overlay=overlay,
            workflow=workflow,
            arguments=context.meta[ARGUMENTS],
            in_cluster=in_cluster,
            plan_file=plan_file,
            dry_run=dry_run,
            quiet=quiet,
            as_json=as_json,
        ),
    )


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


def run_workflow(context: click.Context, request: Request) -> None:
    """Run a workflow, and end the command with its exit status."""
    from scalable.planning import check_limits
    from scalable.session import ScalableSession

    workflow, as_json = request.workflow, request.as_json
    code = None if workflow is None else compile_workflow(workflow)
    saved, request = _read_plan(request)
    session = ScalableSession.from_yaml(
        request.manifest,
        target=request.target,
        overlay=request.overlay,
        workflow=Path.cwd() if workflow is None else workflow.resolve().parent,
    )
    plan = session.plan()
    if saved is not None:
        _check_unchanged(context, session, plan, saved, request.overlay)
    check_limits(session.spec, session.provider, plan.scale_plan)
    print_warnings(session)
    if workflow is not None:
        _check_requested_target(context, workflow, session)
        _check_mentions(context, workflow, session)
    if request.dry_run:
        click.echo(plan.to_json() if as_json else describe_session(session, plan), nl=not as_json)
        return
    inside = None
    if request.in_cluster and workflow is not None:
        inside = submission(session, workflow, request.arguments)
    record = _begin_record(session, plan, request)
    run = _Run(session, record, request, inside, debug=wants_debug(context))
    run.execute(context, code)
    context.exit(run.outcome.code)


class _Run:
    """A run that has a record: executes the workflow, and closes and records everything however that ends.

    Parameters
    ----------
    session : ScalableSession
        The session, not started.
    record : RunRecord
        The record, begun.
    request : Request
        What is to be run.
    inside : Submission or None
        What runs the workflow inside of its cluster, where that was asked for.
    debug : bool
        Whether tracebacks are shown.

    Attributes
    ----------
    outcome : Outcome
        How it has ended.
    """

    def __init__(
        self,
        session: ScalableSession,
        record: RunRecord,
        request: Request,
        inside: Submission | None,
        *,
        debug: bool,
    ) -> None:
        from scalable.runs.recorder import Recorder
        from scalable.session.ending import RunEnd

        self.outcome = Outcome(FAILED)
        self._debug = debug
        self._session, self._record, self._request = session, record, request
        self._inside, self._removed_inside = inside, False
        self._began = time.monotonic()
        self._end = RunEnd(self._end_now)
        self._recorder = session.recorder = Recorder(session, record, _warn)
        session.on_calls = partial(_note_calls, session, record, request)

    def execute(self, context: click.Context, code: CodeType | None) -> None:
        """Execute the workflow, and close and record everything."""
        self._recorder.start()
        with self._end.watching():
            try:
                if not self._debug:
                    _silence_dask(context)
                as_json = self._request.as_json and sys.stdout
                with _redirect_stdout() if as_json else nullcontext(), self._end.workflow():
                    self.outcome = self._drive(code)
                self._removed_inside = self.outcome.code == 0
                show_error(self.outcome, self._session, debug=self._debug)
                self.outcome = _with_failures(self.outcome, self._session)
            except Exception as error:  # noqa: BLE001 - of --in-cluster; the script's own is its outcome
                self.outcome = Outcome(exit_status(error), error)
                _show_failure(error, self._session, debug=self._debug)
            except KeyboardInterrupt as error:
                self.outcome = Outcome(exit_status(error), error)
                show_error(self.outcome, self._session, debug=self._debug)
            except BaseException as error:
                self.outcome = Outcome(exit_status(error), error)
                raise
            finally:
                self._finish()

    def _drive(self, code: CodeType | None) -> Outcome:
        """Return how the workflow has ended."""
        request, session = self._request, self._session
        if self._inside is not None:
            return Outcome(run_inside(session, self._inside, click.echo))
        if request.drive is not None:
            return request.drive(session, self._record)
        if code is None or request.workflow is None:
            return self.outcome
        shown = nullcontext() if request.quiet else progress_on_stderr(session)
        with shown, _offered(session):
            return run_script(code, request.workflow, request.arguments)

    def _finish(self) -> None:
        session, record = self._session, self._record
        session.note_signals(self._end.received)
        tally = self._recorder.note_tasks()
        self.outcome = _close(session, self.outcome)
        self._recorder.stop()
        self._recorder.write(warn=True)  # the events of the end
        inside = self._inside is not None
        removed = self._removed_inside if inside else session.everything_removed
        summary = self._recorder.summary() | {"seconds": round(time.monotonic() - self._began, 3)}
        _finish_record(self.outcome, record, session, everything_removed=removed, summary=summary)
        if self._request.as_json:
            click.echo(record.to_json(), nl=False)
        elif not self._request.quiet:
            _print_summary(self.outcome, record, session, tally, summary)

    def _end_now(self, number: int) -> None:
        print_status(f"the workflow goes on after {signal.Signals(number).name}; ending it")
        self.outcome = Outcome(128 + number, KeyboardInterrupt())
        self._finish()
        sys.stdout.flush()
        os._exit(self.outcome.code)


@contextmanager
def _offered(session: ScalableSession) -> Iterator[None]:
    """Offer a session to the script, which starts it at its first need of workers: as a session or Dask's client."""
    from scalable.cluster.dask_internals import when_client_is_missing
    from scalable.session import set_current_session, signals

    def start() -> None:
        if session.is_new:
            session.start()

    with set_current_session(session), when_client_is_missing(start):
        signals.register(session.close)
        yield


@contextmanager
def _redirect_stdout() -> Iterator[None]:
    """Redirect to stderr what the script and the programs that it starts write, so that stdout has only the record."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()  # also to stderr: what was written to the original stream and is still buffered
        os.dup2(saved, 1)
        os.close(saved)


def _silence_dask(context: click.Context) -> None:
    """Suppress Dask's routine log messages, such as those on closed connections, until the command ends."""
    from distributed.utils import silence_logging_cmgr

    context.with_resource(silence_logging_cmgr("WARNING"))


def compile_workflow(workflow: Path) -> CodeType:
    """Compile a script, before anything is started or asked for."""
    if workflow.suffix in (".yaml", ".yml"):
        raise Failure(
            f"{workflow} is a manifest, not a Python program; a run takes both, each in its place: "
            f"`scalable run {workflow} --workflow workflow.py`",
            USAGE,
        )
    if workflow.suffix == ".ipynb":
        raise Failure(
            f"{workflow} is a notebook, not a Python program; make one of it with "
            f"`jupyter nbconvert --to script {shlex.quote(str(workflow))}`",
            USAGE,
        )
    try:
        return compile_script(workflow)
    except (SyntaxError, ValueError) as error:
        # Before anything costs money. Shown as Python does, with the line and without frames.
        *place, what = traceback.format_exception_only(error)
        where = place or [f'  File "{workflow}"\n']
        raise Failure("".join([what, *where]), FAILED) from error


def _check_requested_target(
    context: click.Context, workflow: Path, session: ScalableSession
) -> None:
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
        context.exit(USAGE)


def _check_mentions(context: click.Context, workflow: Path, session: ScalableSession) -> None:
    """Refuse, or warn of, tags and tasks of the workflow that the manifest lacks, before the start.

    What is named in any case ends the command; what is in a branch may be meant for another target.
    """
    tags, tasks = session.spec.components, session.spec.tasks
    certain = False
    for each in find_mentions(workflow.read_bytes()):
        error: ScalableError
        if each.keyword == "tag" and each.name not in tags:
            error = UnknownTagError(each.name, tags)
        elif each.keyword == "task" and each.name not in tasks:
            error = UnknownTaskError(each.name, tasks)
        else:
            continue
        certain = certain or each.is_certain
        severity: Literal["error", "warning"] = "error" if each.is_certain else "warning"
        print_problem(
            session.manifest.redact(str(error)), severity=severity, where=f"{workflow}:{each.line}"
        )
    if certain:
        context.exit(USAGE)


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
    context: click.Context,
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
        context.exit(USAGE)


def _note_calls(
    session: ScalableSession,
    record: RunRecord,
    request: Request,
    task: str,
    calls: Sequence[NamedCall],
    found: Collection[str],
) -> None:
    """Take note of calls whose results are kept, for those who resume this run."""
    record.note_calls(task, calls, found)
    if request.explain is not None:
        request.explain(session, record, task, calls, found)


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


def show_error(outcome: Outcome, session: ScalableSession, *, debug: bool) -> None:
    """Show the error that ended the script: one of Scalable's own as a line, anything else as Python would."""
    error = outcome.error
    if error is None:
        return
    if not debug:
        trim_tracebacks(error)
    if isinstance(error, KeyboardInterrupt):
        print_status("interrupted; closing the cluster")
        _print_notes(error, session)
    elif isinstance(error, Exception) and error is session.start_error:
        _show_failure(error, session, debug=debug)
    elif outcome.code == USAGE and not debug:
        print_problem(str(error), where=_last_location(error.__traceback__))
        _print_notes(error, session)
    else:
        sys.excepthook(type(error), error, error.__traceback__)


def _with_failures(outcome: Outcome, session: ScalableSession) -> Outcome:
    """Return the outcome of a script that has gone on without the tasks that failed: this run has failed."""
    failures = session.failures
    if outcome.code or not failures:
        return outcome
    first = next(iter(failures.values()))
    what = "a task" if len(failures) == 1 else f"{len(failures)} tasks"
    error = TasksFailedError(
        f"{what} failed, and the workflow went on without: {first.key}: {first.reason}; "
        f"`scalable resume {session.run_directory.name if session.run_directory else 'RUN'}` "
        "computes what is not kept"
    )
    print_problem(session.manifest.redact(str(error)))
    return Outcome(FAILED, error)


def _show_failure(error: Exception, session: ScalableSession, *, debug: bool) -> None:
    """Show an error of Scalable's own, in lines without values of the environment."""
    failure = report_error(error, as_json=False, debug=debug)
    Failure(session.manifest.redact(failure.message), failure.exit_code).show()
    _print_notes(error, session)


def _print_notes(error: BaseException, session: ScalableSession) -> None:
    for note in getattr(error, "__notes__", ()):
        print_problem(session.manifest.redact(note))


def _last_location(tb: TracebackType | None) -> str:
    *_, last = traceback.extract_tb(tb) or [None]
    return f"{last.filename}:{last.lineno}" if last else ""


def _close(session: ScalableSession, outcome: Outcome) -> Outcome:
    """Close the session, and return the outcome with the status of closing taken into account."""
    try:
        session.close()
    except (KeyboardInterrupt, SystemExit) as error:
        # The signal arrived while the session was closing, and was deferred.
        return replace(outcome, code=outcome.code or exit_status(error))
    except ScalableError as error:
        problem: ScalableError | None = error
    else:
        problem = session.leftover_error  # of a script that has closed the session, and dropped it
    error_of_script = outcome.error
    shown = getattr(error_of_script, "__notes__", ())
    if problem is None or problem is error_of_script or str(problem) in shown:
        return outcome
    print_problem(session.manifest.redact(str(problem)))
    return replace(outcome, code=outcome.code or FAILED)


def _finish_record(
    outcome: Outcome,
    record: RunRecord,
    session: ScalableSession,
    *,
    everything_removed: bool,
    summary: Mapping[str, Any],
) -> None:
    error = outcome.error
    text = None if error is None else "".join(traceback.format_exception_only(error)).strip()
    try:
        record.end(
            outcome.code,
            everything_removed=everything_removed,
            error=text,
            events=session.events,
            summary=summary,
        )
    except OSError as problem:  # such as a full disk, which does not change how the run ended
        print_problem(f"{problem.filename}: {problem.strerror}", severity="warning")


def _warn(text: str) -> None:
    print_problem(text, severity="warning")


def _print_summary(
    outcome: Outcome,
    record: RunRecord,
    session: ScalableSession,
    tally: Tally,
    summary: Mapping[str, Any],
) -> None:
    logs = record.directory / "logs"
    for line in tally.lines(logs):
        print_status(session.manifest.redact(line))
    used = {tag: hours for tag, hours in summary["worker_hours"].items() if hours}
    if used:
        each = ", ".join(f"{tag} {hours:.3g}" for tag, hours in used.items())
        print_status(f"worker-hours: {sum(used.values()):.3g} ({each})")
    if cost := summary.get("cost"):
        print_status(describe_cost(cost))
    if reached := summary.get("limit_reached"):
        most = summary["limits"][reached]
        print_status(f"limits.{reached} ({most:g}) was reached; on_exceed: {summary['action']}")
    if logs.is_dir():
        print_status(f"logs of workers in {logs}; `scalable logs` shows them")
    print_status(
        f"{_describe_end(record.document)} after {summary['seconds']:.1f} s; record in {record.directory}"
    )


def _describe_end(document: Mapping[str, Any]) -> str:
    """Return how a run ended.

    Examples
    --------
    >>> _describe_end({"status": "failed", "exit_status": 3})
    'failed with exit status 3'
    """
    code = document["exit_status"]
    return str(document["status"]) + (f" with exit status {code}" if code else "")
