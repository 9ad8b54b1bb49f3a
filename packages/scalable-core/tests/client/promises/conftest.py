"""Clients of three kinds, of a scheduler whose workers are threads of this process or other processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import task_functions
from distributed import Client, LocalCluster, Worker
from promised_session import Session

from scalable.client import ScalableClient
from scalable.cluster.link import RpcLink
from scalable.providers.worker import server_command

SLOTS = {"gcam-7": 1, "stitches": 4}

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dask": (Client, {}),
    "untagged": (ScalableClient, {}),
    "tagged": (ScalableClient, {"tag": "stitches"}),
}


def _worker_arguments(tag: str) -> dict[str, Any]:
    return {"name": tag, "nthreads": SLOTS[tag], "resources": {tag: SLOTS[tag]}}


def _start_threads(cluster: LocalCluster, stack: ExitStack) -> None:
    loop: Any = cluster.loop

    def run(coro: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coro, loop.asyncio_loop).result(30)

    async def start() -> list[Worker]:
        workers = (
            Worker(
                cluster.scheduler_address, **_worker_arguments(tag), dashboard=False, memory_limit=0
            )
            for tag in SLOTS
        )
        return await asyncio.gather(*workers)

    async def stop(workers: list[Worker]) -> None:
        await asyncio.gather(*(worker.close() for worker in workers))

    stack.callback(lambda workers: run(stop(workers)), run(start()))


def _start_processes(cluster: LocalCluster, stack: ExitStack, directory: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(task_functions.__file__).parent)}
    for tag, slots in SLOTS.items():
        command = [*server_command(sys.executable, "worker"), cluster.scheduler_address]
        command += ["--name", tag, "--nthreads", str(slots), "--resources", f"{tag}={slots}"]
        command += ["--no-dashboard", "--no-nanny", "--host", "127.0.0.1"]
        with (directory / f"{tag}.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=directory, env=environment, stdout=log, stderr=log
            )
        stack.callback(process.wait)
        stack.callback(process.kill)
    with Client(cluster) as client:
        client.wait_for_workers(len(SLOTS), timeout=120)


@pytest.fixture(scope="session", params=["threads", "processes"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalCluster]:
    """A scheduler with the engine's part, and a worker for each tag."""
    options = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": False}
    with LocalCluster(n_workers=0, **options) as cluster, ExitStack() as stack:
        loop: Any = cluster.loop
        started = RpcLink(cluster).start(SLOTS)
        asyncio.run_coroutine_threadsafe(started, loop.asyncio_loop).result(30)
        if request.param == "threads":
            _start_threads(cluster, stack)
        else:
            _start_processes(cluster, stack, tmp_path_factory.mktemp("workers"))
        yield cluster


@pytest.fixture(params=[*KINDS])
def kind(request: pytest.FixtureRequest) -> tuple[Any, dict[str, Any]]:
    """The class of a client, and the options of each of its calls."""
    return KINDS[request.param]


@pytest.fixture
def session(
    cluster: LocalCluster, kind: tuple[Any, dict[str, Any]], tmp_path: Path
) -> Iterator[Session]:
    made, options = kind
    with made(cluster) as client:
        session = Session(client, options, tmp_path)
        yield session
        session.open()
    # The scheduler forgets the tasks of a client some time after that has closed. The next one has some of these keys.
    scheduler: Any = cluster.scheduler
    session.until(lambda: client.id not in scheduler.clients)
