"""A run: its session offered to a workflow, and all that it leaves closed and recorded, however it ends."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from scalable.cli.endings import print_summary, show_error, show_failure, with_failures
from scalable.cli.failures import FAILED, exit_status
from scalable.cli.inside import run_inside
from scalable.cli.options import wants_debug
from scalable.cli.output import print_json, print_problem, print_status
from scalable.cli.preparing import Prepared, Request, prepare
from scalable.cli.script import Outcome, run_script
from scalable.cli.workflow import compile_workflow
from scalable.errors import ScalableError
from scalable.progress.showing import progress_on_stderr
from scalable.providers.entry import NoCollection

if TYPE_CHECKING:
    from types import CodeType

    from scalable.results.naming import NamedCall
    from scalable.runs import RunRecord
    from scalable.session import ScalableSession

__all__ = ["run_workflow"]


def run_workflow(context: click.Context, request: Request) -> None:
    """Run a workflow, and end the command with its exit status."""
    code = None if request.workflow is None else compile_workflow(request.workflow)
    with NoCollection():
        prepared = prepare(request)
        run = None if prepared is None else _Run(prepared, debug=wants_debug(context))
    if run is not None:
        run.execute(context, code)
        context.exit(run.outcome.code)


class _Run:
    """A run that has a record: executes the workflow, and closes and records everything however that ends.

    Parameters
    ----------
    prepared : Prepared
        What is to be run.
    debug : bool
        Whether tracebacks are shown.

    Attributes
    ----------
    outcome : Outcome
        How it has ended.
    """

    def __init__(self, prepared: Prepared, *, debug: bool) -> None:
        from scalable.runs.recorder import Recorder
        from scalable.session.ending import RunEnd

        self.outcome = Outcome(FAILED)
        self._debug = debug
        session, record, request = prepared.session, prepared.record, prepared.request
        self._session, self._record, self._request = session, record, request
        self._inside, self._removed_inside = prepared.inside, False
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
                self.outcome = with_failures(self.outcome, self._session)
            except Exception as error:  # noqa: BLE001 - of --in-cluster; the script's own is its outcome
                self.outcome = Outcome(exit_status(error), error)
                show_failure(error, self._session, debug=self._debug)
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
            print_json(json.loads(record.to_json()))
        elif not self._request.quiet:
            print_summary(self.outcome, record, session, tally, summary)

    def _end_now(self, number: int) -> None:
        print_status(f"the workflow goes on after {signal.Signals(number).name}; ending it")
        self.outcome = Outcome(128 + number, KeyboardInterrupt())
        self._finish()
        sys.stdout.flush()
        os._exit(self.outcome.code)


@contextmanager
def _offered(session: ScalableSession) -> Iterator[None]:
    """Offer a session to the script, which starts it at its first need of workers: as a session or Dask's client."""
    with NoCollection():
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
        print_problem(
            f"{problem.filename}: {problem.strerror}; the record does not say how this run ended",
            severity="warning",
        )


def _warn(text: str) -> None:
    print_problem(text, severity="warning")
