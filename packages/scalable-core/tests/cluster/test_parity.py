"""Workers of another environment are refused, and their group shows the reason."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from scalable.cluster import GroupedCluster, Pace
from scalable.cluster.port import Reason
from scalable.errors import GroupFailedError

Start = Callable[..., GroupedCluster]
Until = Callable[..., None]

CLAIM = """\
import distributed.worker

def claim(get_versions=distributed.worker.get_versions):
    versions = get_versions()
    versions["{where}"]["{name}"] = "{version}"
    return versions

distributed.worker.get_versions = claim
"""


@pytest.mark.parametrize(
    ("where", "name", "claimed", "problem"),
    [
        ("host", "python", "3.99.1.final.0", "the worker has Python 3.99, the scheduler 3."),
        (
            "packages",
            "dask",
            "2020.1",
            f"the worker has dask 2020.1, the scheduler {version('dask')}",
        ),
        (
            "packages",
            "distributed",
            "2020.1",
            f"the worker has distributed 2020.1, the scheduler {version('distributed')}",
        ),
    ],
)
def test_a_worker_of_another_environment_fails_its_group(
    start_processes: Start,
    processes: Any,
    until: Until,
    tmp_path: Path,
    where: str,
    name: str,
    claimed: str,
    problem: str,
) -> None:
    preload = tmp_path / "claim.py"
    preload.write_text(CLAIM.format(where=where, name=name, version=claimed))
    # So slow that a refused worker has ended before anybody looks.
    cluster = start_processes("a", "b", pace=Pace(tick=2, poll=2))
    cluster.scale_groups({"b": 1})
    cluster.wait_for_group("b", timeout=60)
    processes.arguments = ["--preload", str(preload)]
    cluster.scale_groups({"a": 2})
    with pytest.raises(GroupFailedError) as caught:
        cluster.wait_for_group("a", timeout=60)
    assert problem in str(caught.value)
    assert str(caught.value).endswith(
        "give the component an image or environment with the scheduler's versions"
    )
    assert caught.value.explanation.reason is Reason.MISMATCH
    until(lambda: processes.running().keys() == {"b-1"})
    assert cluster.groups["a"].failed
    # Nothing is tried again, and the other group is unharmed.
    assert processes.processes.keys() == {"b-1", "a-2", "a-3"}
    with Client(cluster) as client:
        assert client.submit(sum, [1, 2], resources={"b": 1}).result(timeout=30) == 3
