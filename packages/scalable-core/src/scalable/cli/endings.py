"""What is shown of the end of a run."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scalable.cli.failures import FAILED, USAGE, Failure, report_error
from scalable.cli.output import print_problem, print_status
from scalable.cli.runs import describe_cost
from scalable.cli.script import Outcome, trim_tracebacks
from scalable.errors import TasksFailedError

if TYPE_CHECKING:
    from types import TracebackType

    from scalable.runs import RunRecord
    from scalable.runs.tally import Tally
    from scalable.session import ScalableSession

__all__ = ["print_summary", "show_error", "show_failure", "with_failures"]


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
        show_failure(error, session, debug=debug)
    elif outcome.code == USAGE and not debug:
        print_problem(str(error), where=_last_location(error.__traceback__))
        _print_notes(error, session)
    else:
        sys.excepthook(type(error), error, error.__traceback__)


def with_failures(outcome: Outcome, session: ScalableSession) -> Outcome:
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


def show_failure(error: Exception, session: ScalableSession, *, debug: bool) -> None:
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


def print_summary(
    outcome: Outcome,
    record: RunRecord,
    session: ScalableSession,
    tally: Tally,
    summary: Mapping[str, Any],
) -> None:
    """Show what a run has done and used, how it has ended, and where its record is."""
    logs = record.shown / "logs"
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
        f"{_describe_end(record.document)} after {summary['seconds']:.1f} s; record in {record.shown}"
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
