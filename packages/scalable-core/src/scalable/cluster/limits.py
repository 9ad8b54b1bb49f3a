"""Calls to the outside that end in an error of ours after a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["contained", "limited", "start_limited"]

T = TypeVar("T")

UNWIND = 1.0
"""Seconds that a call has to end after it was cancelled."""


async def contained(call: Awaitable[T]) -> T:
    """Return a call's result; raise RuntimeError if its library ends or cancels it instead of failing.

    Of what is no Exception, asyncio would take a cancellation for ours, and SystemExit for the end of the event loop.
    """
    try:
        return await call
    except (
        Exception,
        KeyboardInterrupt,
        GeneratorExit,
    ):  # the last one is that of a loop that ends
        raise
    except BaseException as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        raise RuntimeError(f"its library ended the call with {error!r}") from error


async def limited(call: Awaitable[T], seconds: float, error: Callable[[float], Exception]) -> T:
    """Return a call's result; raise ``error(seconds)`` if it takes longer, also where it ignores that it is cancelled.

    Its own TimeoutError stays its own.
    """
    task = asyncio.ensure_future(contained(call))
    try:
        await asyncio.wait([task], timeout=seconds)
        is_late = not task.done()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=UNWIND)
    if is_late and (not task.done() or task.cancelled()):
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        raise error(seconds)
    return task.result()


def start_limited(
    call: Awaitable[T], seconds: float, error: Callable[[float], Exception]
) -> asyncio.Task[T]:
    """Start a call as a task, which is limited as by `limited`."""
    task = asyncio.ensure_future(limited(call, seconds, error))
    # Closing may never fetch its error, which asyncio would complain about.
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    return task
