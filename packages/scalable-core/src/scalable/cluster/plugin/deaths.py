"""Which task is to blame for the death of a worker, and how it ends."""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from time import time
from typing import TYPE_CHECKING, Any

from scalable.cluster.plugin.dask_internals import (
    Hold,
    fail_task,
    find_worker,
    run_alone,
    runs_alone,
    suspect,
    take_over_failures,
)
from scalable.cluster.plugin.exceptions import pickled_call, unpickled

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

__all__ = ["Deaths", "find_suspects", "with_lost"]

ERROR = "scalable.cluster.killed:KilledWorkerError"
"""The exception of a task that is given up. The scheduler need not have it."""

MAX_WAIT = 90.0
"""Seconds to wait for the reason of a death. It is then held against the task without one."""

MIN_ALONE = 60.0
"""Seconds in which no task starts beside a suspected one, or twice as long as it has run before, if that is more."""

RECORDING_DELAY = 10.0
"""Seconds in which a worker that has joined begins to report what it runs. One that does not has no plugin."""

LAST_RESORT = 4
"""A task is given up after this many times the deaths allowed, even if it never could run alone, or the reason of each
seems to lie elsewhere: it may cancel its own job, or fill the disk of its node, so that it is evicted."""

_NEEDED = ("waiting", "no-worker", "queued", "processing")
"""States of a task that is about to run."""


@dataclass(frozen=True)
class Suspects:
    """The tasks that may have caused a death.

    Parameters
    ----------
    keys : tuple
        All of them.
    running : tuple
        Those that are known to have been running.
    culprit : tuple
        The one that caused it, where no other can have; empty otherwise.
    seceded : tuple
        Tasks that had seceded. They are suspected only if nothing else was there, because they usually wait for others.
    """

    keys: tuple[Any, ...]
    running: tuple[Any, ...]
    culprit: tuple[Any, ...] = ()
    seceded: tuple[Any, ...] = ()


def find_suspects(
    queue: Collection[Any],
    running: Collection[Any],
    seceded: Collection[Any],
    alone: Any,
    slots: int,
) -> Suspects:
    """Return the tasks that may have caused the death of their worker.

    Parameters
    ----------
    queue : collection
        The keys of all tasks that were assigned to the worker, in the order in which it starts them.
    running, seceded : collection
        Those that the worker had reported to run, and those of them that had seceded.
    alone : key or None
        The one that the worker had confirmed to run alone.
    slots : int
        Tasks that it ran at a time.

    Examples
    --------
    The reports of the last milliseconds may be lost, so that the next in the queue are suspected, too.

    >>> find_suspects("abcd", "a", "", None, slots=1).keys
    ('a', 'b')
    >>> find_suspects("abcd", "", "", None, slots=2).keys
    ('a', 'b')

    A task that was confirmed to run alone is the culprit, and so is one without company.

    >>> find_suspects("abcd", "c", "", "c", slots=4).culprit
    ('c',)
    >>> find_suspects("a", "a", "", None, slots=4).culprit
    ('a',)

    One that has seceded waits for others.

    >>> find_suspects("ab", "ab", "a", None, slots=1)
    Suspects(keys=('b',), running=('b',), culprit=(), seceded=('a',))
    >>> find_suspects("a", "a", "a", None, slots=1).culprit
    ('a',)
    """
    had_seceded = tuple(key for key in queue if key in seceded)
    if alone is not None and alone in queue:
        others = tuple(key for key in had_seceded if key != alone)
        return Suspects((alone,), (alone,), (alone,), others)
    executing = tuple(key for key in queue if key in running and key not in seceded)
    unstarted = tuple(key for key in queue if key not in running)
    if len(queue) == 1:
        return Suspects((*queue,), (*queue,), (*queue,))
    if not executing and not unstarted:
        return Suspects(had_seceded, had_seceded)
    started_unreported = unstarted[: max(1, slots - len(executing))]
    return Suspects((*executing, *started_unreported), executing, (), had_seceded)


def with_lost(suspects: Suspects, lost: Collection[Any]) -> Suspects:
    """Return the suspects of a death with which results were lost that had been lost in another death before.

    To pickle one of these may be what ends their workers, and then no task that was running is the culprit.

    Parameters
    ----------
    suspects : Suspects
        The suspects otherwise.
    lost : collection
        The keys of these results.

    Examples
    --------
    >>> with_lost(find_suspects("a", "a", "", None, slots=1), "b")
    Suspects(keys=('a', 'b'), running=('a',), culprit=(), seceded=())
    """
    if not lost:
        return suspects
    return replace(suspects, keys=(*suspects.keys, *lost), culprit=())


