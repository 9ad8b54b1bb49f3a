"""`GroupedCluster` from every kind of thread, with Dask's clients, and when it is closed."""

from __future__ import annotations

import asyncio
import html
import logging
import operator
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from distributed import Client, Event, LocalCluster, get_client
from distributed.client import FutureCancelledError
from distributed.core import Status

from scalable.client import ScalableClient
from scalable.cluster import GroupedCluster, Pace
from scalable.cluster.dashboard import link_that_opens
from scalable.cluster.port import Explanation, GroupSpec, Leftover, Reason, Unit
from scalable.errors import (
    AmbiguousScaleError,
    ClusterClosedError,
    GroupFailedError,
    GroupTimeoutError,
    LeftoverError,
    UnknownTagError,
    UnknownWorkerError,
)
from scalable.testing.state import global_state

Start = Callable[..., GroupedCluster]
Until = Callable[..., None]


def alive(cluster: GroupedCluster) -> dict[str, int]:
    return {tag: group.running for tag, group in cluster.groups.items()}


def asyncio_loop(cluster: GroupedCluster | LocalCluster) -> asyncio.AbstractEventLoop:
    loop: Any = cluster.loop
    assert isinstance(loop.asyncio_loop, asyncio.AbstractEventLoop)
    return loop.asyncio_loop


# -- From which thread


def test_many_threads_at_once(start: Start) -> None:
    tags = [f"g{i}" for i in range(6)]
    cluster = start(*tags)

    def scale_and_wait(tag: str) -> int:
        cluster.scale_groups({tag: 1})
        cluster.wait_for_group(tag, timeout=30)
        return cluster.groups[tag].running

    with ThreadPoolExecutor(len(tags)) as threads:
        assert [*threads.map(scale_and_wait, tags)] == [1] * len(tags)


def test_coroutines_of_another_loop(start: Start) -> None:
    cluster = start("a", "b")

    async def use() -> None:
        await cluster.scale_groups_async({"a": 1})
        await cluster.adapt_groups_async({"b": (1, 2)})
        await asyncio.gather(*(cluster.wait_for_group_async(tag, timeout=30) for tag in "ab"))
        assert await cluster.explain_async() == {}
        assert (await cluster.logs_async()).keys() == {"a-1", "b-2"}
        with pytest.raises(ValueError, match="max_workers, which is 1"):
            await cluster.set_max_workers_async(1)
        with pytest.raises(UnknownTagError):
            await cluster.scale_groups_async({"c": 1})
        await cluster.close_async()
        with pytest.raises(ClusterClosedError):
            await cluster.scale_groups_async({"a": 1})

    asyncio.run(use())
    assert cluster.status is Status.closed


def test_coroutines_of_its_own_loop(start: Start) -> None:
    cluster = start("a")

    async def use() -> None:
        await cluster.scale_groups_async({"a": 1})
        await cluster.wait_for_group_async("a", timeout=30)
        calls: list[Callable[[], object]] = [
            lambda: cluster.scale_groups({"a": 2}),
            lambda: cluster.wait_for_group("a"),
            cluster.explain,
        ]
        for call in calls:
            with pytest.raises(RuntimeError, match=r"await the …_async twin"):
                call()
        await cluster.close_async()

    asyncio.run_coroutine_threadsafe(use(), asyncio_loop(cluster)).result(30)
    assert cluster.status is Status.closed


