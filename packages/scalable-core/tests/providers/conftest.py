"""A real GroupedCluster with a backend whose units stay pending."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import pytest
from distributed import LocalCluster

from scalable.client import ScalableClient
from scalable.cluster import GroupedCluster, Pace
from scalable.cluster.port import Explanation, GroupSpec, Leftover, Phase, Reason, Unit, UnitState
from scalable.providers.base import ClusterHandle


class Queue:
    """A backend whose units are pending until they are stopped."""

    def __init__(self) -> None:
        self.units: dict[str, UnitState] = {}

    async def launch(self, group: GroupSpec, n: int, request_id: str) -> Sequence[Unit]:
        units = [Unit(f"{request_id}-{i}", group.tag, request_id) for i in range(n)]
        self.units.update(
            {unit.id: UnitState(unit, Phase.PENDING, Reason.PRIORITY) for unit in units}
        )
        return units

    async def observe(self) -> Mapping[str, UnitState]:
        return dict(self.units)

    async def stop(self, units: Sequence[Unit]) -> None:
        for unit in units:
            self.units.pop(unit.id, None)

    async def describe(self, unit: Unit) -> Explanation:
        return Explanation(Reason.PRIORITY, "it waits")

    async def sweep(self) -> Sequence[Leftover]:
        self.units.clear()
        return ()


class Start(Protocol):
    def __call__(self, max_workers: int | None = None) -> ClusterHandle: ...


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a cluster with the groups gcam and plots; it is closed at the end of the test."""
    handles: list[ClusterHandle] = []

    def start(max_workers: int | None = None) -> ClusterHandle:
        host = LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0")
        groups = [GroupSpec("gcam"), GroupSpec("plots")]
        cluster = GroupedCluster(
            host, Queue(), groups, max_workers=max_workers, pace=Pace(tick=0.05, poll=0.1)
        )
        handles.append(ClusterHandle(cluster, lambda: ScalableClient(cluster)))
        return handles[-1]

    yield start
    for handle in handles:
        handle.backend.close()
