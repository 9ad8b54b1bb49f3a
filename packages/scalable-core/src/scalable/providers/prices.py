"""Prices of a provider: those that its version comes with, and newer ones that the user has fetched.

The latter are in the user's data directory, ``$XDG_DATA_HOME``, by default ``~/.local/share``: the file
``scalable/aws-prices.json`` is that of provider ``aws``.

Examples
--------
>>> from datetime import date
>>> of_2026 = Price(Decimal("0.04"), "a table", date(2026, 1, 1))
>>> prices = Prices(lambda place, unit: of_2026 if unit == "vCPU" else None)
>>> prices.find("here", "vCPU").usd, prices.find("here", "GPU")
(Decimal('0.04'), None)
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scalable.costing import CostLineItem
from scalable.errors import ProviderNotSetUpError
from scalable.manifest.files import read_file
from scalable.providers.base import ListedPrice, RefreshedPrices
from scalable.providers.options import OneLine

__all__ = ["Price", "PriceFile", "PriceList", "Prices", "priced_item"]

_FORMAT = 1
_MAX_BYTES = 2**24


class Price(NamedTuple):
    """A price of one unit for one hour.

    Parameters
    ----------
    usd : Decimal
        USD.
    source : str
        Where it is from.
    as_of : date
        The day on which it was looked up.
    """

    usd: Decimal
    source: str
    as_of: date


PriceTable = Callable[[str, str], Price | None]
"""Returns the price at a place of a unit; None if the table has none."""


@dataclass(frozen=True)
class Prices:
    """The prices of a version, and those that the user has fetched.

    Parameters
    ----------
    table : callable
        Returns the price of this version for a place and a unit; None if there is none.
    refreshed : mapping of (str, str) to Price
        Prices by place and unit. The table's price counts only where it is newer.
    """

    table: PriceTable
    refreshed: Mapping[tuple[str, str], Price] = field(default_factory=dict)

    def find(self, place: str | None, unit: str) -> Price | None:
        """Return the price of a unit at a place; None if it is not known."""
        place = place or ""
        known = (self.refreshed.get((place, unit)), self.table(place, unit))
        # Of two of the same day, `max` returns the first.
        return max((each for each in known if each), key=lambda each: each.as_of, default=None)


class PriceFile(NamedTuple):
    """What the file of a provider says.

    Parameters
    ----------
    prices : Prices
        The prices; those of this version alone if there is no file, or it cannot be used.
    problem : str
        Why it cannot be used, in one line that names it; empty if nothing is wrong.
    """

    prices: Prices
    problem: str = ""


class _Entry(BaseModel):
    """A price in the file."""

    model_config = ConfigDict(extra="forbid")

    region: OneLine
    unit: OneLine
    usd: Annotated[Decimal, Field(gt=0, max_digits=60, decimal_places=40)]
    source: OneLine
    as_of: date


class _Document(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1]
    prices: list[_Entry]


@dataclass(frozen=True)
class PriceList:
    """The prices of a provider, and the file in which this user keeps newer ones.

    Parameters
    ----------
    provider : str
        The provider's name.
    table : callable
        Returns the price of this version for a place and a unit; None if there is none.
    """

    provider: str
    table: PriceTable

    @property
    def path(self) -> Path:
        """The path of the file, which need not exist.

        Raises
        ------
        ProviderNotSetUpError
            The user has no home directory.
        """
        # Paths that are not absolute are to be ignored: https://specifications.freedesktop.org/basedir-spec/latest/
        data = Path(os.environ.get("XDG_DATA_HOME", ""))
        if not data.is_absolute():
            try:
                data = Path.home() / ".local" / "share"
            except RuntimeError as error:
                missing, remedy = (
                    "there is no directory to save prices in",
                    "set HOME or XDG_DATA_HOME",
                )
                raise ProviderNotSetUpError(self.provider, missing, remedy) from error
        return data / "scalable" / f"{self.provider}-prices.json"

    def read(self) -> PriceFile:
        """Return the prices that are known, whatever is at the path of the file."""
        without_file = Prices(self.table)
        remedy = f"`scalable prices refresh --provider {self.provider}` replaces it"
        try:
            path = self.path
        except ProviderNotSetUpError:
            return PriceFile(without_file)
        try:
            text = read_file(path, _MAX_BYTES)
        except FileNotFoundError:
            return PriceFile(without_file)
        except OSError as error:
            return PriceFile(without_file, f"{path}: cannot be read: {error.strerror}; {remedy}")
        try:
            entries = _Document.model_validate_json(text).prices
        except ValidationError:
            what = "is not a file of prices that this version can read, and is left out"
            return PriceFile(without_file, f"{path}: {what}; {remedy}")
        found = {(e.region, e.unit): Price(e.usd, e.source, e.as_of) for e in entries}
        return PriceFile(Prices(self.table, found))

    def save(
        self, places: Collection[str], units: Sequence[str], prices: Mapping[tuple[str, str], Price]
    ) -> RefreshedPrices:
        """Write prices to the file, in place of all that it has of these places, and return what is known now.

        Parameters
        ----------
        places : collection of str
            The places that were asked about.
        units : sequence of str
            The units that were asked about.
        prices : mapping of (str, str) to Price
            What was learnt, by place and unit.

        Raises
        ------
        ProviderNotSetUpError
            The user has no home directory.
        OSError
            The file cannot be written. The old one is as it was.
        """
        path = self.path
        others = {
            key: each for key, each in self.read().prices.refreshed.items() if key[0] not in places
        }
        _write_atomically(path, _as_json({**others, **prices}))
        listed = [
            _listed(place, unit, prices.get((place, unit))) for place in places for unit in units
        ]
        return RefreshedPrices(path, listed)


def priced_item(what: str, quantity: Decimal, unit: str, price: Price | None) -> CostLineItem:
    """Return a line of an estimate; its price is unknown if there is none."""
    if price is None:
        return CostLineItem(what, quantity, unit)
    return CostLineItem(what, quantity, unit, price.usd, source=price.source, as_of=price.as_of)


def _listed(place: str, unit: str, price: Price | None) -> ListedPrice:
    if price is None:
        return ListedPrice(place, unit)
    return ListedPrice(place, unit, price.usd, source=price.source, as_of=price.as_of)


def _as_json(prices: Mapping[tuple[str, str], Price]) -> str:
    entries = [
        {
            "region": place,
            "unit": unit,
            "usd": str(price.usd),
            "source": price.source,
            "as_of": price.as_of.isoformat(),
        }
        for (place, unit), price in sorted(prices.items())
    ]
    return json.dumps({"format": _FORMAT, "prices": entries}, indent=1)


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", dir=path.parent)  # with mode 0600
    new = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        new.replace(path)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise
