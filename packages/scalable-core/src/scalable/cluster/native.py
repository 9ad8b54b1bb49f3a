"""Calls to the native system. None blocks a turn: a slow call continues while turns are taken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from scalable.cluster.answers import (
    checked_explanation,
    checked_launch,
    checked_leftovers,
    checked_observation,
)
from scalable.cluster.explanations import explain_from_state
from scalable.cluster.limits import start_limited
from scalable.cluster.logs import LogKeeper
from scalable.cluster.member import Member, Observation
from scalable.cluster.port import (
    Backend,
    Explanation,
    GroupSpec,
    LaunchResult,
    Leftover,
    Unit,
    UnitState,
)
from scalable.errors import NativeTimeoutError

__all__ = ["Launch", "NativeCalls"]

T = TypeVar("T")


@dataclass(frozen=True)
class Launch:
    """A launch under way: `n` units of group `tag`, under `request_id`; `call` returns those that are named."""

    tag: str
    request_id: str
    n: int
    call: asyncio.Task[LaunchResult]


class NativeCalls:
    """The calls to a backend that are under way: one observation, a launch for each group, any number of stops.

    Parameters
    ----------
    backend : Backend
        The backend to call.
    max_wait : float
        Seconds that a turn waits for an answer. A later answer is taken by a later turn.
    poll, max_poll : float
        Seconds between two observations; doubled with each that fails in a row, up to the maximum.
    steady_poll : float
        Seconds between two observations while no unit is to change.
    timeout : float
        Seconds after which a call has failed.
    clock : callable
        Seconds, monotonic.
    logs : LogKeeper, optional
        Keeps the logs of units before they are stopped.
    before_launch : callable
        Called with the tag, the number and the request id before units are requested.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        max_wait: float,
        poll: float,
        steady_poll: float,
        max_poll: float,
        timeout: float,
        clock: Callable[[], float],
        logs: LogKeeper | None = None,
        before_launch: Callable[[str, int, str], object] = lambda tag, n, request_id: None,
    ) -> None:
        self.backend = backend
        self._logs = logs
        self.before_launch = before_launch
        self.max_wait = max_wait
        self.poll = poll
        self.steady_poll = steady_poll
        self.max_poll = max_poll
        self._failed_observations = 0
        self.timeout = timeout
        self.clock = clock
        self._asked_at = self._answered_at = -float("inf")
        self._observation: asyncio.Task[Mapping[str, UnitState]] | None = None
        self._launches: dict[str, Launch] = {}
        self._stops: dict[asyncio.Task[None], Sequence[Member]] = {}

    def _start_call(self, call: Awaitable[T], timeout: float | None = None) -> asyncio.Task[T]:
        limit = self.timeout if timeout is None else timeout
        return start_limited(call, limit, NativeTimeoutError)

    async def _wait(self, *calls: asyncio.Task[Any]) -> None:
        if calls:
            await asyncio.wait(calls, timeout=self.max_wait)

    # -- Observations

    async def observe(self, busy: bool, *, steady: bool = False) -> Observation | None:
        """Return the state of all units; None where no observation is due, or it has not been answered yet.

        Parameters
        ----------
        busy : bool
            Whether there is anything to observe.
        steady : bool, optional
            Whether no unit is to change.

        Raises
        ------
        Exception
            Whatever `Backend.observe` raises.
        """
        if self._observation is None:
            interval = self._observation_interval
            if steady:
                interval = max(interval, self.steady_poll)
            if not busy or self.clock() - self._answered_at < interval:
                return None
            self._asked_at = self.clock()
            self._observation = self._start_call(self._observe())
        await self._wait(self._observation)
        if not self._observation.done():
            return None
        call, self._observation = self._observation, None
        self._answered_at = self.clock()
        self._failed_observations += 1
        units = call.result()
        self._failed_observations = 0
        return Observation(units, self._asked_at)

    # What is no coroutine, but a plain function, raises where it is called: in these, as one would.

    async def _observe(self) -> Mapping[str, UnitState]:
        return checked_observation(await self.backend.observe())

    @property
    def _observation_interval(self) -> float:
        return min(self.poll * 2.0 ** min(self._failed_observations, 60), self.max_poll)

    def observe_soon(self) -> None:
        """Make the next turn observe, even if `poll` seconds have not passed, unless observations fail."""
        if not self._failed_observations:
            self._answered_at = -float("inf")

    async def describe_member(self, member: Member, timeout: float | None = None) -> Explanation:
        """Wait for the explanation of one unit; if that fails, explain it from its most recent state."""
        try:
            why = await self._start_call(self._describe(member.unit), timeout)
            return why if self._logs is None else self._logs.without_secrets(why)
        except Exception as error:  # noqa: BLE001 - part of the explanation
            return explain_from_state(member, error)

    async def _describe(self, unit: Unit) -> Explanation:
        return checked_explanation(await self.backend.describe(unit))

    # -- Launches

    def is_launching(self, tag: str) -> bool:
        """Return whether a launch of a group is under way."""
        return tag in self._launches

    def launch(self, group: GroupSpec, n: int, request_id: str) -> None:
        """Begin to launch `n` units of a group."""
        call = self._start_call(self._launch(group, n, request_id))
        self._launches[group.tag] = Launch(group.tag, request_id, n, call)

    async def _launch(self, group: GroupSpec, n: int, request_id: str) -> LaunchResult:
        self.before_launch(group.tag, n, request_id)
        result = await self.backend.launch(group, n, request_id)
        return checked_launch(result, group, request_id)

    async def finished_launches(self) -> Iterator[Launch]:
        """Return the launches that were answered, each once."""
        await self._wait(*(launch.call for launch in self._launches.values()))
        return self._take_finished()

    def _take_finished(self) -> Iterator[Launch]:
        for launch in list(self._launches.values()):
            if launch.call.done():
                del self._launches[launch.tag]
                yield launch

    # -- Stops

    @property
    def stopping(self) -> set[str]:
        """The ids of units for which a stop is under way."""
        return {member.unit.id for members in self._stops.values() for member in members}

    def stop(self, members: Sequence[Member]) -> None:
        """Begin to stop units, in one native call for all of them."""
        call = self._start_call(self._stop([member.unit for member in members]))
        self._stops[call] = members

    async def _stop(self, units: Sequence[Unit]) -> None:
        if self._logs is not None and not self._logs.after_stop:
            await self._logs.keep(units)
        await self.backend.stop(units)

    async def finished_stops(self) -> list[tuple[Sequence[Member], BaseException | None]]:
        """Return the stops that were answered, each once: their units, and the error, if any."""
        await self._wait(*self._stops)
        done = [call for call in self._stops if call.done()]
        return [(self._stops.pop(call), call.exception()) for call in done]

    async def stop_now(self, units: Sequence[Unit]) -> None:
        """Stop units, and wait until that is accepted."""
        await self.backend.stop(units)

    async def sweep(self) -> list[Leftover]:
        """Remove everything native, and return what is left."""
        return checked_leftovers(await self.backend.sweep())

    # -- The end

    def unfinished_launches(self) -> list[Launch]:
        """Return the launches that have not returned, or were cancelled: it is not known what they create."""
        return [
            launch
            for launch in self._launches.values()
            if not launch.call.done() or launch.call.cancelled()
        ]

    def shut_down(self) -> list[asyncio.Task[Any]]:
        """Cancel the observation; return the launches and stops that are under way."""
        if self._observation is not None:
            self._observation.cancel()
        return [*(launch.call for launch in self._launches.values()), *self._stops]
