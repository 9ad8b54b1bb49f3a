"""Which workers may register."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from distributed import Event
from distributed.core import Status
from distributed.versions import get_versions

from scalable.cluster.link import DrainProgress, Stage
from scalable.cluster.plugin.admission import IDLE_INTERVAL, describe_version_mismatch

if TYPE_CHECKING:
    from cluster.conftest import Until
    from cluster.plugin.conftest import Rig


def test_a_worker_that_was_never_seen_is_gone_and_refused_when_it_comes(rig: Rig) -> None:
    assert rig.drain("a-1") == {"a-1": DrainProgress(Stage.GONE, 0)}
    assert rig.add("a") == ["a-1"]
    assert rig.worker("a-1").status in (Status.failed, Status.closed)
    assert not rig.report().workers
    assert not rig.report().refused, "it was not refused because of its environment"


def versions(**changes: str) -> dict[str, Any]:
    found = get_versions()
    for name, version in changes.items():
        where = found["host"] if name == "python" else found["packages"]
        where[name] = version
    return found


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ""),
        ({"python": "3.12.1.final.0"}, "the worker has Python 3.12, the scheduler 3.99"),
        ({"dask": "2025.1.0"}, "the worker has dask 2025.1.0, the scheduler 2026.1.0"),
        ({"numpy": "1.0"}, ""),
        ({"python": "3.99.7.final.0"}, ""),
        ({"distributed": None}, "the worker has distributed None, the scheduler 2026.1.0"),
    ],
)
def test_versions_that_matter(changes: dict[str, str], problem: str) -> None:
    ours = {"python": "3.99.1.final.0", "dask": "2026.1.0", "distributed": "2026.1.0"}
    scheduler, worker = versions(**ours), versions(**{**ours, **changes})
    found = describe_version_mismatch({"the scheduler": scheduler, "the worker": worker})
    assert found == problem


def test_an_idle_worker_sends_heartbeats_less_often(rig: Rig, gate: Event, until: Until) -> None:
    (name,) = rig.add("a")
    worker = rig.worker(name)

    def interval() -> float:
        rig.run(worker.heartbeat())
        seconds: float = worker.periodic_callbacks["heartbeat"].callback_time / 1000
        return seconds

    assert interval() == IDLE_INTERVAL
    future = rig.client.submit(lambda: Event("gate").wait(), resources={"a": 1})
    until(lambda: worker.state.executing_count)
    assert interval() < IDLE_INTERVAL
    gate.set()
    future.result(timeout=60)
    until(lambda: interval() == IDLE_INTERVAL)
