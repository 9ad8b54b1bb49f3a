from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from distributed import Client, LocalCluster, get_worker, wait

from scalable.cluster.port import Backend, GroupSpec, Phase, Reason, Unit
from scalable.errors import LaunchRefusedError
from scalable.providers.local.inprocess import InProcessBackend

if TYPE_CHECKING:
    from conftest import Eventually


class Cluster:
    """A backend on the event loop of its host, driven from a plain thread."""

    def __init__(self, host: LocalCluster, directory: Path) -> None:
        self.host = host
        self.backend = InProcessBackend(
            scheduler_address=host.scheduler_address,
            name="test",
            parent=directory,
            grace_period=0.5,
        )

    def do(self, method: str, *args: Any) -> Any:
        return self.host.sync(getattr(self.backend, method), *args)

    def state(self, unit: Unit) -> Phase:
        states = self.do("observe")
        return states[unit.id].phase if unit.id in states else Phase.GONE


@pytest.fixture(params=["inproc", "tcp"])
def host(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=0, protocol=request.param, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster


@pytest.fixture
def cluster(host: LocalCluster, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(host, tmp_path)
    yield cluster
    assert cluster.do("sweep") == []


def test_it_is_a_backend(cluster: Cluster) -> None:
    assert isinstance(cluster.backend, Backend)


def test_workers_of_two_groups_in_one_process(
    cluster: Cluster, client: Client, eventually: Eventually
) -> None:
    gcam = cluster.do("launch", GroupSpec("gcam", slots=2), 2, "r1")
    other = cluster.do("launch", GroupSpec("other"), 1, "r2")
    client.wait_for_workers(3, timeout=60)

    workers = {w["name"]: w for w in client.scheduler_info(n_workers=-1)["workers"].values()}
    assert set(workers) == {unit.id for unit in (*gcam, *other)}
    assert workers[gcam[0].id]["nthreads"] == 2
    assert workers[gcam[0].id]["resources"] == {"gcam": 2}
    assert workers[other[0].id]["resources"] == {"other": 1}
    where = client.submit(lambda: (os.getpid(), get_worker().name), resources={"other": 1})
    assert where.result(60) == (os.getpid(), other[0].id)


def test_a_request_is_launched_once(cluster: Cluster) -> None:
    first = cluster.do("launch", GroupSpec("gcam"), 2, "r1")

    assert cluster.do("launch", GroupSpec("gcam"), 2, "r1") == first
    assert len(cluster.do("observe")) == 2


def test_a_stopped_worker_is_gone_and_the_others_stay(
    cluster: Cluster, client: Client, eventually: Eventually
) -> None:
    goes, stays = cluster.do("launch", GroupSpec("gcam"), 2, "r1")
    client.wait_for_workers(2, timeout=60)

    cluster.do("stop", [goes, Unit("gcam-99", "gcam", "r9")])

    assert cluster.state(goes) is Phase.GONE
    assert cluster.state(stays) is Phase.RUNNING
    assert cluster.do("describe", goes).reason is Reason.STOPPED
    assert goes.id not in cluster.do("observe")
    eventually(
        lambda: [w["name"] for w in client.scheduler_info()["workers"].values()] == [stays.id]
    )


def test_a_worker_that_the_scheduler_retires_is_gone(
    cluster: Cluster, client: Client, eventually: Eventually
) -> None:
    (unit,) = cluster.do("launch", GroupSpec("gcam"), 1, "r1")
    client.wait_for_workers(1, timeout=60)

    client.retire_workers(names=[unit.id], close_workers=True)

    eventually(lambda: cluster.state(unit) is Phase.GONE)
    assert cluster.do("describe", unit).reason is Reason.EXITED


def test_a_worker_that_is_gone_keeps_no_result_in_memory(
    cluster: Cluster, client: Client, eventually: Eventually
) -> None:
    goes, _ = cluster.do("launch", GroupSpec("gcam"), 2, "r1")
    client.wait_for_workers(2, timeout=60)
    future = client.submit(_make_result, workers=[goes.id])
    wait(future, timeout=60)
    assert len(_RESULTS) == 1

    client.retire_workers(names=[goes.id], close_workers=True)
    eventually(lambda: cluster.state(goes) is Phase.GONE)
    future.release()

    eventually(lambda: gc.collect() >= 0 and not _RESULTS)


class _Result:
    pass


_RESULTS: weakref.WeakSet[_Result] = weakref.WeakSet()


def _make_result() -> _Result:
    result = _Result()
    _RESULTS.add(result)
    return result


def test_a_worker_that_finds_no_scheduler_can_be_stopped(
    host: LocalCluster, tmp_path: Path
) -> None:
    cluster = Cluster(host, tmp_path)
    cluster.backend._scheduler_address = "tcp://127.0.0.1:1"
    (unit,) = cluster.do("launch", GroupSpec("gcam"), 1, "r1")

    assert cluster.state(unit) is Phase.RUNNING
    assert cluster.do("sweep") == []


def test_sweep_removes_everything_and_names_the_threads_that_still_run(
    cluster: Cluster, client: Client, eventually: Eventually, tmp_path: Path
) -> None:
    begun, enough = threading.Event(), threading.Event()
    events = {"begun": begun, "enough": enough}
    _EVENTS.update(events)
    (unit,) = cluster.do("launch", GroupSpec("gcam"), 1, "r1")
    future = client.submit(_wait_for_enough, pure=False)
    assert begun.wait(60)

    leftovers = cluster.do("sweep")

    assert [leftover.kind for leftover in leftovers] == ["thread"]
    assert unit.id in leftovers[0].name
    assert list(tmp_path.iterdir()) == []
    enough.set()
    assert cluster.do("sweep") == []
    with pytest.raises(LaunchRefusedError, match="closed"):
        cluster.do("launch", GroupSpec("gcam"), 1, "r2")
    future.cancel()


_EVENTS: dict[str, threading.Event] = {}


def _wait_for_enough() -> None:
    _EVENTS["begun"].set()
    _EVENTS["enough"].wait(60)
