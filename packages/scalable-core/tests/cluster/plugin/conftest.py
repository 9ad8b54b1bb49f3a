"""A scheduler with the plugin and workers, driven through the link, without a controller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from distributed import Client, Event, Worker

from scalable.cluster.link import DrainProgress, Report, RpcLink, Stage
from scalable.cluster.port import GroupSpec

T = TypeVar("T")

SLOTS = {"a": 1, "b-c": 2}


class Rig:
    """A scheduler with the plugin, and functions to add and close workers."""

    def __init__(self, host: Any, workers: Any, client: Client) -> None:
        self.host, self.client, self.workers = host, client, workers
        self.link = RpcLink(host)
        self.run(self.link.start(SLOTS))

    @property
    def scheduler(self) -> Any:
        return self.host.scheduler

    @property
    def plugin(self) -> Any:
        """The plugin on the scheduler."""
        return self.scheduler.plugins["scalable-groups"]

    async def ticks(self, n: int) -> None:
        """Let the plugin do `n` times what it does regularly."""
        for _ in range(n):
            self.plugin.tick()
            await asyncio.sleep(0)

    def running(self) -> set[Any]:
        """Return the keys of the tasks that workers have reported to run."""
        return {*self.plugin.deaths._running}

    def executing(self, name: str) -> Any:
        """Return what a worker executes, as of its last heartbeat."""
        return self.scheduler.workers[self.scheduler.aliases[name]].executing

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coro, self.host.loop.asyncio_loop).result(30)

    def add(self, *tags: str) -> list[str]:
        """Add a worker for each tag, and wait until it has registered."""

        async def add() -> list[str]:
            units = [
                unit
                for tag in tags
                for unit in await self.workers.launch(GroupSpec(tag, SLOTS[tag]), 1, "request")
            ]
            await asyncio.gather(*self.workers.starts)
            return [unit.id for unit in units]

        return self.run(add())

    def worker(self, name: str) -> Worker:
        _, worker = self.workers.workers[name]
        assert isinstance(worker, Worker)
        return worker

    def report(self) -> Report:
        return self.run(self.link.report())

    def drain(self, *names: str, force: bool = False) -> dict[str, DrainProgress]:
        return dict(self.run(self.link.drain(names, force=force)))

    def resume(self, *names: str) -> list[str]:
        return [*self.run(self.link.resume(names))]

    def close(self, name: str) -> None:
        self.run(self.worker(name).close(executor_wait=False))

    def drained(self, name: str) -> Callable[[], bool]:
        return lambda: self.drain(name)[name].stage is Stage.GONE


@pytest.fixture
def rig(host: Any, threads: Any) -> Iterator[Rig]:
    with Client(host) as client:
        rig = Rig(host, threads, client)
        yield rig
        rig.run(threads.sweep())
        rig.run(rig.link.close())


@pytest.fixture
def gate(rig: Rig) -> Iterator[Event]:
    """An event of the cluster that tasks wait for; opened at the end, so that no thread stays."""
    gate = Event("gate", client=rig.client)
    yield gate
    gate.set()


@pytest.fixture
def rig_type() -> type[Rig]:
    """For tests that connect to a scheduler when they are ready."""
    return Rig
