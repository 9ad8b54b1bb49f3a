"""Connections: when they send, for how long, what they keep of messages, and what unpickling these raises."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from types import MethodType, SimpleNamespace
from typing import Any

import distributed.client
import distributed.comm.utils
import distributed.protocol.core
import distributed.worker
from distributed import Worker
from distributed.core import ConnectionPool, PooledRPCCall
from distributed.protocol.pickle import dumps, loads
from distributed.protocol.serialize import merge_and_deserialize
from distributed.worker import get_data_from_worker

from scalable.cluster.plugin.dask_internals.functions import hide_from_tracebacks, with_globals
from scalable.cluster.plugin.dask_internals.worker import _raise

__all__ = [
    "ContainedCalls",
    "adjust_batches",
    "close_connection",
    "contain_answers",
    "contain_requests",
    "explain_lost_actors",
    "keep_no_log",
    "lift_send_timeout",
    "lift_worker_send_timeout",
    "read_unreadable_tasks",
    "receive_alone",
    "replace_batched_send",
    "send_sooner",
]


BATCH_INTERVAL = 0.002
"""Seconds between two batches of messages on one connection, as from Dask's workers and to its clients."""


def lift_send_timeout(comm: Any) -> None:
    """Turn off a connection's limit on how long its other end may not read, while that is reachable.

    distributed sets TCP_USER_TIMEOUT to 30 s. Linux then closes a connection whose other end acknowledges but has not
    made room in its buffer for this long, as the process of a task that holds the GIL does not. Keepalive probes still
    find a machine that is gone.
    """
    stream = getattr(comm, "stream", None)  # in-process connections have none
    if stream is not None and stream.socket is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)


def lift_worker_send_timeout(worker: Worker) -> None:
    """Do the same as `lift_send_timeout` for a worker's connection to the scheduler."""
    lift_send_timeout(worker.batched_stream.comm)


def send_sooner(batched: Any) -> None:
    """Make a connection send each batch of messages after 2 ms, where Dask waits for 5 or 10 ms."""
    batched.interval = BATCH_INTERVAL


def keep_no_log(batched: Any) -> None:
    """Turn off a connection's log of the messages that it has sent.

    Dask keeps the last 1000 batches below 1 MB for its developers, with all small results, functions and arguments that
    were sent in them.
    """
    batched.recent_message_log = deque(maxlen=0)


def adjust_batches(worker: Worker) -> None:
    """Make a worker send messages to the scheduler at once or, while it has more tasks to run, in batches.

    Nobody may have anything to do but wait for the only task, whose start has been sent just before its end.
    """
    has_more = worker.state.ready or worker.state.constrained
    worker.batched_stream.interval = BATCH_INTERVAL if has_more else 0.0


def replace_batched_send(worker: Worker, send: Callable[[Any], None]) -> Callable[[Any], None]:
    """Make a worker call `send` with its messages to the scheduler; return what it called before."""
    previous = worker.batched_send
    setattr(worker, "batched_send", send)  # noqa: B010 - a method, as mypy sees it
    return previous


def read_unreadable_tasks(worker: Worker, replace: Callable[[BaseException], Any]) -> None:
    """Put `replace(error)` in the place of a task that the scheduler sends and a worker cannot unpickle.

    The message is lost otherwise, and with it the worker, since nobody knows any more which task it was.
    """
    comm: Any = worker.batched_stream.comm
    pickling = SimpleNamespace(loads=_guarded(loads, replace), dumps=dumps)
    hide_from_tracebacks(_raise)
    _read_with(comm, pickle=pickling)


def contain_requests(worker: Worker, replace: Callable[[BaseException], Any]) -> None:
    """Put `replace(error)` in the place of what clients send and a worker cannot unpickle, such as scattered data."""

    def contained(handle: Callable[[Any], Any], comm: Any) -> Any:
        _contain_unpickling(comm, replace)
        return handle(comm)

    listeners: list[Any] = worker.listeners
    for listener in listeners:
        listener.comm_handler = functools.partial(contained, listener.comm_handler)


def contain_answers(pool: Any, replace: Callable[[BaseException], Any]) -> None:
    """Put `replace(error)`, which may raise, in the place of what a pool of connections receives and cannot unpickle.

    What users' code raises there is taken for something else: `OSError` and `EOFError` for trouble with the network, so
    that the same is asked for again without end; `SystemExit` ends the event loop.

    Parameters
    ----------
    pool : ConnectionPool
        Of a worker or a client.
    replace : callable
        Returns what takes its place, or raises an exception that is none of these.
    """
    pool.__class__ = _ContainedPool
    pool.replace = replace


def explain_lost_actors(pool: Any, find_error: Callable[[Any], Awaitable[Any]]) -> None:
    """Let calls of an actor whose worker cannot be reached end in the reason.

    Parameters
    ----------
    pool : ConnectionPool
        Of a worker or a client, whose answers are contained.
    find_error : coroutine function
        Takes the key of the actor; returns the error, pickled and as text, or None if the actor is not lost.
    """
    pool.find_actor_error = find_error


