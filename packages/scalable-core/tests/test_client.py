"""Tags, tasks and slots on a real scheduler."""

from __future__ import annotations

import asyncio
import gc
import itertools
import operator
import pickle
from collections.abc import Iterator
from typing import Any

import dask.config
import pytest
from distributed import Client, Future, LocalCluster, Worker, get_worker

from scalable.client import ScalableClient
from scalable.cluster.link import RpcLink
from scalable.errors import (
    MissingKeysError,
    SlotsExceededError,
    SubmitError,
    UnknownTagError,
    UnknownTaskError,
)
from scalable.providers.tls import make_credentials

SLOTS = {"gcam-7": 1, "gcam_7": 1, "stitches": 4}
TASKS = {"run_gcam": "gcam-7", "emulate": "stitches"}


@pytest.fixture
def plain() -> Iterator[LocalCluster]:
    """A plain Dask cluster, without our plugin."""
    with LocalCluster(
        n_workers=0,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=False,
    ) as cluster:
        yield cluster


def run(cluster: LocalCluster, coro: Any) -> Any:
    loop: Any = cluster.loop
    return asyncio.run_coroutine_threadsafe(coro, loop.asyncio_loop).result(30)


@pytest.fixture
def cluster(plain: LocalCluster) -> Iterator[LocalCluster]:
    """A scheduler with the engine's part, and a worker for each tag."""

    async def start() -> list[Worker]:
        await RpcLink(plain).start(SLOTS)
        return await asyncio.gather(
            *(
                Worker(
                    plain.scheduler_address,
                    name=tag,
                    nthreads=slots,
                    resources={tag: slots},
                    dashboard=False,
                    memory_limit=0,
                )
                for tag, slots in SLOTS.items()
            )
        )

    async def stop(workers: list[Worker]) -> None:
        await asyncio.gather(*(worker.close() for worker in workers))

    workers = run(plain, start())
    yield plain
    run(plain, stop(workers))


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[ScalableClient]:
    with ScalableClient(cluster, tasks=TASKS) as client:
        yield client


def where(*_: Any) -> str:
    return str(get_worker().name)


def resources(client: Client, future: Future[Any]) -> dict[str, float]:
    cluster: Any = client.cluster
    found: dict[str, float] = cluster.scheduler.tasks[future.key].resource_restrictions
    return found


# -- Where a call goes


def test_a_tag_leads_to_its_workers(client: ScalableClient) -> None:
    for tag in SLOTS:
        assert client.submit(where, tag=tag).result(timeout=30) == tag
        assert set(client.gather(client.map(where, range(10), tag=tag))) == {tag}


def test_a_task_leads_to_the_workers_of_its_component(client: ScalableClient) -> None:
    assert client.submit(where, task="run_gcam").result(timeout=30) == "gcam-7"
    assert client.submit(where, tag="stitches", task="emulate").result(timeout=30) == "stitches"
    assert set(client.gather(client.map(where, range(4), task="emulate"))) == {"stitches"}


def test_a_call_takes_its_slots(client: ScalableClient) -> None:
    one = client.submit(where, 1, tag="stitches")
    four = client.submit(where, 2, tag="stitches", n=4)
    (mapped,) = client.map(where, [3], tag="stitches", n=2, resources={"gpu": 0})
    client.gather([one, four])
    assert resources(client, one) == {"stitches": 1}
    assert resources(client, four) == {"stitches": 4}
    assert resources(client, mapped) == {"stitches": 2, "gpu": 0}


def test_without_tag_and_task_it_is_the_client_of_dask(client: ScalableClient) -> None:
    with Client(client.cluster, set_as_default=False) as theirs:
        ours = client.submit(operator.add, 1, 2)
        assert ours.key == theirs.submit(operator.add, 1, 2).key
        assert [f.key for f in client.map(abs, [1])] == [f.key for f in theirs.map(abs, [1])]
        assert ours.result(timeout=30) == 3
        assert not resources(client, ours)


