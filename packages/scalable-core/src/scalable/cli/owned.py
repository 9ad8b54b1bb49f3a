"""``scalable ps`` and ``scalable reap``: list and remove the resources of runs in queues and clouds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scalable.cli.failures import FAILED
from scalable.cli.options import debug_option, json_option
from scalable.cli.output import (
    as_table,
    print_json,
    print_note,
    print_problem,
    print_status,
    print_text,
)

if TYPE_CHECKING:
    from pathlib import Path

    from scalable.cli.asking import Answer, Answers, Scope
    from scalable.cli.standing import LostRun, OpenRun, Standings
    from scalable.cluster.port import Leftover
    from scalable.providers.base import Owned

__all__ = ["ps", "reap", "reap_run"]

F = TypeVar("F", bound=Callable[..., Any])


def _scope_options(command: F) -> F:
    """Add the options that say which targets are asked."""
    for add in (
        click.option("--provider", metavar="NAME", help="Only targets of this provider."),
        click.option(
            "--overlay", metavar="NAME", help="Overlay to merge instead of the targets' own."
        ),
        click.option(
            "-t",
            "--target",
            metavar="NAME",
            help="Only this target of the manifest; by default, all of them.",
        ),
    ):
        command = add(command)
    return command


@click.command()
@_scope_options
@click.argument("manifest", required=False)
@json_option
@debug_option
@click.pass_context
def ps(
    context: click.Context,
    manifest: str | None,
    target: str | None,
    overlay: str | None,
    provider: str | None,
    as_json: bool,
) -> None:
    """List the resources of runs in queues and clouds: jobs, pods, machines.

    Everything that Scalable starts is labelled with its run's id, so this finds the resources of other sessions, and at
    some places of other users, too. It asks each target of MANIFEST, by default $SCALABLE_MANIFEST or scalable.yaml;
    unless MANIFEST or --target is given, also where those runs were whose record in .scalable/runs does not say that
    everything was removed. Without a manifest, it asks every provider that needs no options.

    Each is *alive*, if the process of its run lives on this machine; an *orphan*, if that has ended; *elsewhere*, if it
    is on another machine; or *foreign*, if no run that was started from this directory has made it. A run that lives
    and has no such resources, as with workers that are processes of this machine, is listed itself. Runs of which a
    ledger says that they have made something, and no provider shows it any more, are *lost*.

    The exit status is 1 if a target does not answer. One that this machine is not set up to ask is only noted, unless
    --target or --provider names it.
    """
    from scalable.cli.asking import Scope, ask
    from scalable.cli.standing import Standings

    scope = Scope(manifest, target, overlay, provider)
    answers = ask(scope)
    _print_troubles(answers)
    standings = Standings.read()
    lost = standings.lost(answers, scope)
    unshown = standings.unshown(answers, scope)
    if as_json:
        print_json(
            [
                {**row, "standing": standings.of(resource).value}
                for answer in answers.found
                for resource in answer.owned
                for row in _as_json(answer, [resource])
            ]
            + [run.as_json() for run in unshown]
            + [run.as_json() for run in lost]
        )
    else:
        _show(
            ((answer, resource) for answer in answers.found for resource in answer.owned),
            standings,
            unshown,
        )
        for line in standings.elsewhere(answers):
            print_note(line)
        for run in lost:
            print_note(f"{run.describe()}; `scalable reap` takes note of that")
        there_are = unshown or any(a.owned for a in answers.found)
        if answers.found and answers.complete and not there_are:
            print_status(_nothing(answers))
    if not answers.complete:
        context.exit(FAILED)


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option(
    "--all", "all_runs", is_flag=True, help="Remove the resources of all your runs, live ones too."
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option(
    "-m",
    "--manifest",
    metavar="FILE",
    help="Manifest whose targets are asked; by default as for `scalable ps`.",
)
@_scope_options
@json_option
@debug_option
@click.pass_context
def reap(
    context: click.Context,
    runs: tuple[str, ...],
    all_runs: bool,
    yes: bool,
    manifest: str | None,
    target: str | None,
    overlay: str | None,
    provider: str | None,
    as_json: bool,
) -> None:
    """Remove the resources that dead runs left in queues and clouds.

    By default, these are the orphans, as `scalable ps` shows them: what a run has made that was started from this
    directory, and whose process has ended. They are removed only if two answers of their provider show them.

    Otherwise, name the RUNs, or give --all for all of yours. A run that is still alive loses its workers then. What
    belongs to another user is never removed. The same targets are asked as by `scalable ps`.

    The exit status is 1 if something could not be removed, belongs to another user although its RUN was named, or a
    target does not answer.
    """
    from scalable.cli.asking import Scope

    if runs and all_runs:
        raise click.UsageError("name the runs to remove, or give --all, not both")
    scope = Scope(manifest, target, overlay, provider)
    if runs or all_runs:
        _reap_runs(context, scope, runs, yes=yes, as_json=as_json)
    else:
        _reap_orphans(context, scope, yes=yes, as_json=as_json)


def reap_run(context: click.Context, directory: Path, *, as_json: bool) -> None:
    """Remove the orphans of one run that has ended, by the directory of its record, as `reap` does."""
    from scalable.cli.asking import Scope
    from scalable.cluster.ledger import read_ledger
    from scalable.runs import mark_removed

    ledger = read_ledger(directory)
    if ledger is None:
        mark_removed(directory)
        print_status(f"run {directory.name} has made nothing")
        return
    scope = Scope(None, None, None, None)
    _reap_orphans(context, scope, yes=True, as_json=as_json, only=ledger.run_ids)


def _reap_orphans(
    context: click.Context,
    scope: Scope,
    *,
    yes: bool,
    as_json: bool,
    only: frozenset[str] | None = None,
) -> None:
    """Remove the orphans that two answers show, of those runs `only`, if given."""
    from scalable.cli.asking import ask
    from scalable.cli.standing import Standings

    answers = ask(scope)
    _print_troubles(answers)
    standings = Standings.read(only)
    gone = standings.lost(answers, scope)
    shown_once = bool(gone or standings.orphans(answers))
    if shown_once:
        answers, gone = _confirm(answers, gone, standings, scope, only)
    removal = _Removal(standings, yes=yes, as_json=as_json)
    for answer in answers.found:
        removal.remove(answer, [each for each in answer.owned if standings.is_orphan(each)])
    if answers.complete:
        standings.close(removal.left, removal.removed, gone)
        for run in gone:
            print_status(f"nothing is left of run {run.name}")
    removal.print_json()
    nothing_done = not (removal.removed or removal.left or gone)
    if not as_json and answers.found and answers.complete and nothing_done:
        if shown_once:
            print_status("no orphan was shown twice, so nothing was removed")
        elif any(answer.owned for answer in answers.found):
            print_status("there are no orphans; name a run to remove it")
        else:
            print_status(_nothing(answers))
    if removal.left or not answers.complete:
        context.exit(FAILED)


def _confirm(
    answers: Answers,
    gone: list[LostRun],
    standings: Standings,
    scope: Scope,
    only: frozenset[str] | None,
) -> tuple[Answers, list[LostRun]]:
    """Return the orphans, and the runs without any, that another answer confirms."""
    from scalable.cli.asking import ask
    from scalable.cli.standing import confirm

    answers, gone = confirm(answers, gone, scope, only)
    # One run may be ending by itself just now, so that an answer shows what the next one does not.
    for _ in range(_MORE_ANSWERS if only is not None else 0):
        if gone or standings.orphans(answers):
            break
        first = ask(scope)
        answers, gone = confirm(first, standings.lost(first, scope), scope, only)
    return answers, gone


def _reap_runs(
    context: click.Context, scope: Scope, runs: tuple[str, ...], *, yes: bool, as_json: bool
) -> None:
    """Remove the resources of these runs, of all of this user's without any."""
    from scalable.cli.asking import ask
    from scalable.cli.standing import Standings

    answers = ask(scope)
    _print_troubles(answers)
    standings = Standings.read()
    removal = _Removal(standings, yes=yes, as_json=as_json)
    others: list[Owned] = []
    for answer in answers.found:
        mine, theirs = _select(answer.owned, runs)
        others += theirs
        removal.remove(answer, mine)
    refused = _print_others(others, runs)
    removal.print_json()
    if not as_json and answers.found and answers.complete:
        refused |= _print_missing(runs, answers, standings, scope)
    if removal.left or refused or not answers.complete:
        context.exit(FAILED)


