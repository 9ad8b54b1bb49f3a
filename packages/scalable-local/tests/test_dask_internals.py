"""What we need of Dask beyond its public interface, each name by itself on the installed version.

docs/extending/dask.md lists the names and where they are used.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator
from typing import Any

import dask.config
import pytest
from distributed import Client, Scheduler, Status, Worker, wait
from distributed.threadpoolexecutor import ThreadPoolExecutor

from scalable.manifest.schema import ComponentConfig
from scalable.providers.local.command import worker_environment


@contextlib.asynccontextmanager
async def scheduler() -> AsyncIterator[Scheduler]:
    async with Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0") as made:
        yield made


def worker(address: str, **options: Any) -> Worker:
    return Worker(
        address,
        nthreads=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        **options,
    )


def secede() -> str:
    import distributed

    distributed.secede()
    return threading.current_thread().name


def test_a_worker_runs_tasks_in_threads_that_have_our_names() -> None:
    """`distributed.threadpoolexecutor.ThreadPoolExecutor`: a worker's executor, from which tasks can secede."""

    async def run() -> None:
        async with scheduler() as s:
            executor = ThreadPoolExecutor(1, thread_name_prefix="ours")
            async with (
                worker(s.address, executor=executor),
                Client(s.address, asynchronous=True) as client,
            ):
                name = await client.submit(secede)
                assert name.startswith("ours")

    asyncio.run(run())


gate, started = threading.Event(), threading.Event()


def wait_for_gate() -> None:
    started.set()
    gate.wait(30)


def test_a_worker_closes_without_waiting_for_its_tasks() -> None:
    """`Worker.close`: with ``executor_wait=False``, it does not wait for a task that is running."""
    gate.clear()

    async def run() -> None:
        async with scheduler() as s, Client(s.address, asynchronous=True) as client:
            made = await worker(s.address)
            future = client.submit(wait_for_gate)
            assert await asyncio.to_thread(started.wait, 30)
            await asyncio.wait_for(
                made.close(timeout=10, executor_wait=False, reason="test"), timeout=10
            )
            assert made.status is Status.closed
            gate.set()
            del future

    asyncio.run(run())


def test_a_closed_worker_can_be_emptied() -> None:
    """`Worker.data`: its results by key, which stay when it is closed, and can be cleared."""

    async def run() -> None:
        async with scheduler() as s, Client(s.address, asynchronous=True) as client:
            made = await worker(s.address)
            future = client.submit(bytes, 10)
            await wait(future)
            assert [*made.data] == [future.key]
            await made.close()
            made.data.clear()
            assert not made.data

    asyncio.run(run())


def test_a_worker_that_cannot_start_has_failed() -> None:
    """`Status.failed`: the status of a worker whose `start` has raised; the cause is in the exception."""

    async def run() -> None:
        async with scheduler() as s, worker(s.address, name="a"):
            second = worker(s.address, name="a")
            with pytest.raises(RuntimeError) as caught:
                await second.start()
            assert "name taken" in str(caught.value.__cause__)
            assert second.status is Status.failed

    asyncio.run(run())


def test_workers_have_the_environment_that_a_nanny_sets() -> None:
    """`distributed.nanny.pre-spawn-environ`: how the C library is told to give freed memory back."""
    theirs = dask.config.get("distributed.nanny.pre-spawn-environ")
    ours = worker_environment(ComponentConfig(name="gcam"), 1)
    name = "MALLOC_TRIM_THRESHOLD_"
    assert name not in os.environ
    assert str(theirs[name]) == ours[name]
