from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from scalable.providers.kubernetes.forward import Forwarder

PORT = 8786
NUMBER = struct.pack("<H", PORT)


class Kubelet:
    """The other end of a stream: it echoes, and speaks the protocol of the kubelet to the letter.

    Both channels begin with the number of the port. Data may come in pieces of any size. The client sends on channel 0
    alone, and nothing empty.
    """

    def __init__(self, error: str = "") -> None:
        self._out: asyncio.Queue[bytes] = asyncio.Queue()
        self._out.put_nowait(b"\x00" + NUMBER)
        self._out.put_nowait(b"\x01" + NUMBER)
        if error:
            self._out.put_nowait(b"\x01" + error.encode())

    async def send_bytes(self, data: bytes) -> None:
        assert data[0] == 0
        assert len(data) > 1
        for start in range(1, len(data), 1000):
            self._out.put_nowait(b"\x00" + data[start : start + 1000])

    async def receive_bytes(self) -> bytes:
        return await self._out.get()


def forwarder(make: Callable[[], Kubelet], ended: Callable[[], object] | None = None) -> Forwarder:
    @asynccontextmanager
    async def open_stream() -> AsyncIterator[Kubelet]:
        yield make()

    return Forwarder("forward-test", open_stream, ended)


async def exchange(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        return await reader.readexactly(len(data))
    finally:
        writer.close()


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "forward-test"]


def test_data_goes_both_ways_on_connections_of_their_own() -> None:
    async def use() -> None:
        forwarded = forwarder(Kubelet)
        try:
            port = await forwarded.start()
            large = bytes(range(256)) * 8000
            sent = (b"a", large)
            received = await asyncio.gather(*(exchange(port, data) for data in sent))
            assert tuple(received) == sent
        finally:
            forwarded.stop()

    asyncio.run(use())


def test_the_end_closes_connections_and_leaves_no_thread() -> None:
    ended = threading.Event()

    async def on_end() -> None:
        ended.set()

    async def use() -> None:
        forwarded = forwarder(Kubelet, on_end)
        reader, writer = await asyncio.open_connection("127.0.0.1", await forwarded.start())
        writer.write(b"a")
        await reader.readexactly(1)
        forwarded.stop()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        forwarded.stop()

    asyncio.run(use())
    assert ended.wait(30)
    for thread in threads():
        thread.join(30)
    assert threads() == []


def test_an_error_of_the_kubelet_is_one_line_and_the_end_of_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def use() -> None:
        forwarded = forwarder(lambda: Kubelet("error forwarding port 8786: connection refused"))
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", await forwarded.start())
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
        finally:
            forwarded.stop()

    with caplog.at_level(logging.WARNING):
        asyncio.run(use())
    (record,) = caplog.records
    assert "connection refused" in record.getMessage()
    assert record.exc_info is None


def test_an_api_server_that_does_not_answer_ends_the_connection_and_not_the_forwarding(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries = 0

    def make() -> Kubelet:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError("the API server does not answer")
        return Kubelet()

    async def use() -> None:
        forwarded = forwarder(make)
        try:
            port = await forwarded.start()
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await exchange(port, b"a")
            assert await exchange(port, b"b") == b"b"
        finally:
            forwarded.stop()

    asyncio.run(use())
    assert [r.getMessage() for r in caplog.records] == [
        "a connection to the scheduler has ended: the API server does not answer"
    ]


def test_a_stream_that_is_closed_as_intended_and_what_is_repeated_say_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Closed(Kubelet):
        async def receive_bytes(self) -> bytes:
            raise EOFError

    kinds: list[Callable[[], Kubelet]] = [Closed, lambda: Kubelet("lost"), lambda: Kubelet("lost")]
    left = list(kinds)

    async def use() -> None:
        forwarded = forwarder(lambda: left.pop(0)())
        try:
            port = await forwarded.start()
            for _ in kinds:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
                writer.close()
        finally:
            forwarded.stop()

    with caplog.at_level(logging.WARNING):
        asyncio.run(use())
    assert [r.getMessage() for r in caplog.records] == [
        "a connection to the scheduler has ended: lost"
    ]