def _print_missing(
    runs: Sequence[str], answers: Answers, standings: Standings, scope: Scope
) -> bool:
    """Print which runs have no resources; return whether one of them lives."""
    shown = {resource.run_id for answer in answers.found for resource in answer.owned}
    unshown = standings.unshown(answers, scope)
    missing = [run for run in runs if run not in shown]
    alive = {run: each for run in missing for each in unshown if run in each.names}
    for name, each in alive.items():
        print_problem(f"run {name} {each.describe()}")
    if unknown := [run for run in missing if run not in alive]:
        names = " or ".join(unknown)
        print_status(f"there are no resources of {names} in a queue or a cloud; see `scalable ps`")
    elif not shown and not alive and not standings.lost(answers, scope):
        print_status(_nothing(answers))
    return bool(alive)


def _select(owned: Iterable[Owned], runs: Sequence[str]) -> tuple[list[Owned], list[Owned]]:
    """Return the resources to remove, and those that were meant as well but are not this user's.

    Where the owner is not known, a resource counts as this user's if its run is named, and not for ``--all``.
    """
    from scalable.providers.base import current_owner

    removable = {current_owner(), ""} if runs else {current_owner()}
    mine: list[Owned] = []
    others: list[Owned] = []
    for resource in owned:
        if not runs or resource.run_id in runs:
            (mine if resource.owner in removable else others).append(resource)
    return mine, others


