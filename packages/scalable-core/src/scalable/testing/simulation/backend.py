"""A simulated native system: a `Backend` whose units behave as a test specifies, on the running loop's clock."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

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
from scalable.errors import LaunchError
from scalable.testing.simulation.clock import sleep
from scalable.testing.simulation.invariants import InvariantChecker

__all__ = ["SimulatedBackend", "SimulatedUnit", "UnitBehavior", "WorkerPool"]

_NO_CAPACITY = Explanation(Reason.CAPACITY, "no machine is left in this zone")


@dataclass
class UnitBehavior:
    """How the units of a group behave. Times are in seconds; infinity means never.

    Parameters
    ----------
    accept : float
        From the call of `launch` until the units exist.
    answer : float
        From then until `launch` returns.
    naming : float
        From the units' existence until they have names. If not 0, `launch` returns none of them.
    queue : float
        Time in the queue.
    pending_reason : Reason
        Why a queued unit is pending.
    boot : float
        From the start of the machine until the Dask worker registers.
    failing_starts : float
        How many of the next units end instead of registering.
    lifetime : float
        From the registration until the unit ends by itself.
    end_reason : Reason
        Why it ends, in both cases.
    walltime : float
        From the start of the machine until the native system ends the unit, which `observe` announces.
    mismatch : str
        Why the scheduler refuses its worker, if not empty.
    stop_delay : float
        From the call of `stop` until the unit is gone.
    capacity : float
        Units of the group that may exist at a time. A launch of more gives a part of them, and says why; one that finds
        no room is refused for now. The reason is CAPACITY.
    errors : deque of BaseException
        The errors that the next launches raise, one each.
    """

    accept: float = 0.0
    answer: float = 0.0
    naming: float = 0.0
    queue: float = 0.0
    pending_reason: Reason = Reason.PRIORITY
    boot: float = 2.0
    failing_starts: float = 0
    lifetime: float = math.inf
    end_reason: Reason = Reason.EXITED
    walltime: float = math.inf
    mismatch: str = ""
    stop_delay: float = 0.0
    capacity: float = math.inf
    errors: deque[BaseException] = field(default_factory=deque)


class WorkerPool(Protocol):
    """The Dask workers of simulated units, which may be simulated or real."""

    @property
    def turns(self) -> int:
        """The number of turns that the engine has taken."""
        ...

    @property
    def closing(self) -> bool:
        """Whether the engine is closing, and no longer drains workers."""
        ...

    async def add_worker(self, unit: Unit, slots: int, mismatch: str) -> bool:
        """Start a unit's worker; return whether it could join. May raise whatever kept it from starting."""
        ...

    def remove_worker(self, name: str) -> None:
        """End a worker at once, if there is one of that name."""
        ...

    def unsaved_work(self, name: str) -> str:
        """Return what would be lost with a worker; an empty string if it is not registered."""
        ...

    def freeze(self, name: str) -> None:
        """Let a worker stay connected, and neither work nor answer."""
        ...

    async def wait_closed(self) -> None:
        """Wait until all removed workers have ended."""
        ...


@dataclass(eq=False)
class SimulatedUnit:
    """One unit, from its launch to its end."""

    unit: Unit
    slots: int
    behavior: UnitBehavior
    phase: Phase = Phase.PENDING
    reason: Reason = Reason.UNKNOWN
    named: bool = False
    started_at: float | None = None
    ended_at: float | None = None
    log: str = ""
    deadline: float = math.inf
    run: asyncio.Task[None] | None = None
    stop_timer: asyncio.TimerHandle | None = None


