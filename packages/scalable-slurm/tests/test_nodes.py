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


def running(number: int, node: str = "node1") -> SlurmJob:
    return SlurmJob(f"7_{number}", "RUNNING", "None", None, node, "")


def test_workers_that_never_join_are_no_sign_of_a_well_node() -> None:
    """They live for longer than one that looks for its scheduler in vain."""
    nodes, now = FailingNodes(), 0.0
    well = running(9, "node2")
    nodes.see(well, now)
    for number in range(2):
        assert not nodes.left_out(now)
        for _ in range(30):
            now += 10.0
            nodes.see(running(number), now)
        nodes.note_late([running(number)], [well], now)
    assert nodes.left_out(now) == ("node1",)
    assert nodes.left_out(now + 600.0) == ()
    # One that joins there shows that it is well again.
    nodes.see(running(2), now + 600.0)
    nodes.note_late([running(3)], [well, running(2)], now + 900.0)
    nodes.note_late([running(4)], [well, running(2)], now + 900.0)
    assert nodes.left_out(now + 900.0) == ("node1",)
    nodes.see(running(5), now + 910.0)
    nodes.note_late([running(6)], [well, running(5)], now + 920.0)
    assert nodes.left_out(now + 920.0) == ()


def test_a_job_of_which_some_workers_have_joined_says_nothing_about_its_node() -> None:
    nodes, well = FailingNodes(), running(9, "node2")
    for number in range(3):
        nodes.note_late([running(number)], [well, running(number)], 10.0)
    assert nodes.left_out(10.0) == ()


def test_two_workers_that_have_not_joined_count_together_for_an_hour() -> None:
    nodes, well = FailingNodes(), running(9, "node2")
    nodes.note_late([running(0)], [well], 0.0)
    nodes.note_late([running(1)], [well], 4000.0)
    assert nodes.left_out(4000.0) == ()
    nodes.forget()
    nodes.note_late([running(2)], [well], 4000.0)
    assert nodes.left_out(4000.0) == ()


def test_of_jobs_with_several_nodes_the_one_is_left_out_that_all_of_them_had() -> None:
    nodes = FailingNodes()
    for number, node in enumerate(("node[1-2]", "node[2-3]", "node[1,3]")):
        assert nodes.left_out(0.0) == (() if number < 2 else ("node2",))
        nodes.see(SlurmJob(f"7_{number}", "FAILED", "None", None, node, ""), 0.0)
        if number == 1:
            assert nodes.left_out(0.0) == ("node2",)
