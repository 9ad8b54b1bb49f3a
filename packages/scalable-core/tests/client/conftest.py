"""A scheduler with the engine's part and in-process workers of three groups, and clients of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from distributed import LocalCluster, Worker

from scalable.client import ScalableClient
from scalable.cluster.link import RpcLink

SLOTS = {"gcam-7": 1, "gcam_7": 1, "stitches": 4}
TASKS = {"run_gcam": "gcam-7", "emulate": "stitches"}


@pytest.fixture
def plain() -> Iterator[LocalCluster]:
    """A plain Dask cluster, without our plugin."""
    with LocalCluster(
        n_workers=0,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=False,
    ) as cluster:
        yield cluster


def run(cluster: LocalCluster, coro: Any) -> Any:
    loop: Any = cluster.loop
    return asyncio.run_coroutine_threadsafe(coro, loop.asyncio_loop).result(30)


@pytest.fixture
def cluster(plain: LocalCluster) -> Iterator[LocalCluster]:
    """A scheduler with the engine's part, and a worker for each tag."""

    async def start() -> list[Worker]:
        await RpcLink(plain).start(SLOTS)
        return await asyncio.gather(
            *(
                Worker(
                    plain.scheduler_address,
                    name=tag,
                    nthreads=slots,
                    resources={tag: slots},
                    dashboard=False,
                    memory_limit=0,
                )
                for tag, slots in SLOTS.items()
            )
        )

    async def stop(workers: list[Worker]) -> None:
        await asyncio.gather(*(worker.close() for worker in workers))

    workers = run(plain, start())
    yield plain
    run(plain, stop(workers))


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[ScalableClient]:
    with ScalableClient(cluster, tasks=TASKS) as client:
        yield client
