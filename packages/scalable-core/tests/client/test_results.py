"""Small results come with the news that their tasks have finished, and are what Dask would have fetched."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster, as_completed, wait

from scalable.client import ScalableClient
from scalable.client.results import ReceivedResults
from scalable.cluster.plugin.results import pack_small_result

TAG = "gcam-7"


class Own:
    """A result of a user's class."""


class Strange:
    """It may be pickled only once, and not when nobody has asked for it."""

    pickled = 0

    def __reduce__(self) -> Any:
        type(self).pickled += 1
        return Strange, ()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def gathers(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The keys that the scheduler was asked to gather, by each call."""
    asked: list[list[str]] = []
    scheduler: Any = cluster.scheduler
    dask_gather = scheduler.handlers["gather"]

    async def gather(keys: Any, **options: Any) -> Any:
        asked.append([*keys])
        return await dask_gather(keys=keys, **options)

    monkeypatch.setitem(scheduler.handlers, "gather", gather)
    return asked


VALUES: list[Any] = [
    None,
    7,
    -1.5,
    "text",
    b"bytes",
    (1, [2, {3}], {"a": frozenset({4})}),
    {"nested": {"list": [[], ()]}},
    np.float64(0.1),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_small_result_is_not_fetched(
    client: ScalableClient, gathers: list[list[str]], value: Any
) -> None:
    result = client.submit(lambda: value, tag=TAG, pure=False).result(30)
    assert result == value
    assert type(result) is type(value)
    assert gathers == []


def test_small_arrays_are_equal_and_writeable(
    client: ScalableClient, gathers: list[list[str]]
) -> None:
    result: Any = client.submit(lambda: np.arange(6.0).copy("F"), tag=TAG).result(30)
    result[0] = 9
    assert result.tolist() == [9, 1, 2, 3, 4, 5]
    assert gathers == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: "x" * 100_000,
        lambda: ["x" * 1000] * 3 + ["y" * 9000],
        lambda: [*range(5000)],
        lambda: np.zeros(5000),
        lambda: np.broadcast_to(np.zeros(1), (10, 10)),
        lambda: np.array([object()]),
        Own,
        lambda: [Own()],
    ],
)
def test_other_results_are_fetched(
    client: ScalableClient, gathers: list[list[str]], make: Callable[[], Any]
) -> None:
    future = client.submit(make, tag=TAG, pure=False)
    result = future.result(30)
    assert type(result) is type(make())
    assert gathers == [[future.key]]


def test_a_container_of_itself_is_not_small() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert pack_small_result(endless) is None


def test_no_code_of_a_user_is_called() -> None:
    assert pack_small_result([1, Strange()]) is None
    assert Strange.pickled == 0


def test_each_who_asks_gets_an_object_of_its_own(
    client: ScalableClient, gathers: list[list[str]]
) -> None:
    future = client.submit(lambda: [1, 2], tag=TAG)
    first: Any = future.result(30)
    first.append(3)
    assert future.result(30) == [1, 2]
    assert client.gather([future]) == [[1, 2]]
    assert gathers == [[future.key]] * 2


def test_a_gather_fetches_only_what_is_not_here(
    client: ScalableClient, gathers: list[list[str]]
) -> None:
    small = client.map(lambda n: n, range(20), tag=TAG)
    large = client.submit(lambda: "x" * 100_000, tag="stitches")
    assert client.gather([*small, large]) == [*range(20), "x" * 100_000]
    assert gathers == [[large.key]]


def test_untagged_calls_and_completed_futures_are_quick_too(
    client: ScalableClient, gathers: list[list[str]]
) -> None:
    futures = client.map(lambda n: n, range(10), pure=False)
    assert sorted(n for _, n in as_completed(futures, with_results=True)) == [*range(10)]
    assert client.gather(futures, errors="skip") == [*range(10)]
    assert len(gathers) == 1  # the second time


def test_an_error_is_an_error(client: ScalableClient) -> None:
    good, bad = (client.submit(lambda n: 1 / n, n, tag=TAG) for n in (1, 0))
    with pytest.raises(ZeroDivisionError):
        client.gather([good, bad])
    assert client.gather([good, bad], errors="skip") == [1.0]


def test_a_result_that_is_computed_again_replaces_the_earlier_one(
    client: ScalableClient, cluster: LocalCluster
) -> None:
    future = client.submit(time.monotonic, tag=TAG)
    wait([future])
    until(lambda: len(client._results) == 1)
    (packed,) = client._results.take([future.key]).values()
    client._results.add(future.key, pack_small_result(packed) or b"")

    def lose(dask_scheduler: Any) -> None:
        ts = dask_scheduler.tasks[future.key]
        for ws in [*ts.who_has]:
            dask_scheduler.release_worker_data(future.key, ws.address, "test")
            message = {"op": "free-keys", "keys": [ts.key], "stimulus_id": "test"}
            dask_scheduler.worker_send(ws.address, message)

    client.run_on_scheduler(lose)
    until(lambda: future.status == "finished" and _peek(client, future.key) != packed)
    assert future.result(30) > packed


def _peek(client: ScalableClient, key: Any) -> Any:
    packed = client._results._packed.get(key)
    return None if packed is None else __import__("pickle").loads(packed)


def test_two_clients_get_a_result_each(client: ScalableClient, cluster: LocalCluster) -> None:
    with ScalableClient(cluster, set_as_default=False) as other:
        one, two = (each.submit(lambda: [1], tag=TAG, key="shared") for each in (client, other))
        first: Any = one.result(30)
        first.append(2)
        assert two.result(30) == [1]


def test_a_plain_client_of_the_same_cluster_gets_none(cluster: LocalCluster) -> None:
    with Client(cluster, set_as_default=False) as plain:
        assert plain.submit(lambda: 7, resources={TAG: 1}).result(30) == 7


def test_a_plain_cluster_sends_none(plain: LocalCluster) -> None:
    plain.scale(1)
    with ScalableClient(plain) as client:
        assert client.submit(lambda: 7).result(60) == 7
        assert len(client._results) == 0


def test_a_client_that_was_told_how_to_read_gets_none(
    cluster: LocalCluster, gathers: list[list[str]]
) -> None:
    with ScalableClient(cluster, serializers=["msgpack", "pickle"]) as client:
        future = client.submit(lambda: 7, tag=TAG)
        assert future.result(30) == 7
        assert gathers == [[future.key]]


def test_an_actor_is_no_result(client: ScalableClient) -> None:
    actor: Any = client.submit(Own, tag=TAG, actor=True).result(30)
    assert type(actor).__name__ == "Actor"


def test_a_coroutine_gets_results_too(cluster: LocalCluster) -> None:
    async def run() -> Any:
        async with ScalableClient(
            cluster.scheduler_address, asynchronous=True, set_as_default=False
        ) as client:
            futures = client.map(lambda n: n, range(5), tag=TAG)
            return await client.gather(futures)

    assert asyncio.run(run()) == [*range(5)]


def test_a_client_that_is_connected_again_gets_results(
    client: ScalableClient, cluster: LocalCluster, gathers: list[list[str]]
) -> None:
    def abort(dask_scheduler: Any) -> None:
        for each in [*dask_scheduler.client_comms.values()]:
            each.comm.abort()

    scheduler: Any = cluster.scheduler
    client.run_on_scheduler(abort)
    until(lambda: client.id in scheduler.client_comms and client.status == "running")

    def is_quick() -> bool:
        gathers.clear()
        assert client.submit(lambda: 7, tag=TAG, pure=False).result(30) == 7
        return not gathers

    until(is_quick)


def test_nothing_is_kept_of_what_is_released(client: ScalableClient, cluster: LocalCluster) -> None:
    scheduler: Any = cluster.scheduler
    futures = client.map(lambda n: n, range(50), tag=TAG, pure=False)
    wait(futures)
    until(lambda: len(client._results) == 50)
    del futures
    until(lambda: len(client._results) == 0 and not scheduler.tasks)


def test_no_connection_keeps_what_it_has_sent(
    client: ScalableClient, cluster: LocalCluster
) -> None:
    """Dask's log of what was sent would have functions, arguments and results: in clients, scheduler and workers."""

    def log_of(dask_worker: Any) -> list[Any]:
        return [*dask_worker.batched_stream.recent_message_log]

    assert client.submit(abs, -1, tag=TAG).result() == 1
    scheduler: Any = cluster.scheduler
    mine: Any = client.scheduler_comm
    sent = [mine, scheduler.client_comms[client.id], *scheduler.stream_comms.values()]
    assert len(sent) == 2 + len(scheduler.workers)
    assert not any(each.recent_message_log for each in sent)
    logs = client.run(log_of)
    assert len(logs) == len(scheduler.workers)
    assert not any(logs.values())


def test_a_restart_drops_results(client: ScalableClient) -> None:
    received = client._results
    received.add("key", b"packed")
    client._handle_restart()
    assert len(received) == 0


def test_a_restart_is_over_once_the_client_knows(
    client: ScalableClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handle_late() -> None:
        await asyncio.sleep(0.3)  # as if it came over a slow connection
        client._handle_restart()

    monkeypatch.setitem(client._stream_handlers, "restart", handle_late)
    future = client.submit(abs, -1, tag=TAG)
    assert future.result(timeout=30) == 1
    client.restart(wait_for_workers=False)
    # Had it not come yet, it would cancel what is submitted next.
    assert future.status == "cancelled"


# -- What a client keeps


def test_results_are_taken_once() -> None:
    received = ReceivedResults()
    received.add("a", pack_small_result(1) or b"")
    assert received.take(["a", "b"]) == {"a": 1}
    assert received.take(["a"]) == {}


def test_what_is_kept_is_bounded() -> None:
    received = ReceivedResults(max_bytes=100)
    for key in range(100):
        received.add(key, b"x" * 10)
    assert len(received) == 10
    received.discard(0)
    received.discard(0)
    received.add("later", b"x" * 10)
    received.add("none", b"x")
    assert len(received) == 10
    received.add(1, b"x" * 10)  # in place of the earlier one
    assert len(received) == 10
    received.clear()
    received.add("all", b"x" * 100)
    assert len(received) == 1
