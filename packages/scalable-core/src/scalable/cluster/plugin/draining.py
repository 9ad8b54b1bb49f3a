"""How workers leave without losing or repeating anything."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable
from time import time
from typing import TYPE_CHECKING, Any

from distributed.active_memory_manager import RetireWorker
from distributed.core import Status

from scalable.cluster.plugin.moving import Moving, kind_of

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

__all__ = ["Draining"]

ANSWER_TIME = 0.5
"""Seconds that a draining worker has to answer before it counts as busy. Its answer still counts when it comes."""

GOODBYE_TIME = 0.2
"""Seconds that workers have to leave before they count as leaving. Most have no results to hand over."""

SILENCE = 60.0
"""Seconds after which a silent worker is asked again. A model that holds the GIL keeps its worker silent."""


class Draining:
    """Brings workers to their end: they start nothing more, finish what runs, hand over results, and go."""

    def __init__(self, scheduler: Scheduler, moving: Moving) -> None:
        self.scheduler = scheduler
        self.moving = moving
        # By address: questions to workers, goodbyes under way, those that Dask sees to, and who was told to come back.
        self._asking: dict[str, asyncio.Task[int]] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._retiring: set[str] = set()
        self._returning: set[str] = set()
        self._send_out: Callable[..., Awaitable[Any]] = scheduler.handlers["scatter"]
        self._scatters: set[object] = set()
        # By address: the scatters that may have chosen a worker before it began to drain.
        self._may_receive: dict[str, set[object]] = {}

    async def scatter(self, **message: Any) -> Any:
        """Send out data of a client; no worker that was chosen to receive any leaves before it is known to have it."""
        scatter = object()
        self._scatters.add(scatter)
        try:
            return await self._send_out(**message)
        finally:
            self._scatters.discard(scatter)

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
            ``("gone", 0)``: it has left, or never came. ``("busy", n)``: n tasks still run. ``("moving", n)``: n
            results are on their way to other workers. ``("holding", n)``: no other worker can take its n results.
        """
        stages: dict[str, tuple[str, int]] = {}
        present: list[WorkerState] = []
        for name in names:
            ws = self._find(name)
            if ws is None:
                stages[name] = ("gone", 0)
            elif self._returns(ws):
                # It may still answer as the draining worker it was, and then start what was taken back from it.
                stages[name] = ("busy", max(1, len(ws.processing)))
            else:
                if ws.status is not Status.closing_gracefully:
                    self._may_receive[ws.address] = self._scatters.copy()
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
        goodbyes = [self._leaving[ws.address] for ws in present if ws.address in self._leaving]
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
            if ws is not None and ws.address not in self._leaving:
                # An answer to an earlier question says nothing of what it starts from now on.
                if question := self._asking.pop(ws.address, None):
                    question.cancel()
                # The scheduler follows once the worker has confirmed.
                self._tell_status(ws, Status.running)
                self._returning.add(ws.address)
                resumed.append(name)
        return resumed

    def forget(self, address: str) -> None:
        """Forget a worker, which has left."""
        self._returning.discard(address)
        self._asking.pop(address, None)
        self._may_receive.pop(address, None)

    def close(self) -> None:
        """Stop what is under way."""
        for task in (*self._asking.values(), *self._leaving.values()):
            task.cancel()

    # -- Whether it works

    def _find(self, name: str) -> WorkerState | None:
        address = self.scheduler.aliases.get(name)
        return None if address is None else self.scheduler.workers.get(address)

    def _returns(self, ws: WorkerState) -> bool:
        """Say whether it was told to come back into service and has not confirmed that yet."""
        if ws.status is not Status.closing_gracefully:
            self._returning.discard(ws.address)
        return ws.address in self._returning

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

    # -- What it still runs

    async def _tasks_left(self, leaving: list[WorkerState]) -> list[int]:
        """Count the tasks left on each draining worker; a worker that does not answer is busy."""
        for ws in leaving:
            if ws.address not in self._asking:
                self._asking[ws.address] = asyncio.ensure_future(self._take_back(ws))
        questions = [self._asking[ws.address] for ws in leaving]
        if questions:
            await asyncio.wait(questions, timeout=ANSWER_TIME)
        for ws, question in zip(leaving, questions, strict=True):
            if question.done():
                self._asking.pop(ws.address, None)
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

    # -- Who takes its results

    def _let_go(self, ws: WorkerState, force: bool) -> tuple[str, int]:
        results = len(ws.has_what)
        havens = self.scheduler.running or {self._keeper()}
        homeless = [ts for ts in ws.has_what if havens.isdisjoint(ts.who_has or ())]
        refused = any(map(self.moving.has_been_refused, homeless))
        if ws.address in self._leaving:
            if refused and ws.address in self._retiring:
                self._interrupt(ws)
            return "moving", results
        if force:
            goodbye = self._remove(ws)
        elif not self._scatters.isdisjoint(self._may_receive.get(ws.address, ())):
            return "moving", results
        elif ws.actors or (ws in havens and results):
            return "holding", results
        elif homeless and not any(self._haven(ts, ws, havens) for ts in homeless):
            return "holding", len(homeless)
        elif self.scheduler.running and not refused:
            goodbye = self._retire(ws)
        else:
            goodbye = self._move(ws, homeless, havens)
        task = asyncio.ensure_future(goodbye)
        self._leaving[ws.address] = task
        task.add_done_callback(lambda _: self._leaving.pop(ws.address, None))
        return "moving", results

    async def _retire(self, ws: WorkerState) -> None:
        """Move its results to running workers, then close it. Stays where they cannot take them all."""
        self._retiring.add(ws.address)
        try:
            await self.scheduler.retire_workers([ws.address], close_workers=True, remove=True)
        finally:
            self._retiring.discard(ws.address)

    def _interrupt(self, ws: WorkerState) -> None:
        """End a retirement that would go on for ever, since some result cannot be received where it is to go."""
        policies = self.scheduler.extensions["amm"].policies
        ours = [p for p in policies if isinstance(p, RetireWorker) and p.address == ws.address]
        for policy in ours:
            policy.no_recipients = True
            policies.remove(policy)
        if not ours:  # where the memory manager is switched off, retirement has one of its own
            self._leaving[ws.address].cancel()

    def _keeper(self) -> WorkerState:
        """Choose who keeps everybody's results while no worker runs: one that is busy anyway, or has most."""
        return max(
            self.scheduler.workers.values(),
            key=lambda ws: (bool(ws.processing), ws.nbytes, str(ws.name)),
        )

    def _haven(
        self, ts: TaskState, ws: WorkerState, havens: Iterable[WorkerState]
    ) -> WorkerState | None:
        """Choose who takes a result of a worker: rather one that has the same environment."""
        return min(
            (haven for haven in havens if not self.moving.is_refused(ts, haven)),
            key=lambda haven: (kind_of(haven) != kind_of(ws), haven.nbytes, str(haven.name)),
            default=None,
        )

    async def _move(
        self, ws: WorkerState, homeless: list[TaskState], havens: Collection[WorkerState]
    ) -> None:
        """Copy what only this worker has to others that can receive it, then close it if that is all.

        `Scheduler.retire_workers` knows running recipients only, so that two groups that shrink to nothing at once
        would each keep all of their workers; and it never ends where a result cannot be received.
        """
        moves: defaultdict[str, dict[Any, list[str]]] = defaultdict(dict)
        for ts in homeless:
            if haven := self._haven(ts, ws, havens):
                moves[haven.address][ts.key] = [ws.address]
        for address, keys in moves.items():
            for key in await self.scheduler.gather_on_worker(address, keys):
                # One alone may have kept all others from arriving.
                await self.moving.examine(key, address)
        if all(ts.who_has != {ws} for ts in ws.has_what):
            await self._remove(ws)

    async def _remove(self, ws: WorkerState) -> None:
        await self.scheduler.remove_worker(
            ws.address, expected=True, close=True, stimulus_id=f"scalable-{time()}"
        )