_MORE_ANSWERS = 5
"""How often providers are asked about one run again, until two answers agree."""


@dataclass
class _Removal:
    """What was removed, and what is left, as JSON values."""

    standings: Standings
    yes: bool
    as_json: bool
    removed: list[dict[str, Any]] = field(default_factory=list)
    left: list[dict[str, Any]] = field(default_factory=list)

    def remove(self, answer: Answer, selected: Sequence[Owned]) -> None:
        """Remove resources of one target, if the user confirms it, and print what could not be removed."""
        if not selected:
            return
        _show([(answer, resource) for resource in selected], self.standings, err=self.as_json)
        if not self.yes:
            click.confirm(f"Remove these {len(selected)} resources?", abort=True, err=True)
        leftovers = _reap(answer, selected)
        for leftover in leftovers:
            print_problem(f"could not remove {leftover}")
        not_removed = {(leftover.kind, leftover.name) for leftover in leftovers}
        gone = [each for each in selected if (each.kind, each.name) not in not_removed]
        if gone:
            print_status(f"removed {len(gone)} of {answer.label}")
        self.removed += _as_json(answer, gone)
        self.left += _as_json(answer, leftovers)

    def print_json(self) -> None:
        """Print both, where JSON is wanted."""
        if self.as_json:
            print_json({"removed": self.removed, "left": self.left})


def _reap(answer: Answer, selected: Sequence[Owned]) -> Sequence[Leftover]:
    """Remove resources; where the provider fails, none is known to be gone."""
    from scalable.cli.asking import describe_trouble
    from scalable.cluster.port import Leftover

    try:
        return list(answer.provider.reap(answer.spec, selected))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - reported for each resource
        why = describe_trouble(error, answer.spec)
        return [Leftover(resource.kind, resource.name, why) for resource in selected]


def _print_troubles(answers: Answers) -> None:
    for trouble in answers.troubles:
        if trouble.severity == "note":
            print_note(trouble.message)
        else:
            print_problem(trouble.message)


def _print_others(others: Sequence[Owned], runs: Sequence[str]) -> bool:
    """Print what was not removed because it is not this user's; return whether its run was named."""
    if runs:
        for run, owner in sorted({(resource.run_id, resource.owner) for resource in others}):
            print_problem(f"run {run} belongs to {owner}, who alone may remove it")
        return bool(others)
    if others:
        counts = Counter(resource.owner or "an unknown owner" for resource in others)
        listed = ", ".join(f"{count} of {owner}" for owner, count in counts.most_common())
        print_note(f"left out what is not yours: {listed}")
    return False


def _nothing(answers: Answers) -> str:
    if answers.troubles:
        return "no run has resources where it could be asked"
    return "no run has resources in a queue or a cloud"


def _as_json(
    answer: Answer, resources: Sequence[Owned] | Sequence[Leftover]
) -> list[dict[str, Any]]:
    where = {"provider": answer.spec.provider_name, "target": answer.target}
    return [{**where, **asdict(resource)} for resource in resources]


def _show(
    resources: Iterable[tuple[Answer, Owned]],
    standings: Standings,
    unshown: Iterable[OpenRun] = (),
    *,
    err: bool = False,
) -> None:
    header = ("target", "provider", "run", "", "kind", "name", "owner", "state")
    rows = [
        [
            answer.target or "-",
            answer.spec.provider_name,
            each.run_id,
            standings.of(each).value,
            each.kind,
            each.name,
            each.owner,
            each.detail,
        ]
        for answer, each in resources
    ]
    names = ("target", "provider", "run_id", "standing", "kind", "name", "owner", "detail")
    rows += [[run[name] for name in names] for run in (each.as_json() for each in unshown)]
    if rows:
        if err:
            click.echo(as_table(header, rows), err=True)
        else:
            print_text(as_table(header, rows))
