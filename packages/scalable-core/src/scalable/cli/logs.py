"""``scalable logs``: what the workers of a run have written, also while it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from scalable.cli.failures import USAGE, Failure
from scalable.cli.options import debug_option, json_option
from scalable.cli.output import print_json, print_note, print_text
from scalable.cli.runs import find_run, run_directory

__all__ = ["logs"]

_MAX_WAIT = 10.0
"""Seconds that a running run may take to write its logs."""


@click.command()
@click.argument("run", required=False)
@click.argument("what", required=False, metavar="[TAG | TASK]")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only the last N lines of each log.",
)
@json_option
@debug_option
def logs(run: str | None, what: str | None, lines: int | None, as_json: bool) -> None:
    """Show the logs of a run's workers, in which is what its tasks have printed.

    RUN is the id of a run, the beginning of it, or "latest", which is also shown without RUN. TAG is a component or
    one of its workers; TASK a function, or the key of a task or the beginning of it. Then only the logs of these
    workers, or of those that ran these tasks, are shown.
    """
    document = find_run(run)
    directory = run_directory(document)
    redact = _catch_up(document, directory)
    found = {path.stem: path for path in sorted((directory / "logs").glob("*.log"), key=_number)}
    ran = _workers_of(directory, what) if what else {}
    chosen = found if what is None else _choose(found, what, ran)
    if not chosen:
        raise Failure(_nothing(document, found, what, ran), USAGE)
    texts = {name: redact(_read(path, lines)) for name, path in chosen.items()}
    if as_json:
        shown = [
            {"worker": name, "component": _component(name), "path": str(chosen[name])}
            | ({"tasks": ran[name]} if name in ran else {})
            | {"text": text}
            for name, text in texts.items()
        ]
        print_json({"run": document["id"], "logs": shown})
        return
    for name, text in texts.items():
        print_text(click.style(f"==> {name}: {chosen[name]} <==", bold=True))
        for key in ran.get(name, [])[:5]:
            print_text(click.style(f"    ran {key}", dim=True))
        print_text(text, end="" if text.endswith("\n") else "\n")


def _catch_up(document: Mapping[str, Any], directory: Path) -> Callable[[str], str]:
    """Have a running run write its logs; return what takes secrets out of logs that are not complete yet."""
    if document.get("status") != "running":
        return lambda text: text
    from scalable.errors import ManifestError
    from scalable.manifest.parser import parse_manifest
    from scalable.runs import run_state

    state = run_state(document, directory)
    if state.lives:
        _ask(directory)
    elif state.lives is None:
        print_note(f"the run is {state.text}; these are the logs as it last kept them")
    try:
        written = document["manifest"]["document"]
        return parse_manifest(written, target_name=document["target"]).redact
    except (ManifestError, KeyError, TypeError) as error:
        print_note(
            f"the run has not ended, and its logs may show values of the environment: {error}"
        )
        return lambda text: text


def _ask(directory: Path) -> None:
    from scalable.runs.recorder import LOGS_WANTED

    wanted = directory / LOGS_WANTED
    try:
        wanted.touch(mode=0o600)
    except OSError as error:
        print_note(f"these are the logs as the run last kept them: {error.strerror}")
        return
    deadline = time.monotonic() + _MAX_WAIT
    while wanted.exists():
        if time.monotonic() > deadline:
            wanted.unlink(missing_ok=True)
            print_note("the run does not answer; these are the logs as it last kept them")
            return
        time.sleep(0.1)


def _read(path: Path, lines: int | None) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    return text if lines is None else "\n".join(text.splitlines()[-lines:])


def _workers_of(directory: Path, task: str) -> dict[str, list[str]]:
    """Return the workers that ran tasks which `task` names, each with their keys."""
    from scalable.runs.shape import TASK

    ran: dict[str, list[str]] = {}
    for row in read_rows(directory / "tasks.jsonl", TASK):
        key, worker = row["task"], row.get("worker")
        if worker and is_named(key, row.get("component") or "", task):
            ran.setdefault(worker, []).append(key)
    return ran


def is_named(key: str, component: str, what: str) -> bool:
    """Return whether a task is meant, by its key, the beginning of it, or the name of its function.

    Examples
    --------
    >>> [is_named("gcam.simulate-1f2e", "gcam", what) for what in ("simulate", "gcam.sim", "gcam.simulate-1f", "sim")]
    [True, True, True, False]
    """
    function = key.rsplit("-", 1)[0].removeprefix(f"{component.replace('-', ':')}.")
    return key.startswith(what) or function == what


def read_rows(path: Path, shape: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of a record that have a shape; a line that was cut, as by a full disk, is left out."""
    from scalable.runs.shape import find_fault

    try:
        stream = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    with stream:
        for line in stream:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if not find_fault(row, shape):
                yield row


def _choose(found: Mapping[str, Path], what: str, ran: Mapping[str, list[str]]) -> dict[str, Path]:
    chosen = {name: path for name, path in found.items() if what in (name, _component(name))}
    return chosen or {name: path for name, path in found.items() if name in ran}


def _component(worker: str) -> str:
    return worker.rsplit("-", 1)[0]


def _number(path: Path) -> tuple[str, int, str]:
    """Sort gcam-10 behind gcam-9."""
    tag, _, number = path.stem.rpartition("-")
    digits = number.replace("_", "")
    return tag, int(digits) if digits.isdecimal() else 0, number


def _nothing(
    document: Mapping[str, Any],
    found: Mapping[str, Path],
    what: str | None,
    ran: Mapping[str, list[str]],
) -> str:
    run = document["id"]
    if not found:
        return f"run {run} has no logs of workers: it had none, or they wrote nothing"
    if ran:
        return f"{what!r} ran on {', '.join(ran)}, whose logs are not there; `scalable logs {run}` shows all"
    named = ", ".join(sorted({_component(name) for name in found}))
    return (
        f"run {run} has no component, worker or task {what!r} with a log; "
        f"its components with logs are: {named}"
    )
