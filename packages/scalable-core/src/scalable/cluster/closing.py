"""The steps of closing, each bounded in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from scalable.cluster.port import Leftover
from scalable.errors import describe_error

__all__ = ["ClosingSteps"]

UNWIND = 1.0
"""Seconds that a step which took too long has to unwind, once it was cancelled."""


class ClosingSteps:
    """Takes one step after the other, goes on past those that fail or hang, and remembers them.

    Parameters
    ----------
    timeout : float
        Seconds for each step.

    Attributes
    ----------
    failures : list of Leftover
        The steps that failed, and why.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.failures: list[Leftover] = []

    async def run(self, what: str, *calls: Awaitable[Any]) -> list[Any]:
        """Await some calls, and return what those that succeed return."""
        tasks = [asyncio.ensure_future(call) for call in calls]
        if not tasks:
            return []
        _, slow = await asyncio.wait(tasks, timeout=self.timeout)
        for task in slow:
            task.cancel()
        if slow:
            await asyncio.wait(slow, timeout=UNWIND)  # one may not even heed this
        results = []
        for task in tasks:
            if task in slow:
                self._record(what, f"it took longer than {self.timeout:g} s")
            elif task.cancelled():
                self._record(what, "it was cancelled")
            elif error := task.exception():
                self._record(what, describe_error(error))
            else:
                results.append(task.result())
        return results

    def _record(self, what: str, error: str) -> None:
        self.failures.append(Leftover("step of closing", what, error))
