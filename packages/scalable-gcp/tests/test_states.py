from __future__ import annotations

import pytest
from google.cloud.compute_v1 import Instance

from scalable.cluster.port import Phase, Reason
from scalable.providers.cloud.gcp.instances import ENDED
from scalable.providers.cloud.gcp.states import console_tail, end_in_console, machine_state

STATES = [
    ("PROVISIONING", False, Phase.PENDING, Reason.STARTING),
    ("STAGING", False, Phase.PENDING, Reason.STARTING),
    ("RUNNING", False, Phase.RUNNING, Reason.STARTING),
    ("STOPPING", False, Phase.RUNNING, Reason.STOPPED),
    ("STOPPING", True, Phase.RUNNING, Reason.PREEMPTED),
    ("TERMINATED", False, Phase.GONE, Reason.EXITED),
    ("TERMINATED", True, Phase.GONE, Reason.PREEMPTED),
]


@pytest.mark.parametrize(("status", "preempted", "phase", "reason"), STATES)
def test_states(status: str, preempted: bool, phase: Phase, reason: Reason) -> None:
    state = machine_state(Instance(status=status), is_preempted=preempted)
    assert (state.phase, state.reason) == (phase, reason)


def test_a_notice_tells_how_long_there_is() -> None:
    assert machine_state(Instance(status="STOPPING"), is_preempted=True).seconds_left == 30


def test_what_compute_engine_says_is_shown() -> None:
    state = machine_state(Instance(status="STAGING", status_message="one\n  line"))
    assert state.detail == "its machine is STAGING: one line"


@pytest.mark.parametrize(
    ("console", "reason", "text"),
    [
        (f"no such model\n{ENDED} 3\n", Reason.EXITED, "status 3"),
        (f"docker: manifest for gcam:8 not found\n{ENDED} 125\n", Reason.IMAGE, "image"),
        (f"pull access denied for gcam\n{ENDED} 1\n", Reason.IMAGE, "image"),
        (f"{ENDED}", Reason.EXITED, "status ?"),
    ],
)
def test_the_end_of_a_container(console: str, reason: Reason, text: str) -> None:
    state = end_in_console(console)
    assert state is not None
    assert (state.phase, state.reason) == (Phase.GONE, reason)
    assert text in state.detail


def test_a_console_without_an_end() -> None:
    assert end_in_console("Registered to: tls://10.0.0.2:8786") is None


def test_a_long_console_is_cut() -> None:
    tail = console_tail("\n\n".join(f"line {n}" for n in range(100)))
    assert tail.splitlines()[-1] == "line 99"
    assert len(tail.splitlines()) == 20