@dataclass(frozen=True, eq=False)
class Death:
    """A worker that died while tasks were assigned to it, and whether it had finished any."""

    worker: str
    at: float
    suspects: Suspects
    had_finished: bool


@dataclass(eq=False)
class Suspect:
    """A task that may have caused deaths of workers.

    Parameters
    ----------
    task : TaskState
        The task.
    blamed : list of (Death, str)
        The deaths that are held against it, and the reason of each in one line.
    possible : list of (Death, str)
        Those for which it is not known that it was running. They are held against it once no other task can be the
        cause.
    elsewhere : list of (Death, str)
        Those whose reason lies elsewhere, while it was running and nothing else was.
    unexplained : list of Death
        Those that will be held against it, unless their reason lies elsewhere.
    is_culprit : bool
        Whether it has certainly caused the last of them.
    explanation : bytes
        The explanation of the last of them, pickled; may be empty.
    hold : Hold or None
        What keeps it from being assigned.
    spent_retries : int
        Retries, of those that the user has given to the task, that deaths have taken.
    """

    task: TaskState
    blamed: list[tuple[Death, str]] = field(default_factory=list)
    possible: list[tuple[Death, str]] = field(default_factory=list)
    elsewhere: list[tuple[Death, str]] = field(default_factory=list)
    unexplained: list[Death] = field(default_factory=list)
    is_culprit: bool = False
    explanation: bytes = b""
    hold: Hold | None = None
    spent_retries: int = 0


