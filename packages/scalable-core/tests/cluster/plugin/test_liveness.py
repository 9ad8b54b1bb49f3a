"""Workers that are paused or silent, and ends that are announced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from distributed import Event, Status
from task_functions import identity, wait_at_gate

from scalable.cluster.link import Stage
from scalable.cluster.plugin import liveness
from scalable.cluster.port import Explanation, Reason

if TYPE_CHECKING:
    from cluster.conftest import Until
    from cluster.plugin.conftest import Rig


def set_status(rig: Rig, name: str, status: Status) -> None:
    async def change() -> None:
        rig.worker(name).status = status

    rig.run(change())


def test_a_paused_worker_is_reported_with_what_it_runs(rig: Rig, gate: Event, until: Until) -> None:
    (name,) = rig.add("b-c")
    future = rig.client.submit(wait_at_gate, resources={"b-c": 1})
    until(lambda: rig.worker(name).state.executing)
    set_status(rig, name, Status.paused)
    until(lambda: rig.report().workers[name].executing == 1)
    info = rig.report().workers[name]
    assert (info.status, info.tasks) == ("paused", 1)
    set_status(rig, name, Status.running)
    until(lambda: rig.report().workers[name].status == "running")
    gate.set()
    future.result(timeout=30)


def test_what_waits_behind_a_paused_worker_moves(rig: Rig, gate: Event, until: Until) -> None:
    (first,) = rig.add("a")
    futures = rig.client.map(wait_at_gate, range(3), resources={"a": 1})
    until(lambda: rig.report().workers[first].tasks == 3)
    set_status(rig, first, Status.paused)
    until(lambda: rig.report().workers[first].status == "paused")
    (second,) = rig.add("a")
    until(lambda: rig.report().workers[second].tasks > 0)
    gate.set()
    # The paused one starts nothing more, so what is left there has moved as well.
    assert rig.client.gather(futures) == [0, 1, 2]


def test_a_silent_worker_gets_no_new_tasks_until_it_answers(
    rig: Rig, gate: Event, until: Until
) -> None:
    first, second = rig.add("a", "a")
    plugin = rig.scheduler.plugins["scalable-groups"]

    async def silence(name: str, silent: bool) -> None:
        heartbeat = rig.worker(name).periodic_callbacks["heartbeat"]
        heartbeat.stop() if silent else heartbeat.start()

    def has_pause(name: str) -> bool:
        ws = rig.scheduler.workers[rig.scheduler.aliases[name]]
        return ws.status is Status.paused

    rig.run(silence(first, True))

    async def age() -> None:
        address = rig.scheduler.aliases[first]
        seen, awake = plugin.liveness._heard[address]
        plugin.liveness._heard[address] = seen, awake - liveness.UNRESPONSIVE_AFTER

    until(lambda: rig.report().workers[first].silence > 1)
    rig.run(age())
    until(lambda: has_pause(first))
    info = rig.report().workers[first]
    assert info.status == liveness.UNRESPONSIVE
    assert info.silence > liveness.UNRESPONSIVE_AFTER

    futures = rig.client.map(wait_at_gate, range(3), resources={"a": 1})
    until(lambda: rig.report().workers[second].tasks == 3)
    rig.run(silence(first, False))
    until(lambda: rig.report().workers[first].status == "running")
    until(lambda: rig.report().workers[first].tasks > 0)
    gate.set()
    assert rig.client.gather(futures) == [0, 1, 2]


def test_a_scheduler_that_was_frozen_blames_no_worker(
    rig: Rig, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name,) = rig.add("a")
    plugin = rig.scheduler.plugins["scalable-groups"]
    until(lambda: plugin.liveness._heard)
    # As after a long sleep of the machine: the last tick is an hour ago, and so are the heartbeats.
    plugin.liveness._ticked_at -= 3600
    rig.run(_tick(plugin))
    assert rig.report().workers[name].silence < liveness.UNRESPONSIVE_AFTER
    assert rig.report().workers[name].status == "running"


async def _tick(plugin: Any) -> None:
    plugin.tick()


def test_results_of_a_busy_worker_that_will_be_ended_move_early(
    rig: Rig, gate: Event, until: Until
) -> None:
    first, second = rig.add("a", "b-c")
    kept = rig.client.submit(identity, "kept", resources={"a": 1})
    assert kept.result(timeout=30) == "kept"
    busy = rig.client.submit(wait_at_gate, resources={"a": 1})
    until(lambda: rig.worker(first).state.executing)
    rig.run(rig.link.expire({first: (60.0, None)}))
    until(lambda: rig.drain(first)[first].stage is Stage.BUSY)

    def has_moved() -> bool:
        assert rig.drain(first)[first].stage is Stage.BUSY
        return rig.worker(second).address in rig.client.who_has(kept)[kept.key]

    until(has_moved)
    gate.set()
    busy.result(timeout=30)


@pytest.mark.parametrize("preempted", [True, False])
def test_a_preemption_is_not_held_against_tasks(
    rig: Rig, gate: Event, until: Until, preempted: bool
) -> None:
    (name,) = rig.add("a")
    future = rig.client.submit(wait_at_gate, resources={"a": 1})
    until(lambda: rig.worker(name).state.executing)
    if preempted:
        rig.run(rig.link.expire({name: (60.0, None)}))
    rig.close(name)
    until(lambda: not rig.report().workers)
    assert rig.report().deaths == ({} if preempted else {name: False})
    rig.run(rig.link.explain_deaths({name: Explanation(Reason.EXITED, "it crashed")}))
    assert rig.scheduler.tasks[future.key].suspicious == (0 if preempted else 1)
    gate.set()