def test_a_cancelled_wait_ends_what_was_waited_for(start: Start) -> None:
    cluster = start("a")
    cluster.adapt_groups({"a": (0, 1)})

    async def give_up() -> None:
        waiting = asyncio.ensure_future(cluster.wait_for_group_async("a"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(give_up())
    cluster.scale_groups({"a": 1})
    cluster.wait_for_group("a", timeout=30)


def test_ctrl_c_ends_a_wait_and_nothing_else(start: Start) -> None:
    cluster = start("a")
    cluster.adapt_groups({"a": (0, 1)})
    interrupt = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        cluster.wait_for_group("a")
    interrupt.join()
    cluster.scale_groups({"a": 1})
    cluster.wait_for_group("a", timeout=30)
    with Client(cluster) as client:
        assert client.submit(abs, -1, resources={"a": 1}).result(timeout=30) == 1


# -- What it says


def test_scaling_without_a_group_is_refused_with_the_right_call(start: Start) -> None:
    cluster = start("gcam", "stitches")
    for call, instead in (
        (cluster.scale, "scale_groups({'gcam': 2})"),
        (cluster.adapt, "adapt_groups({'gcam': (0, 4)})"),
    ):
        with pytest.raises(AmbiguousScaleError) as caught:
            call(4)
        assert str(caught.value).endswith(f"use {instead}")


def test_it_says_why_workers_are_missing(start: Start) -> None:
    cluster = start("a", max_workers=1)
    cluster.adapt_groups({"a": (0, 1)})
    with pytest.raises(GroupTimeoutError, match=r"'a' has 0 of 1 workers after 0\.1 s"):
        cluster.wait_for_group("a", timeout=0.1)
    with pytest.raises(ValueError, match="'a' is to have 1 workers"):
        cluster.wait_for_group("a", 2)
    assert repr(cluster) == f"<GroupedCluster {cluster.name!r} running: a 0/0>"
    assert cluster.max_workers == 1


def test_a_notebook_shows_a_client_with_its_cluster(start: Start) -> None:
    cluster = start("a")
    with Client(cluster) as client:
        assert cluster._repr_html_() in client._repr_html_()


def test_a_tag_is_known_as_soon_as_its_group_is_added(start: Start) -> None:
    cluster = start("a")
    with ScalableClient(cluster) as client:
        for tag in map("b{}".format, range(20)):
            cluster.add_group(GroupSpec(tag))
            assert client.submit(abs, -1, tag=tag).status == "pending"


def test_a_group_can_be_added(start: Start) -> None:
    cluster = start("a")
    with ScalableClient(cluster) as client:
        cluster.add_group(GroupSpec("b", slots=2))
        cluster.scale_groups({"b": 1})
        cluster.wait_for_group("b", timeout=30)
        assert client.submit(abs, -2, tag="b", n=2).result(timeout=30) == 2
    with pytest.raises(ValueError, match="'b' already"):
        cluster.add_group(GroupSpec("b"))


# -- Clients


@pytest.mark.parametrize("kind", [Client, ScalableClient])
def test_clients_take_it_for_a_cluster(start: Start, kind: type[Client]) -> None:
    cluster = start("a")
    cluster.scale_groups({"a": 1})
    with kind(cluster) as client:
        assert client.cluster is cluster
        assert client.submit(abs, -1).result(timeout=30) == 1
        assert client.scheduler_info()["address"] == cluster.scheduler_address
        assert client.dashboard_link == cluster.dashboard_link


def test_an_asynchronous_client(start: Start) -> None:
    cluster = start("a")

    async def use() -> int:
        await cluster.scale_groups_async({"a": 1})
        async with ScalableClient(cluster.scheduler_address, asynchronous=True) as client:
            result: int = await client.submit(abs, -1, tag="a")
            return result

    assert asyncio.run(use()) == 1


def test_a_client_can_shut_it_down(start: Start, threads: Any) -> None:
    cluster = start("a")
    cluster.scale_groups({"a": 1})
    cluster.wait_for_group("a", timeout=30)
    client = Client(cluster)
    client.shutdown()
    assert cluster.status is Status.closed
    assert not threads.leftovers()
    with pytest.raises(ClusterClosedError, match="build a new one"):
        cluster.scale_groups({"a": 1})


def test_a_wait_for_a_result_ends_when_it_is_closed(start: Start) -> None:
    cluster = start("a")
    client = Client(cluster)
    never = client.submit(abs, -1, resources={"a": 1})
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(never.result, timeout=60)
        cluster.close()
        with pytest.raises(FutureCancelledError):
            waiting.result(timeout=30)
    client.close()


# -- The end


def test_closing_again_and_again(start: Start) -> None:
    cluster = start("a")
    cluster.scale_groups({"a": 1})
    with ThreadPoolExecutor(4) as threads:
        for closing in [threads.submit(cluster.close) for _ in range(4)]:
            closing.result(timeout=30)
    cluster.close()
    asyncio.run(cluster.close_async())
    assert cluster.status is Status.closed
    assert repr(cluster).endswith("closed: a 0/0>")


@pytest.mark.parametrize("on_loop", [False, True])
@pytest.mark.parametrize("error", [ValueError("odd"), asyncio.CancelledError("odd")])
def test_whatever_ends_the_controllers_close_the_host_is_closed(
    start: Start, host: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException, on_loop: bool
) -> None:
    cluster = start("a")
    controller = cluster._controller
    close = controller.close

    async def closed_oddly() -> None:
        await close()
        raise error

    def close_on_loop() -> None:
        call = cluster.close_async()
        asyncio.run_coroutine_threadsafe(call, asyncio_loop(cluster)).result(30)

    monkeypatch.setattr(controller, "close", closed_oddly)
    with pytest.raises(LeftoverError, match="odd"):
        (close_on_loop if on_loop else cluster.close)()
    assert host.status is Status.closed
    assert cluster.status is Status.closed


def test_closing_names_no_scheduler_that_has_just_ended(start: Start, host: Any) -> None:
    cluster = start("a")
    cluster.scale_groups({"a": 1})
    cluster.wait_for_group("a", timeout=30)
    ending = asyncio.run_coroutine_threadsafe(host.scheduler.close(), asyncio_loop(cluster))
    ending.result(30)
    cluster.close()
    assert cluster.status is Status.closed


def test_closing_on_the_loop_and_from_a_thread_at_once(start: Start, threads: Any) -> None:
    cluster = start("a")
    cluster.scale_groups({"a": 1})
    cluster.wait_for_group("a", timeout=30)
    on_loop = asyncio.run_coroutine_threadsafe(cluster.close_async(), asyncio_loop(cluster))
    cluster.close()
    on_loop.cancel()
    assert not threads.leftovers()


def test_ctrl_c_while_it_closes_leaves_the_rest_to_the_next_close(
    start: Start, threads: Any
) -> None:
    cluster = start("a")
    cluster.scale_groups({"a": 1})
    cluster.wait_for_group("a", timeout=30)
    sweep, interrupted = threads.sweep, threading.Event()

    async def sweep_slowly() -> list[Leftover]:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.to_thread(interrupted.wait, 30)
        leftovers: list[Leftover] = await sweep()
        return leftovers

    threads.sweep = sweep_slowly
    with pytest.raises(KeyboardInterrupt):
        cluster.close()
    assert "closing" in repr(cluster)
    interrupted.set()
    cluster.close()
    assert cluster.status is Status.closed
    assert not threads.leftovers()


def test_waits_end_in_an_error_when_it_is_closed(start: Start, threads: Any, until: Until) -> None:
    cluster = start("a", "b")
    asked = threading.Event()

    async def never_answer(unit: Unit) -> Explanation:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    threads.describe = never_answer
    cluster.adapt_groups({"a": (1, 1), "b": (0, 1)})
    cluster.wait_for_group("a", timeout=30)
    with ThreadPoolExecutor(3) as pool:
        waits: list[Future[Any]] = [
            pool.submit(cluster.logs),
            pool.submit(lambda: asyncio.run(cluster.logs_async())),
            pool.submit(cluster.wait_for_group, "b", timeout=60),
        ]
        assert asked.wait(30)
        cluster.close()
        for wait in waits:
            with pytest.raises(ClusterClosedError, match=cluster.name):
                wait.result(timeout=30)


def test_an_unresponsive_worker_does_not_block_close(
    start_processes: Start, processes: Any
) -> None:
    cluster = start_processes("a")
    cluster.scale_groups({"a": 1})
    cluster.wait_for_group("a", timeout=60)
    client = Client(cluster)
    busy = client.submit(time.sleep, 3600, resources={"a": 1})
    (pid,) = processes.running().values()
    # It hears no SIGTERM, and answers nobody.
    os.kill(pid, signal.SIGSTOP)
    cluster.close()
    assert not processes.running()
    assert busy.cancelled()
    client.close()


def test_what_cannot_be_removed_is_named_and_nothing_else_is_kept(
    start: Start, host: LocalCluster, threads: Any
) -> None:
    ends: list[str] = []

    def fail() -> None:
        ends.append("failed")
        raise OSError("disk on fire")

    cluster = start("a", on_closed=[fail, lambda: ends.append("went on")])
    sweep = threads.sweep

    async def sweep_almost_all() -> list[Leftover]:
        await sweep()
        return [Leftover("pod", "gcam-7", "forbidden")]

    threads.sweep = sweep_almost_all
    with pytest.raises(LeftoverError) as caught:
        cluster.close()
    assert str(caught.value) == (
        f"cluster {cluster.name!r} left behind: pod gcam-7 (forbidden); "
        f"step of closing {cluster.name} (disk on fire)"
    )
    assert (cluster.status, host.status) == (Status.closed, Status.closed)
    assert ends == ["failed", "went on"]
    cluster.close()


def test_a_build_that_fails_leaves_nothing(threads: Any) -> None:
    with dask.config.set({"distributed.scheduler.blocked-handlers": ["register_scheduler_plugin"]}):
        host = LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0")
    with pytest.raises(ValueError, match="'register_scheduler_plugin' handler has been"):
        GroupedCluster(host, threads, [GroupSpec("a")])
    assert host.status is Status.closed


def _fails() -> Iterator[Any]:
    yield GroupSpec("a")
    raise OSError("disk on fire")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": _fails()}, "disk on fire"),
        ({"groups": [GroupSpec("a"), GroupSpec("a")]}, "the same tag"),
        ({"groups": ["a"]}, "no attribute 'tag'"),
        ({"max_workers": -1}, "must not be negative"),
        ({"pace": 3}, "no attribute"),
        ({"on_closed": 3}, "not iterable"),
    ],
    ids=["groups raise", "twice", "no group", "a cap below 0", "no pace", "no callables"],
)
def test_whatever_is_wrong_with_what_it_is_given_it_closes_the_host(
    host: LocalCluster, threads: Any, arguments: dict[str, Any], message: str
) -> None:
    ends: list[str] = []
    usual = {"groups": [GroupSpec("a")], "on_closed": [lambda: ends.append("called")]}
    with pytest.raises((OSError, ValueError, AttributeError, TypeError), match=message):
        GroupedCluster(host, threads, **{**usual, **arguments})
    assert host.status is Status.closed
    assert ends == (["called"] if arguments.get("on_closed") is None else [])


