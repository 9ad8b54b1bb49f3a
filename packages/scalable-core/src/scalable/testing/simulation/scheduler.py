"""A Dask scheduler and its workers, as far as the engine can tell, on the clock of the running event loop."""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from scalable.cluster.link import Demand, DrainProgress, Report, Stage, WorkerInfo
from scalable.cluster.port import Unit
from scalable.testing.simulation.clock import sleep
from scalable.testing.simulation.referee import Referee

if TYPE_CHECKING:
    from scalable.errors import GroupFailedError, WalltimeError

__all__ = ["SimulatedScheduler", "SimulatedTask", "SimulatedWorker", "TaskState"]


class TaskState(StrEnum):
    """How far a task is."""

    WAITING = "waiting"
    """For other tasks."""
    QUEUED = "queued"
    """It could run now; on a worker or, where its group has none, in the scheduler."""
    RUNNING = "running"
    DONE = "done"
    ERRED = "erred"
    CANCELLED = "cancelled"


@dataclass(eq=False)
class SimulatedTask:
    """One task of one slot.

    Parameters
    ----------
    key : str
        How people call it.
    tag : str
        The group that can run it.
    seconds : float
        How long it runs.
    after : sequence of SimulatedTask
        Its dependencies.
    """

    key: str
    tag: str
    seconds: float
    after: Sequence[SimulatedTask] = ()
    state: TaskState = TaskState.WAITING
    wanted: bool = True
    """Whether a client holds on to its result."""
    starts: list[tuple[float, str]] = field(default_factory=list)
    """When it was started, and on which worker."""
    excused: int = 0
    """Starts that it lost to the death of a worker, or its result to a forced end; each allows one more."""
    holders: set[SimulatedWorker] = field(default_factory=set)
    """Workers that have its result."""
    ended_at: float | None = None
    error: GroupFailedError | None = None


@dataclass(eq=False)
class SimulatedWorker:
    """One Dask worker."""

    name: str
    tag: str
    slots: int
    draining: bool = False
    executing: dict[SimulatedTask, asyncio.TimerHandle] = field(default_factory=dict)
    backlog: list[SimulatedTask] = field(default_factory=list)
    results: set[SimulatedTask] = field(default_factory=set)
    goodbye: asyncio.TimerHandle | None = None

    @property
    def tasks(self) -> int:
        """Tasks that were given to it and are not done."""
        return len(self.executing) + len(self.backlog)

    @property
    def fullness(self) -> float:
        """Tasks for each of its slots."""
        return self.tasks / self.slots


