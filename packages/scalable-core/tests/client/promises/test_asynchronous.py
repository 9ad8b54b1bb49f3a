"""What Dask's client promises of asynchronous clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from dask.delayed import delayed
from distributed import LocalCluster, as_completed, wait
from task_functions import add, fail

Use = Callable[[Callable[[Any, dict[str, Any]], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def use(cluster: LocalCluster, kind: tuple[Any, dict[str, Any]]) -> Use:
    """A function that runs a coroutine function with an asynchronous client and the options of each call."""

    def run(function: Callable[[Any, dict[str, Any]], Coroutine[Any, Any, None]]) -> None:
        made, options = kind

        async def connect() -> None:
            async with made(cluster.scheduler_address, asynchronous=True) as client:
                await function(client, options)

        asyncio.run(connect())

    return run


def test_a_future_is_awaited(use: Use) -> None:
    async def check(client: Any, options: dict[str, Any]) -> None:
        future = client.submit(add, 1, **options)
        assert await future == 1
        assert await future.result() == 1

    use(check)


def test_gathering_is_awaited(use: Use) -> None:
    async def check(client: Any, options: dict[str, Any]) -> None:
        futures = client.map(add, [1, 2], **options)
        assert await client.gather(futures) == [1, 2]
        assert await asyncio.create_task(client.gather(futures)) == [1, 2]

    use(check)


def test_collections_are_awaited(use: Use) -> None:
    async def check(client: Any, options: dict[str, Any]) -> None:
        assert await client.compute(delayed(add)(3), **options) == 3

    use(check)


def test_the_error_of_a_task_is_raised_where_it_is_awaited(use: Use) -> None:
    async def check(client: Any, options: dict[str, Any]) -> None:
        with pytest.raises(ArithmeticError):
            await client.submit(fail, **options)

    use(check)


def test_what_completes_is_iterated_asynchronously(use: Use) -> None:
    async def check(client: Any, options: dict[str, Any]) -> None:
        futures = client.map(add, [1, 2], **options)
        assert sorted([await each async for each in as_completed(futures)]) == [1, 2]
        done, not_done = await wait(futures)
        assert (len(done), len(not_done)) == (2, 0)

    use(check)
