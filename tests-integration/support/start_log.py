"""Functions for tasks that log each start: who counts the lines knows what was done twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def logged(log: Path, gate: Path | None = None) -> Callable[[int], int]:
    """Return a function that squares a number, which is pickled by value.

    Parameters
    ----------
    log : Path
        Gets a line for each start, with the number.
    gate : Path, optional
        The function ends when this file is there.
    """

    def square(number: int) -> int:
        import time

        with log.open("a") as file:
            file.write(f"{number}\n")
        while gate is not None and not gate.exists():
            time.sleep(0.05)
        return number * number

    return square


def started(log: Path) -> list[int]:
    """Return the numbers of all starts."""
    return sorted(int(line) for line in log.read_text().splitlines()) if log.exists() else []
