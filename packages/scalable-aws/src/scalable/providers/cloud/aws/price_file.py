"""The file in which a user keeps the prices that ``scalable prices refresh`` has learnt.

It is ``scalable/aws-prices.json`` in the user's data directory: ``$XDG_DATA_HOME``, by default ``~/.local/share``.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scalable.errors import ProviderNotSetUpError
from scalable.providers.cloud.aws.prices import Price, Prices
from scalable.providers.options import OneLine

__all__ = ["PriceFile", "price_path", "read_prices", "save_prices"]

_FORMAT = 1
_MAX_BYTES = 2**24

_REMEDY = "`scalable prices refresh --provider aws` replaces it"


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


class PriceFile(NamedTuple):
    """What the file says.

    Parameters
    ----------
    prices : Prices
        The prices; those of this version alone if there is no file, or it cannot be used.
    problem : str
        Why it cannot be used, in one line that names it; empty if nothing is wrong.
    """

    prices: Prices
    problem: str = ""


def price_path() -> Path:
    """Return the path of the file, which need not exist.

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
            missing = "there is no directory to save prices in"
            raise ProviderNotSetUpError("aws", missing, "set HOME or XDG_DATA_HOME") from error
    return data / "scalable" / "aws-prices.json"


def read_prices() -> PriceFile:
    """Return the prices that are known, whatever is at the path of the file."""
    try:
        path = price_path()
    except ProviderNotSetUpError:
        return PriceFile(Prices())
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_BYTES)
    except FileNotFoundError:
        return PriceFile(Prices())
    except OSError as error:
        return PriceFile(Prices(), f"{path}: cannot be read: {error.strerror}; {_REMEDY}")
    try:
        entries = _Document.model_validate_json(text).prices
    except ValidationError:
        what = "is not a file of prices that this version can read, and is left out"
        return PriceFile(Prices(), f"{path}: {what}; {_REMEDY}")
    found = {(e.region, e.unit): Price(e.usd, e.source, e.as_of) for e in entries}
    return PriceFile(Prices(found))


def save_prices(regions: Collection[str], prices: Mapping[tuple[str, str], Price]) -> Path:
    """Write prices to the file, in place of all that it has of these regions, and return its path.

    Parameters
    ----------
    regions : collection of str
        The regions that were asked about.
    prices : mapping of (str, str) to Price
        What is known of them, by region and unit.

    Raises
    ------
    ProviderNotSetUpError
        The user has no home directory.
    OSError
        The file cannot be written. The old one is as it was.
    """
    path = price_path()
    others = {
        key: each for key, each in read_prices().prices.refreshed.items() if key[0] not in regions
    }
    entries = [
        {
            "region": region,
            "unit": unit,
            "usd": str(price.usd),
            "source": price.source,
            "as_of": price.as_of.isoformat(),
        }
        for (region, unit), price in sorted({**others, **prices}.items())
    ]
    document = {"format": _FORMAT, "prices": entries}
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".aws-prices-", dir=path.parent)  # with mode 0600
    new = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(document, stream, indent=1)
        new.replace(path)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise
    return path
