"""An event loop whose clock jumps instead of waiting, so that an hour takes milliseconds."""

from __future__ import annotations

import asyncio
import functools
import math
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

__all__ = [
    "DeadlockError",
    "VirtualTimeLoop",
    "in_virtual_time",
    "run_in_virtual_time",
    "sleep",
]

LIMIT = 24 * 3600.0
"""Virtual seconds after which a coroutine that has not ended is given up, by default."""

P = ParamSpec("P")
T = TypeVar("T")


class DeadlockError(RuntimeError):
    """A coroutine waits for something that does not happen; in real time, it would hang."""


class _JumpingSelector(selectors.SelectSelector):
    """A selector that does not wait for the next timer, but advances the clock to it."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.now = 0.0
        self._limit = limit

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise DeadlockError("all tasks wait, and no timer is scheduled")
        self.now += timeout
        if self.now > self._limit:
            limit, self._limit = (
                self._limit,
                math.inf,
            )  # tasks that are cancelled now may need time to end
            raise DeadlockError(f"the coroutine did not end within {limit:g} s")
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time: sleeps, timeouts and timers take no real time.

    For coroutines only: a wait for a thread, a process or a socket would time out at once.

    Parameters
    ----------
    limit : float
        Virtual seconds after which it gives up.
    """

    def __init__(self, limit: float = LIMIT) -> None:
        self._virtual_clock = _JumpingSelector(limit)
        super().__init__(self._virtual_clock)

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._virtual_clock.now


async def sleep(seconds: float) -> None:
    """Let virtual time pass; for ever, if infinite."""
    if math.isinf(seconds):
        await asyncio.get_running_loop().create_future()
    await asyncio.sleep(seconds)


def run_in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine like `asyncio.run`, on a clock of its own.

    Raises
    ------
    DeadlockError
        All tasks wait and no timer is scheduled, or a day has passed.

    Examples
    --------
    >>> async def nap():
    ...     await asyncio.sleep(3600)
    ...     return asyncio.get_running_loop().time()
    >>> run_in_virtual_time(nap())
    3600.0
    """
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Turn a coroutine function into a plain test; see `run_in_virtual_time`."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_in_virtual_time(test(*args, **kwargs))

    return run
