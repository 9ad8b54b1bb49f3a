"""An event loop whose clock jumps instead of waiting, so that an hour takes milliseconds."""

from __future__ import annotations

import asyncio
import functools
import math
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

__all__ = [
    "StandstillError",
    "VirtualTimeLoop",
    "in_virtual_time",
    "run_in_virtual_time",
    "sleep",
]

P = ParamSpec("P")
T = TypeVar("T")


class StandstillError(RuntimeError):
    """Everything waits, and nothing will ever happen: in real time this would hang for ever."""


class _Jump(selectors.SelectSelector):
    """A selector that does not wait for the next timer, but turns the clock to it."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise StandstillError("everything waits, and nothing is ever going to happen")
        self.now += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time: sleeps, timeouts and timers take none of the real one.

    It is for coroutines only. Whatever waits for a thread, a process or a socket would see its timeouts fly by.
    """

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._jump.now


async def sleep(seconds: float) -> None:
    """Let virtual time pass; infinity lets all of it pass."""
    if math.isinf(seconds):
        await asyncio.get_running_loop().create_future()
    await asyncio.sleep(seconds)


def run_in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine like `asyncio.run`, on a clock of its own.

    Raises
    ------
    StandstillError
        Everything waits for something that will never happen.

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
    """Make a plain test of a coroutine function; see `run_in_virtual_time`."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_in_virtual_time(test(*args, **kwargs))

    return run
