"""Workers that are killed, and groups that fail, on real schedulers with real processes."""

from __future__ import annotations

import importlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import dask
import pytest
from distributed import KilledWorker, as_completed, get_client, secede

from scalable.client import ScalableClient
from scalable.cluster import GroupedCluster, RetryPolicy
from scalable.cluster.port import GroupSpec
from scalable.errors import ActorLostError, GroupFailedError, WorkerDiedError

Start = Callable[..., GroupedCluster]
Until = Callable[..., None]

STUBBORN = RetryPolicy(max_start_failures=1000, max_early_losses=1000, delay=0.05, max_delay=0.2)
"""For workers that are killed early, again and again."""


def test_two_thousand_tasks_survive_thirty_kills(
    start_processes: Start, processes: Any, until: Until
) -> None:
    dice = Random(20_26)
    wanted = {"a": 2, "b": 1}
    cluster = start_processes("a", GroupSpec("b", slots=2), retry=STUBBORN)
    cluster.scale_groups(wanted)

    def square(x: int) -> int:
        time.sleep(0.005)
        return x * x

    with ScalableClient(cluster) as client:
        results, kills = [], 0
        futures = as_completed(
            client.map(square, range(1000), tag="a")
            + client.map(square, range(1000, 2000), tag="b")
        )
        for future in futures:
            results.append(future.result(timeout=60))
            if len(results) >= 60 * (kills + 1):
                until(processes.running)
                processes.kill(dice.choice([*processes.running()]))
                kills += 1
        assert kills >= 30
        assert sorted(results) == [x * x for x in range(2000)]
    until(lambda: {tag: group.running for tag, group in cluster.groups.items()} == wanted)
    assert not any(group.failed or group.draining for group in cluster.groups.values())
    until(lambda: len(processes.running()) == 3)


def test_a_task_that_kills_its_worker_each_time_ends_in_the_reason_and_its_group_lives(
    start_processes: Start, until: Until
) -> None:
    cluster = start_processes("a")
    cluster.scale_groups({"a": 1})
    with ScalableClient(cluster) as client:
        killer = client.submit(os._exit, 7, tag="a", priority=1)
        waiting = client.map(abs, range(10), tag="a")
        with pytest.raises(WorkerDiedError, match="status 7") as caught:
            killer.result(timeout=120)
        assert isinstance(caught.value, KilledWorker)
        assert caught.value.workers == ("a-1", "a-2", "a-3", "a-4")
        assert client.gather(waiting) == [*range(10)]
    until(lambda: cluster.groups["a"].running == 1)
    assert not cluster.groups["a"].failed


@pytest.mark.parametrize("where", ["directly", "through the scheduler", "in a task"])
@pytest.mark.parametrize("what", ["method", "attribute"])
def test_what_ends_the_worker_of_an_actor_ends_in_the_reason(
    start_processes: Start, until: Until, where: str, what: str
) -> None:
    class Fragile:
        def method(self) -> None:
            os._exit(7)

        @property
        def attribute(self) -> None:
            os._exit(7)

    def use(actor: Any) -> Any:
        return actor.attribute if what == "attribute" else actor.method().result(timeout=60)

    cluster = start_processes("a", "b")
    cluster.scale_groups({"a": 1, "b": 1})
    with ScalableClient(cluster, direct_to_workers=where == "directly") as client:
        future = client.submit(Fragile, tag="a", actor=True)
        actor = future.result(timeout=60)
        with pytest.raises(ActorLostError, match="status 7") as caught:
            client.submit(use, future, tag="b").result(60) if where == "in a task" else use(actor)
        assert (caught.value.actor, caught.value.worker) == (future.key, "a-1")
        with pytest.raises(ActorLostError, match="status 7"):
            future.result(timeout=60)
        until(lambda: cluster.groups["a"].running == 1)
        assert client.submit(Fragile, tag="a", actor=True).result(timeout=60)
    assert not cluster.groups["a"].failed


def test_bad_calls_among_good_ones_on_workers_with_slots_are_told_apart(
    start_processes: Start, until: Until
) -> None:
    """Each death has up to three suspects, tagged or not, that crash at once or after a while."""

    def call(i: int) -> int:
        if i % 7 == 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(0.05 * (i % 3))
        if i % 7 == 5:
            os.abort()
        return i

    cluster = start_processes(GroupSpec("a", slots=3), retry=STUBBORN)
    cluster.scale_groups({"a": 2})
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        ScalableClient(cluster) as client,
    ):
        futures = [client.submit(call, i, tag="a" if i % 2 else None) for i in range(21)]
        for i, future in enumerate(futures):
            if i % 7 in (3, 5):
                with pytest.raises(WorkerDiedError, match=r"status -(6|11)") as caught:
                    future.result(timeout=240)
                assert f"status -{11 if i % 7 == 3 else 6}" in str(caught.value)
            else:
                assert future.result(timeout=240) == i
    assert not cluster.groups["a"].failed


