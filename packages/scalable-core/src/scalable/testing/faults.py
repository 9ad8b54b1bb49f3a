"""A backend between a provider's own one and the engine, which makes a native system's answers uncertain.

Whatever provider builds a cluster inside `faulty_backends`, its calls pass through a `FaultyBackend`. Real units are
started and stopped, and a test decides what the engine learns of them, and when.

Examples
--------
A native system that has one machine left, for a while::

    with faulty_backends() as made:
        handle = provider.build_cluster(spec)
        (native,) = made
        native.capacity = 1
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from scalable.cluster.port import (
    Backend,
    Explanation,
    GroupSpec,
    LaunchResult,
    Leftover,
    Reason,
    Unit,
    UnitState,
)
from scalable.errors import LaunchError

__all__ = ["NO_CAPACITY", "BackendCall", "FaultyBackend", "faulty_backends"]

NO_CAPACITY = Explanation(Reason.CAPACITY, "no machine is left in this zone")
"""Why a launch gives a part, or nothing, once `FaultyBackend.capacity` is used up."""

_HOLD_POLL = 0.02
_BEGIN_WAIT = 0.1
"""Seconds that a launch has to begin before it is given up."""


@dataclass(frozen=True)
class BackendCall:
    """One call to a backend.

    Parameters
    ----------
    name : str
        The coroutine of the port.
    turn : int
        The turn of the controller in which it was made.
    tag : str
        The group of a launch; otherwise empty.
    request_id : str
        That of a launch; otherwise empty.
    units : int
        How many were to be launched or stopped.
    """

    name: str
    turn: int
    tag: str = ""
    request_id: str = ""
    units: int = 0


class FaultyBackend:
    """A `Backend` that passes each call on to another one, and has the faults that a test sets meanwhile.

    Its attributes may be set from any thread, and hold for the calls that begin after that. None is set at first.

    Parameters
    ----------
    backend : Backend
        The provider's own.
    groups : iterable of GroupSpec
        The groups that the cluster was built with.

    Attributes
    ----------
    capacity : int or None
        The units that launches may still create, in total. A launch of more gives a part; one that finds none is
        refused for now. Both with the reason `NO_CAPACITY`. None for no limit.
    launch_errors : dict of str to Exception
        What launches of a group raise, by tag; nothing is created then.
    held : collection of str
        Groups whose launches are held back, until their tag is taken out.
    lost_answers : int
        How many of the next launches create their units, and then raise an error that says nothing of it.
    abandoned : dict of str to int
        Units to be launched just before `sweep`, by tag, by a call that is cancelled at once: what the engine does with
        a launch that does not return before the end.
    observe_error : Exception or None
        What `observe` raises.
    stale : mapping of str to UnitState, or None
        An older `answer`, which `observe` repeats.
    empty : bool
        Whether `observe` shows no unit at all.
    hidden : collection of str
        Ids of units that `observe` leaves out.
    turns : int
        The turns that the controller has taken.
    calls : list of BackendCall
        Every call of the engine so far, also those that failed.
    created : dict of str to (str, int)
        The tag of each launch that has created units, and how many, by request id.
    answered : int
        How many observations have ended, also those that failed.
    answer : mapping of str to UnitState
        What the provider's own backend has shown most recently.
    shown : dict of str to Unit
        Every unit that it has shown so far, by id.
    longest_launch : float
        Seconds that its slowest launch has taken.
    """

    def __init__(self, backend: Backend, groups: Sequence[GroupSpec]) -> None:
        self.backend = backend
        self.groups = {group.tag: group for group in groups}
        self.turns = 0
        self.calls: list[BackendCall] = []
        self.created: dict[str, tuple[str, int]] = {}
        self.shown: dict[str, Unit] = {}
        self.longest_launch = 0.0
        self.answered = 0
        self.answer: Mapping[str, UnitState] = {}
        self._granted: dict[str, int] = {}
        self.heal()

    def heal(self) -> None:
        """End every fault."""
        self.capacity: int | None = None
        self.launch_errors: dict[str, Exception] = {}
        self.held: Collection[str] = ()
        self.lost_answers = 0
        self.abandoned: dict[str, int] = {}
        self.observe_error: Exception | None = None
        self.stale: Mapping[str, UnitState] | None = None
        self.empty = False
        self.hidden: Collection[str] = ()

    # -- What was called

    @property
    def counts(self) -> Counter[str]:
        """How often each coroutine of the port was called."""
        return Counter(call.name for call in list(self.calls))

    def launches(self, tag: str) -> int:
        """Return how often a launch of a group was called."""
        return sum(call.name == "launch" and call.tag == tag for call in list(self.calls))

    def created_units(self, tag: str) -> int:
        """Return how many units of a group were created, as the answers to its launches say."""
        return sum(n for made_of, n in list(self.created.values()) if made_of == tag)

    def shown_units(self, tag: str) -> set[str]:
        """Return the ids of all units of a group that the provider's own backend has shown so far."""
        return {unit.id for unit in list(self.shown.values()) if unit.tag == tag}

    def _record(self, name: str, tag: str = "", request_id: str = "", units: int = 0) -> None:
        self.calls.append(BackendCall(name, self.turns, tag, request_id, units))

    # -- `Backend`

    async def launch(self, group: GroupSpec, n: int, request_id: str) -> LaunchResult:
        """Launch units, as far as the faults allow it."""
        self._record("launch", group.tag, request_id, n)
        while group.tag in self.held:
            await asyncio.sleep(_HOLD_POLL)
        if request_id not in self._granted:
            self._granted[request_id] = self._grant(group.tag, n)
        granted = self._granted[request_id]
        began = time.monotonic()
        answer = await self.backend.launch(group, granted, request_id)
        self.longest_launch = max(self.longest_launch, time.monotonic() - began)
        result = answer if isinstance(answer, LaunchResult) else LaunchResult(answer)
        self.created[request_id] = group.tag, len(result.units) + result.unnamed
        if self.lost_answers:
            self.lost_answers -= 1
            raise ConnectionResetError("the connection was lost before the answer came")
        return replace(result, shortfall=result.shortfall or NO_CAPACITY) if granted < n else result

    def _grant(self, tag: str, n: int) -> int:
        """Return how many of `n` units a launch may create."""
        if tag in self.launch_errors:
            raise self.launch_errors[tag]
        if self.capacity is None:
            return n
        granted = min(n, self.capacity)
        if not granted:
            raise LaunchError(NO_CAPACITY.summary, NO_CAPACITY)
        self.capacity -= granted
        return granted

    async def observe(self) -> Mapping[str, UnitState]:
        """Return the state of every unit, as far as the faults allow it."""
        self._record("observe")
        try:
            return await self._observe()
        finally:
            self.answered += 1

    async def _observe(self) -> Mapping[str, UnitState]:
        if self.observe_error is not None:
            raise self.observe_error
        if self.stale is not None:
            return self.stale
        self.answer = await self.backend.observe()
        self.shown |= {name: state.unit for name, state in self.answer.items()}
        if self.empty:
            return {}
        return {name: state for name, state in self.answer.items() if name not in self.hidden}

    async def stop(self, units: Sequence[Unit]) -> None:
        """Stop these units."""
        self._record("stop", units=len(units))
        await self.backend.stop(units)

    async def describe(self, unit: Unit) -> Explanation:
        """Explain one unit."""
        self._record("describe")
        return await self.backend.describe(unit)

    async def sweep(self) -> Sequence[Leftover]:
        """Remove everything, after the launches that are given up have begun."""
        self._record("sweep")
        for tag, n in self.abandoned.items():
            call = asyncio.ensure_future(
                self._start_launch(self.groups[tag], n, f"abandoned-{uuid.uuid4().hex}")
            )
            await asyncio.wait([call], timeout=_BEGIN_WAIT)
            call.cancel()
            await asyncio.wait([call])
        return await self.backend.sweep()

    async def _start_launch(self, group: GroupSpec, n: int, request_id: str) -> None:
        await self.backend.launch(group, n, request_id)


@contextmanager
def faulty_backends(*, quick: bool = False) -> Iterator[list[FaultyBackend]]:
    """Put a `FaultyBackend` between engine and backend of each cluster that is built meanwhile, and list them.

    Parameters
    ----------
    quick : bool
        Whether the engine takes a turn every 0.1 s, and observes every 0.2 s, unless the provider has it more often.
    """
    # Validating and planning import no Dask.
    from scalable.cluster import Pace, grouped
    from scalable.cluster.controller import GroupController

    made: list[FaultyBackend] = []

    class Controller(GroupController):
        def __init__(self, backend: Backend, link: Any, groups: Any, **options: Any) -> None:
            groups = list(groups)
            self._faulty = FaultyBackend(backend, groups)
            if quick:
                pace = options.get("pace") or Pace()
                options["pace"] = replace(pace, tick=min(pace.tick, 0.1), poll=min(pace.poll, 0.2))
            super().__init__(self._faulty, link, groups, **options)
            made.append(self._faulty)

        async def step(self) -> None:
            self._faulty.turns += 1
            await super().step()

    with mock.patch.object(grouped, "GroupController", Controller):
        yield made