class _ContainedPool(ConnectionPool):
    """A pool whose connections contain what is raised while a message is unpickled."""

    replace: Callable[[BaseException], Any]
    find_actor_error: Callable[[Any], Awaitable[Any]] | None = None

    async def connect(self, addr: str, timeout: float | None = None) -> Any:
        """Return a connection."""
        comm: Any = await super().connect(addr, timeout)
        if "read" not in vars(comm):
            _contain_unpickling(comm, self.replace)
            comm.read = functools.partial(_read_or_abort, comm, comm.read)
        return comm

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        calls = super().__call__(*args, **kwargs)
        made: Any = ContainedCalls
        return made(calls.addr, self, calls.serializers, calls.deserializers)


async def _read_or_abort(comm: Any, read: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Read a message; close the connection if it cannot be read, because its sender waits there for a confirmation."""
    try:
        return await read(*args, **kwargs)
    except (OSError, asyncio.CancelledError):
        raise
    except Exception:
        comm.abort()
        raise


class ContainedCalls(PooledRPCCall):
    """Calls of a server, of which those of an actor do not raise, and name the reason if the actor is lost.

    Dask raises that where nobody asks for it, and whoever waits for the method's result waits for ever.
    """

    async def actor_execute(self, **kwargs: Any) -> Any:
        """Call a method of an actor; return what was raised, as a worker does."""
        call = self.__getattr__("actor_execute")  # type: ignore[no-untyped-call]
        return await self._answered(call(**kwargs), kwargs["actor"])

    async def actor_attribute(self, **kwargs: Any) -> Any:
        """Read an attribute of an actor; return what was raised, as a worker does."""
        call = self.__getattr__("actor_attribute")  # type: ignore[no-untyped-call]
        return await self._answered(call(**kwargs), kwargs["actor"])

    async def proxy(self, *, msg: dict[str, Any], **kwargs: Any) -> Any:
        """Call a worker through the scheduler."""
        call = self.__getattr__("proxy")  # type: ignore[no-untyped-call]
        answer = call(msg=msg, **kwargs)
        return await (self._answered(answer, msg["actor"]) if "actor" in msg else answer)

    async def _answered(self, call: Awaitable[Any], actor: Any) -> Any:
        try:
            return await call
        except OSError:
            find_error = self.pool.find_actor_error
            if find_error is None or (found := await find_error(actor)) is None:
                raise  # Dask answers this itself
            return {"status": "error", "exception": _unpickled_error(*found)}
        except Exception as error:  # noqa: BLE001 - raised where the result is asked for
            return {"status": "error", "exception": error}


def _unpickled_error(error: bytes, text: str) -> Exception:
    try:
        found: Exception = loads(error)
    except ImportError:  # the worker's environment lacks its class
        return RuntimeError(text)
    return found


def _contain_unpickling(comm: Any, replace: Callable[[BaseException], Any]) -> None:
    _read_with(comm, merge_and_deserialize=_guarded(merge_and_deserialize, replace))


def _guarded(load: Callable[..., Any], replace: Callable[[BaseException], Any]) -> Any:
    """Return a function that returns `replace(error)` where `load` raises."""

    def load_or_replace(*args: Any, **kwargs: Any) -> Any:
        try:
            return load(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - unpickling may raise anything
            failure = error
        return replace(failure)

    hide_from_tracebacks(load_or_replace)
    return load_or_replace


def _read_with(comm: Any, **functions: Any) -> None:
    """Make a connection read messages by copies of distributed's functions in which these names are replaced."""
    read = type(comm).read
    if "from_frames" not in read.__globals__:
        return  # within one process, nothing is pickled
    protocol = SimpleNamespace(loads=with_globals(distributed.protocol.core.loads, **functions))
    from_frames = with_globals(distributed.comm.utils.from_frames, protocol=protocol)
    comm.read = MethodType(with_globals(read, from_frames=from_frames), comm)


def close_connection(worker: Worker) -> None:
    """Close the copy of a worker's connection to the scheduler that a fork of its process has."""
    stream = getattr(worker.batched_stream and worker.batched_stream.comm, "stream", None)
    if stream is not None and stream.socket is not None:
        stream.socket.close()


async def receive_alone(
    worker: Worker, key: Any, holder: str, failures: list[BaseException]
) -> bool:
    """Receive a result from another worker and discard it; return whether that one was too busy to send it.

    Parameters
    ----------
    worker : Worker
        The recipient.
    key : object
        The key of the result.
    holder : str
        The address of the other worker.
    failures : list
        What unpickling the result raises is appended.

    Raises
    ------
    OSError
        The other worker cannot be reached.
    Exception
        The result cannot be pickled there.
    """
    # A pool of its own, whose connections are closed whatever comes of it.
    connections = await ConnectionPool(
        serializers=worker.rpc.serializers,
        deserializers=worker.rpc.deserializers,
        connection_args=worker.connection_args,
    )
    contain_answers(connections, failures.append)
    try:
        got = await get_data_from_worker(connections, [key], holder, who=worker.address)
    finally:
        await connections.close()
    return bool(got["status"] == "busy")
