"""Workers that die, and the end of all tasks."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import pytest
from distributed import CancelledError, Client
from task_functions import identity

if TYPE_CHECKING:
    from cluster.conftest import Until
    from cluster.plugin.conftest import Rig


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