def test_futures_can_be_arguments(client: ScalableClient) -> None:
    first = client.submit(operator.add, 1, 2, tag="gcam-7")
    second = client.submit(operator.add, first, 4, tag="stitches")
    assert second.result(timeout=30) == 7
    assert client.gather(client.map(operator.add, [first, second], [0, 0], tag="gcam-7")) == [3, 7]


def test_arguments_that_can_be_read_once_are_read_once(client: ScalableClient) -> None:
    letters = client.map(operator.add, ["a", "b", "c"], iter("xyz"), tag="gcam-7")
    assert client.gather(letters) == ["ax", "by", "cz"]
    assert client.gather(client.map(operator.add, [1, 2], itertools.count(), tag="gcam-7")) == [
        1,
        3,
    ]
    for tag in (None, "gcam-7"):  # without a tag, Dask refuses it
        with pytest.raises(TypeError, match=r"[Ii]terators"):
            client.map(abs, itertools.count(), tag=tag)


def test_coroutine_functions_and_actors(client: ScalableClient) -> None:
    async def double(x: int) -> int:
        return 2 * x

    assert client.submit(double, 2, tag="gcam-7").result(timeout=30) == 4
    assert client.gather(client.map(double, [1, 2], tag="stitches")) == [2, 4]
    actor: Any = client.submit(list, [1], tag="gcam-7", actor=True).result(timeout=30)
    actor.append(2).result()
    assert actor.copy().result() == [1, 2]


def test_options_of_the_function_reach_it(client: ScalableClient) -> None:
    def options(*args: int, **kwargs: int) -> object:
        return args, kwargs

    assert client.submit(options, 1, tag="gcam-7", a=2).result(timeout=30) == ((1,), {"a": 2})
    found = client.gather(client.map(options, [1, 2], [3, 4, 5], tag="gcam-7", a=2, batch_size=1))
    assert found == [((1, 3), {"a": 2}), ((2, 4), {"a": 2})]
    assert client.map(options, [], tag="gcam-7") == []


# -- Keys


def test_the_same_call_under_two_tags_is_two_futures(client: ScalableClient) -> None:
    futures = [client.submit(where, 1, tag=tag) for tag in SLOTS]
    futures += [future for tag in SLOTS for future in client.map(where, [1], tag=tag)]
    assert client.gather(futures) == [*SLOTS, *SLOTS]
    assert client.submit(where, 1, tag="gcam-7").key == futures[0].key
    assert client.map(where, [1], tag="gcam-7")[0].key == futures[len(SLOTS)].key
    assert client.submit(where, 1, tag="gcam-7", pure=False).key != futures[0].key
    once, again = client.map(where, [1, 1], tag="gcam-7", pure=False)
    assert once.key != again.key


def test_the_tag_is_in_the_key_so_that_durations_are_learned_apart(client: ScalableClient) -> None:
    futures = [
        *client.map(where, range(3), tag="gcam-7"),
        client.submit(where, 4, tag="gcam-7"),
        *client.map(where, range(3), tag="stitches"),
    ]
    client.gather(futures)
    cluster: Any = client.cluster
    counts = {
        name: prefix.state_counts["memory"]
        for name, prefix in cluster.scheduler.task_prefixes.items()
    }
    assert counts == {"gcam:7.where": 4, "stitches.where": 3}


def test_given_keys_are_kept(client: ScalableClient) -> None:
    one = client.submit(where, tag="gcam-7", key=("run", 1))
    some = client.map(where, range(2), tag="gcam-7", key=["left", "right"])
    named = client.map(where, range(2), tag="gcam-7", key="named")
    assert [future.key for future in (one, *some)] == [("run", 1), "left", "right"]
    assert all(str(future.key).startswith("named-") for future in named)
    assert {*client.gather([one, *some, *named])} == {"gcam-7"}


