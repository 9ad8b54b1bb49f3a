"""Small results that came with the news that their tasks have finished, until they are asked for."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any

__all__ = ["ReceivedResults"]

MAX_BYTES = 32 * 2**20
"""Of all results together that nobody has asked for yet. What comes after that is fetched, as in Dask."""


class ReceivedResults:
    """The pickled results of some futures of a client, each for the first who asks.

    Each is unpickled once, so that two who ask for one share nothing, as in Dask: the second fetches it.

    Parameters
    ----------
    max_bytes : int
        How much to keep.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._packed: dict[Any, bytes] = {}
        self._room = max_bytes

    def __len__(self) -> int:
        return len(self._packed)

    def add(self, key: Any, packed: bytes) -> None:
        """Keep a result, if there is room."""
        self.discard(key)
        if len(packed) <= self._room:
            self._packed[key] = packed
            self._room -= len(packed)

    def discard(self, key: Any) -> None:
        """Drop a result: it is released, or computed again."""
        self._room += len(self._packed.pop(key, b""))

    def take(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """Return those of these results that are here, and drop them."""
        here = [key for key in keys if key in self._packed]
        # From a worker, whose code the user has chosen, as all that Dask unpickles.
        found = {key: pickle.loads(self._packed[key]) for key in here}  # noqa: S301
        for key in found:
            self.discard(key)
        return found

    def clear(self) -> None:
        """Drop all results."""
        for key in [*self._packed]:
            self.discard(key)
