"""What runs inside the Dask scheduler and its workers, sent there by value.

A stock ``dask scheduler`` has none of our packages, so nothing here may import `scalable`: the standard library and
distributed only, and every message is made of plain types. `scalable.cluster.link` is the other end.

Some of what it touches is not public API of distributed: worker states, the stealing extension, handlers. Each such
place is covered by a test against the installed version.
"""

from __future__ import annotations

import asyncio
import logging
import operator
from collections.abc import Awaitable, Callable, Iterable
from heapq import heapify, heappop, heapreplace
from itertools import islice
from time import time
from typing import TYPE_CHECKING, Any

from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin, WorkerPlugin
from distributed.versions import get_versions
from tornado.ioloop import PeriodicCallback

if TYPE_CHECKING:
    from distributed.comm.core import Comm
    from distributed.scheduler import Scheduler, TaskPrefix, TaskState, WorkerState
    from distributed.worker import Worker

logger = logging.getLogger("distributed.scalable")

TABLE_TOPIC = "scalable-groups"
"""Dask event topic on which the group table is published."""

TICK_MS = 250
"""How often waiting tasks are spread and tasks of failed groups are ended."""

MOVES_PER_TICK = 200
"""Bound on the steal requests of one tick, so that a tick stays short whatever waits."""

SAMPLE = 1000
"""Tasks of one worker that a tick looks at; of deep queues, some stand for all."""

ANSWER_TIME = 0.5
"""Seconds that a draining worker has to answer before it counts as busy. Its answer still counts when it comes."""

GOODBYE_TIME = 0.2
"""Seconds that workers have to leave before they count as leaving. Most have no results to hand over."""

PUNCTUALITY = 3.0
"""Seconds by which a native system may end a worker before its time, as far as we know that."""

MOST_OF_A_LIFE = 0.8
"""Share of its worker's life from which on a task counts as too long for any worker."""

SILENCE = 60.0
"""Seconds after which a silent worker is asked again. A model that holds the GIL keeps its worker silent."""


def version_mismatch(scheduler: dict[str, Any], worker: dict[str, Any]) -> str:
    """Say how a worker's environment differs from the scheduler's, or nothing.

    Tasks are pickled code: another Python minor version cannot run it, another dask or distributed version
    speaks another protocol.

    Parameters
    ----------
    scheduler, worker : dict
        What `distributed.versions.get_versions` returns.
    """

    def facts(versions: dict[str, Any]) -> dict[str, str]:
        python = ".".join(str(versions["host"]["python"]).split(".")[:2])
        packages = versions["packages"]
        return {"Python": python, "dask": packages["dask"], "distributed": packages["distributed"]}

    ours, theirs = facts(scheduler), facts(worker)
    return "; ".join(
        f"the worker has {name} {theirs[name]}, the scheduler {ours[name]}"
        for name in ours
        if ours[name] != theirs[name]
    )


class UnstartedTasks(WorkerPlugin):
    """Lets a worker say which of its tasks it has not started.

    The scheduler cannot know: its view of what executes is as old as the last heartbeat, and a draining worker
    still has in its queue what was sent to it before.
    """

    name = "scalable-unstarted-tasks"

    def setup(self, worker: Worker) -> None:
        """Answer ``scalable_unstarted`` on this worker."""

        def unstarted() -> dict[str, Any]:
            state = worker.state
            return {
                "status": worker.status.name,
                "unstarted": [
                    ts.key
                    for ts in state.tasks.values()
                    if ts.state in ("ready", "constrained", "waiting")
                ],
                "executing": len(state.executing) + len(state.long_running),
            }

        worker.handlers["scalable_unstarted"] = unstarted


Claims = tuple[tuple[str | None, float], ...]
"""What a task takes, by resource; None stands for a slot of whichever worker."""


def claims(ts: TaskState) -> Claims:
    """Say what a task takes."""
    return (*ts.resource_restrictions.items(),) if ts.resource_restrictions else ((None, 1),)


