"""A port of this machine that leads to a port of a pod, through the API server."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import Protocol

__all__ = ["Forwarder", "Stream"]

logger = logging.getLogger("scalable.providers.kubernetes")

_CHUNK = 256 * 1024
"""Bytes that are read at once."""

_DATA, _ERROR = 0, 1
"""Channels of a stream."""

_STOP_PATIENCE = 10.0
"""Seconds for streams to end by themselves: a TLS handshake that is cancelled leaves its socket (httpcore 1.0.9)."""


class Stream(Protocol):
    """A stream of messages to a port of a pod; see `KubernetesApi.stream`."""

    async def send_bytes(self, data: bytes) -> None:
        """Send a message; raises EOFError if the other end has closed the stream."""
        ...

    async def receive_bytes(self) -> bytes:
        """Return the next message; raises EOFError if the other end has closed the stream."""
        ...


class Forwarder:
    """Forwards a free port of the loopback interface, in a thread of its own.

    The event loop of the engine is not that of its data: a large result does not hold up a turn.

    Parameters
    ----------
    name : str
        The thread's name.
    open_stream : callable
        Opens a stream to the pod, on the thread's event loop; called for each connection.
    on_end : callable, optional
        Coroutine function that closes what the streams stood on, called last on that loop.

    Attributes
    ----------
    last_error : BaseException or None
        Why the most recent connection has ended, if that was an error.
    """

    def __init__(
        self,
        name: str,
        open_stream: Callable[[], AbstractAsyncContextManager[Stream]],
        on_end: Callable[[], object] | None = None,
    ) -> None:
        self._open_stream = open_stream
        self._on_end = on_end
        self.last_error: BaseException | None = None
        self._reported = ""
        self._port: Future[int] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def start(self) -> int:
        """Start the thread, and return the port.

        Raises
        ------
        OSError
            No port can be opened.
        """
        self._thread.start()
        return await asyncio.wrap_future(self._port)

    def stop(self) -> None:
        """End all connections and the thread. Idempotent; does not wait."""
        if self._loop is not None and self._stopped is not None:
            with suppress(RuntimeError):  # its loop is closed already
                self._loop.call_soon_threadsafe(self._stopped.set)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        stopped = asyncio.Event()
        self._loop, self._stopped = asyncio.get_running_loop(), stopped
        try:
            server = await asyncio.start_server(partial(self._connected, stopped), "127.0.0.1", 0)
        except BaseException as error:  # noqa: BLE001 - raised where the start is awaited
            self._port.set_exception(error)
            return
        self._port.set_result(server.sockets[0].getsockname()[1])
        try:
            await stopped.wait()
        finally:
            server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            if others:
                await asyncio.wait(others, timeout=_STOP_PATIENCE)
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            if self._on_end is not None:
                await self._on_end()  # type: ignore[misc] # a coroutine function

    async def _connected(
        self, stopped: asyncio.Event, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            async with self._open_stream() as stream:
                self.last_error = None
                await _join(reader, writer, stream, stopped)
        except asyncio.CancelledError:
            # By `_serve`, at the end. A task that is cancelled would be reported as an error (asyncio.streams of 3.11).
            pass
        except Exception as error:  # noqa: BLE001 - whoever is connected sees the end of the connection
            self.last_error = _first(error)
            self._report(str(self.last_error) or type(self.last_error).__name__)
        finally:
            writer.transport.abort()

    def _report(self, cause: str) -> None:
        """Log why a connection has ended, once for each cause: as long as it lasts, Dask tries again."""
        level = logging.DEBUG if cause == self._reported else logging.WARNING
        self._reported = cause
        logger.log(level, "a connection to the scheduler has ended: %s", cause)


async def _join(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    stream: Stream,
    stopped: asyncio.Event,
) -> None:
    """Copy in both directions until one of them ends, or all is stopped."""
    copying = [
        asyncio.ensure_future(_upload(reader, stream)),
        asyncio.ensure_future(_download(stream, writer)),
        asyncio.ensure_future(stopped.wait()),
    ]
    try:
        with suppress(EOFError):
            done, _ = await asyncio.wait(copying, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in copying:
            task.cancel()
        await asyncio.gather(*copying, return_exceptions=True)


async def _upload(reader: asyncio.StreamReader, stream: Stream) -> None:
    with suppress(ConnectionError):  # the client has gone
        while data := await reader.read(_CHUNK):
            await stream.send_bytes(bytes([_DATA]) + data)


async def _download(stream: Stream, writer: asyncio.StreamWriter) -> None:
    begun: set[int] = set()
    while True:
        message = await stream.receive_bytes()
        channel, data = message[0], message[1:]
        if channel not in begun:
            begun.add(channel)  # the port's number
            data = data[2:]
        if channel == _ERROR and data:
            raise ConnectionError(data.decode(errors="replace").strip())
        if channel == _DATA and data:
            writer.write(data)
            try:
                await writer.drain()
            except ConnectionError:  # the client has gone
                return


def _first(error: BaseException) -> BaseException:
    """Return an error, or the first one of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
