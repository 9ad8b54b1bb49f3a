"""A simulated Dask scheduler and its workers, as the engine sees them, on the running loop's clock."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import statistics
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from scalable.cluster.deaths import in_one_line, may_be_task
from scalable.cluster.link import Demand, DrainProgress, Report, Stage, WorkerInfo
from scalable.cluster.plugin.demand import proven_duration
from scalable.cluster.plugin.liveness import UNRESPONSIVE, UNRESPONSIVE_AFTER
from scalable.cluster.port import Explanation, Unit
from scalable.errors import WorkerDiedError
from scalable.testing.simulation.clock import sleep
from scalable.testing.simulation.invariants import InvariantChecker

if TYPE_CHECKING:
    from scalable.cluster.host import SchedulerState
    from scalable.errors import GroupFailedError, WalltimeError

__all__ = ["SimulatedScheduler", "SimulatedTask", "SimulatedWorker", "TaskState"]

ALLOWED_DEATHS = 3
"""Workers that a task may kill before it is failed with the next; Dask's default."""


class TaskState(StrEnum):
    """The state of a task."""

    WAITING = "waiting"
    """Its dependencies are not done."""
    QUEUED = "queued"
    """It is ready, on a worker or, where its group has none, on the scheduler."""
    RUNNING = "running"
    DONE = "done"
    ERRED = "erred"
    CANCELLED = "cancelled"


@dataclass(eq=False)
class SimulatedTask:
    """One task, which takes one slot.

    Parameters
    ----------
    key : str
        Its name.
    tag : str
        The group that can run it.
    seconds : float
        Its duration.
    after : sequence of SimulatedTask
        Its dependencies.
    """

    key: str
    tag: str
    seconds: float
    after: Sequence[SimulatedTask] = ()
    state: TaskState = TaskState.WAITING
    wanted: bool = True
    """Whether a client keeps its result."""
    starts: list[tuple[float, str]] = field(default_factory=list)
    """Time and worker of each start."""
    allowed_restarts: int = 0
    """Starts and results that it lost with a worker; each allows one more start."""
    holders: set[SimulatedWorker] = field(default_factory=set)
    """Workers that have its result."""
    ended_at: float | None = None
    error: GroupFailedError | WorkerDiedError | None = None
    kills: bool = False
    """Whether it kills its worker instead of finishing."""
    killed: list[tuple[str, str]] = field(default_factory=list)
    """The workers that it has killed, and the reasons that are known for their deaths."""

    @property
    def ended(self) -> bool:
        """Whether it is done or has failed."""
        return self.state in (TaskState.DONE, TaskState.ERRED)


@dataclass(eq=False)
class SimulatedWorker:
    """One Dask worker."""

    name: str
    tag: str
    slots: int
    draining: bool = False
    paused: bool = False
    frozen_at: float | None = None
    """Since when it does not answer: its process is frozen, or a task holds the GIL."""
    executing: dict[SimulatedTask, asyncio.TimerHandle] = field(default_factory=dict)
    frozen: dict[SimulatedTask, float] = field(default_factory=dict)
    """Seconds left of the tasks that it was executing when it was frozen."""
    backlog: list[SimulatedTask] = field(default_factory=list)
    results: set[SimulatedTask] = field(default_factory=set)
    had_finished: bool = False
    retirement: asyncio.TimerHandle | None = None

    @property
    def tasks(self) -> int:
        """Tasks that are assigned to it and are not done."""
        return len(self.executing) + len(self.frozen) + len(self.backlog)

    @property
    def open(self) -> bool:
        """Whether the scheduler gives it tasks."""
        return not (self.draining or self.paused or self.unresponsive)

    @property
    def silence(self) -> float:
        """Seconds since when it does not answer."""
        if self.frozen_at is None:
            return 0.0
        return asyncio.get_running_loop().time() - self.frozen_at

    @property
    def unresponsive(self) -> bool:
        """Whether it has not answered for too long."""
        return self.frozen_at is not None and self.silence >= UNRESPONSIVE_AFTER

    @property
    def status(self) -> str:
        """Its status, as the report of the scheduler has it."""
        if self.unresponsive:
            return UNRESPONSIVE
        if self.draining:
            return "closing_gracefully"
        return "paused" if self.paused else "running"

    @property
    def fullness(self) -> float:
        """Tasks for each of its slots."""
        return self.tasks / self.slots


