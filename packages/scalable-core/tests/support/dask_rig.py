"""A scheduler, its workers and a client on one event loop, for tests of what Dask does."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import distributed
from distributed import Client, Scheduler, Status, Worker
from distributed.scheduler import TaskState


class Rig:
    """A scheduler, its workers and a client, all on one event loop."""

    def __init__(self, scheduler: Scheduler, client: Client, stack: contextlib.AsyncExitStack):
        self.scheduler, self.client, self._stack = scheduler, client, stack
        self.gate = threading.Event()
        gates[id(self)] = self.gate

    async def add(self, name: str = "a", **options: Any) -> Worker:
        worker = Worker(
            self.scheduler.address,
            name=name,
            nthreads=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            **options,
        )
        await self._stack.enter_async_context(worker)
        # Its first message, which sets the status, comes after its registration.
        await until(lambda: self.scheduler.workers[worker.address].status is Status.running)
        return worker

    def block(self, **options: Any) -> Any:
        """Submit a task that runs until the gate is opened."""
        return self.client.submit(wait_for_gate, id(self), pure=False, **options)

    def task(self, future: Any) -> TaskState:
        return self.scheduler.tasks[future.key]

    def state(self, future: Any) -> str:
        """Return the state of a task, or an empty string if the scheduler has not heard of it yet."""
        task = self.scheduler.tasks.get(future.key)
        return task.state if task else ""


gates: dict[int, threading.Event] = {}


def wait_for_gate(rig: int, *_: Any) -> None:
    gates[rig].wait(30)


def secede_and_wait_for_gate(rig: int) -> None:
    distributed.secede()
    wait_for_gate(rig)


def identity(x: Any) -> Any:
    return x


class Unsendable:
    def __reduce__(self) -> Any:
        raise TypeError("it cannot be pickled")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def _rig() -> AsyncIterator[Rig]:
    async with contextlib.AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(
            Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0")
        )
        client = await stack.enter_async_context(Client(scheduler.address, asynchronous=True))
        rig = Rig(scheduler, client, stack)
        try:
            yield rig
        finally:
            rig.gate.set()


def on_cluster(test: Callable[[Rig], Awaitable[None]]) -> Callable[[], None]:
    """Run a coroutine test with a cluster of its own."""

    async def run() -> None:
        async with _rig() as rig:
            await asyncio.wait_for(test(rig), 60)

    def synchronous() -> None:
        asyncio.run(run())

    synchronous.__name__, synchronous.__doc__ = test.__name__, test.__doc__
    return synchronous
