"""``scalable prices``: the prices by which ``scalable plan`` estimates costs."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from scalable.cli.options import debug_option, json_option
from scalable.cli.output import as_table, print_json, print_note, print_status, print_text

if TYPE_CHECKING:
    from scalable.providers.base import DeploymentSpec, ListedPrice

__all__ = ["prices"]


@click.group()
def prices() -> None:
    """Keep the prices up to date by which `scalable plan` estimates costs."""


@prices.command()
@click.argument("manifest", required=False)
@click.option("--provider", metavar="NAME", required=True, help="The provider to ask.")
@click.option(
    "--region",
    "regions",
    metavar="NAME",
    multiple=True,
    help="Region to ask about, once for each; by default those of the provider's targets in MANIFEST, else the "
    "one that the provider's own configuration names.",
)
@json_option
@debug_option
def refresh(manifest: str | None, provider: str, regions: tuple[str, ...], as_json: bool) -> None:
    """Fetch the present prices of a provider, and save them for your plans.

    They are saved for you alone, each with its source and the day. `scalable plan`, and limits on cost, use them where
    they are not older than those that Scalable comes with, and ask nobody. MANIFEST is by default $SCALABLE_MANIFEST,
    or scalable.yaml if there is one.
    """
    from scalable.providers.base import RefreshesPrices
    from scalable.providers.registry import get_provider

    found = get_provider(provider)
    if not isinstance(found, RefreshesPrices):
        raise click.UsageError(f"provider {found.name!r} has no prices that can be refreshed")
    refreshed = found.refresh_prices(_targets(provider, regions, manifest))
    if as_json:
        print_json({"path": str(refreshed.path), "prices": [*map(_as_json, refreshed.prices)]})
    else:
        print_text(
            as_table(
                ("place", "unit", "price of an hour", "source", "day"),
                [*map(_row, refreshed.prices)],
            )
        )
    known = sum(each.price is not None for each in refreshed.prices)
    print_status(f"saved {known} prices in {refreshed.path}")


def _targets(provider: str, regions: tuple[str, ...], manifest: str | None) -> list[DeploymentSpec]:
    from scalable.cli.asking import spec_without_manifest, targets_of

    if regions:
        return [spec_without_manifest(provider, region=region) for region in regions]
    specs, troubles = targets_of(provider, manifest)
    for trouble in troubles:
        print_note(trouble.message)
    return specs


def _row(each: ListedPrice) -> list[str]:
    if each.price is None:
        return [each.place, each.unit, "unknown", "-", "-"]
    rounded = Decimal(f"{each.price:.6g}").normalize()
    return [each.place, each.unit, f"{rounded:f} {each.currency}", each.source, str(each.as_of)]


def _as_json(each: ListedPrice) -> dict[str, Any]:
    return {
        **asdict(each),
        "price": None if each.price is None else str(each.price),
        "as_of": None if each.as_of is None else each.as_of.isoformat(),
    }