class _Donors:
    """Workers by the length of their backlogs, which may only become shorter meanwhile."""

    def __init__(self, workers: Iterable[SimulatedWorker]) -> None:
        self._workers = list(workers)
        self._heap = [
            (-len(worker.backlog), number)
            for number, worker in enumerate(self._workers)
            if worker.backlog
        ]
        heapq.heapify(self._heap)

    def longest(self) -> SimulatedWorker | None:
        """Return the worker with the longest backlog, the first of several; None where nobody has any."""
        while self._heap:
            length, number = self._heap[0]
            worker = self._workers[number]
            if len(worker.backlog) == -length:
                return worker
            if worker.backlog:
                heapq.heapreplace(self._heap, (-len(worker.backlog), number))
            else:
                heapq.heappop(self._heap)
        return None


class SimulatedScheduler:
    """A `SchedulerLink` to a simulated scheduler.

    It does what `scalable.cluster.plugin` and Dask do together: it assigns every task to a worker of its group as soon
    as there is one, balances queued tasks, drains workers without repeating a task, moves results, and fails tasks of
    failed groups. It learns the mean duration of each group's tasks. A needless second start of a task is a violation.

    Parameters
    ----------
    invariants : InvariantChecker
        The checker that records violations.

    Attributes
    ----------
    workers : dict of str to SimulatedWorker
        The registered workers, by name.
    tasks : list of SimulatedTask
        All tasks that were submitted.
    latency : float
        Seconds that each call takes; 0 by default, infinite for a scheduler that never answers.
    transfer : float
        Seconds that it takes to move a worker's results; 1 by default.
    deadlines : dict of str to float
        When workers will be ended, as the engine has announced, by name.
    preempted : set of str
        Those of them for which it has announced a preemption.
    kill : callable
        Kills a worker's unit, given the worker's name, for tasks that do so.
    error : Exception or None
        The error that each call raises, as if the scheduler could not be reached.
    id : str
        Its id. Another one stands for another scheduler at its address.
    state : SchedulerState or None
        What its host says about it.
    turns : int
        The number of reports. The engine requests one a turn.
    """

    def __init__(self, invariants: InvariantChecker) -> None:
        self.invariants = invariants
        self.latency = 0.0
        self.error: Exception | None = None
        self.id = "scheduler-1"
        self.state: SchedulerState | None = None
        self.transfer = 1.0
        self.workers: dict[str, SimulatedWorker] = {}
        self.tasks: list[SimulatedTask] = []
        self.refused: dict[str, str] = {}
        self.removed: list[str] = []
        self.deadlines: dict[str, float] = {}
        self.preempted: set[str] = set()
        self.blocked: set[str] = set()
        self.failures: dict[str, GroupFailedError] = {}
        self.kill: Callable[[str], None] = self.remove_worker
        self.turns = 0
        self.closing = False
        self._unplaced: dict[str, list[SimulatedTask]] = {}
        self._waiting: list[SimulatedTask] = []
        # By name, workers that have died with tasks: those that killed them, and whether they had finished any.
        self._deaths: dict[str, tuple[list[SimulatedTask], bool]] = {}
        # Dask forgets, too, because its mean is a moving average.
        self._runtimes: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=100))
        self._numbers = itertools.count(1)

    # -- Clients

    def submit(
        self,
        tag: str,
        n: int = 1,
        *,
        seconds: float = 1.0,
        after: Sequence[SimulatedTask] = (),
        kills: bool = False,
    ) -> list[SimulatedTask]:
        """Submit `n` tasks, and keep their results. With `kills`, each kills its worker after `seconds`."""
        tasks = [
            SimulatedTask(f"{tag}-{next(self._numbers)}", tag, seconds, after, kills=kills)
            for _ in range(n)
        ]
        self.tasks += tasks
        self._waiting += tasks
        self._queue_ready_tasks()
        return tasks

    def withdraw(self, tasks: Iterable[SimulatedTask]) -> None:
        """Cancel tasks that are not assigned to a worker yet."""
        for task in tasks:
            task.state = TaskState.CANCELLED
            self._unplaced[task.tag].remove(task)

    def release(self, tasks: Iterable[SimulatedTask]) -> None:
        """Release results, which no client keeps any longer."""
        for task in tasks:
            task.wanted = False
            for worker in task.holders:
                worker.results.discard(task)
            task.holders.clear()

    # -- Workers

    async def add_worker(self, unit: Unit, slots: int, mismatch: str = "") -> bool:
        """Register a unit's worker; return whether it could join."""
        name, tag = unit.id, unit.tag
        if mismatch:
            self.refused[name] = mismatch
        if mismatch or name in self.blocked or self.closing:
            return False
        if name in self.workers:
            self.invariants.record_violation(f"two workers are called {name}")
        self.workers[name] = SimulatedWorker(name, tag, slots)
        self._assign_tasks(tag)
        return True

    def remove_worker(self, name: str, *, expected: bool = False) -> None:
        """Remove a worker that has died, or was expected to leave, with its tasks and results."""
        worker = self.workers.pop(name, None)
        if worker is None:
            return
        self.removed.append(name)
        if worker.tasks and not expected:
            culprits = [task for task in worker.executing if task.kills]
            self._deaths[name] = culprits, worker.had_finished
        if worker.retirement is not None:
            worker.retirement.cancel()
        for timer in worker.executing.values():
            timer.cancel()
        for task in (*worker.executing, *worker.frozen):
            task.allowed_restarts += 1
            if task.kills and not expected:
                task.state = TaskState.WAITING  # for the reason
            else:
                self._queue(task)
        for task in worker.backlog:
            self._queue(task)
        for task in worker.results:
            task.holders.discard(worker)
            if not task.holders:
                task.allowed_restarts += 1
                self._queue(task)
        for tag in self._unplaced:
            self._assign_tasks(tag)

    def pause(self, name: str) -> None:
        """Pause a worker, as one that is short of memory does: it finishes its tasks and starts no others."""
        self.workers[name].paused = True

    def unpause(self, name: str) -> None:
        """Let a paused worker start tasks again."""
        worker = self.workers[name]
        worker.paused = False
        self._assign_tasks(worker.tag)

    def freeze(self, name: str) -> None:
        """Freeze a worker: it stays connected, its tasks stand still, and it does not answer."""
        worker = self.workers[name]
        now = asyncio.get_running_loop().time()
        worker.frozen_at = now
        for task, timer in worker.executing.items():
            timer.cancel()
            worker.frozen[task] = timer.when() - now
        worker.executing.clear()

    def thaw(self, name: str) -> None:
        """Let a frozen worker continue where it was."""
        worker = self.workers[name]
        worker.frozen_at = None
        loop = asyncio.get_running_loop()
        for task, left in worker.frozen.items():
            worker.executing[task] = loop.call_later(left, self._finish, task, worker)
        worker.frozen.clear()
        self._assign_tasks(worker.tag)

    def unsaved_work(self, name: str) -> str:
        """Return what would be lost with a worker; an empty string if it is not registered."""
        worker = self.workers.get(name)
        return f"{worker.tasks} tasks and {len(worker.results)} results" if worker else ""

    async def wait_closed(self) -> None:
        """Do nothing, because removed workers are gone at once."""

    # -- `SchedulerLink`

    async def start(self, slots: Mapping[str, int]) -> None:
        """Learn the groups."""
        await self.publish(slots)

    async def identity(self) -> str:
        """Return the id of the scheduler, which a test may change."""
        await self._call()
        return self.id

    async def host_state(self) -> SchedulerState | None:
        """Return what its host says, which a test may set, even if it does not answer itself."""
        return self.state

    async def close(self) -> None:
        """Do nothing, because there are no connections."""

    async def publish(self, slots: Mapping[str, int]) -> None:
        """Learn the groups anew."""
        await self._call()
        for tag in slots:
            self._unplaced.setdefault(tag, [])

    async def report(self) -> Report:
        """Return the workers and the demand."""
        await self._call()
        self.turns += 1
        removed, self.removed = self.removed, []
        return Report(
            {
                worker.name: WorkerInfo(
                    worker.status,
                    worker.tasks,
                    len(worker.results),
                    worker.silence,
                    len(worker.executing),
                )
                for worker in self.workers.values()
            },
            self._demand(),
            self.refused,
            removed,
            {name: had_finished for name, (_, had_finished) in self._deaths.items()},
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
        resumed = [worker for worker in workers if worker.retirement is None]
        for worker in resumed:
            self.blocked.discard(worker.name)
            worker.draining = False
            self._assign_tasks(worker.tag)
        return [worker.name for worker in resumed]

    async def expire(self, workers: Mapping[str, tuple[float, WalltimeError | None]]) -> None:
        """Note when workers will be ended, and which of them by preemption."""
        await self._call()
        now = asyncio.get_running_loop().time()
        self.deadlines |= {name: now + seconds for name, (seconds, _) in workers.items()}
        self.preempted |= {name for name, (_, error) in workers.items() if error is None}

    async def explain_deaths(self, deaths: Mapping[str, Explanation]) -> None:
        """Fail the tasks that have killed too many workers."""
        await self._call()
        for name, why in deaths.items():
            culprits, _ = self._deaths.pop(name, ((), False))
            for task in culprits:
                if may_be_task(why.reason):
                    task.killed.append((name, in_one_line(why)))
                if len(task.killed) > ALLOWED_DEATHS:
                    task.state = TaskState.ERRED
                    task.error = WorkerDiedError(task.key, task.killed, why)
                elif task.state is TaskState.WAITING:
                    self._queue(task)
                    self._assign_tasks(task.tag)

    async def fail(self, tag: str, error: GroupFailedError | None) -> None:
        """End the tasks that only this group could run in `error`; None lifts that."""
        await self._call()
        if error is None:
            self.failures.pop(tag, None)
        else:
            self.failures[tag] = error
            self._assign_tasks(tag)

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
            worker.frozen.clear()

    async def _call(self) -> None:
        await sleep(self.latency)
        if self.error is not None:
            raise self.error

    # -- Demand

    def _demand(self) -> dict[str, Demand]:
        now = asyncio.get_running_loop().time()
        queued = {tag: list(tasks) for tag, tasks in self._unplaced.items()}
        running: dict[str, list[SimulatedTask]] = {tag: [] for tag in self._unplaced}
        for worker in self.workers.values():
            queued[worker.tag] += worker.backlog
            running[worker.tag] += [*worker.executing, *worker.frozen]
        demand = {}
        waits = Counter(task.tag for task in self._waiting)
        for tag in self._unplaced:
            runtimes = self._runtimes[tag]
            slots = len(queued[tag]) + len(running[tag])
            elapsed = [now - task.starts[-1][0] for task in running[tag]]
            mean = statistics.fmean(runtimes) if runtimes else 0.0
            # Dask, too, forgets a mean once a task has run for twice as long.
            if max(elapsed, default=0.0) > 2 * mean or not runtimes:
                proven = slots * proven_duration(elapsed, some_ended=bool(runtimes))
                demand[tag] = Demand(slots, 0.0, slots, waits[tag], proven)
                continue
            left = math.fsum(max(0.0, mean - seconds) for seconds in elapsed)
            demand[tag] = Demand(slots, mean * len(queued[tag]) + left, 0.0, waits[tag])
        return demand

    # -- Tasks

    def _queue_ready_tasks(self) -> None:
        """Queue the tasks whose dependencies are done."""
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
            self._assign_tasks(tag)

    def _queue(self, task: SimulatedTask) -> None:
        if self.closing:
            task.state = TaskState.CANCELLED
        else:
            task.state = TaskState.QUEUED
            self._unplaced[task.tag].append(task)

    def _assign_tasks(self, tag: str) -> None:
        """Assign every queued task of a group to a worker, balance the queues, and start what can be started."""
        members = [w for w in self.workers.values() if w.tag == tag and not w.draining]
        running = [worker for worker in members if worker.open]
        unplaced = self._unplaced[tag]
        if not running:
            if not members:
                self._end_if_failed(tag)
            return
        emptiest = [(worker.fullness, number) for number, worker in enumerate(running)]
        heapq.heapify(emptiest)
        for task in unplaced:
            worker = running[emptiest[0][1]]
            worker.backlog.append(task)
            heapq.heapreplace(emptiest, (worker.fullness, emptiest[0][1]))
        unplaced.clear()
        # A worker gives up a task only by its own consent, so that it does not start it as well.
        donors = _Donors(worker for worker in members if worker.frozen_at is None)
        for worker in running:
            while worker.frozen_at is None and len(worker.executing) < worker.slots:
                donor = worker if worker.backlog else donors.longest()
                if donor is None:
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
        if len(task.starts) > 1 + task.allowed_restarts:
            self.invariants.record_violation(
                f"{task.key} was started again needlessly: {task.starts}"
            )
        worker.executing[task] = loop.call_later(task.seconds, self._finish, task, worker)

    def _finish(self, task: SimulatedTask, worker: SimulatedWorker) -> None:
        if task.kills:
            self.kill(worker.name)
            return
        del worker.executing[task]
        worker.had_finished = True
        task.state = TaskState.DONE
        task.ended_at = asyncio.get_running_loop().time()
        self._runtimes[task.tag].append(task.seconds)
        if task.wanted:
            self._store_result(task, worker)
        self._queue_ready_tasks()
        self._assign_tasks(task.tag)

    def _store_result(self, task: SimulatedTask, worker: SimulatedWorker) -> None:
        worker.results.add(task)
        task.holders.add(worker)

    # -- Draining workers

    def _drain(self, name: str, force: bool) -> DrainProgress:
        self.blocked.add(name)
        worker = self.workers.get(name)
        if worker is None:
            return DrainProgress(Stage.GONE)
        worker.draining = True
        if worker.frozen_at is not None and not force:
            return DrainProgress(Stage.BUSY, max(1, worker.tasks))
        self._unplaced[worker.tag] += worker.backlog
        worker.backlog.clear()
        self._assign_tasks(worker.tag)
        if worker.executing and not force:
            return DrainProgress(Stage.BUSY, len(worker.executing))
        results = len(worker.results)
        if force:
            self.remove_worker(name, expected=True)
        elif worker.retirement is None:
            if results and not self._has_open_worker() and self._recipient() is worker:
                return DrainProgress(Stage.HOLDING, results)
            loop = asyncio.get_running_loop()
            worker.retirement = loop.call_later(self.transfer, self._move_results, worker)
        return DrainProgress(Stage.MOVING, results)

    def _has_open_worker(self) -> bool:
        return any(worker.open for worker in self.workers.values())

    def _recipient(self) -> SimulatedWorker:
        """Return the worker that takes results: a running one, or else the draining one that has most."""
        return max(self.workers.values(), key=lambda w: (w.open, bool(w.executing), len(w.results)))

    def _move_results(self, worker: SimulatedWorker) -> None:
        worker.retirement = None
        if worker.results:
            recipient = self._recipient()
            if recipient is worker:
                return
            for task in worker.results:
                self._store_result(task, recipient)
        self.remove_worker(worker.name)
