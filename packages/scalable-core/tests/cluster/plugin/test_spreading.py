"""Waiting tasks and workers that join later."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from distributed import Event
from task_functions import wait_at_gate

if TYPE_CHECKING:
    from cluster.conftest import Until
    from cluster.plugin.conftest import Rig


def test_waiting_tasks_move_to_workers_that_come_later(
    rig: Rig, gate: Event, until: Until, tmp_path: Path
) -> None:
    log = tmp_path / "starts"

    def start(number: int) -> int:
        with log.open("a") as file:
            file.write(f"{number}\n")
        Event("gate").wait()
        return number

    (first,) = rig.add("a")
    futures = rig.client.map(start, range(6), resources={"a": 1})
    until(lambda: rig.report().workers[first].tasks == 6)
    names = [first, *rig.add("a", "a")]
    until(lambda: [rig.report().workers[name].tasks for name in names] == [2, 2, 2])
    gate.set()
    assert rig.client.gather(futures) == [*range(6)]
    assert sorted(log.read_text().split()) == [str(number) for number in range(6)]


def test_tasks_that_fill_a_worker_move_too(rig: Rig, gate: Event, until: Until) -> None:
    (first,) = rig.add("b-c")
    futures = rig.client.map(wait_at_gate, range(2), resources={"b-c": 2})
    until(lambda: rig.report().workers[first].tasks == 2)
    (second,) = rig.add("b-c")
    until(lambda: [rig.report().workers[name].tasks for name in (first, second)] == [1, 1])
    gate.set()
    rig.client.gather(futures)


def test_tasks_that_are_bound_to_a_worker_stay_there(rig: Rig, gate: Event, until: Until) -> None:
    (first,) = rig.add("a")
    bound = rig.client.map(wait_at_gate, range(4), resources={"a": 1}, workers=[first])
    until(lambda: rig.report().workers[first].tasks == 4)
    free = rig.client.map(wait_at_gate, range(4, 8), resources={"a": 1})
    until(lambda: rig.report().workers[first].tasks == 8)
    others = rig.add("a", "a")
    until(lambda: [rig.report().workers[name].tasks for name in others] == [2, 2])
    gate.set()
    rig.client.gather([*bound, *free])
    assert {*rig.client.who_has(bound).values()} == {(rig.worker(first).address,)}
