"""Results that cannot be unpickled here, for who takes errors as values: nobody waits for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from distributed import Future, LocalCluster, as_completed

from scalable.client import ScalableClient

TAG = "stitches"


class Unreadable:
    """Its worker can pickle it, and nobody unpickle it."""

    def __reduce__(self) -> Any:
        return open, ("/no/such/file",)


def errors_of(found: list[tuple[Future[Any], Any]]) -> dict[str, str]:
    """Return what `as_completed` has for futures that have failed."""
    return {
        str(future.key): str(found[1])
        if future.status == "error"
        else ""  # an error, as Dask has it
        for future, found in found
    }


def test_what_completes_fails_alone(client: ScalableClient) -> None:
    bad = client.submit(Unreadable, tag=TAG, key="bad")
    good = client.submit(abs, -1, tag=TAG, key="good")
    completed: Any = as_completed([bad, good], with_results=True, raise_errors=False, timeout=30)
    errors = errors_of([*completed])
    assert errors["good"] == ""
    assert "no/such/file" in errors["bad"]
    assert bad.status == "error"


def test_what_completes_raises(client: ScalableClient) -> None:
    bad = client.submit(Unreadable, tag=TAG)
    completed: Any = as_completed([bad], with_results=True, timeout=30)
    with pytest.raises(FileNotFoundError, match="no/such/file"):
        list(completed)


def test_an_executor_raises(client: ScalableClient) -> None:
    with client.get_executor(tag=TAG) as executor:
        bad, good = executor.submit(Unreadable), executor.submit(abs, -1)
        with pytest.raises(FileNotFoundError, match="no/such/file"):
            bad.result(timeout=30)
        assert good.result(timeout=30) == 1


def test_a_coroutine_is_told(cluster: LocalCluster) -> None:
    async def errors() -> dict[str, str]:
        async with ScalableClient(
            cluster.scheduler_address, asynchronous=True, set_as_default=False
        ) as client:
            bad = client.submit(Unreadable, tag=TAG, key="bad")
            completed: Any = as_completed(
                [bad], client.loop, with_results=True, raise_errors=False, timeout=30
            )
            return errors_of([each async for each in completed])

    assert "no/such/file" in asyncio.run(errors())["bad"]


def test_what_was_cancelled_is_no_error(client: ScalableClient) -> None:
    future = client.submit(abs, -1, tag=TAG)
    future.cancel()
    ((_, told),) = as_completed([future], with_results=True, raise_errors=False, timeout=30)
    assert "cancelled" in str(told)
