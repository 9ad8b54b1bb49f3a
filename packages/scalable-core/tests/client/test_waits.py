"""Why a task does not run yet."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import Any

import pytest
from distributed import Future, LocalCluster, Worker, as_completed, get_client

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


def test_a_task_that_was_cancelled_and_goes_on(client: ScalableClient, gate: int) -> None:
    cancelled = client.submit(wait_for_gate, gate, tag="gcam-7")
    until_explained(lambda: client.explain(cancelled), "it runs on gcam-7, for ")
    cancelled.cancel()
    behind = client.submit(abs, -1, tag="gcam-7")
    until_explained(
        lambda: client.explain(behind),
        f"it waits on gcam-7, which runs {cancelled.key} (which was cancelled)",
    )
    gates[gate].set()
    assert behind.result(timeout=30) == 1


def run(cluster: LocalCluster, coroutine: Any) -> Any:
    loop: Any = cluster.loop
    return asyncio.run_coroutine_threadsafe(coroutine, loop.asyncio_loop).result(30)


def start_worker(cluster: LocalCluster, **options: Any) -> Worker:
    async def start() -> Worker:
        made = Worker(cluster.scheduler_address, dashboard=False, memory_limit=0, **options)
        await made
        return made

    worker: Worker = run(cluster, start())
    return worker


def wait_for_another(*_: Any) -> int:
    return int(get_client().submit(abs, -1, tag="gcam-7", key="another").result(timeout=60))


def wait_for_many(*_: Any) -> list[Any]:
    client = get_client()
    futures = client.map(abs, [-1, -2], tag="stitches", n=4, key="another")
    return [future.result() for future in as_completed(futures)]


async def wait_in_a_coroutine(*_: Any) -> int:
    return int(await get_client().submit(abs, -1, tag="gcam-7", key="another"))


@pytest.mark.parametrize(
    ("function", "tag"),
    [
        (wait_for_another, "gcam-7"),
        (wait_for_many, "stitches"),
        (wait_in_a_coroutine, "gcam-7"),
    ],
)
def test_a_task_that_keeps_the_slot_of_one_that_it_has_submitted(
    cluster: LocalCluster, function: Any, tag: str
) -> None:
    # Tasks in this process get a client from their worker.
    with ScalableClient(cluster, set_as_default=False) as client:
        parent = client.submit(function, 1, tag=tag)
        said = f"{parent.key} keeps its slot on {tag}, and another"
        found = until_explained(lambda: client.explain(parent), said)
        assert "which it has submitted, waits for one" in found
        assert "distributed.secede()" in found
        # It goes on once there is room.
        extra = start_worker(cluster, name="extra", nthreads=4, resources={tag: 4})
        parent.result(timeout=60)
        run(cluster, extra.close())


def wait_for_one_that_waits() -> int:
    return int(
        get_client().submit(wait_for_another, tag="gcam_7", key="between").result(timeout=60)
    )


def test_a_task_that_keeps_the_slot_of_one_that_another_has_submitted_for_it(
    cluster: LocalCluster,
) -> None:
    with ScalableClient(cluster, set_as_default=False) as client:
        first = client.submit(wait_for_one_that_waits, tag="gcam-7")
        said = f"{first.key} keeps its slot on gcam-7, and another, which between has submitted"
        for key in (first.key, "between", "another"):
            future: Future[Any] = Future(key, client)
            until_explained(functools.partial(client.explain, future), said)
        extra = start_worker(cluster, name="extra", nthreads=1, resources={"gcam-7": 1})
        assert first.result(timeout=60) == 1
        run(cluster, extra.close())


def test_a_task_that_has_submitted_one_which_runs(
    client: ScalableClient, cluster: Any, gate: int
) -> None:
    def submit() -> None:
        future = get_client().submit(wait_for_gate, gate, 2, tag="gcam_7", key="elsewhere")
        wait_for_gate(gate)
        del future

    parent = client.submit(submit, tag="gcam-7")
    until_explained(lambda: " ".join(map(str, cluster.scheduler.tasks)), "elsewhere")
    elsewhere: Future[Any] = Future("elsewhere", client)
    until_explained(lambda: client.explain(elsewhere), "it runs on gcam_7")
    assert "keeps its slot" not in client.explain(parent)
    gates[gate].set()
    client.gather([parent, elsewhere])


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
