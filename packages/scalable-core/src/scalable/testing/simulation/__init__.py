"""The engine in virtual time, without Dask and without machines, where an hour takes milliseconds.

A `Simulation` drives the real `GroupController` between a simulated native system, whose units queue, boot, fail, end
and ignore `stop` as a test specifies, and a simulated scheduler, where tasks run and workers drain. Both use virtual
time, so that a scenario is fast and repeatable. Both are stricter than the real ones, and record every violation of
the rules.

==============  ===================================================================
`clock`         virtual time
`backend`       the native system: `SimulatedBackend`, and how units behave: `UnitBehavior`
`scheduler`     the scheduler: `SimulatedScheduler`, with workers and tasks
`world`         `Simulation`, which joins them with a controller
`invariants`    the checker that records violations
==============  ===================================================================

Examples
--------
>>> from scalable.testing.simulation import UnitBehavior, Simulation, run_in_virtual_time
>>> async def scenario():
...     async with Simulation("gcam") as world:
...         world.backend.behavior["gcam"] = UnitBehavior(queue=600, boot=30)
...         await world.controller.scale_groups({"gcam": 2})
...         await world.until(lambda: world.groups["gcam"].running == 2)
...         return round(world.time, -1)
>>> run_in_virtual_time(scenario())
630.0
"""

from __future__ import annotations

from scalable.testing.simulation.backend import (
    SimulatedBackend,
    SimulatedUnit,
    UnitBehavior,
    WorkerPool,
)
from scalable.testing.simulation.clock import (
    DeadlockError,
    VirtualTimeLoop,
    in_virtual_time,
    run_in_virtual_time,
)
from scalable.testing.simulation.invariants import InvariantChecker
from scalable.testing.simulation.scheduler import (
    SimulatedScheduler,
    SimulatedTask,
    SimulatedWorker,
    TaskState,
)
from scalable.testing.simulation.world import Simulation

__all__ = [
    "DeadlockError",
    "InvariantChecker",
    "SimulatedBackend",
    "SimulatedScheduler",
    "SimulatedTask",
    "SimulatedUnit",
    "SimulatedWorker",
    "Simulation",
    "TaskState",
    "UnitBehavior",
    "VirtualTimeLoop",
    "WorkerPool",
    "in_virtual_time",
    "run_in_virtual_time",
]
