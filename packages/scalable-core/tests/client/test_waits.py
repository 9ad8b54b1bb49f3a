"""Why a task does not run yet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import Any

import pytest
from distributed import LocalCluster

from scalable.client import ScalableClient
from scalable.errors import NotSupportedError

gates: dict[int, threading.Event] = {}


def wait_for_gate(gate: int, *_: Any) -> None:
    gates[gate].wait(60)


@pytest.fixture
def gate() -> Iterator[int]:
    made = threading.Event()
    gates[id(made)] = made
    yield id(made)
    made.set()


def until_explained(explain: Callable[[], str], text: str) -> str:
    end = monotonic() + 30
    while text not in (found := explain()):
        assert monotonic() < end, found
        sleep(0.02)
    return found


def test_a_task_that_runs_one_behind_it_and_one_that_depends_on_it(
    client: ScalableClient, gate: int
) -> None:
    running = client.submit(wait_for_gate, gate, tag="gcam-7")
    until_explained(lambda: client.explain(running), "it runs on gcam-7, for ")
    behind = client.submit(wait_for_gate, gate, 1, tag="gcam-7")
    until_explained(
        lambda: client.explain(behind), f"it waits on gcam-7, which runs {running.key} (for "
    )
    dependent = client.submit(id, behind, tag="stitches")
    until_explained(
        lambda: client.explain(dependent),
        f"it waits for another task; of {behind.key}: it waits on gcam-7, which runs ",
    )
    gates[gate].set()
    client.gather([running, behind, dependent])
    assert client.explain(dependent) == "it is done"


def test_a_task_whose_workers_have_left(client: ScalableClient, cluster: LocalCluster) -> None:
    client.retire_workers(names=["gcam-7"])
    future = client.submit(abs, -1, tag="gcam-7")
    until_explained(lambda: client.explain(future), "no worker with the tag gcam-7 takes tasks now")


def test_a_task_that_failed_and_one_that_was_cancelled(client: ScalableClient) -> None:
    failed = client.submit(abs, "x", tag="gcam-7")
    assert isinstance(failed.exception(timeout=30), TypeError)
    assert client.explain(failed) == "it has failed; its future has the error"
    failed.cancel()
    until_explained(lambda: client.explain(failed), "the scheduler does not know it")


def test_only_futures_are_explained(client: ScalableClient) -> None:
    wrong: Any = "abs-1f"
    with pytest.raises(TypeError, match="'abs-1f' is not a future"):
        client.explain(wrong)


def test_a_plain_cluster_explains_nothing(plain: LocalCluster) -> None:
    with ScalableClient(plain) as client:
        future = client.submit(abs, -1)
        with pytest.raises(NotSupportedError, match="worker groups"):
            client.explain(future)
