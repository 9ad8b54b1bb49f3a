"""What a backend has answered, checked: a wrong type or another cluster's unit would be met far from its cause.

Each function returns the answer, or raises `TypeError` or `ValueError` with a text that names the call. The engine then
takes the call as failed: it keeps what it knows, says so, and calls again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scalable.cluster.port import (
    Explanation,
    GroupSpec,
    LaunchResult,
    Leftover,
    Phase,
    Reason,
    Unit,
    UnitState,
)

__all__ = ["checked_explanation", "checked_launch", "checked_leftovers", "checked_observation"]


def checked_launch(answer: Any, group: GroupSpec, request_id: str) -> LaunchResult:
    """Return the answer to a launch as a `LaunchResult`, with each unit once.

    Examples
    --------
    >>> checked_launch(["job 17"], GroupSpec("gcam"), "request")
    Traceback (most recent call last):
    ...
    TypeError: launch() returned a sequence with 'job 17', which is no Unit
    """
    result = answer
    if not isinstance(answer, LaunchResult):
        if not isinstance(answer, Sequence) or isinstance(answer, str):
            raise TypeError(f"launch() returned {_kind(answer)}, not units or a LaunchResult")
        result = LaunchResult(answer)
    units: dict[str, Unit] = {}
    for unit in result.units:
        if not isinstance(unit, Unit) or not isinstance(unit.id, str):
            raise TypeError(f"launch() returned a sequence with {unit!r}, which is no Unit")
        if (unit.tag, unit.request_id) != (group.tag, request_id):
            raise ValueError(
                f"launch() of group {group.tag!r} with request id {request_id!r} returned {unit!r}"
            )
        units[unit.id] = unit
    if not isinstance(result.unnamed, int) or result.unnamed < 0:
        raise ValueError(f"launch() returned {result.unnamed!r} units without names")
    for why in (result.shortfall, result.awaited):
        if why is not None:
            checked_explanation(why, "launch()")
    return LaunchResult([*units.values()], result.unnamed, result.shortfall, result.awaited)


def checked_observation(answer: Any) -> Mapping[str, UnitState]:
    """Return the answer to an observation.

    Examples
    --------
    >>> unit = Unit("gcam-1", "gcam", "request")
    >>> checked_observation({"gcam-1": UnitState(unit, "R")})
    Traceback (most recent call last):
    ...
    TypeError: observe() shows 'gcam-1' with the phase 'R', which is no Phase
    """
    if not isinstance(answer, Mapping):
        raise TypeError(f"observe() returned {_kind(answer)}, not a mapping of states by unit id")
    for name, state in answer.items():
        if not isinstance(state, UnitState) or not isinstance(state.unit, Unit):
            raise TypeError(f"observe() shows {name!r} as {state!r}, which is no UnitState")
        if state.unit.id != name:
            raise ValueError(f"observe() shows unit {state.unit.id!r} under the id {name!r}")
        # Members of an enumeration are compared by identity: an equal text would be another phase everywhere.
        if not isinstance(state.phase, Phase):
            raise TypeError(
                f"observe() shows {name!r} with the phase {state.phase!r}, which is no Phase"
            )
        if not isinstance(state.reason, Reason) or not isinstance(state.detail, str):
            why = state.reason, state.detail
            raise TypeError(f"observe() shows {name!r} for {why!r}, which are no Reason and text")
        left = state.seconds_left
        if left is not None and (not isinstance(left, int | float) or math.isnan(left)):
            raise TypeError(f"observe() shows {name!r} with {left!r} seconds left")
    return answer


def checked_explanation(answer: Any, call: str = "describe()") -> Explanation:
    """Return an explanation.

    Examples
    --------
    >>> checked_explanation(None)
    Traceback (most recent call last):
    ...
    TypeError: describe() returned NoneType, not an Explanation
    """
    if not isinstance(answer, Explanation):
        raise TypeError(f"{call} returned {_kind(answer)}, not an Explanation")
    texts = answer.summary, answer.native, answer.log_tail, answer.remedy
    if not isinstance(answer.reason, Reason) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{call} returned {answer!r}, whose reason is no Reason, or a text no text")
    return answer


def checked_leftovers(answer: Any) -> list[Leftover]:
    """Return the answer to a sweep.

    Examples
    --------
    >>> checked_leftovers(["job 17"])
    Traceback (most recent call last):
    ...
    TypeError: sweep() returned 'job 17', which is no Leftover
    """
    leftovers = list(answer)
    for left in leftovers:
        if not isinstance(left, Leftover):
            raise TypeError(f"sweep() returned {left!r}, which is no Leftover")
    return leftovers


def _kind(answer: Any) -> str:
    return type(answer).__name__
