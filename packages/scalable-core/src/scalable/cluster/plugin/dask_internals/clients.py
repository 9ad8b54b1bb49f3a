"""The clients that tasks get on a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import distributed.client
import distributed.comm.utils
import distributed.protocol.core
import distributed.worker
from distributed import Worker, default_client

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "forget_worker_and_clients",
    "replace_worker_client",
]


def forget_worker_and_clients() -> None:
    """Make `get_worker` and `get_client` raise ValueError in a fork of a worker's process, where neither could work."""
    distributed.worker._worker_cvar = ContextVar("_worker_cvar")
    distributed.client._global_clients.clear()
    distributed.client._current_client.set(None)


def _add_submitting_task(client: Client, find_key: Callable[[], Any]) -> None:
    """Make a client tell the scheduler which coroutine submits a task, as Dask does for tasks that run in a thread."""
    send: Any = client._send_to_scheduler

    def send_with_key(msg: dict[str, Any]) -> None:
        if msg["op"] == "update-graph" and msg["submitting_task"] is None:
            msg["submitting_task"] = find_key()
        send(msg)

    client._send_to_scheduler = send_with_key  # type: ignore[method-assign]


def replace_worker_client(
    worker: Worker, client_class: Callable[[], type[Client]]
) -> Callable[[Any], object]:
    """Make tasks on a worker get a client of this class where Dask would create one of its own.

    Return a function to be called in the asyncio task of each task of Dask's, with its key.
    """
    dask_get_client = worker._get_client
    key_of_coroutine: ContextVar[Any] = ContextVar("scalable_key_of_coroutine", default=None)

    def get_client(timeout: Any = None) -> Any:
        if _default_client_fits(worker):
            return dask_get_client(timeout)
        if worker._client and worker._client.status == "closed":
            worker._client = None  # by a task, as `with get_client() as client:` does
        if not worker._client:
            limit = {} if timeout is None else {"timeout": timeout}
            worker._client = client_class()(
                worker.scheduler,
                loop=worker.loop,
                security=worker.security,
                set_as_default=True,
                asynchronous=_runs_on_loop(worker),
                direct_to_workers=True,
                name="worker",
                **limit,
            )
            Worker._initialized_clients.add(worker._client)  # closed with the process
            _add_submitting_task(worker._client, key_of_coroutine.get)
        return worker._client

    worker._get_client = get_client  # type: ignore[method-assign]
    return key_of_coroutine.set


def _runs_on_loop(worker: Worker) -> bool:
    """Return whether this is called on the worker's event loop, as by a coroutine function."""
    try:
        return asyncio.get_running_loop() is worker.loop.asyncio_loop  # type: ignore[attr-defined]
    except RuntimeError:
        return False


def _default_client_fits(worker: Worker) -> bool:
    """Return whether there is a client of the worker's scheduler in this process already."""
    try:
        client = default_client()
    except ValueError:
        return False
    # Dask's own would take one that a task has made and that could not connect, too.
    is_connected = client.status == "running" and client.scheduler
    return bool(is_connected and client.scheduler.address == worker.scheduler.address)