def test_an_error_of_a_build_names_what_closing_after_it_leaves(threads: Any) -> None:
    async def sweep() -> list[Leftover]:
        return [Leftover("pod", "gcam-7", "forbidden")]

    threads.sweep = sweep
    with dask.config.set({"distributed.scheduler.blocked-handlers": ["register_scheduler_plugin"]}):
        host = LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0")
    with pytest.raises(ValueError, match="'register_scheduler_plugin'") as caught:
        GroupedCluster(host, threads, [GroupSpec("a")], name="here")
    assert caught.value.__notes__ == ["cluster 'here' left behind: pod gcam-7 (forbidden)"]


def test_it_cannot_be_built_on_the_loop_that_it_would_wait_for(
    host: LocalCluster, threads: Any, until: Until
) -> None:
    async def build() -> None:
        GroupedCluster(host, threads, [GroupSpec("a")])

    with pytest.raises(RuntimeError, match="from another thread"):
        asyncio.run_coroutine_threadsafe(build(), asyncio_loop(host)).result(30)
    # It was handed over, so it is closed.
    until(lambda: host.status is Status.closed)


# -- What it leaves alone


def test_nothing_that_belongs_to_the_process_is_touched(host: LocalCluster, threads: Any) -> None:
    # Dask's own part, which imports and registers this and that, comes first.
    with Client(host, set_as_default=False) as client:
        client.submit(abs, -1)
        before = global_state()
        with GroupedCluster(host, threads, [GroupSpec("a")]) as cluster:
            cluster.adapt_groups({"a": (0, 1)})
            assert client.submit(abs, -2, resources={"a": 1}).result(timeout=30) == 2
            assert global_state() == before
        assert global_state() == before


