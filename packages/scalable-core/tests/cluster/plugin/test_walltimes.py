"""Workers whose walltime ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from distributed import Event
from task_functions import identity, wait_at_gate

from scalable.errors import WalltimeError

if TYPE_CHECKING:
    from cluster.conftest import Until
    from cluster.plugin.conftest import Rig


def expire(rig: Rig, name: str, seconds: float) -> None:
    rig.run(rig.link.expire({name: (seconds, WalltimeError("a", name, 3600))}))


def test_a_task_that_takes_all_of_its_workers_life_is_not_tried_again(
    rig: Rig, gate: Event, until: Until
) -> None:
    (name,) = rig.add("a")
    endless = rig.client.submit(wait_at_gate, key="endless", resources={"a": 1}, priority=1)
    waiting = rig.client.submit(identity, 1, key="waiting", resources={"a": 1})
    until(lambda: rig.worker(name).state.executing)
    expire(rig, name, 0)
    with pytest.raises(WalltimeError, match=rf"{name} of group 'a' reached its walltime.* 60 min"):
        endless.result(timeout=30)
    # It cannot be interrupted, but its worker does not wait for it.
    until(lambda: rig.worker(name).state.tasks["endless"].state == "cancelled")
    gate.set()
    assert waiting.result(timeout=30) == 1


def test_a_task_that_began_late_is_tried_once_more(rig: Rig, gate: Event, until: Until) -> None:
    plugin = rig.scheduler.plugins["scalable-groups"]
    late = rig.client.submit(wait_at_gate, key="late", resources={"a": 1}, priority=1)
    waiting = rig.client.submit(identity, 1, key="waiting", resources={"a": 1})

    def grow_old(seconds: float) -> str:
        (name,) = rig.add("a")
        (ws,) = rig.scheduler.workers.values()
        until(lambda: ws.executing)
        plugin.members[ws.address] = ws, time.time() - 3600
        expire(rig, name, seconds)
        return name

    rig.close(grow_old(0))
    until(lambda: not rig.report().workers)
    assert plugin.walltimes._interrupted == {"late"}  # the other one had not begun
    rig.close(grow_old(60))  # of something else
    until(lambda: not rig.report().workers)
    last = grow_old(0)
    with pytest.raises(WalltimeError, match=last):
        late.result(timeout=30)
    assert not plugin.walltimes._interrupted
    gate.set()
    assert waiting.result(timeout=30) == 1
