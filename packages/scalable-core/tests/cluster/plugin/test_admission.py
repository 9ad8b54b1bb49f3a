"""Which workers may register."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from distributed.core import Status
from distributed.versions import get_versions

from scalable.cluster.link import DrainProgress, Stage
from scalable.cluster.plugin.admission import describe_version_mismatch

if TYPE_CHECKING:
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
