"""Addresses of instances: 127.N.0.0/16, and relays in place of external addresses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable


class Network:
    """Addresses of 127.0.0.0/8 that no other network on this machine has, and what listens on the external ones."""

    def __init__(self) -> None:
        self._octet, self._claim = _claim()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End all relays."""
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._claim.close()

    def addresses(self, number: int) -> tuple[str, str]:
        """Return the internal and the external address of an instance."""
        high, low = divmod(number % 10000, 200)
        return f"127.{self._octet}.{high}.{low + 2}", f"127.{self._octet}.{high + 100}.{low + 2}"

    def relay(self, source: str, target: str, port: int) -> Callable[[], None]:
        """Pass connections on, from a port of one address to that of another; return how to end that."""
        tasks = set[asyncio.Task[None]]()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.CancelledError):
                far_reader, far_writer = await asyncio.open_connection(target, port)
                with contextlib.closing(far_writer):
                    await asyncio.gather(_pipe(reader, far_writer), _pipe(far_reader, writer))
            tasks.discard(task)

        async def listen() -> asyncio.Server:
            return await asyncio.start_server(connected, source, port)

        server = asyncio.run_coroutine_threadsafe(listen(), self._loop).result()

        def end() -> None:
            server.close()
            for task in [*tasks]:
                task.cancel()

        def end_soon() -> None:
            self._loop.call_soon_threadsafe(end)

        return end_soon


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _claim() -> tuple[int, socket.socket]:
    """Return N so that 127.N.0.0/16 is nobody else's, as long as the socket exists."""
    for octet in range(10, 250):
        claim = socket.socket()
        try:
            claim.bind(
                (f"127.{octet}.255.254", 45678)
            )  # the port by which all tests claim networks
        except OSError:
            claim.close()
            continue
        return octet, claim
    raise AssertionError("all of 127.0.0.0/8 is taken")
