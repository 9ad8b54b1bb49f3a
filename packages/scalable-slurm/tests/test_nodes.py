from __future__ import annotations

import pytest

from scalable.providers.slurm.nodes import FailingNodes
from scalable.providers.slurm.output import SlurmJob


def job(number: int, state: str) -> SlurmJob:
    return SlurmJob(f"7_{number}", state, "None", None, "node1", "")


@pytest.mark.parametrize(
    ("state", "lived", "left_out"),
    [
        ("FAILED", 5.0, True),
        ("FAILED", 70.0, True),  # its worker has looked for the scheduler for a minute
        ("FAILED", 130.0, False),
        ("COMPLETED", 5.0, True),
        ("COMPLETED", 70.0, False),
        ("TIMEOUT", 5.0, False),
    ],
)
def test_a_node_is_left_out_after_two_workers_that_did_not_start(
    state: str, lived: float, left_out: bool
) -> None:
    nodes, now = FailingNodes(), 0.0
    for number in range(2):
        nodes.see(job(number, "RUNNING"), now)
        nodes.see(job(number, "RUNNING"), now + lived - 1)
        now += lived
        nodes.see(job(number, state), now, patience=60.0)
    assert bool(nodes.left_out(now)) is left_out


def test_a_worker_that_lives_shows_that_the_node_is_well() -> None:
    nodes = FailingNodes()
    for number in range(2):
        nodes.see(job(number, "FAILED"), 0.0)
    nodes.see(job(2, "RUNNING"), 10.0)
    nodes.see(job(2, "RUNNING"), 100.0)
    assert nodes.left_out(100.0)
    nodes.see(job(2, "RUNNING"), 131.0)
    assert not nodes.left_out(131.0)
