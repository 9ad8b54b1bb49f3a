"""How much work each tag has."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from distributed import Client, Event, wait
from task_functions import identity, wait_at_gate

from scalable.cluster.plugin.demand import Backlog

if TYPE_CHECKING:
    from cluster.conftest import Until
    from cluster.plugin.conftest import Rig


def test_demand_counts_what_no_worker_can_run_yet(rig: Rig, until: Until) -> None:
    futures = rig.client.map(identity, range(3), resources={"b-c": 2})
    until(lambda: rig.report().demand["b-c"].slots == 6)
    demand = rig.report().demand["b-c"]
    assert (demand.seconds, demand.unknown, demand.waiting) == (0, 6, 0)
    assert not rig.report().demand["a"].slots
    del futures
    until(lambda: not rig.report().demand["b-c"].slots)


def test_tasks_without_a_tag_count_for_the_first_group(rig: Rig, until: Until) -> None:
    future = rig.client.submit(identity, 1)
    until(lambda: rig.report().demand["a"].slots == 1)
    assert not rig.report().demand["b-c"].slots
    rig.add("a")
    assert future.result(timeout=30) == 1


def test_demand_takes_off_what_a_running_task_has_done(rig: Rig, gate: Event, until: Until) -> None:
    (name,) = rig.add("a")
    rig.client.submit(time.sleep, 0.5, key="gcam-0", resources={"a": 1}).result(timeout=30)
    running = rig.client.submit(wait_at_gate, key="gcam-1", resources={"a": 1})
    waiting = rig.client.submit(wait_at_gate, key="gcam-2", resources={"a": 1})
    until(lambda: rig.report().demand["a"].slots == 2)
    # The heartbeat says how long it has run; then only the other one's seconds are left.
    until(lambda: rig.report().demand["a"].seconds == pytest.approx(0.5, rel=0.3))
    assert not rig.report().demand["a"].unknown
    assert rig.report().workers[name].tasks == 2
    gate.set()
    rig.client.gather([running, waiting])


def test_tasks_that_wait_for_others_are_counted_apart(rig: Rig, until: Until) -> None:
    first = rig.client.submit(identity, 1, key="first", resources={"a": 1})
    then = rig.client.submit(identity, first, resources={"b-c": 1})
    last = rig.client.submit(identity, then)
    until(lambda: {tag: d.waiting for tag, d in rig.report().demand.items()} == {"a": 1, "b-c": 1})
    assert {tag: d.slots for tag, d in rig.report().demand.items()} == {"a": 1, "b-c": 0}
    rig.add("a")
    until(lambda: rig.report().demand["b-c"].slots == 1)
    assert {tag: d.waiting for tag, d in rig.report().demand.items()} == {"a": 1, "b-c": 0}
    rig.add("b-c")
    assert last.result(timeout=30) == 1
    until(lambda: not any(d.slots or d.waiting for d in rig.report().demand.values()))


def test_demand_is_exact_after_all_that_can_happen_to_tasks(rig: Rig, until: Until) -> None:
    def fail() -> None:
        raise ValueError

    plugin = rig.scheduler.plugins["scalable-groups"]
    first = rig.add("a", "b-c")
    futures = [
        *rig.client.map(identity, range(20), resources={"a": 1}),
        *rig.client.map(identity, range(20, 40), resources={"b-c": 0.1}),
        rig.client.submit(fail, retries=2, resources={"a": 1}),
        rig.client.submit(fail),
        *rig.client.map(identity, range(40, 50)),
    ]
    rig.add("a", "b-c")
    for name in first:
        rig.close(name)
    futures += rig.client.map(identity, futures[:5], resources={"b-c": 2})
    rig.client.cancel(futures[5:10])
    del futures[5:10]
    wait(futures, timeout=30)
    futures += rig.client.map(identity, range(50, 55), resources={"a": 9})
    futures += rig.client.map(identity, futures[-5:], resources={"b-c": 1})
    until(lambda: rig.report().demand["b-c"].waiting == 5)
    # A plugin that starts now learns by counting what this one has learned from changes.
    recounted = Backlog()
    for ts in rig.scheduler.tasks.values():
        if ts.state in Backlog.STATES:
            recounted.add(ts)
    assert sorted(recounted.tasks.values()) == [5, 5]
    assert plugin.backlog.tasks == recounted.tasks
    futures.clear()
    until(lambda: not rig.scheduler.tasks)
    assert not plugin.backlog.tasks
    assert not plugin.backlog._counted


def test_tasks_from_before_are_counted(host: Any, rig_type: type[Rig], until: Until) -> None:
    with Client(host) as client:
        future = client.submit(identity, 1, resources={"b-c": 2})
        until(lambda: host.scheduler.tasks)
        rig = rig_type(host, None, client)
        assert rig.report().demand["b-c"].slots == 2
        del future


def test_tasks_that_run_show_how_long_others_of_their_kind_take(
    rig: Rig, gate: Event, until: Until
) -> None:
    rig.add("a")
    tasks = [
        rig.client.submit(wait_at_gate, n, key=f"gcam-{n}", resources={"a": 1}) for n in range(3)
    ]
    others = rig.client.map(identity, range(2), resources={"a": 1})
    # Three tasks, of which one has run for half a second.
    until(lambda: rig.report().demand["a"].proven >= 3 * 0.5)
    demand = rig.report().demand["a"]
    assert (demand.slots, demand.unknown, demand.seconds) == (5, 5, 0)
    gate.set()
    rig.client.gather([*tasks, *others])
    until(lambda: not rig.report().demand["a"].proven)
