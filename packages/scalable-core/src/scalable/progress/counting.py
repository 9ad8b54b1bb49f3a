"""How many tasks of each kind the scheduler has, and how long the rest will take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scalable.runs.counting import read_progress
from scalable.runs.tally import TaskCount

if TYPE_CHECKING:
    from scalable.cluster import GroupedCluster

__all__ = ["Counted", "count_tasks"]

_TIMEOUT = 2.0


@dataclass(frozen=True)
class Counted:
    """What the scheduler has to do.

    Parameters
    ----------
    tasks : mapping of str to TaskCount
        How many tasks there are, by the name of their function.
    rest : float or None
        Seconds that what is left will take the workers of now; None while a duration is not known, or no worker is
        there for some of it.
    """

    tasks: Mapping[str, TaskCount]
    rest: float | None = None


def count_tasks(cluster: GroupedCluster) -> Counted:
    """Return how many tasks the scheduler has, and how long the rest will take.

    Raises
    ------
    OSError, RuntimeError, TimeoutError
        The scheduler does not answer.
    """
    numbers, rests = read_progress(cluster, _TIMEOUT)
    counts = {name: TaskCount(*each) for name, each in numbers.items()}
    known = bool(rests) and not any(map(math.isnan, rests))
    return Counted(
        {name: count for name, count in counts.items() if count.all}, max(rests) if known else None
    )
