"""How workers leave without losing or repeating anything."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

from distributed.core import Status

from scalable.cluster.plugin.dask_internals import (
    find_worker,
    interrupt_retirement,
    release_tasks,
    remove_worker,
    send_worker_status,
    set_worker_status,
)
from scalable.cluster.plugin.transfers import Transfers, worker_tags

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

__all__ = ["Draining"]

REPLY_WAIT = 0.5
"""Seconds to wait for the replies of draining workers. Until one has replied, it counts as busy."""

RETIRE_GRACE = 0.2
"""Seconds to wait for retirements to finish. Most workers have no results to move."""

REPLY_TIMEOUT = 60.0
"""Seconds after which a query is repeated. A model that holds the GIL keeps its worker from replying."""


class Draining:
    """Drains workers: they start no more tasks, finish those that run, hand over their results, and are retired."""

    def __init__(self, scheduler: Scheduler, transfers: Transfers) -> None:
        self.scheduler = scheduler
        self.transfers = transfers
        # By address of the worker: queries and retirements in progress, the retirements that are Dask's own, and the
        # workers that have not confirmed yet that they resume.
        self._queries: dict[str, asyncio.Task[int]] = {}
        self._retirements: dict[str, asyncio.Task[None]] = {}
        self._dask_retirements: set[str] = set()
        self._resuming: set[str] = set()
        # Names of the workers that will be ended soon, and by address, copies of the results of those that are busy.
        self.urgent: set[str] = set()
        self._copies: dict[str, asyncio.Task[None]] = {}
        self._dask_scatter: Callable[..., Awaitable[Any]] = scheduler.handlers["scatter"]
        self._scatters: set[object] = set()
        # By address: the scatters that may have chosen a worker before its drain started.
        self._scatters_before_drain: dict[str, set[object]] = {}

    async def scatter(self, **message: Any) -> Any:
        """Scatter data of a client, and keep the workers that may be chosen to receive it until they have it."""
        scatter = object()
        self._scatters.add(scatter)
        try:
            return await self._dask_scatter(**message)
        finally:
            self._scatters.discard(scatter)

    async def drain(self, names: list[str], force: bool = False) -> dict[str, tuple[str, int]]:
        """Start or continue to drain workers; return how far each is.

        The controller calls this every turn until all are gone. No worker starts a task after the first call.

        Parameters
        ----------
        names : list of str
            The workers.
        force : bool
            Remove them although their results are lost.

        Returns
        -------
        dict of str to (str, int)
            ``("gone", 0)``: it has left, or never joined. ``("busy", n)``: n tasks are running. ``("moving", n)``: n
            results are on their way to other workers. ``("holding", n)``: no other worker can take its n results.
        """
        stages, workers = self._begin(names)
        for ws, left in zip(workers, await self._remaining_tasks(workers), strict=True):
            stages[str(ws.name)] = self._advance(ws, left, force)
        retirements = [
            self._retirements[ws.address] for ws in workers if ws.address in self._retirements
        ]
        if retirements:
            await asyncio.wait(retirements, timeout=RETIRE_GRACE)
        return stages | {
            str(ws.name): ("gone", 0)
            for ws in workers
            if not find_worker(self.scheduler, str(ws.name))
        }

    def _begin(self, names: list[str]) -> tuple[dict[str, tuple[str, int]], list[WorkerState]]:
        """Make workers start no more tasks; return the stages of those that do not drain, and the workers that do."""
        stages: dict[str, tuple[str, int]] = {}
        workers: list[WorkerState] = []
        for name in names:
            ws = find_worker(self.scheduler, name)
            if ws is None:
                stages[name] = ("gone", 0)
            elif self._is_resuming(ws):
                # It may still reply as a draining worker, and then start the tasks that were taken back from it.
                stages[name] = ("busy", max(1, len(ws.processing)))
            else:
                if ws.status is not Status.closing_gracefully:
                    self._scatters_before_drain[ws.address] = self._scatters.copy()
                set_worker_status(self.scheduler, ws, Status.closing_gracefully)
                workers.append(ws)
        return stages, workers

    def _advance(self, ws: WorkerState, left: int, force: bool) -> tuple[str, int]:
        """Retire a worker unless `left` tasks keep it; return how far it is."""
        name = str(ws.name)
        if find_worker(self.scheduler, name) is not ws:
            return "gone", 0
        if self._is_resuming(ws) or ws.status is not Status.closing_gracefully:
            # Resumed while this waited for the others' replies: its own says nothing about what it starts now.
            return "busy", max(1, len(ws.processing))
        if left and not force:
            if name in self.urgent:
                self._copy_results_early(ws)
            return "busy", left
        return self._retire_or_hold(ws, force)

    def resume(self, names: list[str]) -> list[str]:
        """Take draining workers back; return those that could be."""
        resumed = []
        for name in names:
            ws = find_worker(self.scheduler, name)
            if ws is not None and ws.address not in self._retirements:
                # The reply to an earlier query does not cover what it starts from now on.
                if query := self._queries.pop(ws.address, None):
                    query.cancel()
                # The scheduler follows once the worker has confirmed.
                send_worker_status(self.scheduler, ws, Status.running)
                self._resuming.add(ws.address)
                resumed.append(name)
        return resumed

    def forget_worker(self, ws: WorkerState) -> None:
        """Forget a worker that has left."""
        address = ws.address
        self.urgent.discard(str(ws.name))
        self._resuming.discard(address)
        self._queries.pop(address, None)
        self._scatters_before_drain.pop(address, None)

    def close(self) -> None:
        """Cancel what is in progress."""
        for task in (
            *self._queries.values(),
            *self._retirements.values(),
            *self._copies.values(),
        ):
            task.cancel()

    # -- The status of workers

    def _is_resuming(self, ws: WorkerState) -> bool:
        """Return whether a worker was resumed and has not confirmed that yet."""
        if ws.status is not Status.closing_gracefully:
            self._resuming.discard(ws.address)
        return ws.address in self._resuming

    # -- Running tasks

    async def _remaining_tasks(self, leaving: list[WorkerState]) -> list[int]:
        """Return the number of tasks left on each draining worker; a worker that does not reply counts as busy."""
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
        """Release the tasks that a draining worker has not started; return the number of those left."""
        try:
            reply = await asyncio.wait_for(
                self.scheduler.rpc(ws.address).scalable_unstarted_tasks(), REPLY_TIMEOUT
            )
        except (OSError, TimeoutError):
            return max(1, len(ws.processing))
        if reply is None or reply["status"] != Status.closing_gracefully.name:
            # It has no plugin yet, or does not know yet that it drains: it may start any of its tasks.
            return max(1, len(ws.processing))
        # Safe, because it starts nothing any more, and does not list what it has finished meanwhile as unstarted.
        tasks = (self.scheduler.tasks.get(key) for key in reply["unstarted"])
        release_tasks(
            self.scheduler, [ts for ts in tasks if ts is not None and ts.processing_on is ws]
        )
        return max(len(ws.processing), int(reply["executing"]))

    # -- Results and retirement

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
            retirement = remove_worker(self.scheduler, ws)
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
        """Move its results to running workers and close it; it stays if they cannot take all of them."""
        self._dask_retirements.add(ws.address)
        try:
            # Which would remove it without another look, although what it was receiving for a task has arrived.
            await self.scheduler.retire_workers([ws.address], close_workers=False, remove=False)
        finally:
            self._dask_retirements.discard(ws.address)
        await self._remove_unless_needed(ws)

    def _cancel_retirement(self, ws: WorkerState) -> None:
        """Cancel a retirement that would never end, because its recipient cannot receive some result."""
        if not interrupt_retirement(self.scheduler, ws.address):
            self._retirements[ws.address].cancel()

    def _last_holder(self) -> WorkerState:
        """Return the worker that keeps all results while none is running: a busy one, or the one that has most."""
        return max(
            self.scheduler.workers.values(),
            key=lambda ws: (bool(ws.processing), ws.nbytes, str(ws.name)),
        )

    def _choose_recipient(
        self, ts: TaskState, ws: WorkerState, recipients: Iterable[WorkerState]
    ) -> WorkerState | None:
        """Return the worker that takes a result, preferably of the same environment; None if there is none."""
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
        """Copy the results that only this worker has to others; remove it if none is left.

        `Scheduler.retire_workers` uses running recipients only, so that two groups that shrink to nothing at once
        would each keep all of their workers; and it never ends if a result cannot be received.
        """
        await self._copy_results(ws, unreplicated, recipients)
        await self._remove_unless_needed(ws)

    async def _remove_unless_needed(self, ws: WorkerState) -> None:
        """Remove a worker, unless it is the only one that has some result."""
        if all(ts.who_has != {ws} for ts in ws.has_what):
            await remove_worker(self.scheduler, ws)

    def _copy_results_early(self, ws: WorkerState) -> None:
        """Begin to copy the results that only a busy worker has, because it may be ended before its tasks are done."""
        recipients = self.scheduler.running.copy()
        unreplicated = [
            ts for ts in ws.has_what if not ts.actor and recipients.isdisjoint(ts.who_has or ())
        ]
        if unreplicated and recipients and ws.address not in self._copies:
            copying = asyncio.ensure_future(self._copy_results(ws, unreplicated, recipients))
            self._copies[ws.address] = copying
            copying.add_done_callback(lambda _: self._copies.pop(ws.address, None))

    async def _copy_results(
        self, ws: WorkerState, results: list[TaskState], recipients: Collection[WorkerState]
    ) -> None:
        """Copy results of a worker to others."""
        moves: defaultdict[str, dict[Any, list[str]]] = defaultdict(dict)
        for ts in results:
            if recipient := self._choose_recipient(ts, ws, recipients):
                moves[recipient.address][ts.key] = [ws.address]
        for address, keys in moves.items():
            for key in await self.scheduler.gather_on_worker(address, keys):
                # A single result may have kept all others from arriving.
                await self.transfers.check(key, address)
