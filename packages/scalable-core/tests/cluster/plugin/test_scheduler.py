"""Workers that die, and the end of all tasks."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from distributed import CancelledError, Client, Event, KilledWorker

if TYPE_CHECKING:
    from cluster.plugin.conftest import Rig

Until = Callable[..., None]


def wait_at_gate(x: Any = None) -> Any:
    Event("gate").wait()
    return x


def identity(x: Any) -> Any:
    return x


def test_tasks_that_only_waited_are_not_suspected(rig: Rig, gate: Event, until: Until) -> None:
    running = rig.client.submit(wait_at_gate, key="running", resources={"a": 1}, priority=1)
    waiting = rig.client.map(wait_at_gate, range(5), resources={"a": 1})
    deaths = rig.scheduler.allowed_failures + 1
    for _ in range(deaths):
        (name,) = rig.add("a")
        until(lambda name=name: rig.report().workers[name].tasks >= 5)
        until(lambda name=name: rig.worker(name).state.executing)
        rig.close(name)
    with pytest.raises(KilledWorker):
        running.result(timeout=30)
    gate.set()
    rig.add("a")
    assert rig.client.gather(waiting) == [*range(5)]
    assert rig.scheduler.task_prefixes["wait_at_gate"].suspicious == 0


def test_a_task_that_ran_is_suspected_whatever_is_more_urgent(
    rig: Rig, gate: Event, until: Until
) -> None:
    (name,) = rig.add("a")
    running = rig.client.submit(wait_at_gate, key="running", resources={"a": 1})
    (ws,) = rig.scheduler.workers.values()
    until(lambda: ws.executing)
    urgent = rig.client.map(wait_at_gate, range(5), resources={"a": 1}, priority=10)
    until(lambda: rig.report().workers[name].tasks == 6)
    rig.close(name)
    until(lambda: not rig.report().workers)
    assert rig.scheduler.tasks["running"].suspicious == 1
    gate.set()
    rig.add("a")
    rig.client.gather([running, *urgent])


def test_workers_that_have_left_are_reported_once(rig: Rig, until: Until) -> None:
    (name,) = rig.add("a")
    rig.close(name)
    reported: list[str] = []

    def is_reported() -> bool:
        reported.extend(rig.report().removed)
        return bool(reported)

    until(is_reported)
    assert (reported, [*rig.report().removed]) == ([name], [])


def test_cancelling_all_tells_every_client_and_leaves_no_task(rig: Rig, until: Until) -> None:
    (name,) = rig.add("b-c")
    failed = rig.client.submit(operator.truediv, 1, 0, resources={"b-c": 1})
    until(failed.done)
    rig.close(name)
    first = rig.client.submit(identity, 1, key="first", resources={"a": 1})
    between = rig.client.submit(identity, first, key="between", resources={"a": 1})
    last = rig.client.submit(identity, between, key="last", resources={"b-c": 1})
    # No client has a future of the task between them, but it is needed.
    between.release()
    with Client(rig.host) as other:
        same = other.submit(identity, 1, key="first", resources={"a": 1})
        until(lambda: {"first", "last"} <= rig.scheduler.tasks.keys())
        until(lambda: len(rig.scheduler.tasks["first"].who_wants) == 2)
        rig.run(rig.link.cancel_all("the cluster was closed"))
        for future in (first, last, same):
            with pytest.raises(CancelledError, match="the cluster was closed"):
                future.result(timeout=30)
    with pytest.raises(ZeroDivisionError):
        failed.result()
    assert not rig.scheduler.tasks
