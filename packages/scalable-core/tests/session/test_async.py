"""Sessions in coroutines."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from scalable.errors import GroupFailedError, SessionError
from scalable.session import ScalableSession

pytestmark = pytest.mark.usefixtures("demo", "project")


def test_a_session_in_a_coroutine_blocks_no_other() -> None:
    before = signal.getsignal(signal.SIGTERM)

    async def run() -> tuple[int, list[int], int]:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.01)

        counting = asyncio.create_task(count())
        async with ScalableSession.from_yaml() as client:
            during = turns
            assert client.asynchronous
            assert signal.getsignal(signal.SIGTERM) is not before
            session = client.session
            assert session is not None
            assert await session is client
            one = await client.submit(abs, -7, tag="gcam")
            more = await client.gather(client.map(abs, [-1, -2], tag="fair"))
        counting.cancel()
        assert session.closed
        assert session.everything_removed
        return one, more, during

    one, more, during = asyncio.run(run())

    assert (one, more) == (7, [1, 2])
    assert during > 10
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_start_that_fails_ends_the_block_before_it_begins(project: Path) -> None:
    (project / "scalable.yaml").write_text(
        "version: 1\nproject: {name: test}\n"
        "targets: {demo: {provider: demo, refuse: the quota is used up}}\ncomponents: {gcam: {}}\n"
    )
    before = signal.getsignal(signal.SIGTERM)

    async def run() -> None:
        async with ScalableSession.from_yaml():
            pytest.fail("it has started")

    with pytest.raises(GroupFailedError, match="the quota is used up"):
        asyncio.run(run())
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_error_in_the_block_closes_the_session() -> None:
    session = ScalableSession.from_yaml()

    async def run() -> None:
        async with session:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(run())
    assert session.everything_removed
    with pytest.raises(SessionError, match="closed"):
        asyncio.run(session.start_async())
