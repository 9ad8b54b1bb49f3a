"""A user of results, a cluster, and one client for each run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster
from results_user import User

from scalable.client import ScalableClient
from scalable.cluster.link import RpcLink
from scalable.results.reuse import Results


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[User]:
    monkeypatch.syspath_prepend(tmp_path)
    user = User(tmp_path)
    yield user
    user.forget()


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """A cluster with one in-process worker, which has the tag of a component."""
    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        resources={"gcam": 2},
        silence_logs=False,
    ) as cluster:
        loop: Any = cluster.loop
        starting = RpcLink(cluster).start({"gcam": 2})
        asyncio.run_coroutine_threadsafe(starting, loop.asyncio_loop).result(30)
        yield cluster


@pytest.fixture
def connect(cluster: LocalCluster) -> Iterator[Callable[..., ScalableClient]]:
    """Return a function that returns a new client: the one of the next run."""
    clients: list[ScalableClient] = []

    def connect(results: Results | None = None, **options: Any) -> ScalableClient:
        for client in clients:
            client.close()
        clients.append(ScalableClient(cluster, results=results, **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()
