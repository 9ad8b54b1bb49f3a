"""`WatchedClient`: Dask's client, whose calls and futures end in one error once its scheduler is lost."""

from __future__ import annotations

import os
import weakref
from collections.abc import Awaitable, Callable
from copy import copy
from typing import Any

from distributed import Client, Status
from distributed.core import PooledRPCCall

from scalable.cluster import GroupedCluster
from scalable.cluster.dask_internals import (
    fail_futures,
    retrieve_gather_exceptions,
    send_with_next,
)
from scalable.cluster.plugin import ContainedCalls, keep_no_log, send_sooner
from scalable.errors import ClusterClosedError, SchedulerLostError

__all__ = ["WatchedClient"]

RELEASE_DELAY = 0.01
"""Seconds that a message may wait for the next one, if it says only that results are no longer needed. As in Dask."""

_MESSAGES_OF_THE_END = {
    "client-releases-keys",
    "close-client",
    "close-stream",
    "heartbeat-client",
}
"""Messages that mean nothing any more once the scheduler is lost."""


class _WatchedScheduler(ContainedCalls):
    """The calls of a client to its scheduler, which raise why it is lost and not that a connection broke.

    Parameters
    ----------
    calls : PooledRPCCall
        Dask's own.
    check : callable
        Raises the reason if the scheduler is known to be lost.
    wait : coroutine function
        Waits until it is known, and raises the reason if it is lost.
    """

    def __init__(
        self,
        calls: PooledRPCCall,
        check: Callable[[], None],
        wait: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(calls.addr, calls.pool, calls.serializers, calls.deserializers)
        self._check, self._wait = check, wait

    def __getattr__(self, name: str) -> Any:
        call = super().__getattr__(name)

        async def checked(**kwargs: Any) -> Any:
            self._check()
            try:
                return await call(**kwargs)
            except OSError:
                await self._wait()
                raise

        return checked

    async def identity(self, **kwargs: Any) -> dict[str, Any]:
        """Return what the scheduler says of itself; nothing once it is lost, which Dask's client knows to show."""
        try:
            self._check()
        except SchedulerLostError:
            return {}
        return dict(await super().__getattr__("identity")(**kwargs))


_clients: weakref.WeakSet[WatchedClient] = weakref.WeakSet()


def _leave_all_in_fork() -> None:
    """Leave all clients to the process that this one is a fork of: no event loop runs here."""
    for client in list(_clients):
        client._is_left = True
        client.status = "closing"


os.register_at_fork(after_in_child=_leave_all_in_fork)


class WatchedClient(Client):
    """A ``distributed.Client`` that hears from its `GroupedCluster` what has become of the scheduler.

    Dask's client cancels its futures without a reason as soon as the connection breaks, and sends messages every 10 ms
    where this one sends them at once.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._lost: SchedulerLostError | None = None
        self._is_left = False
        super().__init__(*args, **kwargs)
        _clients.add(self)

    async def _start(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.cluster, GroupedCluster):
            try:
                self.cluster.check_scheduler()
            except SchedulerLostError:
                await self._close()
                raise
        started = await super()._start(*args, **kwargs)
        if isinstance(self.cluster, GroupedCluster):
            if isinstance(self.scheduler, PooledRPCCall):
                self.scheduler = _WatchedScheduler(
                    self.scheduler, self._check_scheduler, self._wait_for_scheduler
                )
            self.cluster.on_scheduler_lost(self._on_scheduler_lost)
        return started

    @property
    def loop(self) -> Any:
        """The event loop, to which Dask hands over whatever a client or a future is asked; there is none in a fork.

        Raises
        ------
        ClusterClosedError
            This process is a fork of the client's own.
        """
        if self._is_left:
            name = getattr(self.cluster, "name", None) or self.id
            raise ClusterClosedError(name, in_fork=True)
        return super().loop

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """Close it, as Dask's is. In a fork, that is left to the client's own process."""
        return None if self._is_left else super().close(*args, **kwargs)

    def _check_scheduler(self) -> None:
        if self._lost is not None:
            raise copy(self._lost)

    async def _wait_for_scheduler(self) -> None:
        """Return once the scheduler has answered anew; raise the reason if it is lost, or its cluster closed."""
        self._check_scheduler()
        if isinstance(self.cluster, GroupedCluster) and not self._closes_alone(self.cluster):
            await self.cluster.wait_for_scheduler_async()

    def _closes_alone(self, cluster: GroupedCluster) -> bool:
        """Return whether it is this client that is closed, and not its cluster."""
        return self.status in ("closing", "closed") and cluster.status is Status.running

    def _on_scheduler_lost(self, error: SchedulerLostError) -> None:
        # On the cluster's event loop, which may be another one.
        if self.loop is not None:
            self.loop.add_callback(self._lose_scheduler, error)

    async def _lose_scheduler(self, error: SchedulerLostError) -> None:
        """Let all futures, and whatever is asked of this client from now on, raise the reason."""
        if self._lost is None and self.status != "closed":
            self._lost = error
            fail_futures(self, error)
            # It is not closed, which would let `dask.compute` and the like go on with this process.
            self.status = "connecting"
            await self.rpc.close()
            if self.scheduler_comm is not None:
                self.scheduler_comm.abort()

    def wait_for_workers(self, n_workers: int, timeout: float | str | None = None) -> Any:
        """Return when there are `n_workers` that take tasks, as `GroupedCluster.wait_for_workers` does."""
        if self.asynchronous and isinstance(self.cluster, GroupedCluster):
            return self.cluster.wait_for_workers_async(n_workers, timeout)
        limit: Any = timeout  # Dask's declares seconds, and takes texts as well
        return super().wait_for_workers(n_workers, limit)

    async def _ensure_connected(self, *args: Any, **kwargs: Any) -> None:
        await super()._ensure_connected(*args, **kwargs)
        if self.scheduler_comm is not None:
            send_sooner(self.scheduler_comm)
            keep_no_log(self.scheduler_comm)

    async def _reconnect(self) -> None:
        # Dask cancels all futures at once, and names no reason. The cluster finds it out.
        if isinstance(self.cluster, GroupedCluster):
            self.status = "connecting"
            try:
                await self.cluster.wait_for_scheduler_async()
            except SchedulerLostError as error:
                await self._lose_scheduler(error)
                return
            except ClusterClosedError:
                await self._close()
                return
        await super()._reconnect()

    def _send_to_scheduler(self, msg: dict[str, Any]) -> None:
        if self._lost is None:
            super()._send_to_scheduler(msg)
        elif msg["op"] not in _MESSAGES_OF_THE_END:
            self._check_scheduler()

    def _send_to_scheduler_safe(self, msg: dict[str, Any]) -> None:
        # Calls one after the other release a result and submit the next task. Nobody waits for the release.
        if msg["op"] == "client-releases-keys" and self.status == "running":
            send_with_next(self, msg, RELEASE_DELAY)
        else:
            super()._send_to_scheduler_safe(msg)

    async def _close(self, *args: Any, **kwargs: Any) -> None:
        retrieve_gather_exceptions()
        await super()._close(*args, **kwargs)