SCRIPT = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import Processes
from distributed import LocalCluster
from scalable.client import ScalableClient
from scalable.cluster import GroupedCluster, Pace
from scalable.cluster.port import GroupSpec

def build():
    host = LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0")
    workers = Processes(host.scheduler_address, Path(sys.argv[2]))
    cluster = GroupedCluster(host, workers, [GroupSpec("a"), GroupSpec("b")])
    cluster.scale_groups({"a": 1, "b": 1})
    client = ScalableClient(cluster)
    held = client.map(abs, range(5), tag="a")
    assert client.gather(held) == [*range(5)]
    busy = client.submit(time.sleep, 3600, tag="b")
    while not any(client.processing().values()):
        time.sleep(0.01)
    print(*workers.running().values(), flush=True)
    return cluster, client, held, busy
"""


@pytest.mark.parametrize(
    ("ending", "status", "error"),
    [
        ("held = build(); held[0].close()", 0, ""),
        ("held = build(); held[0].close(); held[1].close()", 0, ""),
        ("held = build(); held[1].shutdown()", 0, ""),
        ("with build()[0]: pass", 0, ""),
        # Nobody closes it, nor even keeps it.
        ("held = build()", 0, ""),
        ("build()", 0, ""),
        ("held = build(); sys.exit(3)", 3, ""),
        ("held = build(); raise SystemExit('stopped')", 1, "stopped\n"),
        (
            "held = build(); os.kill(os.getpid(), signal.SIGINT)",
            -signal.SIGINT,
            "KeyboardInterrupt\n",
        ),
    ],
)
def test_however_a_program_ends_it_leaves_no_process_and_no_noise(
    tmp_path: Path, ending: str, status: int, error: str
) -> None:
    (tmp_path / "program.py").write_text(SCRIPT + ending)
    ended = subprocess.run(
        [sys.executable, tmp_path / "program.py", Path(__file__).parent, tmp_path],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if status == -signal.SIGINT:  # the user's own traceback
        ended.stderr = ended.stderr[ended.stderr.rindex("\n", 0, -1) + 1 :]
    assert (ended.returncode, ended.stderr) == (status, error)
    pids = [int(pid) for pid in ended.stdout.split()]
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


# -- Work for which no worker is wanted


def test_work_for_a_group_of_no_workers_is_explained_and_warned_of_once(
    start: Start, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = start("gcam", "fair", pace=Pace(tick=0.02, poll=0.05, unwanted_after=0.1))
    cluster.scale_groups({"fair": 1})
    with ScalableClient(cluster) as client, caplog.at_level(logging.WARNING, "scalable.cluster"):
        future = client.submit(abs, -1, tag="gcam")
        until(lambda: "gcam" in cluster.explain())
        why = cluster.explain()["gcam"]
        assert why.summary == "1 slot of work waits, and 0 workers are wanted"
        assert "session.scale({'gcam': 1})" in why.remedy
        assert client.explain(future) == (
            "no worker with the tag gcam takes tasks now: 1 slot of work waits, and 0 workers are wanted"
        )
        until(lambda: any("0 workers are wanted" in event.text for event in cluster.events))
        another = client.submit(abs, -2, tag="gcam")
        until(lambda: "2 slots" in cluster.groups["gcam"].detail)
        cluster.scale_groups({"gcam": 1})
        assert client.gather([future, another]) == [1, 2]
        until(lambda: not cluster.explain())
    warned = [r for r in caplog.records if "0 workers are wanted" in r.getMessage()]
    assert len(warned) == 1


# -- Tasks that wait for their own group


reason_of = operator.attrgetter("reason")


def wait_for_another(_: Any) -> int:
    return int(get_client().submit(abs, -1, key="another", resources={"gcam": 1}).result())


def test_a_group_whose_task_waits_for_its_own_slot_is_explained_and_warned_of_once(
    start: Start, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = start("gcam", "fair", pace=Pace(tick=0.02, poll=0.05, unwanted_after=0.1))
    cluster.scale_groups({"gcam": 1, "fair": 1})
    with ScalableClient(cluster) as client, caplog.at_level(logging.WARNING, "scalable.cluster"):
        future = client.submit(wait_for_another, 1, tag="gcam", key="parent")
        until(lambda: [*map(reason_of, cluster.explain().values())] == [Reason.BLOCKED])
        why = cluster.explain()["gcam"]
        assert why.summary.startswith("parent keeps its slot on gcam-1, and another")
        assert "distributed.secede()" in why.remedy
        assert cluster.groups["gcam"].running == 1
        until(lambda: any("keeps its slot" in event.text for event in cluster.events))
        cluster.scale_groups({"gcam": 2})
        assert future.result(timeout=60) == 1
        until(lambda: not cluster.explain())
    warned = [r for r in caplog.records if "keeps its slot" in r.getMessage()]
    assert len(warned) == 1


# -- The names of Dask's clusters


def test_a_client_of_the_cluster_takes_tags_and_is_made_once(start: Start) -> None:
    cluster = start("a")
    cluster.scale_groups({"a": 1})
    with cluster.get_client() as client:
        assert isinstance(client, ScalableClient)
        assert cluster.get_client() is client
        assert client.submit(abs, -1, tag="a").result(timeout=30) == 1


def test_workers_of_all_groups_are_waited_for(start: Start) -> None:
    cluster = start("a", "b")
    cluster.scale_groups({"a": 1, "b": 1})
    cluster.wait_for_workers(2, timeout=30)
    assert sum(alive(cluster).values()) == 2
    workers = cluster.scheduler_info["workers"].values()
    assert {worker["name"] for worker in workers} == {
        name for group in cluster.groups.values() for name in group.workers
    }
    cluster.wait_for_workers(2, timeout="30 s")
    late = r"3 workers are not there after 0\.2 s; no group is to have more: scale one"
    with pytest.raises(TimeoutError, match=late):
        cluster.wait_for_workers(3, timeout=0.2)
    with pytest.raises(TimeoutError, match=late):
        cluster.wait_for_workers(3, timeout="200 ms")
    with pytest.raises(ValueError, match="positive"):
        cluster.wait_for_workers(0)


def test_counts_and_ranges_are_given_by_tag(start: Start) -> None:
    cluster = start("a")
    scale: Any = cluster.scale_groups
    adapt: Any = cluster.adapt_groups
    for method in (scale, adapt):
        for given in (3, "a", [1], None):
            with pytest.raises(TypeError, match="does not say which worker group; give"):
                method(given)
    for bounds in (3, None, (1,), "24", {"minimum": 0, "maximum": 2}):
        with pytest.raises(TypeError, match="worker group 'a' cannot"):
            adapt({"a": bounds})
    adapt({"a": [0, 1]})


def test_a_coroutine_function_is_run_as_by_clusters_of_dask(start: Start) -> None:
    cluster = start("a")

    async def wait(seconds: float, answer: int) -> int:
        await asyncio.sleep(seconds)
        return answer

    assert cluster.sync(wait, 0, answer=5, callback_timeout="30 s") == 5
    with pytest.raises(TimeoutError):
        cluster.sync(wait, 60, answer=5, callback_timeout=0.1)
    assert asyncio.run(cluster.sync(wait, 0, answer=6, asynchronous=True)) == 6


def test_who_waits_for_workers_is_told_that_a_group_has_failed(start: Start, threads: Any) -> None:
    threads.refused.add("b")
    cluster = start("a", "b")
    cluster.scale_groups({"a": 1, "b": 1})
    cluster.wait_for_workers(1)
    with pytest.raises(GroupFailedError, match="no machine for b"):
        cluster.wait_for_workers(2)


def test_who_waits_for_workers_is_told_that_the_cluster_is_closed(start: Start) -> None:
    cluster = start("a")
    with ThreadPoolExecutor() as thread:
        waiting = thread.submit(cluster.wait_for_workers, 1)
        cluster.close()
        with pytest.raises(ClusterClosedError):
            waiting.result(60)


def test_data_is_scattered_once_an_adaptive_group_has_a_worker(start: Start) -> None:
    cluster = start("a")
    with ScalableClient(cluster, set_as_default=False) as client:
        with pytest.raises(TimeoutError, match="No valid workers"):  # and none is to come
            client.scatter([1], timeout=0.1)
        cluster.adapt_groups({"a": (0, 1)})
        assert client.gather(client.scatter([1, 2], timeout="60 s")) == [1, 2]


def test_who_scatters_is_told_that_no_worker_can_start(start: Start, threads: Any) -> None:
    threads.refused.add("a")
    cluster = start("a")
    cluster.adapt_groups({"a": (0, 1)})
    with (
        ScalableClient(cluster, set_as_default=False) as client,
        pytest.raises(GroupFailedError, match="no machine for a"),
    ):
        client.scatter([1])


def test_who_waits_for_an_event_is_told_that_the_cluster_is_closed(start: Start) -> None:
    cluster = start("a")
    with ScalableClient(cluster, set_as_default=False) as client, ThreadPoolExecutor() as thread:
        waiting = thread.submit(Event("never", client=client).wait)
        cluster.close()
        with pytest.raises(ClusterClosedError):
            waiting.result(60)


def test_an_asynchronous_client_waits_for_workers(start: Start) -> None:
    cluster = start("a")
    cluster.scale_groups({"a": 1})

    async def wait() -> int:
        async with ScalableClient(cluster, asynchronous=True, set_as_default=False) as client:
            await client.wait_for_workers(1, timeout=60)
            return len(await client.nthreads())

    assert asyncio.run_coroutine_threadsafe(wait(), asyncio_loop(cluster)).result(60) == 1


def test_logs_are_named_as_those_of_dask(start: Start) -> None:
    cluster = start("a")
    cluster.scale_groups({"a": 1})
    cluster.wait_for_workers(1, timeout=30)
    logs = cluster.get_logs()
    assert {"Cluster", "Scheduler"} | cluster.logs().keys() == logs.keys()
    assert "a: " in logs["Cluster"]
    assert "Scheduler at:" in logs["Scheduler"]
    assert [*cluster.get_logs(cluster=False, workers=False)] == ["Scheduler"]
    only = {"cluster": False, "scheduler": False}
    cluster.scale_groups({"a": 2})
    cluster.wait_for_workers(2, timeout=30)
    for address, facts in cluster.scheduler_info["workers"].items():
        for name in (address, facts["name"]):
            assert [*cluster.get_logs(**only, workers=[name])] == [facts["name"]]
            assert [*cluster.get_logs(**only, workers=name)] == [facts["name"]]
    with pytest.raises(UnknownWorkerError, match="'typo'"):
        cluster.get_logs(**only, workers=["typo"])


def test_names_of_workers_as_in_clusters_of_dask(start: Start, until: Until) -> None:
    cluster = start("a")
    assert cluster.plan == cluster.requested == cluster.observed == set()
    cluster.scale_groups({"a": 2})
    cluster.wait_for_workers(2, timeout=30)
    both = {*cluster.groups["a"].workers}
    assert cluster.plan == cluster.requested == cluster.observed == both
    assert not cluster.called_from_running_loop
    cluster.scale_groups({"a": 1})
    until(lambda: len(cluster.plan) == 1)
    assert cluster.plan < both


def test_a_tag_is_no_name_of_a_worker(start: Start) -> None:
    cluster = start("a")
    cluster.scale_groups({"a": 1})
    cluster.wait_for_workers(1, timeout=30)
    with ScalableClient(cluster) as client:
        for workers in ("a", ["a"]):
            with pytest.raises(UnknownWorkerError, match=r"'a'; for a group, give tag='a'"):
                client.submit(abs, -1, workers=workers)
        with pytest.raises(UnknownWorkerError, match="'typo'; leave out workers"):
            client.submit(abs, -1, workers="typo")


def test_names_that_only_some_clusters_of_dask_have(start: Start) -> None:
    cluster: Any = start("a")
    with pytest.raises(AttributeError, match=r"no attribute 'scale_up'; use scale_groups"):
        cluster.scale_up(2)
    with pytest.raises(AttributeError, match=r"'workers'; use scheduler_info\['workers'\]"):
        len(cluster.workers)
    assert not hasattr(cluster, "new_spec")
    with pytest.raises(AttributeError, match=r"no attribute 'typo'$"):
        _ = cluster.typo


def test_a_coroutine_function_is_run_on_the_clusters_loop(start: Start) -> None:
    cluster = start("a")

    async def which() -> tuple[bool, bool]:
        nested = await cluster.sync(asyncio.sleep, 0, True)
        return cluster.asynchronous, nested

    assert not cluster.asynchronous
    assert cluster.sync(which) == (True, True)


def test_a_block_of_a_coroutine_closes_the_cluster(start: Start) -> None:
    cluster = start("a")

    async def use() -> None:
        async with cluster as same:
            assert same is cluster
            await cluster.scale_groups_async({"a": 1})
            await cluster.wait_for_group_async("a", timeout=30)

    asyncio.run(use())
    assert cluster.status is Status.closed


def test_a_notebook_shows_groups_and_addresses_escaped(start: Start) -> None:
    cluster = start("a", name="<b>me</b>")
    cluster.scale_groups({"a": 1})
    cluster.wait_for_workers(1, timeout=30)
    shown = cluster._repr_html_()
    assert "&lt;b&gt;me&lt;/b&gt;" in shown
    assert "<b>" not in shown
    assert cluster.scheduler_address in shown
    assert "<td>a</td><td>1 of 1</td>" in shown
    assert html.escape(cluster.dashboard_link or cluster.dashboard_problem) in shown


def test_the_link_to_the_dashboard_is_one_that_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        elsewhere = f"http://127.0.0.2:{port}/status"
        assert link_that_opens(elsewhere, "tcp://127.0.0.2:1") == ""
        listening.listen()
        # As Dask names the dashboard of a scheduler that listens on an interface of its own.
        here = f"http://127.0.0.1:{port}/status"
        assert link_that_opens(elsewhere, "tcp://127.0.0.2:1") == here
        assert link_that_opens(here, "inproc://127.0.0.1/1/2") == here
    proxied = "https://hub.example/user/me/proxy/8787/status"
    assert link_that_opens(proxied, "tcp://127.0.0.1:1") == proxied


def test_without_bokeh_there_is_no_link_and_the_reason_is_said(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = start("a")
    monkeypatch.setattr("scalable.cluster.dask_names.has_dashboard", lambda: False)
    assert cluster.dashboard_link == ""
    assert "scalable-core[dashboard]" in cluster.dashboard_problem
    assert html.escape(cluster.dashboard_problem) in cluster._repr_html_()
