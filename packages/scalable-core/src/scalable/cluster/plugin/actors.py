"""Actors that are lost with their worker, and why it died."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from time import time
from typing import TYPE_CHECKING, Any

from scalable.cluster.plugin.dask_internals import removal_was_expected, report_error
from scalable.cluster.plugin.exceptions import pickled_call, unpickled

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

__all__ = ["Actors"]

ERROR = "scalable.errors:ActorLostError"
"""The exception of a lost actor. The scheduler need not have it."""

MAX_WAIT = 90.0
"""Seconds to wait for the reason of a death. Calls then end without one."""

NOTICE_DELAY = 10.0
"""Seconds in which the scheduler notices that a worker has died whose caller has noticed it already."""

KEPT = 1000
"""Lost actors that are remembered, for calls that notice the loss late."""

_POLL = 0.05


@dataclass(eq=False)
class _Loss:
    """An actor that died with its worker. Its error, pickled and as text, is set once the reason is known."""

    task: TaskState
    worker: str
    at: float = field(default_factory=time)
    error: asyncio.Future[tuple[bytes, str]] = field(default_factory=asyncio.Future)


class Actors:
    """Ends the calls of an actor whose worker has died, its future, and the tasks that need it, in the reason.

    In Dask, a call that is under way ends in "Unable to contact Actor's worker", or never, if the caller learns only
    then that the actor is lost. Futures end in "Worker holding Actor was lost" at once; clients of ours wait for the
    second report, which has the reason.

    Parameters
    ----------
    scheduler : Scheduler
        The scheduler that has the actors.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._losses: dict[Any, _Loss] = {}

    @property
    def unexplained(self) -> dict[str, bool]:
        """The workers whose death needs a reason, by name. All had finished a task: an actor is one."""
        return {loss.worker: True for loss in self._losses.values() if not loss.error.done()}

    def on_worker_removed(self, ws: WorkerState) -> None:
        """Record the actors that were lost with a worker."""
        for ts in ws.actors:
            if ts.state != "erred":
                continue  # nobody but other tasks needs it, and Dask makes it anew
            loss = self._losses[ts.key] = _Loss(ts, str(ws.name))
            if removal_was_expected(self.scheduler, ws.address):
                self._explain(loss, "it was removed on purpose", b"")
        while len(self._losses) > KEPT:
            del self._losses[next(iter(self._losses))]

    def explain(self, deaths: dict[str, tuple[bool, str, bytes]]) -> None:
        """Record why workers died, as for `Deaths.explain`."""
        for loss in self._losses.values():
            if loss.worker in deaths and not loss.error.done():
                _, why, explanation = deaths[loss.worker]
                self._explain(loss, why, explanation)

    def tick(self) -> None:
        """End the wait for reasons that nobody has found."""
        overdue = time() - MAX_WAIT
        for loss in self._losses.values():
            if loss.at < overdue and not loss.error.done():
                self._explain(loss, "its connection was lost, and no reason is known", b"")

    async def find_error(self, actor: Any) -> tuple[bytes, str] | None:
        """Return the error of a lost actor, pickled and as text, once its reason is known; None if it is not lost.

        Parameters
        ----------
        actor : object
            The key of the actor, whose worker somebody could not reach.
        """
        until = time() + NOTICE_DELAY
        while (loss := self._loss(actor)) is None and self._is_held(actor) and time() < until:
            await asyncio.sleep(_POLL)
        return None if loss is None else await asyncio.shield(loss.error)

    def _loss(self, actor: Any) -> _Loss | None:
        loss, ts = self._losses.get(actor), self.scheduler.tasks.get(actor)
        return None if loss is None or ts not in (None, loss.task) else loss

    def _is_held(self, actor: Any) -> bool:
        ts = self.scheduler.tasks.get(actor)
        return ts is not None and ts.state == "memory"

    def _explain(self, loss: _Loss, why: str, explanation: bytes) -> None:
        known = unpickled(explanation) if explanation else None
        error = pickled_call(ERROR, str(loss.task.key), loss.worker, why, known)
        text = f"the worker {loss.worker} of the actor has ended: {why}"
        loss.error.set_result((error, text))
        report_error(self.scheduler, loss.task, error, text)