def test_a_task_that_submits_others_survives_those_that_kill_its_worker(
    start_processes: Start, until: Until
) -> None:
    def parent() -> str:
        client = get_client()
        child = client.submit(os._exit, 7, key="child")
        secede()
        try:
            child.result()
        except KilledWorker as error:
            return type(error).__name__
        return "nothing"

    cluster = start_processes("a", "b")
    cluster.scale_groups({"a": 1, "b": 1})
    with ScalableClient(cluster) as client:
        future = client.submit(parent, tag="b")
        until(lambda: future.done(), 120)
        # On the same worker, the child dies with its parent each time, and is begun anew.
        if future.status == "error":
            assert isinstance(future.exception(), WorkerDiedError)
        else:
            assert future.result() == "KilledWorkerError"
    assert not any(group.failed for group in cluster.groups.values())


def test_a_function_that_a_worker_cannot_import_is_an_error_of_its_task_alone(
    start_processes: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "only_here.py").write_text("def work(x):\n    return x\n")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    work = importlib.import_module("only_here").work
    cluster = start_processes("a")
    cluster.scale_groups({"a": 1})
    with ScalableClient(cluster) as client:
        for future in (client.submit(work, 1, tag="a"), *client.map(work, [2, 3], tag="a")):
            with pytest.raises(ModuleNotFoundError, match="only_here"):
                future.result(timeout=60)
        assert client.submit(abs, -1, tag="a").result(timeout=30) == 1
    assert [event.text for event in cluster.events] == ["launched 1"]


def test_a_group_that_fails_fails_its_own_tasks_and_no_others(start: Start, threads: Any) -> None:
    threads.refused = {"a"}
    cluster = start("a", "b")
    cluster.scale_groups({"a": 1})
    with ScalableClient(cluster) as client:
        failing = client.map(abs, range(3), tag="a")
        dependent = client.submit(sum, failing, tag="b")
        untagged = client.submit(abs, -4)
        for future in (*failing, dependent):
            with pytest.raises(GroupFailedError, match="'a' failed: no machine for a"):
                future.result(timeout=30)
        with pytest.raises(GroupFailedError, match="'a' failed: no machine for a"):
            cluster.wait_for_group("a", timeout=30)
        assert cluster.groups["a"].failed
        cluster.scale_groups({"b": 1})
        assert untagged.result(timeout=30) == 4
        assert client.submit(abs, -5, tag="b").result(timeout=30) == 5
        # To ask for it again is to try it again.
        threads.refused = set()
        cluster.scale_groups({"a": 1})
        cluster.wait_for_group("a", timeout=30)
        assert client.submit(abs, -6, tag="a").result(timeout=30) == 6
        client.retry([*failing, dependent])
        assert dependent.result(timeout=30) == 3


def test_a_task_without_a_tag_ends_when_no_group_is_left_for_it(start: Start, threads: Any) -> None:
    threads.refused = {"a", "b"}
    cluster = start("a", "b")
    with ScalableClient(cluster) as client:
        untagged = [client.submit(abs, -1), *client.map(abs, range(-20, -10))]
        cluster.scale_groups({"a": 1})
        with pytest.raises(GroupFailedError):
            client.submit(abs, -2, tag="a").result(timeout=30)
        assert {future.status for future in untagged} == {"pending"}
        cluster.scale_groups({"b": 1})
        for future in untagged:
            with pytest.raises(GroupFailedError, match="'a' failed: no machine for a"):
                future.result(timeout=30)
        threads.refused = {"a"}
        cluster.scale_groups({"b": 1})
        client.retry(untagged)
        assert client.gather(untagged) == [1, *range(20, 10, -1)]


def test_a_task_without_a_tag_goes_to_a_group_that_has_not_failed(
    start: Start, threads: Any
) -> None:
    threads.refused = {"a"}
    cluster = start("a", "b")
    cluster.adapt_groups({"a": (0, 1), "b": (0, 1)})
    with ScalableClient(cluster) as client:
        assert client.submit(abs, -1).result(timeout=30) == 1
        assert cluster.groups["a"].failed
