"""``scalable ps`` and ``scalable reap``: list and remove the resources of runs in queues and clouds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from scalable.cli.failures import FAILED
from scalable.cli.options import debug_option, json_option
from scalable.cli.output import as_table, print_json, print_problem, print_status

if TYPE_CHECKING:
    from scalable.cluster.port import Leftover
    from scalable.providers.base import Owned, Reaps

__all__ = ["ps", "reap"]

_provider_option = click.option(
    "--provider",
    metavar="NAME",
    help="Only resources of this provider; by default, of all that are installed.",
)


@click.command()
@_provider_option
@json_option
@debug_option
@click.pass_context
def ps(context: click.Context, provider: str | None, as_json: bool) -> None:
    """List the resources of runs in queues and clouds: jobs, pods, machines.

    Everything that Scalable starts is labelled with its run's id, so this finds the resources of other sessions too.
    The exit status is 1 if a provider cannot list its resources.
    """
    found = {name: _list_owned(name, reaper) for name, reaper in _reaping_providers(provider)}
    if as_json:
        print_json(
            [each for name, resources in found.items() for each in _as_json(name, resources)]
        )
    else:
        _show(found)
    if any(resources is None for resources in found.values()):
        context.exit(FAILED)


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option(
    "--all", "all_runs", is_flag=True, help="Remove the resources of all runs, live ones too."
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
@_provider_option
@json_option
@debug_option
@click.pass_context
def reap(
    context: click.Context,
    runs: tuple[str, ...],
    all_runs: bool,
    yes: bool,
    provider: str | None,
    as_json: bool,
) -> None:
    """Remove the resources that dead runs left in queues and clouds.

    Name the RUNs, as `scalable ps` shows them, or give --all. A run that is still alive loses its workers.
    """
    if bool(runs) == all_runs:
        raise click.UsageError(
            "name the runs to remove, as `scalable ps` shows them, or give --all"
        )
    failed = False
    removed: list[dict[str, str]] = []
    left: list[dict[str, str]] = []
    for name, reaper in _reaping_providers(provider):
        owned = _list_owned(name, reaper)
        if owned is None:
            failed = True
            continue
        if selected := [resource for resource in owned if all_runs or resource.run_id in runs]:
            _show({name: selected}, err=as_json)
            if not yes:
                click.confirm(f"Remove these {len(selected)} resources?", abort=True, err=True)
            gone, leftovers = _remove(name, reaper, selected)
            removed += _as_json(name, gone)
            left += [{"provider": name, **asdict(leftover)} for leftover in leftovers]
    if as_json:
        print_json({"removed": removed, "left": left})
    elif not (removed or left or failed):
        print_status(_nothing_found(runs))
    if failed or left:
        context.exit(FAILED)


def _remove(
    name: str, provider: Reaps, selected: Sequence[Owned]
) -> tuple[Sequence[Owned], Sequence[Leftover]]:
    """Remove resources and print the result; return what is gone and what is left."""
    leftovers = provider.reap(selected)
    for leftover in leftovers:
        print_problem(f"could not remove {leftover}")
    not_removed = {(leftover.kind, leftover.name) for leftover in leftovers}
    gone = [resource for resource in selected if (resource.kind, resource.name) not in not_removed]
    print_status(f"removed {len(gone)} of provider {name!r}")
    return gone, leftovers


def _reaping_providers(provider: str | None) -> Iterator[tuple[str, Reaps]]:
    from scalable.providers.base import Reaps
    from scalable.providers.registry import ProviderStatus, describe_providers, get_provider

    if provider is not None:
        chosen = get_provider(provider)
        if not isinstance(chosen, Reaps):
            raise click.UsageError(f"provider {provider!r} has no resources that could be listed")
        yield provider, chosen
        return
    for info in describe_providers(load=True):
        if info.status is ProviderStatus.USABLE:
            known = get_provider(info.name)
            if isinstance(known, Reaps):
                yield info.name, known


def _list_owned(name: str, provider: Reaps) -> Sequence[Owned] | None:
    """Return what a provider owns; print why and return None if it cannot be listed."""
    from scalable.errors import ScalableError

    try:
        return provider.list_owned()
    except ScalableError as error:
        print_problem(f"provider {name!r} cannot list its resources: {error}")
        return None


def _as_json(provider: str, resources: Sequence[Owned] | None) -> list[dict[str, str]]:
    return [{"provider": provider, **asdict(resource)} for resource in resources or ()]


def _show(found: dict[str, Sequence[Owned] | None], *, err: bool = False) -> None:
    rows = [
        [name, resource.run_id, resource.kind, resource.name, resource.owner, resource.detail]
        for name, resources in found.items()
        for resource in resources or ()
    ]
    if rows:
        header = ("provider", "run", "kind", "name", "owner", "state")
        click.echo(as_table(header, rows), err=err)
    elif all(resources is not None for resources in found.values()):
        print_status(_nothing_found())


def _nothing_found(runs: Sequence[str] = ()) -> str:
    if runs:
        return f"there are no resources of {' or '.join(runs)} in a queue or a cloud; see `scalable ps`"
    return "no run has resources in a queue or a cloud"
