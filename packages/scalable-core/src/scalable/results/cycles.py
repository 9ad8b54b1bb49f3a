"""Values that contain themselves: which are read, and where a cycle of them was entered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Cycles", "Known"]


@dataclass
class Cycles:
    """The values that are being read, and those that contain one of these: Tarjan's algorithm.

    What is met again while it is being read is part of a cycle. The digest of a value in a cycle depends on where the
    cycle was entered, so it is used again only for those who enter it there.

    Attributes
    ----------
    stack : list
        Values, in the order in which their reading has begun.
    places : dict of int to int
        Where they are on the stack, by their ids.
    lowest : list of int
        For each value that is being read, the lowest place that it leads back to.
    """

    stack: list[Any] = field(default_factory=list)
    places: dict[int, int] = field(default_factory=dict)
    lowest: list[int] = field(default_factory=list)

    def find(self, value: Any) -> int | None:
        """Return how far below on the stack a value is, or None if it is not there."""
        place = self.places.get(id(value))
        if place is None:
            return None
        self.lowest[-1] = min(self.lowest[-1], place)
        return len(self.stack) - place

    def enter(self, value: Any) -> None:
        """Begin to read a value."""
        self.lowest.append(len(self.stack))
        self.places[id(value)] = len(self.stack)
        self.stack.append(value)

    def leave(self, value: Any) -> list[Any]:
        """End the reading of a value, and return its cycle if this is where that was entered: it alone if in none."""
        lowest = self.lowest.pop()
        place = self.places[id(value)]
        if lowest < place:
            self.lowest[-1] = min(self.lowest[-1], lowest)
            return []
        return self.forget(place)

    def forget(self, place: int) -> list[Any]:
        """Remove what is on the stack from a place on, and return it."""
        cycle = self.stack[place:]
        del self.stack[place:]
        for each in cycle:
            self.places.pop(id(each), None)
        return cycle


@dataclass(frozen=True, slots=True)
class Known:
    """The digest of a value, which is kept so that its id is that of no other one.

    Attributes
    ----------
    value : object
        The value.
    digest : bytes
        Its digest.
    cycle : list
        The other values of its cycle. While one of them is being read, the digest is another one.
    """

    value: Any
    digest: bytes
    cycle: list[Any]
