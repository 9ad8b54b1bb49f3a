"""One controller between a simulated native system and a simulated scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Self

from scalable.cluster.adaptive import AdaptivePolicy
from scalable.cluster.budget import Budget
from scalable.cluster.controller import GroupController
from scalable.cluster.pace import Pace
from scalable.cluster.port import GroupSpec, GroupStatus, Leftover, Reason
from scalable.cluster.retry import RetryPolicy
from scalable.testing.simulation.backend import SimulatedBackend
from scalable.testing.simulation.clock import sleep
from scalable.testing.simulation.invariants import InvariantChecker
from scalable.testing.simulation.scheduler import SimulatedScheduler, SimulatedTask, TaskState

__all__ = ["Simulation"]


class Simulation:
    """The engine in a simulated world: an async context manager that starts and closes it.

    Leaving the context raises if any rule was broken, or if a unit is left that close did not name.

    Parameters
    ----------
    *groups : str or GroupSpec
        The groups; a plain tag has one slot.
    max_workers, policy, retry, pace : optional
        As for `GroupController`.
    budget : Budget, optional
        What it may use.

    Attributes
    ----------
    backend : SimulatedBackend
        The native system.
    scheduler : SimulatedScheduler
        The scheduler.
    controller : GroupController
        The real one.
    """

    def __init__(
        self,
        *groups: str | GroupSpec,
        max_workers: int | None = None,
        policy: AdaptivePolicy | None = None,
        retry: RetryPolicy | None = None,
        pace: Pace | None = None,
        budget: Budget | None = None,
    ) -> None:
        specs = [GroupSpec(group) if isinstance(group, str) else group for group in groups]
        self._budget = budget
        self._slept = 0.0
        self.invariants = InvariantChecker()
        self.scheduler = SimulatedScheduler(self.invariants)
        self.backend = SimulatedBackend(
            self.scheduler, self.invariants, lambda: self.controller.max_workers
        )
        self.scheduler.kill = lambda name: self.backend.kill(name, Reason.EXITED)
        self.controller = GroupController(
            self.backend,
            self.scheduler,
            specs,
            max_workers=max_workers,
            policy=policy,
            retry=retry,
            pace=pace,
            clock=lambda: self.time + self._slept,
        )

    async def __aenter__(self) -> Self:
        if self._budget is not None:
            await self.controller.set_budget(self._budget)
        await self.controller.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        leftovers = [] if self.controller.closed else await self.close()
        if exc is None:
            assert leftovers == []
            self.invariants.check()

    @property
    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return asyncio.get_running_loop().time()

    @property
    def groups(self) -> Mapping[str, GroupStatus]:
        """The counts of each group, as of the last turn."""
        return self.controller.statuses

    async def run(self, seconds: float) -> None:
        """Let time pass."""
        await sleep(seconds)

    def sleep_process(self, seconds: float) -> None:
        """Let the engine's clock show that it was stopped for so long, as by Ctrl-Z, with all that it has started."""
        self._slept += seconds

    async def until(self, condition: Callable[[], object], within: float = 3600.0) -> None:
        """Let time pass until a condition holds, which is checked twice a turn.

        Raises
        ------
        AssertionError
            It does not hold within `within` seconds.
        """
        deadline = self.time + within
        while not condition():
            assert self.time < deadline, f"not within {within:g} s; groups: {dict(self.groups)}"
            await sleep(self.controller.pace.tick / 2)

    async def scale(self, counts: Mapping[str, int]) -> None:
        """Scale groups, and let time pass until each has its workers."""
        await self.controller.scale_groups(counts)
        await self.until(lambda: all(self.groups[tag].running == n for tag, n in counts.items()))

    async def done(self, tasks: Iterable[SimulatedTask], within: float = 3600.0) -> None:
        """Let time pass until these tasks are done."""
        tasks = list(tasks)
        await self.until(lambda: all(task.state is TaskState.DONE for task in tasks), within)

    async def close(self) -> list[Leftover]:
        """Close the controller, and record a violation if a unit is left that it did not name."""
        leftovers = await self.controller.close()
        self.scheduler.closing = True
        # Units that were asked to stop may need time to end.
        delays = [
            made.behavior.stop_delay for made in self.backend.alive() if made.stop_timer is not None
        ]
        await sleep(max(delays, default=0.0))
        left = {made.unit.id for made in self.backend.alive()}
        unnamed = left - {leftover.name for leftover in leftovers}
        if unnamed:
            self.invariants.record_violation(
                f"close left {', '.join(sorted(unnamed))} without naming it"
            )
        return leftovers
