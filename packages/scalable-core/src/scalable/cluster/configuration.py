"""What the user or the site has set of Dask's configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import dask.config

__all__ = ["configured_keys"]

_MAX_KEYS = 8


def configured_keys(error: BaseException) -> list[str]:
    """Return the keys that configuration files and the environment set, those that an error speaks of first.

    Parameters
    ----------
    error : BaseException
        What went wrong.
    """
    text = " ".join(_texts(error)).lower()
    found = dict(_flatten(dask.config.collect(dask.config.paths, os.environ)))
    for place in ("config", "root-config"):  # DASK_CONFIG and DASK_ROOT_CONFIG: where files are
        found.pop(place, None)
    concerned = [key for key, value in found.items() if _is_concerned(key, value, text)]
    others = [key for key in found if key not in concerned and key.startswith("distributed.")]
    return (concerned or others)[:_MAX_KEYS]


def _texts(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def _flatten(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        path = f"{above}{key}".replace("_", "-")
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{path}.")
        else:
            yield path, value


def _is_concerned(key: str, value: Any, text: str) -> bool:
    """Return whether a text names a key, or what a value names: a module, a file, an address."""
    if key in text:
        return True
    for each in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(each, str):
            name = os.path.basename(each).partition(".py")[0].lower()  # noqa: PTH119 - may be a module
            if len(name) > 2 and name in text:
                return True
    return False
