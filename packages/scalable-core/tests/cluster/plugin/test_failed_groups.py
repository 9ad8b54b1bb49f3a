"""The tasks of failed groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from distributed import Event
from task_functions import identity, wait_at_gate

from scalable.cluster.port import Explanation, Reason
from scalable.errors import GroupFailedError

if TYPE_CHECKING:
    from cluster.conftest import Until
    from cluster.plugin.conftest import Rig


def failure(tag: str) -> GroupFailedError:
    return GroupFailedError(tag, Explanation(Reason.IMAGE, "no such image", log_tail="pull: 404"))


def test_tasks_of_a_failed_group_end_in_its_error_and_no_others(rig: Rig, until: Until) -> None:
    failing = rig.client.submit(identity, 1, key="failing", resources={"a": 1})
    dependent = rig.client.submit(identity, failing, key="dependent", resources={"b-c": 1})
    other = rig.client.submit(identity, 2, key="other", resources={"b-c": 1})
    untagged = rig.client.submit(identity, 3, key="untagged")
    rig.run(rig.link.fail("a", failure("a")))
    for future in (failing, dependent):
        with pytest.raises(GroupFailedError, match=r"worker group 'a' failed: no such image\n"):
            future.result(timeout=30)
    late = rig.client.submit(identity, 4, key="late", resources={"a": 1})
    with pytest.raises(GroupFailedError) as caught:
        late.result(timeout=30)
    assert caught.value.tag == "a"
    assert caught.value.explanation.log_tail == "pull: 404"
    assert (other.status, untagged.status) == ("pending", "pending")
    rig.run(rig.link.fail("a", None))
    rig.add("a", "b-c")
    assert rig.client.gather([other, untagged]) == [2, 3]
    failing.retry()
    assert rig.client.gather([failing, dependent]) == [1, 1]


def test_a_failed_group_lets_its_last_worker_finish(rig: Rig, gate: Event, until: Until) -> None:
    (name,) = rig.add("a")
    futures = rig.client.map(wait_at_gate, range(3), resources={"a": 1})
    until(lambda: rig.worker(name).state.executing)
    rig.run(rig.link.fail("a", failure("a")))
    gate.set()
    assert rig.client.gather(futures) == [0, 1, 2]
