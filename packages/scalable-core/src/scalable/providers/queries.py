"""Questions that a native system is asked once, outside of any event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

__all__ = ["ask", "run_now"]

T = TypeVar("T")


class _Api(Protocol):
    async def close(self) -> None: ...


A = TypeVar("A", bound=_Api)


def ask(connect: Callable[[], A], question: Callable[[A], Awaitable[T]]) -> T:
    """Return the answer to a question that a native system is asked once.

    Parameters
    ----------
    connect : callable
        Returns what asks it, which is closed then.
    question : callable
        Asks it.
    """

    async def answer() -> T:
        api = connect()
        try:
            return await question(api)
        finally:
            await api.close()

    return run_now(answer())


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also on a thread whose event loop is running, such as a notebook's."""
    # Validating and planning need neither.
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, coroutine).result()