class Backlog:
    """How many tasks are to be done, by kind, what they take, and whether they wait for others.

    It is kept up to date as tasks change their state, so that a look at it costs the same however many there are.
    """

    STATES = frozenset({"waiting", "no-worker", "queued", "processing"})

    def __init__(self) -> None:
        self.tasks: dict[tuple[TaskPrefix, Claims, bool], int] = {}
        # As it was counted: what a task takes can be changed meanwhile.
        self._counted: dict[Any, tuple[TaskPrefix, Claims, bool]] = {}

    def add(self, ts: TaskState) -> None:
        """Count a task by its state."""
        waits = ts.state == "waiting"
        if waits and not ts.waiting_on:
            return  # for a moment only
        shape = (ts.prefix, claims(ts), waits)
        self._counted[ts.key] = shape
        self.tasks[shape] = self.tasks.get(shape, 0) + 1

    def discard(self, key: Any) -> None:
        """Count a task no more."""
        shape = self._counted.pop(key, None)
        if shape is None:
            return
        self.tasks[shape] -= 1
        if not self.tasks[shape]:
            del self.tasks[shape]


class GroupsPlugin(SchedulerPlugin):
    """The scheduler's part of the engine.

    It counts demand per tag, drains workers without losing or repeating anything, refuses workers of another
    environment, ends the tasks of failed groups, spreads waiting tasks over late workers, and publishes the
    group table.

    Parameters
    ----------
    slots : dict of str to int
        The group table: slots per worker, by tag. Tasks without a tag count for its first entry.
    worker_plugin : bytes
        `UnstartedTasks`, pickled by value.
    """

    name = "scalable-groups"

    def __init__(self, slots: dict[str, int], worker_plugin: bytes) -> None:
        self.slots = slots
        self.worker_plugin = worker_plugin
        self.failures: dict[str, bytes] = {}
        self.refused: dict[str, str] = {}
        self.unwelcome: set[str] = set()
        self.dismissed: set[str] = set()
        self.departed: list[str] = []
        self.asking: dict[str, asyncio.Task[int]] = {}
        self.leaving: dict[str, asyncio.Task[None]] = {}
        self.returning: set[str] = set()
        self.members: dict[str, tuple[WorkerState, float]] = {}
        self.deadlines: dict[str, tuple[float, bytes]] = {}
        self.cut_short: set[Any] = set()
        self.backlog = Backlog()

    async def start(self, scheduler: Scheduler) -> None:
        """Add our handlers to the scheduler."""
        self.scheduler = scheduler
        self.versions = get_versions()
        self.register_worker: Callable[..., Awaitable[None]] = scheduler.handlers["register-worker"]
        scheduler.handlers["register-worker"] = self.admit
        self.heartbeat_worker: Callable[..., dict[str, Any]] = scheduler.handlers[
            "heartbeat_worker"
        ]
        scheduler.handlers["heartbeat_worker"] = self.hear
        for handler in (
            self.publish,
            self.report,
            self.drain,
            self.resume,
            self.expire,
            self.fail,
            self.cancel_all,
        ):
            scheduler.handlers[f"scalable_{handler.__name__}"] = handler
        await scheduler.register_worker_plugin(
            None, self.worker_plugin, name=UnstartedTasks.name, idempotent=True
        )
        # Nothing may be awaited from here on: the scheduler tells plugins of changes once this has returned.
        self.members = {address: (ws, time()) for address, ws in scheduler.workers.items()}
        for ts in scheduler.tasks.values():
            if ts.state in Backlog.STATES:
                self.backlog.add(ts)
        self.publish(self.slots)
        self.ticker = PeriodicCallback(self.tick, TICK_MS)
        self.ticker.start()

    async def close(self) -> None:
        """Stop what runs by itself."""
        self.ticker.stop()
        for task in (*self.asking.values(), *self.leaving.values()):
            task.cancel()

    def publish(self, slots: dict[str, int]) -> None:
        """Replace the group table, and tell clients."""
        self.slots = slots
        self.scheduler.log_event(TABLE_TOPIC, slots)

    def tick(self) -> None:
        """Do what must be done without being asked."""
        if self.failures:
            self._end_tasks_of_failed_groups()
        if self.deadlines:
            self._end_tasks_without_time()
        self._spread_waiting_tasks()

    # -- Which workers may join

    async def admit(self, comm: Comm, **registration: Any) -> None:
        """Register a worker, unless it is not wanted any more or could not run our tasks."""
        name = str(registration["name"])
        problem = version_mismatch(self.versions, registration["versions"])
        if problem:
            self.refused[name] = problem
        elif name in self.unwelcome:
            problem = "it is not wanted any more"
        if problem:
            await comm.write({"status": "error", "message": problem, "time": time()})
            return
        await self.register_worker(comm, **registration)

    def hear(self, address: str, **heartbeat: Any) -> dict[str, Any]:
        """Take a heartbeat; that of a worker which we have just removed is nothing to warn of."""
        if address in self.dismissed and address not in self.scheduler.workers:
            return {"status": "missing"}
        return self.heartbeat_worker(address=address, **heartbeat)

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Remember a worker's state, which is out of reach once the worker is gone, and when it came."""
        self.members[worker] = scheduler.workers[worker], time()

    def remove_worker(
        self, scheduler: Scheduler, worker: str, *, stimulus_id: str, **kwargs: Any
    ) -> None:
        """Do justice to the tasks of a worker that has died."""
        ws, joined = self.members.pop(worker)
        name = str(ws.name)
        self.departed.append(name)
        if name in self.unwelcome:
            self.dismissed.add(worker)
        self.returning.discard(worker)
        self.asking.pop(worker, None)
        deadline, error = self.deadlines.pop(name, (float("inf"), b""))
        _, event = scheduler.get_events(worker)[-1]
        if event["action"] != "remove-worker" or event["expected"]:
            return
        assigned = [ts for key in event["processing-tasks"] if (ts := scheduler.tasks.get(key))]
        self._acquit(ws, assigned)
        if time() >= deadline - PUNCTUALITY:
            for ts in assigned:
                if ts in ws.executing:
                    self._cut_short(ts, ws, joined, error)

    def _acquit(self, ws: WorkerState, assigned: list[TaskState]) -> None:
        """Hold a worker's death against those tasks alone that may have caused it.

        distributed suspects every task that was assigned to a dead worker, and ends it in `KilledWorker` after
        some deaths. Tagged tasks all wait on their workers, so that a few deaths would end tasks that never ran.
        """
        assigned.sort(key=operator.attrgetter("priority"))
        # Those that may have been running: what the last heartbeat said, and the first in the worker's queue.
        suspects = {*assigned[: ws.nthreads], *ws.executing}
        for ts in assigned:
            if ts not in suspects and ts.suspicious:
                ts.suspicious -= 1
                ts.prefix.suspicious -= 1

    # -- Tasks that end in an error of ours

    def _end_tasks_of_failed_groups(self) -> None:
        doomed = [
            (ts.key, self.failures[tag])
            for ts in self.scheduler.unrunnable
            for tag in ts.resource_restrictions or ()
            if tag in self.failures
        ]
        for key, error in doomed:
            ts = self.scheduler.tasks.get(key)
            if ts is not None and ts.state == "no-worker":
                self._end(ts, error)

    def _end_tasks_without_time(self) -> None:
        """End what no worker lives long enough for, before its worker dies and the next one begins with it."""
        for name, (deadline, error) in self.deadlines.items():
            ws = self._find(name)
            if ws is not None and time() >= deadline - PUNCTUALITY:
                _, joined = self.members[ws.address]
                for ts in [ts for ts in ws.processing if self._is_hopeless(ts, ws, joined)]:
                    self._end(ts, error)

    def _cut_short(self, ts: TaskState, ws: WorkerState, joined: float, error: bytes) -> None:
        """Remember that the end of its worker's time has interrupted a task, or end it."""
        if self._is_hopeless(ts, ws, joined) and ts.state in ("no-worker", "processing"):
            self._end(ts, error)
        else:
            self.cut_short.add(ts.key)

    def _is_hopeless(self, ts: TaskState, ws: WorkerState, joined: float) -> bool:
        """Say whether a task that its worker has no more time for would fare no better on another.

        One that began late in the life of its worker is tried once more.
        """
        elapsed = ws.executing.get(ts, 0.0)
        return ts.key in self.cut_short or elapsed >= MOST_OF_A_LIFE * (time() - joined)

    def _end(self, ts: TaskState, error: bytes) -> None:
        """End a task in an error, wherever it is waiting to be run."""
        holder = ts.processing_on
        stimulus_id = f"scalable-end-{time()}"
        recommendations = self.scheduler.transition(
            ts.key, "erred", exception=error, cause=ts.key, stimulus_id=stimulus_id
        )
        self.scheduler.transitions(recommendations, stimulus_id=stimulus_id)
        if holder is not None:
            message = {"op": "free-keys", "keys": [ts.key], "stimulus_id": stimulus_id}
            self.scheduler.worker_send(holder.address, message)

    # -- What there is to do, and who does it

    def transition(
        self, key: Any, start: str, finish: str, *args: Any, stimulus_id: str, **kwargs: Any
    ) -> None:
        """Count a task where it is now."""
        if start in Backlog.STATES:
            self.backlog.discard(key)
        if finish in ("memory", "erred", "forgotten"):
            self.cut_short.discard(key)
        if finish in Backlog.STATES:
            self.backlog.add(self.scheduler.tasks[key])

    def report(self) -> dict[str, Any]:
        """Say which workers there are, which have left since the last report, and how much work waits for each tag."""
        departed, self.departed = self.departed, []
        first = next(iter(self.slots), "")
        demand = {tag: [0.0, 0.0, 0.0, 0] for tag in self.slots}
        for (prefix, taken, waits), tasks in self.backlog.tasks.items():
            for tag, need in taken:
                entry = demand.get(tag or first)
                if entry is None:
                    continue
                if waits:
                    entry[3] += tasks
                    continue
                entry[0] += tasks * need
                if prefix.duration_average < 0:
                    entry[2] += tasks * need
                else:
                    entry[1] += tasks * need * prefix.duration_average
        workers = {}
        for ws in self.scheduler.workers.values():
            workers[str(ws.name)] = (ws.status.name, len(ws.processing), len(ws.has_what))
            for ts, elapsed in ws.executing.items():
                done = min(elapsed, ts.prefix.duration_average)
                if ts.processing_on is ws and done > 0:
                    for tag, need in claims(ts):
                        entry = demand.get(tag or first)
                        if entry is not None:
                            entry[1] -= need * done
        return {
            "workers": workers,
            "demand": {tag: tuple(entry) for tag, entry in demand.items()},
            "refused": self.refused,
            "departed": departed,
        }

    # -- Workers that leave

    async def drain(self, names: list[str], force: bool = False) -> dict[str, tuple[str, int]]:
        """Bring workers nearer to their end, and say how near each is.

        Called again and again until all are gone. No worker starts a task after the first call.

        Parameters
        ----------
        names : list of str
            Workers that should leave.
        force : bool
            Let them go although results are lost with them.

        Returns
        -------
        dict of str to (str, int)
            ``("gone", 0)``: it has left, or will be refused if it ever comes. ``("busy", n)``: n tasks still run.
            ``("moving", n)``: n results are on their way to other workers. ``("holding", n)``: no other worker
            can take its n results.
        """
        stages: dict[str, tuple[str, int]] = {}
        present: list[WorkerState] = []
        for name in names:
            self.unwelcome.add(name)
            ws = self._find(name)
            if ws is None:
                stages[name] = ("gone", 0)
            elif self._returns(ws):
                # It may still answer as the draining worker it was, and then start what was taken back from it.
                stages[name] = ("busy", max(1, len(ws.processing)))
            else:
                self._set_status(ws, Status.closing_gracefully)
                present.append(ws)
        for ws, left in zip(present, await self._tasks_left(present), strict=True):
            name = str(ws.name)
            if self._find(name) is not ws:
                stages[name] = ("gone", 0)
            elif left and not force:
                stages[name] = ("busy", left)
            else:
                stages[name] = self._let_go(ws, force)
        goodbyes = [self.leaving[ws.address] for ws in present if ws.address in self.leaving]
        if goodbyes:
            await asyncio.wait(goodbyes, timeout=GOODBYE_TIME)
        return stages | {
            str(ws.name): ("gone", 0) for ws in present if not self._find(str(ws.name))
        }

    def resume(self, names: list[str]) -> list[str]:
        """Take draining workers back into service; say which could still be had."""
        resumed = []
        for name in names:
            ws = self._find(name)
            if ws is not None and ws.address not in self.leaving:
                self.unwelcome.discard(name)
                # An answer to an earlier question says nothing of what it starts from now on.
                if question := self.asking.pop(ws.address, None):
                    question.cancel()
                # The scheduler follows once the worker has confirmed.
                self._tell_status(ws, Status.running)
                self.returning.add(ws.address)
                resumed.append(name)
        return resumed

    def expire(self, workers: dict[str, tuple[float, bytes]]) -> None:
        """Note when workers will be ended from outside.

        Parameters
        ----------
        workers : dict of str to (float, bytes)
            Seconds from now, and the pickled exception of tasks that still run then.
        """
        for name, (seconds, error) in workers.items():
            self.deadlines[name] = time() + seconds, error

    def _returns(self, ws: WorkerState) -> bool:
        """Say whether it was told to come back into service and has not confirmed that yet."""
        if ws.status is not Status.closing_gracefully:
            self.returning.discard(ws.address)
        return ws.address in self.returning

    def _find(self, name: str) -> WorkerState | None:
        address = self.scheduler.aliases.get(name)
        return None if address is None else self.scheduler.workers.get(address)

    def _set_status(self, ws: WorkerState, status: Status) -> None:
        if ws.status != status:
            self.scheduler.handle_worker_status_change(status, ws, f"scalable-{time()}")
            self._tell_status(ws, status)

    def _tell_status(self, ws: WorkerState, status: Status) -> None:
        self.scheduler.worker_send(
            ws.address,
            {
                "op": "worker-status-change",
                "status": status.name,
                "stimulus_id": f"scalable-{time()}",
            },
        )

    async def _tasks_left(self, leaving: list[WorkerState]) -> list[int]:
        """Count the tasks left on each draining worker; a worker that does not answer is busy."""
        for ws in leaving:
            if ws.address not in self.asking:
                self.asking[ws.address] = asyncio.ensure_future(self._take_back(ws))
        questions = [self.asking[ws.address] for ws in leaving]
        if questions:
            await asyncio.wait(questions, timeout=ANSWER_TIME)
        for ws, question in zip(leaving, questions, strict=True):
            if question.done():
                self.asking.pop(ws.address, None)
        return [
            question.result() if question.done() else max(1, len(ws.processing))
            for ws, question in zip(leaving, questions, strict=True)
        ]

    async def _take_back(self, ws: WorkerState) -> int:
        """Take back what a draining worker has not started; count what is left."""
        try:
            answer = await asyncio.wait_for(
                self.scheduler.rpc(ws.address).scalable_unstarted(), SILENCE
            )
        except (OSError, TimeoutError):
            return max(1, len(ws.processing))
        if answer is None or answer["status"] != Status.closing_gracefully.name:
            # It has not got our plugin yet, or not heard that it drains: it may start any of its tasks now.
            return max(1, len(ws.processing))
        # Safe: it starts nothing any more, and what it finished meanwhile it does not call unstarted.
        tasks = (self.scheduler.tasks.get(key) for key in answer["unstarted"])
        self.scheduler.transitions(
            {ts.key: "released" for ts in tasks if ts is not None and ts.processing_on is ws},
            stimulus_id=f"scalable-drain-{time()}",
        )
        return max(len(ws.processing), int(answer["executing"]))

    def _let_go(self, ws: WorkerState, force: bool) -> tuple[str, int]:
        results = len(ws.has_what)
        if ws.address in self.leaving:
            return "moving", results
        if force:
            goodbye = self._remove(ws)
        elif ws.actors:
            return "holding", results
        elif self.scheduler.running:
            goodbye = self._retire(ws)
        elif (keeper := self._keeper()) is ws and results:
            return "holding", results
        else:
            goodbye = self._entrust(ws, keeper)
        task = asyncio.ensure_future(goodbye)
        self.leaving[ws.address] = task
        task.add_done_callback(lambda _: self.leaving.pop(ws.address, None))
        return "moving", results

    async def _retire(self, ws: WorkerState) -> None:
        """Move its results to running workers, then close it. Stays where they cannot take them all."""
        await self.scheduler.retire_workers([ws.address], close_workers=True, remove=True)

    def _keeper(self) -> WorkerState:
        """Choose who keeps everybody's results while no worker runs: one that is busy anyway, or has most."""
        return max(
            self.scheduler.workers.values(),
            key=lambda ws: (bool(ws.processing), ws.nbytes, str(ws.name)),
        )

    async def _entrust(self, ws: WorkerState, keeper: WorkerState) -> None:
        """Copy its results to one other draining worker, then close it.

        `Scheduler.retire_workers` knows running recipients only. Without this, two groups that shrink to
        nothing at once would each keep all of their workers.
        """
        missing = {ts.key: [ws.address] for ts in ws.has_what if keeper not in (ts.who_has or ())}
        if missing and await self.scheduler.gather_on_worker(keeper.address, missing):
            return
        if any(ts.who_has == {ws} for ts in ws.has_what):
            return
        await self._remove(ws)

    async def _remove(self, ws: WorkerState) -> None:
        await self.scheduler.remove_worker(
            ws.address, expected=True, close=True, stimulus_id=f"scalable-{time()}"
        )

    # -- Groups that failed

    def fail(self, tag: str, error: bytes | None) -> None:
        """End the tasks that only this group could run, now and from now on; None lifts the verdict.

        Parameters
        ----------
        tag : str
            The group.
        error : bytes or None
            The exception they end in, pickled. The scheduler cannot unpickle it, and need not.
        """
        if error is None:
            self.failures.pop(tag, None)
        else:
            self.failures[tag] = error

    def cancel_all(self, reason: str) -> None:
        """Cancel what clients wait for, so that they learn it instead of hanging, and nothing is recomputed.

        `Scheduler.stimulus_cancel` fails on graphs in which a task between two others is wanted by nobody.
        """
        for name, client in list(self.scheduler.clients.items()):
            keys = [ts.key for ts in client.wants_what]
            # What has failed already keeps its own error.
            lost = [ts.key for ts in client.wants_what if ts.state != "erred"]
            self.scheduler.client_releases_keys(keys, client=name)
            self.scheduler.report(
                {
                    "op": "cancelled-keys",
                    "keys": lost,
                    "reason": "cluster-closed",
                    "msg": reason,
                },
                client=name,
            )

    # -- Tasks that wait while others idle

    def _spread_waiting_tasks(self) -> None:
        """Move waiting tasks from the fullest worker of a group to the emptiest, while that makes them more alike.

        distributed assigns every tagged task at once, all of them to the first worker that comes. Its own
        stealing counts threads and durations over all tags; this counts slots, per tag.
        """
        stealing = self.scheduler.extensions.get("stealing")
        if stealing is None:
            return
        members: dict[str, list[WorkerState]] = {tag: [] for tag in self.slots}
        for ws in self.scheduler.running:
            for tag in ws.resources:
                if tag in members:
                    members[tag].append(ws)
        for tag, workers in members.items():
            if len(workers) > 1:
                self._spread(tag, workers, stealing)

    def _spread(self, tag: str, workers: list[WorkerState], stealing: Any) -> None:
        load = self._load(tag, workers, stealing)
        slots = {ws: float(ws.resources[tag]) for ws in workers}

        def helps(need: float) -> bool:
            less = (load[victim] - need) / slots[victim]
            more = (load[thief] + need) / slots[thief]
            # Deep queues need not be alike to a task: they are looked at again before they are empty.
            return more <= 1 or less >= max(more, 1.1 * more - 1)

        # One worker is on both heaps. Its other entry grows old when tasks move, which only spares it moves.
        fullest = [(-load[ws] / slots[ws], n, ws) for n, ws in enumerate(workers)]
        emptiest = [(load[ws] / slots[ws], n, ws) for n, ws in enumerate(workers)]
        heapify(fullest)
        heapify(emptiest)
        movable: dict[WorkerState, list[TaskState]] = {}
        moves = 0
        while fullest and moves < MOVES_PER_TICK:
            (_, v, victim), (_, t, thief) = fullest[0], emptiest[0]
            if load[victim] <= slots[victim] or not helps(1):
                break
            if victim not in movable:
                movable[victim] = self._movable(victim, tag, stealing)
            if not movable[victim]:
                heappop(fullest)
                continue
            ts = movable[victim].pop()
            need = self._need(ts, tag)
            if not helps(need):
                break
            # The victim confirms that it has not started the task, or keeps it.
            stealing.move_task_request(ts, victim, thief)
            moves += 1
            load[victim] -= need
            load[thief] += need
            heapreplace(fullest, (-load[victim] / slots[victim], v, victim))
            heapreplace(emptiest, (load[thief] / slots[thief], t, thief))

    def _load(
        self, tag: str, workers: list[WorkerState], stealing: Any
    ) -> dict[WorkerState, float]:
        """Slots that all tasks of each worker would take at once, tasks under way to it included."""
        load: dict[WorkerState, float] = {}
        for ws in workers:
            load[ws] = len(ws.processing)
            if self.slots[tag] > 1 and ws.processing:
                sample = [self._need(ts, tag) for ts in islice(ws.processing, SAMPLE // 10)]
                load[ws] *= sum(sample) / len(sample)
        for ts, info in stealing.in_flight.items():
            need = self._need(ts, tag)
            if info["victim"] in load:
                load[info["victim"]] -= need
            if info["thief"] in load:
                load[info["thief"]] += need
        return load

    def _need(self, ts: TaskState, tag: str) -> float:
        return float((ts.resource_restrictions or {}).get(tag, 1))

    def _movable(self, ws: WorkerState, tag: str, stealing: Any) -> list[TaskState]:
        """Tasks of `tag` that may wait on a worker, or some of many; the one it would start last comes last."""
        candidates: Iterable[TaskState] = (
            ts
            for ts in islice(ws.processing, SAMPLE)
            if tag in (ts.resource_restrictions or ())
            and not ts.worker_restrictions
            and not ts.host_restrictions
            and ts not in ws.executing
            and ts not in stealing.in_flight
        )
        return sorted(candidates, key=operator.attrgetter("priority"))
