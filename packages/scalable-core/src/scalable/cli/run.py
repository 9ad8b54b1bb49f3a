"""``scalable run``: a workflow, from its manifest to its exit status."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scalable.cli.failures import FAILED, USAGE, Failure, exit_status, report_error
from scalable.cli.inside import run_inside, submission
from scalable.cli.options import debug_option, json_option, manifest_arguments, wants_debug
from scalable.cli.output import print_problem, print_status, print_warnings
from scalable.cli.progress import LiveView, PlainView, View, show_progress
from scalable.cli.script import (
    Outcome,
    compile_script,
    find_other_target,
    run_script,
    trim_tracebacks,
)
from scalable.cli.terminal import StatusArea
from scalable.errors import ScalableError, SessionError

if TYPE_CHECKING:
    from types import CodeType, TracebackType

    from scalable.planning import Plan
    from scalable.runs import RunRecord
    from scalable.session import ScalableSession

__all__ = ["run"]

_ARGUMENTS = "scalable.arguments"


class _WithArguments(click.Command):
    """A command that keeps everything after ``--`` for the workflow."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[_ARGUMENTS] = args[at + 1 :]
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- ARGS...]"]


@click.command(cls=_WithArguments)
@manifest_arguments
@click.option(
    "-w",
    "--workflow",
    required=True,
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    help="The Python script to run, with ARGS as its arguments.",
)
@click.option(
    "--in-cluster",
    is_flag=True,
    help="Run the workflow at the target too, beside the scheduler: it needs no connection to this machine.",
)
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
    quiet: bool,
    as_json: bool,
) -> None:
    """Run a workflow on a target of MANIFEST.

    Validates, plans and checks limits before anything is started; then starts the workers, runs the script as Python
    would, removes the workers whatever happens, and exits with the script's own status. ScalableSession.from_yaml()
    returns the running session in the script. Progress goes to stderr. Stdout is for the script's output, or with
    --json for the record of the run, which is also kept in .scalable/runs.
    """
    from scalable.planning import check_limits
    from scalable.session import ScalableSession, set_current_session

    code = _compile(workflow)
    session = ScalableSession.from_yaml(
        manifest, target=target, overlay=overlay, workflow=workflow.resolve().parent
    )
    plan = session.plan()
    check_limits(session.spec, session.provider, plan.scale_plan)
    print_warnings(session)
    _check_requested_target(context, workflow, session)
    arguments = context.meta[_ARGUMENTS]
    inside = submission(session, workflow, arguments) if in_cluster else None
    record = _begin_record(session, plan, workflow, arguments)
    started, outcome, debug = time.monotonic(), Outcome(FAILED), wants_debug(context)
    removed = False
    try:
        if not debug:
            _silence_dask(context)
        with _redirect_stdout() if as_json and sys.stdout else nullcontext():
            if inside is not None:
                outcome = Outcome(run_inside(session, inside, click.echo))
            else:
                with nullcontext() if quiet else _progress(session):
                    session.start()
                    with set_current_session(session):
                        outcome = run_script(code, workflow, arguments)
            _show_error(outcome, debug=debug)
            removed = outcome.code == 0
    except Exception as error:  # noqa: BLE001 - of the start; the script's own is its outcome
        outcome = Outcome(exit_status(error), error)
        failure = report_error(error, as_json=False, debug=debug)
        Failure(session.manifest.redact(failure.message), outcome.code).show()
    except KeyboardInterrupt as error:  # while it starts
        outcome = Outcome(exit_status(error), error)
        _show_error(outcome, debug=debug)
    except BaseException as error:
        outcome = Outcome(exit_status(error), error)
        raise
    finally:
        outcome = _close(session, outcome)
        removed = session.everything_removed if inside is None else removed
        _finish_record(outcome, record, session, everything_removed=removed)
        if as_json:
            click.echo(record.to_json(), nl=False)
        elif not quiet:
            seconds = time.monotonic() - started
            print_status(
                f"{_describe_exit(outcome.code)} after {seconds:.1f} s; record in {record.directory}"
            )
    context.exit(outcome.code)


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


def _compile(workflow: Path) -> CodeType:
    try:
        return compile_script(workflow)
    except (SyntaxError, ValueError) as error:
        # Before anything costs money. Shown as Python does, with the line and without frames.
        *place, what = traceback.format_exception_only(error)
        raise Failure("".join([what, *place]), FAILED) from error


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


def _begin_record(
    session: ScalableSession, plan: Plan, workflow: Path, arguments: Sequence[str]
) -> RunRecord:
    from scalable.runs import RunRecord

    try:
        return RunRecord.begin(session, plan, workflow=workflow, arguments=arguments)
    except OSError as error:
        raise Failure(
            f"the run's record cannot be kept: {Path(error.filename).absolute()}: {error.strerror}; "
            "run it from a directory that you can write to",
            USAGE,
        ) from error


@contextmanager
def _progress(session: ScalableSession) -> Iterator[None]:
    """Show progress on stderr: live on a terminal, as lines elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    with ExitStack() as stack:
        view: View = PlainView(sys.stderr)
        if console.is_terminal and not console.is_dumb_terminal:
            area = StatusArea(console)
            view = LiveView(area)
            stack.enter_context(area.below_output())
        stack.enter_context(show_progress(session, view))
        yield


def _show_error(outcome: Outcome, *, debug: bool) -> None:
    """Show the error that ended the script: wrong use of Scalable as one line, anything else as Python would."""
    error = outcome.error
    if error is None:
        return
    if not debug:
        trim_tracebacks(error)
    if isinstance(error, KeyboardInterrupt):
        print_status("interrupted; closing the cluster")
    elif outcome.code == USAGE and not debug:
        print_problem(str(error), where=_last_location(error.__traceback__))
    else:
        sys.excepthook(type(error), error, error.__traceback__)


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
        print_problem(session.manifest.redact(str(error)))
        return replace(outcome, code=outcome.code or FAILED)
    return outcome


def _finish_record(
    outcome: Outcome, record: RunRecord, session: ScalableSession, *, everything_removed: bool
) -> None:
    error = outcome.error
    text = None if error is None else "".join(traceback.format_exception_only(error)).strip()
    try:
        record.end(
            outcome.code,
            everything_removed=everything_removed,
            error=text,
            events=session.events,
        )
    except OSError as problem:  # such as a full disk, which does not change how the run ended
        print_problem(f"{problem.filename}: {problem.strerror}", severity="warning")


def _describe_exit(code: int) -> str:
    return f"ended with exit status {code}" if code else "finished"
