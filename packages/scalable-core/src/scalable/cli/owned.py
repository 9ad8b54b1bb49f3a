"""``scalable ps`` and ``scalable reap``: what runs have outside of this machine's processes, and its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from scalable.cli.failures import FAILED
from scalable.cli.options import debug_option, json_option
from scalable.cli.output import as_table, print_json, print_problem, say

if TYPE_CHECKING:
    from scalable.cluster.port import Leftover
    from scalable.providers.base import Owned, Reaps

__all__ = ["ps", "reap"]

_provider_option = click.option(
    "--provider", metavar="NAME", help="Ask this provider only; by default, all that are installed."
)


@click.command()
@_provider_option
@json_option
@debug_option
@click.pass_context
def ps(context: click.Context, provider: str | None, as_json: bool) -> None:
    """List what runs have in queues and clouds: jobs, pods, machines.

    Everything that Scalable starts carries its run's id; this finds it, also from another session. The exit status is
    1 if a provider cannot be asked.
    """
    found = {name: _owned(name, asked) for name, asked in _who_can_be_asked(provider)}
    if as_json:
        print_json([each for name, things in found.items() for each in _as_json(name, things)])
    else:
        _show(found)
    if any(things is None for things in found.values()):
        context.exit(FAILED)


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("--all", "everything", is_flag=True, help="Whatever run it is of, live ones too.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_provider_option
@json_option
@debug_option
@click.pass_context
def reap(
    context: click.Context,
    runs: tuple[str, ...],
    everything: bool,
    yes: bool,
    provider: str | None,
    as_json: bool,
) -> None:
    """Remove what dead runs left in queues and clouds.

    Name the RUNs, as `scalable ps` shows them, or say --all. A run that is still alive loses its workers, so be sure.
    """
    if bool(runs) == everything:
        raise click.UsageError(
            "name the runs to remove, as `scalable ps` shows them, or give --all"
        )
    failed = False
    removed: list[dict[str, str]] = []
    left: list[dict[str, str]] = []
    for name, asked in _who_can_be_asked(provider):
        owned = _owned(name, asked)
        if owned is None:
            failed = True
            continue
        if doomed := [thing for thing in owned if everything or thing.run_id in runs]:
            _show({name: doomed}, err=as_json)
            if not yes:
                click.confirm(f"Remove these {len(doomed)}?", abort=True, err=True)
            gone, leftovers = _remove(name, asked, doomed)
            removed += _as_json(name, gone)
            left += [{"provider": name, **asdict(leftover)} for leftover in leftovers]
    if as_json:
        print_json({"removed": removed, "left": left})
    elif not (removed or left or failed):
        say(_nothing(runs))
    if failed or left:
        context.exit(FAILED)


def _remove(
    name: str, provider: Reaps, doomed: Sequence[Owned]
) -> tuple[Sequence[Owned], Sequence[Leftover]]:
    """Have a provider remove these, and tell how that went: what is gone, and what is left."""
    leftovers = provider.reap(doomed)
    for leftover in leftovers:
        print_problem(f"could not remove {leftover}")
    stuck = {(leftover.kind, leftover.name) for leftover in leftovers}
    gone = [thing for thing in doomed if (thing.kind, thing.name) not in stuck]
    say(f"removed {len(gone)} of {name}")
    return gone, leftovers


def _who_can_be_asked(provider: str | None) -> Iterator[tuple[str, Reaps]]:
    from scalable.providers.base import Reaps
    from scalable.providers.registry import ProviderStatus, describe_providers, get_provider

    if provider is not None:
        chosen = get_provider(provider)
        if not isinstance(chosen, Reaps):
            raise click.UsageError(f"provider {provider!r} leaves nothing that could be listed")
        yield provider, chosen
        return
    for info in describe_providers(load=True):
        if info.status is ProviderStatus.USABLE:
            known = get_provider(info.name)
            if isinstance(known, Reaps):
                yield info.name, known


def _owned(name: str, provider: Reaps) -> Sequence[Owned] | None:
    """Ask one provider; None, and a line that says why, if it cannot be asked."""
    from scalable.errors import ScalableError

    try:
        return provider.list_owned()
    except ScalableError as error:
        print_problem(f"provider {name!r} cannot be asked: {error}")
        return None


def _as_json(provider: str, things: Sequence[Owned] | None) -> list[dict[str, str]]:
    return [{"provider": provider, **asdict(thing)} for thing in things or ()]


def _show(found: dict[str, Sequence[Owned] | None], *, err: bool = False) -> None:
    rows = [
        [name, thing.run_id, thing.kind, thing.name, thing.owner, thing.detail]
        for name, things in found.items()
        for thing in things or ()
    ]
    if rows:
        header = ("provider", "run", "kind", "name", "owner", "state")
        click.echo(as_table(header, rows), err=err)
    elif all(things is not None for things in found.values()):
        say(_nothing())


def _nothing(runs: Sequence[str] = ()) -> str:
    if runs:
        return f"nothing in a queue or a cloud is of {' or '.join(runs)}; see `scalable ps`"
    return "no run has anything in a queue or a cloud"
