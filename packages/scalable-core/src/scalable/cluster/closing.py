"""The steps of closing, each bounded in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any

from scalable.cluster.limits import UNWIND, contained
from scalable.cluster.port import Leftover
from scalable.errors import describe_error

__all__ = ["ClosingSteps"]

HURRIED = 2.0
"""Seconds for each step, once closing is to hurry."""


class ClosingSteps:
    """Runs one step after another, continues past those that fail or hang, and records their failures.

    Parameters
    ----------
    timeout : float
        Seconds for each step.

    Attributes
    ----------
    failures : list of Leftover
        The steps that failed, with the reason.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._hurried = asyncio.Event()
        self.failures: list[Leftover] = []

    def leftovers(
        self,
        swept: Sequence[Sequence[Leftover]],
        unknown: Sequence[Leftover],
        units: Iterable[str],
        *,
        has_launched: bool,
    ) -> tuple[list[Leftover], list[Leftover]]:
        """Return what is left, and the problems that have left nothing.

        Parameters
        ----------
        swept : sequence of sequence of Leftover
            The answer of the sweep, in a sequence of one; empty if it has failed.
        unknown : sequence of Leftover
            Launches that the native system has not answered.
        units : iterable of str
            The names of the units that were to be stopped.
        has_launched : bool
            Whether anything was ever launched.
        """
        found = swept[0] if swept else ()
        if not has_launched:  # that the native system cannot be asked is no leftover
            certain = [left for left in found if left.is_certain]
            return certain, [*self.failures, *(left for left in found if not left.is_certain)]
        if swept:  # the sweep knows what is left
            return [*found, *unknown], self.failures
        workers = [
            Leftover("worker", name, "it is not known whether it ended", is_certain=False)
            for name in units
        ]
        return [*self.failures, *unknown, *workers], []

    async def run(
        self, what: str, *calls: Awaitable[Any], timeout: float | None = None
    ) -> list[Any]:
        """Await some calls, and return the results of those that succeed."""
        limit = self.timeout if timeout is None else min(timeout, self.timeout)
        tasks = [
            call if isinstance(call, asyncio.Future) else asyncio.ensure_future(contained(call))
            for call in calls
        ]
        if not tasks:
            return []
        slow = await self._wait(tasks, limit)
        for task in slow:
            task.cancel()
        if slow:
            await asyncio.wait(slow, timeout=2 * UNWIND)  # a call may ignore even this
        results = []
        for task in tasks:
            if task in slow:
                self._record(what, f"it took longer than {limit:g} s")
            elif task.cancelled():
                self._record(what, "it was cancelled")
            elif error := task.exception():
                self._record(what, describe_error(error))
            else:
                results.append(task.result())
        return results

    def hurry(self) -> None:
        """Give the step under way and all further ones two seconds each."""
        self._hurried.set()

    async def _wait(self, tasks: Sequence[asyncio.Future[Any]], limit: float) -> set[Any]:
        """Wait for all of these, for as long as there is time, and return those that are not done."""
        hurried: asyncio.Future[Any] = asyncio.ensure_future(self._hurried.wait())
        done: asyncio.Future[Any] = asyncio.gather(*tasks, return_exceptions=True)
        try:
            await asyncio.wait([done, hurried], timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if hurried.done() and not done.done():
                await asyncio.wait([done], timeout=min(limit, HURRIED))
        finally:
            hurried.cancel()
        return {task for task in tasks if not task.done()}

    def _record(self, what: str, error: str) -> None:
        self.failures.append(Leftover("step of closing", what, error))