class Deaths:
    """Holds the death of a worker against the task that was running, and fails the task after some deaths.

    distributed suspects every task that was assigned to a dead worker, and fails it without a reason after some deaths.

    The record of what a worker runs may lack the last milliseconds, and several tasks may have been running. So a death
    makes suspects; each of these runs alone from then on, until it finishes. Only a task that was alone in its last
    death can be failed: an innocent one finishes instead.

    A task may also end its worker after it has finished, when its result is pickled: it may take more memory then. So
    tasks whose results were lost in two deaths are suspects as well.

    The reason of a death comes from outside, later. Deaths whose reason does not lie in the tasks are not held against
    any, unless a task was alone in very many of them. While a task has as many deaths as it may have, it waits for
    their reasons before it runs again.

    Parameters
    ----------
    scheduler : Scheduler
        The scheduler that has the tasks. From now on, it fails none of them because its workers die.

    Attributes
    ----------
    max_wait : float
        Seconds to wait for the reason of a death.
    recording_delay : float
        Seconds after which a worker that has not reported anything is known to have no plugin.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.allowed = take_over_failures(scheduler)
        self.max_wait, self.recording_delay = MAX_WAIT, RECORDING_DELAY
        # By address of the worker.
        self._recording: set[str] = set()
        self._had_finished: set[str] = set()
        self._alone: dict[str, Any] = {}
        # By key of the task: its worker, and since when it has been running there.
        self._running: dict[Any, tuple[str, float]] = {}
        self._seceded: set[Any] = set()
        # Keys of results that were lost with dead workers, and of those that were pickled since without harm.
        self._lost: set[Any] = set()
        self._harmless: set[Any] = set()
        self._dask_long_running = scheduler.stream_handlers["long-running"]
        self._suspects: dict[Any, Suspect] = {}
        # By name of the worker.
        self._unexplained: dict[str, Death] = {}

    def close(self) -> None:
        """Restore the scheduler's own limit of deaths."""
        self.scheduler.allowed_failures = self.allowed

    @property
    def unexplained(self) -> dict[str, bool]:
        """The workers whose death needs a reason, by name, and whether they had finished any task."""
        return {name: death.had_finished for name, death in self._unexplained.items()}

    # -- Messages of workers

    def record_recording(self, worker: str) -> None:
        """Record that a worker reports which tasks it runs."""
        self._recording.add(worker)

    def record_started(self, key: Any, worker: str) -> None:
        """Record that a worker runs a task."""
        ts = self.scheduler.tasks.get(key)
        if ts is not None and ts.processing_on is not None and ts.processing_on.address == worker:
            self._running[key] = worker, time()
            self._seceded.discard(key)

    def handle_long_running(self, *, key: Any, worker: str, **message: Any) -> None:
        """Record that a task has seceded."""
        if key in self._running:
            self._seceded.add(key)
        self._dask_long_running(key=key, worker=worker, **message)

    def record_alone(self, worker: str, key: Any) -> None:
        """Record that a worker runs nothing but this task, or, if it is None, that others may run, too."""
        ws = find_worker(self.scheduler, worker)
        if ws is None:
            return
        if key is None:
            self._alone.pop(ws.address, None)
        else:
            self._alone[ws.address] = key

    # -- Hooks

    def on_transition(self, key: Any, start: str, finish: str, worker: str | None) -> None:
        """Record that a task has left its worker, and drop suspicions of one that has finished."""
        if start == "processing" and key in self._running:
            # A worker that is no longer there has died, and what it ran is still needed.
            if self._running[key][0] in self.scheduler.workers:
                self._forget_run(key)
            if finish == "memory" and worker is not None:
                self._had_finished.add(worker)
        if finish == "forgotten":
            self._lost.discard(key)
            self._harmless.discard(key)
        if finish in ("memory", "erred", "forgotten") and key in self._suspects:
            one = self._suspects.pop(key)
            if finish == "memory":
                self._harmless.add(key)
            run_alone(one.task, None)
            if one.hold is not None:
                one.hold.resume()  # it may be tried again

    def _forget_run(self, key: Any) -> float:
        """Forget that a task is running; return for how many seconds it has been."""
        self._seceded.discard(key)
        _, since = self._running.pop(key, ("", time()))
        return time() - since

    def on_worker_removed(
        self,
        ws: WorkerState,
        joined: float,
        assigned: Collection[TaskState],
        lost: Collection[TaskState] = (),
        *,
        excused: bool = False,
    ) -> None:
        """Find out which of the tasks that were assigned to a dead worker are suspected.

        Parameters
        ----------
        ws : WorkerState
            The worker.
        joined : float
            When it joined.
        assigned : collection of TaskState
            Its tasks; none if it was removed on purpose.
        lost : collection of TaskState
            The tasks that had finished, and whose results nobody else has; none if it was removed on purpose.
        excused : bool
            Whether it is known already that none of them is the cause.
        """
        address = ws.address
        queue = {ts.key: ts for ts in sorted(assigned, key=operator.attrgetter("priority"))}
        is_stock = address not in self._recording and time() - joined > self.recording_delay
        suspects = self._suspects_on(ws, queue, is_stock=is_stock)
        if not is_stock and not excused:
            again = self._record_lost(lost)
            suspects = with_lost(suspects, [ts.key for ts in again])
            queue |= {ts.key: ts for ts in again}
        for ts in assigned:
            suspect(ts, -1)
        death = Death(str(ws.name), time(), suspects, address in self._had_finished)
        runtimes = {
            key: self._forget_run(key) for key, (on, _) in [*self._running.items()] if on == address
        }
        self._recording.discard(address)
        self._had_finished.discard(address)
        if excused or not suspects.keys:
            return
        self._unexplained[death.worker] = death
        for key in suspects.keys:
            self._suspect(queue[key], death, runtimes.get(key, 0.0))

    def _suspects_on(self, ws: WorkerState, queue: Collection[Any], *, is_stock: bool) -> Suspects:
        """Return which of the tasks in the queue of a dead worker, by key, are suspected."""
        if is_stock:
            running = {ts.key for ts in ws.executing}
        else:
            running = {key for key in queue if self._running.get(key, ("",))[0] == ws.address}
        alone = self._alone.pop(ws.address, None)
        suspects = find_suspects(queue, running, self._seceded & running, alone, ws.nthreads)
        if is_stock:
            # No task can run alone on it, so that none could ever be failed.
            return Suspects(suspects.keys, suspects.keys, suspects.keys)
        return suspects

    def _record_lost(self, lost: Collection[TaskState]) -> list[TaskState]:
        """Record whose results were lost with a worker; return the tasks whose were lost before, and are needed."""
        suspicious = self._lost - self._harmless
        again = [ts for ts in lost if ts.key in suspicious and ts.state in _NEEDED]
        self._lost.update(ts.key for ts in lost)
        return again

    def _suspect(self, ts: TaskState, death: Death, runtime: float) -> None:
        one = self._suspects.setdefault(ts.key, Suspect(ts))
        one.unexplained.append(death)
        is_new = not runs_alone(ts)
        run_alone(ts, max(MIN_ALONE, 2 * runtime))
        # One that has been assigned again already must be assigned anew, for its worker to know that it runs alone.
        must_wait = self._is_at_limit(one) or (is_new and ts.state == "processing")
        if must_wait and one.hold is None and not ts.actor:
            one.hold = Hold(self.scheduler, ts)

    # -- Verdicts

    def explain(self, deaths: dict[str, tuple[bool, str, bytes]]) -> None:
        """Record why workers died, and hold each death against the tasks that may be the cause.

        Parameters
        ----------
        deaths : dict of str to (bool, str, bytes)
            By name of the worker: whether a task may be the cause, the reason in one line, and the pickled explanation.
        """
        for name, (may_be_task, why, explanation) in deaths.items():
            death = self._unexplained.pop(name, None)
            if death is not None:
                self._explain(death, may_be_task, why, explanation)

    def _explain(self, death: Death, may_be_task: bool, why: str, explanation: bytes) -> None:
        blamed = [key for key in death.suspects.running if key in self._suspects]
        for key in {*death.suspects.keys}.difference(blamed) & self._suspects.keys():
            if may_be_task:
                self._suspects[key].possible.append((death, why))
        for one in self._suspects.values():
            if death in one.unexplained:
                one.unexplained.remove(death)
        if not may_be_task:
            for key in {*death.suspects.culprit} & self._suspects.keys():
                self._suspects[key].elsewhere.append((death, why))
                self._suspects[key].explanation = explanation
            return
        is_culprit = bool(death.suspects.culprit)
        if not any(key in self.scheduler.tasks for key in death.suspects.keys):
            # Nobody needs them any longer: a task that has seceded had submitted them, and has begun again.
            blamed, is_culprit = [*death.suspects.seceded], True
        for key in blamed:
            ts = self.scheduler.tasks.get(key)
            if ts is None or ts.state in ("memory", "erred"):
                continue
            one = self._suspects.setdefault(key, Suspect(ts))
            one.blamed.append((death, why))
            one.is_culprit, one.explanation = is_culprit, explanation
            suspect(ts, 1)
            if is_culprit:
                self._blame_for_possible(one)

    def _blame_for_possible(self, one: Suspect) -> None:
        """Hold against a culprit the earlier deaths of which all other suspects have finished meanwhile."""
        for death, why in one.possible[:]:
            if not any(key in self._suspects for key in death.suspects.keys if key != one.task.key):
                one.possible.remove((death, why))
                one.blamed.append((death, why))
                suspect(one.task, 1)
        one.blamed.sort(key=lambda blamed: blamed[0].at)

    def tick(self) -> None:
        """Fail the tasks that have had all the deaths they may have, and resume those that may have more."""
        overdue = time() - self.max_wait
        for name, death in [*self._unexplained.items()]:
            if death.at < overdue:
                why = "its connection was lost, and no reason is known"
                self.explain({name: (True, why, b"")})
        for key, one in [*self._suspects.items()]:
            if self.scheduler.tasks.get(key) is not one.task:
                del self._suspects[key]
            elif self._is_over(one):
                self._fail(one)
            elif one.hold is not None and not (one.unexplained and self._is_at_limit(one)):
                one.hold.resume()
                one.hold = None

    def _limit(self, one: Suspect) -> int:
        return self.allowed + one.spent_retries

    def _is_at_limit(self, one: Suspect) -> bool:
        """Return whether a task has more deaths than it may have, those without a reason yet included."""
        return len(one.blamed) + len(one.unexplained) > self._limit(one)

    def _is_over(self, one: Suspect) -> bool:
        """Return whether a task has had more deaths than it may have, and caused them."""
        if len(one.elsewhere) >= LAST_RESORT * (self._limit(one) + 1):
            one.blamed = sorted([*one.blamed, *one.elsewhere], key=lambda blamed: blamed[0].at)
            return True
        while len(one.blamed) > self._limit(one) and one.task.retries > 0:
            one.task.retries -= 1
            one.spent_retries += 1
        deaths = len(one.blamed)
        certain = one.is_culprit or deaths > LAST_RESORT * (self._limit(one) + 1)
        return deaths > self._limit(one) and certain

    def _fail(self, one: Suspect) -> None:
        """Fail a task, unless it waits for lost results of others and must be failed later."""
        if one.task.state in ("no-worker", "queued", "processing"):
            why = unpickled(one.explanation) if one.explanation else None
            deaths = tuple((death.worker, reason) for death, reason in one.blamed)
            error = pickled_call(ERROR, str(one.task.key), deaths, why)
            reasons = "; ".join(dict.fromkeys(why for _, why in deaths))
            text = f"its worker died on each of {len(deaths)} attempts: {reasons}"
            fail_task(self.scheduler, one.task, error, text)