# -- What is refused


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"tag": "stitch"},
            UnknownTagError,
            "no worker group has the tag 'stitch' (did you mean 'stitches'?); the tags are: gcam-7, gcam_7, stitches",
        ),
        ({"tag": ""}, UnknownTagError, "no worker group has the tag ''; "),
        (
            {"task": "run_gcm"},
            UnknownTaskError,
            "no task 'run_gcm' in the manifest (did you mean 'run_gcam'?); its tasks are: emulate, run_gcam",
        ),
        (
            {"tag": "stitches", "n": 5},
            SlotsExceededError,
            "n=5 of tag 'stitches' fits no worker: each has 4 slots; set components.stitches.slots to 5 or more",
        ),
        ({"task": "run_gcam", "n": 2}, SlotsExceededError, "n=2 of tag 'gcam-7' fits no worker"),
        (
            {"tag": "gcam-7", "n": 0},
            ValueError,
            "n=0 is not a valid number of slots; give n=1 or more",
        ),
        ({"n": 2}, TypeError, "n= counts slots of a tag, and there is no tag; give tag= too"),
        (
            {"tag": "stitches", "task": "run_gcam"},
            TypeError,
            "task 'run_gcam' runs on component 'gcam-7', not on tag 'stitches'; leave out tag",
        ),
    ],
)
def test_what_no_worker_could_run_is_refused_at_once(
    client: ScalableClient, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    for submit in (
        lambda: client.submit(where, 1, **options),
        lambda: client.map(where, [1], **options),
    ):
        with pytest.raises(error) as caught:
            submit()
        assert str(caught.value).startswith(message)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), again.__dict__) == (str(caught.value), caught.value.__dict__)
    cluster: Any = client.cluster
    assert not cluster.scheduler.tasks


def test_a_cluster_without_groups_has_no_tags(plain: LocalCluster) -> None:
    with ScalableClient(plain) as client:
        with pytest.raises(UnknownTagError, match="the tags are: none"):
            client.submit(where, tag="gcam")
        with pytest.raises(SubmitError, match="its tasks are: none"):
            client.submit(where, task="run_gcam")
        assert client.session is None


# -- How it connects


def test_the_table_reaches_a_client_that_has_only_an_address(cluster: LocalCluster) -> None:
    with ScalableClient(cluster.scheduler_address, tasks=TASKS) as client:
        assert client.submit(where, task="emulate", n=4).result(timeout=30) == "stitches"


def test_an_asynchronous_client(cluster: LocalCluster) -> None:
    async def use() -> Any:
        async with ScalableClient(cluster.scheduler_address, asynchronous=True) as client:
            with pytest.raises(UnknownTagError):
                client.submit(where, tag="gcam")
            return await client.gather(
                [client.submit(where, tag="gcam-7"), *client.map(where, range(2), tag="stitches")]
            )

    assert asyncio.run(use()) == ["gcam-7", "stitches", "stitches"]


def test_an_interrupted_gather_leaves_no_exception_unretrieved(cluster: LocalCluster) -> None:
    complaints: list[dict[str, Any]] = []

    async def interrupt() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, complaint: complaints.append(complaint))
        async with ScalableClient(cluster.scheduler_address, asynchronous=True) as client:
            never = client.map(where, range(3), resources={"nobody": 1})
            gathering = asyncio.ensure_future(client.gather(never))
            for _ in range(10):  # turns of the loop, until it waits
                await asyncio.sleep(0)
            gathering.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gathering
        gc.collect()

    asyncio.run(interrupt())
    assert complaints == []


def test_the_address_of_a_scheduler_under_tls_needs_keys() -> None:
    with pytest.raises(MissingKeysError, match=r"session\.cluster\.security"):
        ScalableClient("tls://127.0.0.1:1")


def test_keys_may_come_from_the_configuration() -> None:
    credentials = make_credentials()
    configured = {
        "distributed.comm.tls.ca-file": credentials.cert,
        "distributed.comm.tls.client.cert": credentials.cert,
        "distributed.comm.tls.client.key": credentials.key,
    }
    with (
        LocalCluster(
            n_workers=0,
            protocol="tls",
            security=credentials.security(),
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        dask.config.set(configured),
        ScalableClient(cluster.scheduler_address) as client,
    ):
        assert client.scheduler_info()["address"] == cluster.scheduler_address
