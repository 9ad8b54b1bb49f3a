"""How workers leave without losing or repeating anything."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable
from time import time
from typing import TYPE_CHECKING, Any

from distributed.active_memory_manager import RetireWorker
from distributed.core import Status

from scalable.cluster.plugin.transfers import Transfers, worker_tags

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

__all__ = ["Draining"]

REPLY_WAIT = 0.5
"""Seconds that a draining worker has to reply before it counts as busy. Its reply still counts when it comes."""

RETIRE_GRACE = 0.2
"""Seconds that workers have to leave before they count as leaving. Most have no results to hand over."""

REPLY_TIMEOUT = 60.0
"""Seconds after which a silent worker is asked again. A model that holds the GIL keeps its worker silent."""


class Draining:
    """Brings workers to their end: they start nothing more, finish what runs, hand over results, and go."""

    def __init__(self, scheduler: Scheduler, transfers: Transfers) -> None:
        self.scheduler = scheduler
        self.transfers = transfers
        # By address: queries to workers, retirements under way, those that Dask sees to, and who was told to come back.
        self._queries: dict[str, asyncio.Task[int]] = {}
        self._retirements: dict[str, asyncio.Task[None]] = {}
        self._dask_retirements: set[str] = set()
        self._resuming: set[str] = set()
        self._dask_scatter: Callable[..., Awaitable[Any]] = scheduler.handlers["scatter"]
        self._scatters: set[object] = set()
        # By address: the scatters that may have chosen a worker before it began to drain.
        self._scatters_before_drain: dict[str, set[object]] = {}

    async def scatter(self, **message: Any) -> Any:
        """Send out data of a client; no worker that was chosen to receive any leaves before it is known to have it."""
        scatter = object()
        self._scatters.add(scatter)
        try:
            return await self._dask_scatter(**message)
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
        workers: list[WorkerState] = []
        for name in names:
            ws = self._find(name)
            if ws is None:
                stages[name] = ("gone", 0)
            elif self._is_resuming(ws):
                # It may still reply as the draining worker it was, and then start what was taken back from it.
                stages[name] = ("busy", max(1, len(ws.processing)))
            else:
                if ws.status is not Status.closing_gracefully:
                    self._scatters_before_drain[ws.address] = self._scatters.copy()
                self._set_status(ws, Status.closing_gracefully)
                workers.append(ws)
        for ws, left in zip(workers, await self._remaining_tasks(workers), strict=True):
            name = str(ws.name)
            if self._find(name) is not ws:
                stages[name] = ("gone", 0)
            elif left and not force:
                stages[name] = ("busy", left)
            else:
                stages[name] = self._retire_or_hold(ws, force)
        retirements = [
            self._retirements[ws.address] for ws in workers if ws.address in self._retirements
        ]
        if retirements:
            await asyncio.wait(retirements, timeout=RETIRE_GRACE)
        return stages | {
            str(ws.name): ("gone", 0) for ws in workers if not self._find(str(ws.name))
        }

    def resume(self, names: list[str]) -> list[str]:
        """Take draining workers back into service; say which could still be had."""
        resumed = []
        for name in names:
            ws = self._find(name)
            if ws is not None and ws.address not in self._retirements:
                # A reply to an earlier query says nothing of what it starts from now on.
                if query := self._queries.pop(ws.address, None):
                    query.cancel()
                # The scheduler follows once the worker has confirmed.
                self._send_status(ws, Status.running)
                self._resuming.add(ws.address)
                resumed.append(name)
        return resumed

    def forget_worker(self, address: str) -> None:
        """Forget a worker, which has left."""
        self._resuming.discard(address)
        self._queries.pop(address, None)
        self._scatters_before_drain.pop(address, None)

    def close(self) -> None:
        """Stop what is under way."""
        for task in (*self._queries.values(), *self._retirements.values()):
            task.cancel()

    # -- Whether it works

    def _find(self, name: str) -> WorkerState | None:
        address = self.scheduler.aliases.get(name)
        return None if address is None else self.scheduler.workers.get(address)

    def _is_resuming(self, ws: WorkerState) -> bool:
        """Say whether it was told to come back into service and has not confirmed that yet."""
        if ws.status is not Status.closing_gracefully:
            self._resuming.discard(ws.address)
        return ws.address in self._resuming

    def _set_status(self, ws: WorkerState, status: Status) -> None:
        if ws.status != status:
            self.scheduler.handle_worker_status_change(status, ws, f"scalable-{time()}")
            self._send_status(ws, status)

    def _send_status(self, ws: WorkerState, status: Status) -> None:
        self.scheduler.worker_send(
            ws.address,
            {
                "op": "worker-status-change",
                "status": status.name,
                "stimulus_id": f"scalable-{time()}",
            },
        )

    # -- What it still runs

    async def _remaining_tasks(self, leaving: list[WorkerState]) -> list[int]:
        """Count the tasks left on each draining worker; a worker that does not reply is busy."""
        for ws in leaving:
            if ws.address not in self._queries:
                self._queries[ws.address] = asyncio.ensure_future(self._release_unstarted(ws))
        queries = [self._queries[ws.address] for ws in leaving]
        if queries:
            await asyncio.wait(queries, timeout=REPLY_WAIT)
        for ws, query in zip(leaving, queries, strict=True):
            if query.done():
                self._queries.pop(ws.address, None)
        return [
            query.result() if query.done() else max(1, len(ws.processing))
            for ws, query in zip(leaving, queries, strict=True)
        ]

    async def _release_unstarted(self, ws: WorkerState) -> int:
        """Take back what a draining worker has not started; count what is left."""
        try:
            reply = await asyncio.wait_for(
                self.scheduler.rpc(ws.address).scalable_unstarted_tasks(), REPLY_TIMEOUT
            )
        except (OSError, TimeoutError):
            return max(1, len(ws.processing))
        if reply is None or reply["status"] != Status.closing_gracefully.name:
            # It has not got our plugin yet, or not heard that it drains: it may start any of its tasks now.
            return max(1, len(ws.processing))
        # Safe: it starts nothing any more, and what it finished meanwhile it does not call unstarted.
        tasks = (self.scheduler.tasks.get(key) for key in reply["unstarted"])
        self.scheduler.transitions(
            {ts.key: "released" for ts in tasks if ts is not None and ts.processing_on is ws},
            stimulus_id=f"scalable-drain-{time()}",
        )
        return max(len(ws.processing), int(reply["executing"]))

    # -- Who takes its results

    def _retire_or_hold(self, ws: WorkerState, force: bool) -> tuple[str, int]:
        results = len(ws.has_what)
        recipients = self.scheduler.running or {self._last_holder()}
        unreplicated = [ts for ts in ws.has_what if recipients.isdisjoint(ts.who_has or ())]
        has_failed = any(map(self.transfers.has_failed, unreplicated))
        if ws.address in self._retirements:
            if has_failed and ws.address in self._dask_retirements:
                self._cancel_retirement(ws)
            return "moving", results
        if force:
            retirement = self._remove(ws)
        elif not self._scatters.isdisjoint(self._scatters_before_drain.get(ws.address, ())):
            return "moving", results
        elif ws.actors or (ws in recipients and results):
            return "holding", results
        elif unreplicated and not any(
            self._choose_recipient(ts, ws, recipients) for ts in unreplicated
        ):
            return "holding", len(unreplicated)
        elif self.scheduler.running and not has_failed:
            retirement = self._retire(ws)
        else:
            retirement = self._replicate_and_remove(ws, unreplicated, recipients)
        task = asyncio.ensure_future(retirement)
        self._retirements[ws.address] = task
        task.add_done_callback(lambda _: self._retirements.pop(ws.address, None))
        return "moving", results

    async def _retire(self, ws: WorkerState) -> None:
        """Move its results to running workers, then close it. Stays where they cannot take them all."""
        self._dask_retirements.add(ws.address)
        try:
            await self.scheduler.retire_workers([ws.address], close_workers=True, remove=True)
        finally:
            self._dask_retirements.discard(ws.address)

    def _cancel_retirement(self, ws: WorkerState) -> None:
        """End a retirement that would go on for ever, since some result cannot be received where it is to go."""
        policies = self.scheduler.extensions["amm"].policies
        ours = [p for p in policies if isinstance(p, RetireWorker) and p.address == ws.address]
        for policy in ours:
            policy.no_recipients = True
            policies.remove(policy)
        if not ours:  # where the memory manager is switched off, retirement has one of its own
            self._retirements[ws.address].cancel()

    def _last_holder(self) -> WorkerState:
        """Choose who keeps everybody's results while no worker runs: one that is busy anyway, or has most."""
        return max(
            self.scheduler.workers.values(),
            key=lambda ws: (bool(ws.processing), ws.nbytes, str(ws.name)),
        )

    def _choose_recipient(
        self, ts: TaskState, ws: WorkerState, recipients: Iterable[WorkerState]
    ) -> WorkerState | None:
        """Choose who takes a result of a worker: rather one that has the same environment."""
        return min(
            (
                recipient
                for recipient in recipients
                if not self.transfers.is_known_to_fail(ts, recipient)
            ),
            key=lambda recipient: (
                worker_tags(recipient) != worker_tags(ws),
                recipient.nbytes,
                str(recipient.name),
            ),
            default=None,
        )

    async def _replicate_and_remove(
        self, ws: WorkerState, unreplicated: list[TaskState], recipients: Collection[WorkerState]
    ) -> None:
        """Copy what only this worker has to others that can receive it, then close it if that is all.

        `Scheduler.retire_workers` knows running recipients only, so that two groups that shrink to nothing at once
        would each keep all of their workers; and it never ends where a result cannot be received.
        """
        moves: defaultdict[str, dict[Any, list[str]]] = defaultdict(dict)
        for ts in unreplicated:
            if recipient := self._choose_recipient(ts, ws, recipients):
                moves[recipient.address][ts.key] = [ws.address]
        for address, keys in moves.items():
            for key in await self.scheduler.gather_on_worker(address, keys):
                # One alone may have kept all others from arriving.
                await self.transfers.check(key, address)
        if all(ts.who_has != {ws} for ts in ws.has_what):
            await self._remove(ws)

    async def _remove(self, ws: WorkerState) -> None:
        await self.scheduler.remove_worker(
            ws.address, expected=True, close=True, stimulus_id=f"scalable-{time()}"
        )
