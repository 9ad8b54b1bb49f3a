"""``scalable up``: a session whose manager outlives the shell."""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from scalable.cli.failures import exit_status
from scalable.cli.options import debug_option, json_option, manifest_arguments
from scalable.cli.output import print_json, print_problem, print_status
from scalable.cli.preparing import Request
from scalable.cli.running import run_workflow
from scalable.cli.script import Outcome
from scalable.progress.showing import progress_on_stderr

if TYPE_CHECKING:
    from types import FrameType

    from scalable.runs import RunRecord
    from scalable.session import ScalableSession

__all__ = ["LogFollower", "up"]

_LOOK = 0.1
"""Seconds between two looks at what the manager has written."""


def _as_seconds(context: click.Context, option: click.Parameter, text: str) -> int:
    from scalable.manifest.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), context, option) from None


@click.command()
@manifest_arguments
@click.option(
    "--idle-timeout",
    callback=_as_seconds,
    default="2h",
    show_default=True,
    help="End it after this time without an attached client and without tasks; 0 for never.",
)
@click.option(
    "--foreground", is_flag=True, help="Do not leave the terminal: for systemd, tmux and debugging."
)
@click.option("--report", type=int, hidden=True)
@click.option("--log", type=click.Path(path_type=Path), hidden=True)
@json_option
@debug_option
@click.pass_context
def up(
    context: click.Context,
    manifest: str | None,
    target: str | None,
    overlay: str | None,
    idle_timeout: int,
    foreground: bool,
    report: int | None,
    log: Path | None,
    as_json: bool,
) -> None:
    """Start a session on a target of MANIFEST, and return when its workers are there.

    A process on this machine goes on to manage it, also when the shell has ended. `scalable attach` runs workflows on
    it, `scalable scale` changes its workers, and `scalable down` ends it. It has a record like any run, with what its
    manager prints in manager.log. SIGTERM ends it as `scalable down` does.
    """
    if foreground:
        drive = partial(_drive, idle_timeout=idle_timeout, report=report, log=log)
        run_workflow(context, Request(manifest, target, overlay, None, (), drive=drive))
        return
    from scalable.planning import check_limits
    from scalable.session import ScalableSession

    # What is wrong with the manifest is said here; its manager looks again.
    session = ScalableSession.from_yaml(manifest, target=target, overlay=overlay)
    check_limits(session.spec, session.provider, session.plan().scale_plan)
    _warn_of_another(session)
    options = ["--target", session.target, "--idle-timeout", str(idle_timeout)]
    options += ["--overlay", overlay] if overlay else []
    options += ["--", manifest] if manifest else []
    code, told = _start_manager(options)
    if as_json and "run" in told:
        print_json(_as_json(told))
    elif "groups" in told:
        print_status(
            f"run {told['run']} is up, managed by process {told['pid']}; "
            f"`scalable down {told['run']}` ends it"
        )
    context.exit(code)


# -- The manager's process


def _drive(
    session: ScalableSession,
    record: RunRecord,
    *,
    idle_timeout: int,
    report: int | None,
    log: Path | None,
) -> Outcome:
    """Keep a session up, in place of a script."""
    from scalable.session.control import LOG
    from scalable.session.manager import Manager

    directory = record.directory.absolute()
    if log is not None:
        log.replace(directory / LOG)
    _tell(report, {"run": directory.name, "directory": str(directory), "pid": os.getpid()})
    with progress_on_stderr(session):
        session.start()
    manager = Manager(session, idle_timeout)
    try:
        with manager.served(directory):
            groups = {tag: [each.running, each.wanted] for tag, each in session.groups.items()}
            _tell(report, {"groups": groups})
            if report is not None:
                os.close(report)  # whoever reads it says so
            else:
                text = f"run {directory.name} is up; `scalable down {directory.name}` ends it"
                print_status(text)
            why = manager.wait()
    except (KeyboardInterrupt, SystemExit) as error:
        why = signal.Signals(exit_status(error) - 128).name
    print_status(f"{why}; closing the cluster")
    return Outcome(0)


def _tell(report: int | None, facts: Mapping[str, Any]) -> None:
    if report is not None:
        with suppress(BrokenPipeError):  # who has started this is gone, and this goes on
            os.write(report, f"{json.dumps(facts)}\n".encode())


# -- The process that starts it


class LogFollower:
    """Copies to stderr what is appended to a file.

    Parameters
    ----------
    stream : BinaryIO
        The file, at the place from which on it is copied.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def copy(self) -> None:
        """Copy what is new."""
        if new := self._stream.read():
            click.echo(new.decode(errors="replace"), err=True, nl=False)


def _start_manager(options: list[str]) -> tuple[int, dict[str, Any]]:
    """Return 0 and what a manager has told once its workers are there, or its exit status if it ends before."""
    from scalable.runs import records_directory

    root = records_directory()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The manager moves it to its record, once it has one. It must not write to this terminal, or to a pipe there.
    log = root.absolute() / f"up-{secrets.token_hex(6)}.log"
    how = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW
    written = os.open(log, how, 0o600)
    reading, report = os.pipe()
    command = [sys.executable, "-P", "-m", "scalable.cli", "up", "--foreground"]
    command += ["--report", str(report), "--log", str(log), *options]
    try:
        with log.open("rb") as stream:
            manager = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                pass_fds=[report],
                start_new_session=True,
            )
            os.close(report)
            with _forwarded_to(manager), os.fdopen(reading, "rb", buffering=0) as pipe:
                return _follow(manager, pipe, LogFollower(stream))
    finally:
        os.close(written)
        log.unlink(missing_ok=True)  # if there is no record


def _follow(
    manager: subprocess.Popen[bytes], pipe: BinaryIO, log: LogFollower
) -> tuple[int, dict[str, Any]]:
    told: dict[str, Any] = {}
    text = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], _LOOK)
        log.copy()
        if not ready:
            continue
        if not (new := pipe.read(65_536)):
            break
        text += new
        *lines, text = text.split(b"\n")
        for line in lines:
            told |= json.loads(line)
    if "groups" in told:
        return 0, told
    code = manager.wait()
    log.copy()
    return (128 - code if code < 0 else code), told


@contextmanager
def _forwarded_to(manager: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass on the signals that end a command: until the manager is up, it ends with what has started it."""
    from scalable.session.signals import END_SIGNALS

    def forward(number: int, _: FrameType | None) -> None:
        manager.send_signal(number)

    before = {number: signal.signal(number, forward) for number in END_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _as_json(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a run that is up, or the record of one that could not start."""
    from scalable.runs import read_record

    if "groups" not in told:
        return read_record(Path(told["directory"])) or {}
    groups = {
        tag: {"running": running, "wanted": wanted}
        for tag, (running, wanted) in told["groups"].items()
    }
    return {**told, "groups": groups}


def _warn_of_another(session: ScalableSession) -> None:
    """Warn if a session on the same target of the same manifest is up already."""
    from scalable.runs import run_state
    from scalable.session.control import managed_runs

    source = Path(session.manifest.source or "").resolve()
    for directory, record in managed_runs():
        path = Path(record["directory"], record["manifest"]["path"] or "").resolve()
        state = run_state(record, directory)
        if (path, record["target"]) == (source, session.target) and state.lives:
            print_problem(
                f"run {directory.name} is up on target {session.target!r} already ({state.text}), "
                "and keeps its own workers; "
                f"end it with `scalable down {directory.name}`, if you do not use both",
                severity="warning",
            )
            return