class SimulatedScheduler:
    """A `SchedulerLink` to a scheduler that is not there.

    It does what `scalable.cluster.plugin` and Dask do together: gives every task to a worker of its group as soon as
    there is one, evens out what waits, drains workers without repeating a task, moves results, ends tasks of failed
    groups. It learns the mean duration of each group's tasks. A task that starts twice without need is a fault.

    Parameters
    ----------
    referee : Referee
        Who is told of breaches.

    Attributes
    ----------
    workers : dict of str to SimulatedWorker
        Who is registered, by name.
    tasks : list of SimulatedTask
        Everything that was ever submitted.
    latency : float
        Seconds that each call takes; 0 by default.
    transfer : float
        Seconds that it takes to move a worker's results; 1 by default.
    deadlines : dict of str to float
        When workers will be ended from outside, as the engine has told, by name.
    turns : int
        Reports so far. The engine asks for one a turn.
    """

    def __init__(self, referee: Referee) -> None:
        self.referee = referee
        self.latency = 0.0
        self.transfer = 1.0
        self.workers: dict[str, SimulatedWorker] = {}
        self.tasks: list[SimulatedTask] = []
        self.refused: dict[str, str] = {}
        self.departed: list[str] = []
        self.deadlines: dict[str, float] = {}
        self.unwelcome: set[str] = set()
        self.failures: dict[str, GroupFailedError] = {}
        self.turns = 0
        self.closing = False
        self._unplaced: dict[str, list[SimulatedTask]] = {}
        self._waiting: list[SimulatedTask] = []
        # Dask forgets, too: its mean is a moving one.
        self._runtimes: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=100))
        self._numbers = itertools.count(1)

    # -- What clients do

    def submit(
        self, tag: str, n: int = 1, *, seconds: float = 1.0, after: Sequence[SimulatedTask] = ()
    ) -> list[SimulatedTask]:
        """Submit `n` tasks, and hold on to their results."""
        tasks = [
            SimulatedTask(f"{tag}-{next(self._numbers)}", tag, seconds, after) for _ in range(n)
        ]
        self.tasks += tasks
        self._waiting += tasks
        self._ready()
        return tasks

    def release(self, tasks: Iterable[SimulatedTask]) -> None:
        """Let go of results: nobody wants them any more."""
        for task in tasks:
            task.wanted = False
            for worker in task.holders:
                worker.results.discard(task)
            task.holders.clear()

    # -- What workers do

    async def join(self, unit: Unit, slots: int, mismatch: str = "") -> bool:
        """Register a unit's worker, and say whether it was let in."""
        name, tag = unit.id, unit.tag
        if mismatch:
            self.refused[name] = mismatch
        if mismatch or name in self.unwelcome or self.closing:
            return False
        if name in self.workers:
            self.referee.fault(f"two workers are called {name}")
        self.workers[name] = SimulatedWorker(name, tag, slots)
        self._arrange(tag)
        return True

    def lose(self, name: str) -> None:
        """Unregister a worker that is suddenly gone, with all it had."""
        worker = self.workers.pop(name, None)
        if worker is None:
            return
        self.departed.append(name)
        if worker.goodbye is not None:
            worker.goodbye.cancel()
        for task, timer in worker.executing.items():
            timer.cancel()
            task.excused += 1
            self._queue(task)
        for task in worker.backlog:
            self._queue(task)
        for task in worker.results:
            task.holders.discard(worker)
            if not task.holders:
                task.excused += 1
                self._queue(task)
        for tag in self._unplaced:
            self._arrange(tag)

    def at_stake(self, name: str) -> str:
        """Say what would be lost with a worker that is registered; nothing where none is."""
        worker = self.workers.get(name)
        return f"{worker.tasks} tasks and {len(worker.results)} results" if worker else ""

    async def settle(self) -> None:
        """Do nothing: who is lost is gone."""

    # -- What the engine asks: `SchedulerLink`

    async def start(self, slots: Mapping[str, int]) -> None:
        """Learn the groups."""
        await self.publish(slots)

    async def publish(self, slots: Mapping[str, int]) -> None:
        """Learn the groups anew."""
        await self._call()
        for tag in slots:
            self._unplaced.setdefault(tag, [])

    async def report(self) -> Report:
        """Look at workers and demand."""
        await self._call()
        self.turns += 1
        departed, self.departed = self.departed, []
        return Report(
            {
                worker.name: WorkerInfo(
                    "closing_gracefully" if worker.draining else "running",
                    worker.tasks,
                    len(worker.results),
                )
                for worker in self.workers.values()
            },
            self._demand(),
            self.refused,
            departed,
        )

    async def drain(
        self, names: Sequence[str], *, force: bool = False
    ) -> Mapping[str, DrainProgress]:
        """Bring workers nearer to their end; `force` lets results go with them."""
        await self._call()
        return {name: self._drain(name, force) for name in names}

    async def resume(self, names: Sequence[str]) -> Sequence[str]:
        """Take draining workers back into service; return those that could still be had."""
        await self._call()
        workers = [self.workers[name] for name in names if name in self.workers]
        resumed = [worker for worker in workers if worker.goodbye is None]
        for worker in resumed:
            self.unwelcome.discard(worker.name)
            worker.draining = False
            self._arrange(worker.tag)
        return [worker.name for worker in resumed]

    async def expire(self, workers: Mapping[str, tuple[float, WalltimeError]]) -> None:
        """Note when workers will be ended."""
        await self._call()
        now = asyncio.get_running_loop().time()
        self.deadlines |= {name: now + seconds for name, (seconds, _) in workers.items()}

    async def fail(self, tag: str, error: GroupFailedError | None) -> None:
        """End the tasks that only this group could run in `error`; None lifts that."""
        await self._call()
        if error is None:
            self.failures.pop(tag, None)
        else:
            self.failures[tag] = error
            self._arrange(tag)

    async def cancel_all(self, reason: str) -> None:
        """Cancel whatever clients wait for, for good: the cluster is being closed."""
        self.closing = True
        await self._call()
        for task in self.tasks:
            if task.state not in (TaskState.DONE, TaskState.ERRED):
                task.state = TaskState.CANCELLED
        for worker in self.workers.values():
            worker.backlog.clear()
            for timer in worker.executing.values():
                timer.cancel()
            worker.executing.clear()

    async def _call(self) -> None:
        await sleep(self.latency)

    # -- Demand

    def _demand(self) -> dict[str, Demand]:
        now = asyncio.get_running_loop().time()
        queued = {tag: list(tasks) for tag, tasks in self._unplaced.items()}
        running: dict[str, list[SimulatedTask]] = {tag: [] for tag in self._unplaced}
        for worker in self.workers.values():
            queued[worker.tag] += worker.backlog
            running[worker.tag] += worker.executing
        demand = {}
        waits = Counter(task.tag for task in self._waiting)
        for tag in self._unplaced:
            runtimes = self._runtimes[tag]
            slots = len(queued[tag]) + len(running[tag])
            if not runtimes:
                demand[tag] = Demand(slots, 0.0, slots, waits[tag])
                continue
            mean = statistics.fmean(runtimes)
            left = (max(0.0, mean - (now - task.starts[-1][0])) for task in running[tag])
            demand[tag] = Demand(slots, mean * len(queued[tag]) + math.fsum(left), 0.0, waits[tag])
        return demand

    # -- Tasks

    def _ready(self) -> None:
        """Queue the tasks whose dependencies are there."""
        ready = [
            task
            for task in self._waiting
            if all(other.state is TaskState.DONE for other in task.after)
        ]
        if not ready:
            return
        going = set(ready)
        self._waiting = [task for task in self._waiting if task not in going]
        for task in ready:
            self._queue(task)
        for tag in {task.tag for task in ready}:
            self._arrange(tag)

    def _queue(self, task: SimulatedTask) -> None:
        if self.closing:
            task.state = TaskState.CANCELLED
        else:
            task.state = TaskState.QUEUED
            self._unplaced[task.tag].append(task)

    def _arrange(self, tag: str) -> None:
        """Give every queued task of a group to a worker; even out what waits; start what can be started."""
        crew = [w for w in self.workers.values() if w.tag == tag and not w.draining]
        unplaced = self._unplaced[tag]
        if not crew:
            self._end_if_failed(tag)
            return
        for task in unplaced:
            min(crew, key=lambda worker: worker.fullness).backlog.append(task)
        unplaced.clear()
        for worker in crew:
            while len(worker.executing) < worker.slots:
                donor = worker if worker.backlog else max(crew, key=lambda w: len(w.backlog))
                if not donor.backlog:
                    break
                self._start(donor.backlog.pop(0), worker)

    def _end_if_failed(self, tag: str) -> None:
        if tag not in self.failures:
            return
        for task in self._unplaced[tag]:
            task.state, task.error = TaskState.ERRED, self.failures[tag]
        self._unplaced[tag].clear()

    def _start(self, task: SimulatedTask, worker: SimulatedWorker) -> None:
        loop = asyncio.get_running_loop()
        task.state = TaskState.RUNNING
        task.starts.append((loop.time(), worker.name))
        if len(task.starts) > 1 + task.excused:
            self.referee.fault(f"{task.key} was started again without need: {task.starts}")
        worker.executing[task] = loop.call_later(task.seconds, self._finish, task, worker)

    def _finish(self, task: SimulatedTask, worker: SimulatedWorker) -> None:
        del worker.executing[task]
        task.state = TaskState.DONE
        task.ended_at = asyncio.get_running_loop().time()
        self._runtimes[task.tag].append(task.seconds)
        if task.wanted:
            self._keep(task, worker)
        self._ready()
        self._arrange(task.tag)

    def _keep(self, task: SimulatedTask, worker: SimulatedWorker) -> None:
        worker.results.add(task)
        task.holders.add(worker)

    # -- Workers that leave

    def _drain(self, name: str, force: bool) -> DrainProgress:
        self.unwelcome.add(name)
        worker = self.workers.get(name)
        if worker is None:
            return DrainProgress(Stage.GONE)
        worker.draining = True
        self._unplaced[worker.tag] += worker.backlog
        worker.backlog.clear()
        self._arrange(worker.tag)
        if worker.executing and not force:
            return DrainProgress(Stage.BUSY, len(worker.executing))
        results = len(worker.results)
        if force:
            self.lose(name)
        elif worker.goodbye is None:
            keeper = self._keeper()
            if keeper is worker and results:
                return DrainProgress(Stage.HOLDING, results)
            loop = asyncio.get_running_loop()
            worker.goodbye = loop.call_later(self.transfer, self._hand_over, worker)
        return DrainProgress(Stage.MOVING, results)

    def _keeper(self) -> SimulatedWorker:
        """Choose who takes results: a running worker, or else the draining one that has most."""
        return max(
            self.workers.values(), key=lambda w: (not w.draining, bool(w.executing), len(w.results))
        )

    def _hand_over(self, worker: SimulatedWorker) -> None:
        worker.goodbye = None
        keeper = self._keeper()
        if keeper is worker and worker.results:
            return
        for task in worker.results:
            self._keep(task, keeper)
        self.lose(worker.name)