class SimulatedBackend:
    """A `Backend` whose behavior a test controls in every detail.

    It is stricter than any real one. It shows the end of a unit only once, and never forgets a request. Violations are:
    a launch above the cap, a second launch for one group in one turn, stopping a unit whose worker is still registered,
    and any call after `sweep`.

    Parameters
    ----------
    workers : WorkerPool
        The workers of its units.
    invariants : InvariantChecker
        The checker that records violations.
    cap : callable
        Returns the most units that may exist, or None.

    Attributes
    ----------
    behavior : dict of str to UnitBehavior
        How the units of each group behave from now on; may be changed at any time.
    latencies : dict of str to float
        Seconds that ``"observe"``, ``"stop"``, ``"describe"`` and ``"sweep"`` take.
    errors : dict of str to deque
        The errors that the next calls of these raise, one each.
    lag : float
        Seconds by which the answers of `observe` are out of date.
    omissions : Counter
        How many of the next observations leave a unit out, by id.
    calls : Counter
        How often each coroutine of the port was called.
    units : dict of str to SimulatedUnit
        All units so far, by id.
    """

    def __init__(
        self,
        workers: WorkerPool,
        invariants: InvariantChecker,
        cap: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.workers = workers
        self.invariants = invariants
        self.behavior: defaultdict[str, UnitBehavior] = defaultdict(UnitBehavior)
        self.latencies: defaultdict[str, float] = defaultdict(float)
        self.errors: defaultdict[str, deque[BaseException]] = defaultdict(deque)
        self.lag = 0.0
        self.omissions: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.units: dict[str, SimulatedUnit] = {}
        self.swept = False
        self._cap = cap
        self._requests: dict[str, list[SimulatedUnit]] = {}
        self._current: dict[str, SimulatedUnit] = {}
        """The units whose end was not observed yet."""
        self._answers: deque[tuple[float, Mapping[str, UnitState]]] = deque([(-math.inf, {})])
        """What observations found and when, from the one that is shown at present on."""
        self._launched_in: dict[str, int] = {}
        self._numbers: defaultdict[str, itertools.count[int]] = defaultdict(
            lambda: itertools.count(1)
        )

    # -- `Backend`

    async def launch(self, group: GroupSpec, n: int, request_id: str) -> LaunchResult:
        """Create `n` units with the group's current behavior."""
        behavior = self.behavior[group.tag]
        await self._call("launch")
        turn = self.workers.turns
        if self._launched_in.get(group.tag) == turn:
            self.invariants.record_violation(f"two launches for {group.tag} in one turn")
        self._launched_in[group.tag] = turn
        await sleep(behavior.accept)
        if request_id not in self._requests:
            if behavior.errors:
                raise behavior.errors.popleft()
            given = int(min(n, behavior.capacity - len(self.alive(group.tag))))
            if given <= 0:
                raise LaunchError(_NO_CAPACITY.summary, _NO_CAPACITY)
            self._requests[request_id] = self._create_units(
                group, given, request_id, replace(behavior)
            )
        await sleep(behavior.answer)
        made = self._requests[request_id]
        named = [one.unit for one in made if one.named]
        shortfall = _NO_CAPACITY if len(made) < n else None
        return LaunchResult(named, unnamed=len(made) - len(named), shortfall=shortfall)

    async def observe(self) -> Mapping[str, UnitState]:
        """Return the state of every unit that has a name; an end is shown once, unless it is omitted."""
        await self._call("observe")
        now = asyncio.get_running_loop().time()
        self._answers.append((now, self._find()))
        while len(self._answers) > 1 and self._answers[1][0] <= now - self.lag:
            self._answers.popleft()
        _, seen = self._answers[0]
        omitted = +self.omissions
        self.omissions -= Counter(dict.fromkeys(omitted, 1))
        return {name: state for name, state in seen.items() if name not in omitted}

    def _find(self) -> dict[str, UnitState]:
        """Return the true state of every unit that has a name, and has not been returned as gone."""
        found = {}
        for name, made in list(self._current.items()):
            if not made.named:
                continue
            found[name] = UnitState(
                made.unit, made.phase, made.reason, made.reason, _seconds_left(made)
            )
            if made.phase is Phase.GONE:
                del self._current[name]
        return found

    async def stop(self, units: Sequence[Unit]) -> None:
        """End these units, each after its behavior's `stop_delay`."""
        await self._call("stop")
        for unit in units:
            unsaved_work = self.workers.unsaved_work(unit.id)
            if unsaved_work and not self.workers.closing:
                self.invariants.record_violation(
                    f"{unit.id} was stopped while its worker had {unsaved_work}"
                )
            self._stop(self.units[unit.id])

    async def describe(self, unit: Unit) -> Explanation:
        """Explain one unit."""
        await self._call("describe")
        made = self.units[unit.id]
        return Explanation(made.reason, f"{unit.id}: {made.reason}", str(made.phase), made.log)

    async def sweep(self) -> Sequence[Leftover]:
        """End every unit; return those that do not end."""
        await self._call("sweep")
        self.swept = True
        stopping = self.alive()
        for made in stopping:
            self._stop(made)
        delays = [
            made.behavior.stop_delay for made in stopping if math.isfinite(made.behavior.stop_delay)
        ]
        await sleep(max(delays, default=0.0))
        await self.workers.wait_closed()
        return [Leftover("unit", made.unit.id, "it does not end") for made in self.alive()]

    async def _call(self, name: str) -> None:
        self.calls[name] += 1
        if self.swept:
            self.invariants.record_violation(f"{name} was called after sweep")
        if name != "launch":  # whose times and errors are set by group
            await sleep(self.latencies[name])
            if self.errors[name]:
                raise self.errors[name].popleft()

    # -- Events of the native system

    def alive(self, tag: str | None = None) -> list[SimulatedUnit]:
        """Return the units that are not gone, of all groups or one."""
        return [
            made
            for made in self._current.values()
            if made.phase is not Phase.GONE and tag in (None, made.unit.tag)
        ]

    def kill(self, unit_id: str, reason: Reason = Reason.PREEMPTED) -> None:
        """End a unit from outside, and its worker with it."""
        self._end(self.units[unit_id], reason)

    def announce_preemption(self, unit_id: str, seconds: float) -> None:
        """Give notice that a unit will be preempted, and end it after this time."""
        made = self.units[unit_id]
        loop = asyncio.get_running_loop()
        made.reason, made.deadline = Reason.PREEMPTED, loop.time() + seconds
        loop.call_later(seconds, self._end, made, Reason.PREEMPTED)

    def lose_node(self, unit_id: str) -> None:
        """End a unit, and leave its worker connected and silent, as a machine does that loses its power."""
        made = self.units[unit_id]
        self.workers.freeze(unit_id)
        made.phase, made.reason = Phase.GONE, Reason.NODE_FAILURE
        made.ended_at = asyncio.get_running_loop().time()
        if made.run is not None:
            made.run.cancel()

    def requeue(self, unit_id: str) -> None:
        """Put a unit back into the queue, as Slurm does with preempted jobs; it starts again later."""
        made = self.units[unit_id]
        if made.run is not None:
            made.run.cancel()
        self.workers.remove_worker(unit_id)
        made.run = asyncio.ensure_future(self._run_unit(made))

    def disconnect(self, unit_id: str) -> None:
        """End a unit's Dask worker, but not the unit."""
        self.workers.remove_worker(unit_id)

    def unit_seconds(self) -> float:
        """Return the seconds for which units had a machine, in total: their cost."""
        now = asyncio.get_running_loop().time()
        return math.fsum(
            (now if made.ended_at is None else made.ended_at) - made.started_at
            for made in self.units.values()
            if made.started_at is not None
        )

    def _create_units(
        self, group: GroupSpec, n: int, request_id: str, behavior: UnitBehavior
    ) -> list[SimulatedUnit]:
        if self.swept:
            self.invariants.record_violation(f"units of {group.tag} were made after sweep")
        cap, exist = self._cap(), len(self.alive())
        if cap is not None and exist + n > cap:
            self.invariants.record_violation(
                f"{n} units of {group.tag} were launched where {exist} exist, and the cap is {cap}"
            )
        made = [self._create_unit(group, request_id, behavior) for _ in range(n)]
        self.units |= {one.unit.id: one for one in made}
        self._current |= {one.unit.id: one for one in made}
        return made

    def _create_unit(
        self, group: GroupSpec, request_id: str, behavior: UnitBehavior
    ) -> SimulatedUnit:
        name = f"{group.tag}-{next(self._numbers[group.tag])}"
        unit = Unit(name, group.tag, request_id, native=f"native {name}")
        made = SimulatedUnit(
            unit, group.slots, behavior, named=not behavior.naming, log=f"last words of {name}"
        )
        if behavior.naming:
            asyncio.get_running_loop().call_later(behavior.naming, setattr, made, "named", True)
        made.run = asyncio.ensure_future(self._run_unit(made))
        return made

    async def _run_unit(self, made: SimulatedUnit) -> None:
        """Queue, boot, join, run, and end."""
        tag, behavior = made.unit.tag, made.behavior
        made.phase, made.reason = Phase.PENDING, behavior.pending_reason
        await sleep(behavior.queue)
        made.phase, made.reason = Phase.RUNNING, Reason.STARTING
        now = asyncio.get_running_loop().time()
        if made.started_at is None:
            made.started_at = now
        made.deadline = now + behavior.walltime
        await sleep(behavior.boot)
        if self.behavior[tag].failing_starts > 0:
            self.behavior[tag].failing_starts -= 1
            self._end(made, behavior.end_reason)
        elif not await self._start_worker(made):
            self._end(made, Reason.EXITED)  # as a refused Dask worker does
        elif behavior.walltime - behavior.boot < behavior.lifetime:
            await sleep(behavior.walltime - behavior.boot)
            self._end(made, Reason.WALLTIME)
        else:
            await sleep(behavior.lifetime)
            self._end(made, behavior.end_reason)

    async def _start_worker(self, made: SimulatedUnit) -> bool:
        try:
            return await self.workers.add_worker(made.unit, made.slots, made.behavior.mismatch)
        except Exception as error:  # noqa: BLE001 - shown in the unit's log
            made.log = repr(error)
            return False

    def _stop(self, made: SimulatedUnit) -> None:
        delay = made.behavior.stop_delay
        if delay == 0:
            self._end(made, Reason.STOPPED)
        elif made.stop_timer is None and math.isfinite(delay):
            loop = asyncio.get_running_loop()
            made.stop_timer = loop.call_later(delay, self._end, made, Reason.STOPPED)

    def _end(self, made: SimulatedUnit, reason: Reason) -> None:
        if made.phase is Phase.GONE:
            return
        made.phase, made.reason = Phase.GONE, reason
        made.ended_at = asyncio.get_running_loop().time()
        self.workers.remove_worker(made.unit.id)
        if made.run is not None and made.run is not asyncio.current_task():
            made.run.cancel()


def _seconds_left(made: SimulatedUnit) -> float | None:
    if math.isinf(made.deadline):
        return None
    return made.deadline - asyncio.get_running_loop().time()
