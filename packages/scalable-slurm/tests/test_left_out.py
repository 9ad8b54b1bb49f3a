from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from slurm_units import MINE, unit

from scalable.cluster.port import GroupSpec, NotesLateStarts, Unit
from scalable.providers.slurm.backend import SlurmBackend

if TYPE_CHECKING:
    from conftest import Calls, FakeCommand


def fail_on(node: str, fake_command: FakeCommand, *elements: int) -> None:
    lines = [
        f"7|{element}|FAILED|NonZeroExitCode|INVALID|{node}|scalable-r|{MINE}"
        for element in elements
    ]
    fake_command("squeue", stdout="\n".join(lines) + "\n")


def test_a_node_on_which_workers_do_not_start_is_left_out_and_named(
    backend: SlurmBackend,
    fake_command: FakeCommand,
    calls: Calls,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake_command("sbatch", stdout="8\n")
    fail_on("node1", fake_command, 0)
    asyncio.run(backend.observe())
    asyncio.run(backend.observe())  # the same end
    asyncio.run(backend.launch(GroupSpec("gcam"), 1, "q1"))
    fail_on("node1", fake_command, 0, 1)
    asyncio.run(backend.observe())
    assert caplog.messages == []
    for request_id in ("q2", "q3"):
        asyncio.run(backend.launch(GroupSpec("gcam"), 1, request_id))
    assert ["--exclude=node1" in call for call in calls("sbatch")] == [False, True, True]
    (warning,) = caplog.messages
    assert "fail to start on node1, so new ones are kept off it for 600 s" in warning
    fake_command("scontrol", stdout="JobState=FAILED ExitCode=127:0 NodeList=node1\n")
    assert "kept off it for 600 s" in asyncio.run(backend.describe(unit(1))).remedy


@pytest.mark.parametrize(
    ("state", "left_out"), [("CANCELLED", True), ("COMPLETED", True), ("TIMEOUT", False)]
)
def test_a_node_on_which_jobs_end_at_once_is_left_out_however_they_end(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls, state: str, left_out: bool
) -> None:
    """Jobs are cancelled where the prolog of a node fails, and completed where their interpreter ends at once."""
    fake_command("sbatch", stdout="8\n")
    lines = [f"7|{element}|{state}|None|INVALID|node1|scalable-r|{MINE}\n" for element in range(2)]
    fake_command("squeue", stdout="".join(lines))
    asyncio.run(backend.observe())
    asyncio.run(backend.launch(GroupSpec("gcam"), 1, "q2"))
    assert ["--exclude=node1" in call for call in calls("sbatch")] == [left_out]


def test_jobs_that_were_to_end_say_nothing_about_their_node(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls
) -> None:
    fake_command("sbatch", stdout="7\n")
    for command in ("squeue", "scancel"):
        fake_command(command)
    launched = asyncio.run(backend.launch(GroupSpec("gcam"), 2, "q"))
    asyncio.run(backend.stop(launched.units))
    lines = [
        f"7|{element}|CANCELLED|None|INVALID|node1|scalable-r|{MINE}\n" for element in range(2)
    ]
    fake_command("squeue", stdout="".join(lines))
    asyncio.run(backend.observe())
    asyncio.run(backend.launch(GroupSpec("gcam"), 1, "q2"))
    assert not any("--exclude" in call for call in calls("sbatch"))


def test_the_only_node_is_not_left_out(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls
) -> None:
    why = "Batch job submission failed: Requested node configuration is not available"
    fake_command("sbatch", then=f"case $* in *--exclude*) echo '{why}' >&2; exit 1;; esac; echo 8")
    fail_on("node1", fake_command, 0, 1)
    asyncio.run(backend.observe())
    for request_id in ("q1", "q2"):
        assert len(asyncio.run(backend.launch(GroupSpec("gcam"), 1, request_id)).units) == 1
    assert ["--exclude=node1" in call for call in calls("sbatch")] == [True, False, False]


def run_on(fake_command: FakeCommand, **nodes: int) -> None:
    lines = [
        f"7|{element}|RUNNING|None|1:30|{node}|scalable-r|{MINE}\n"
        for node, element in nodes.items()
    ]
    fake_command("squeue", stdout="".join(lines))


def test_a_node_on_which_workers_never_join_is_left_out_and_named(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls
) -> None:
    assert isinstance(backend, NotesLateStarts)
    fake_command("sbatch", stdout="8\n")
    fake_command("scontrol", stdout="JobState=RUNNING NodeList=node1\n")
    left_out = []
    for element in (1, 2):
        run_on(fake_command, node1=element, node2=0)
        asyncio.run(backend.observe())
        for _ in range(2):  # the same job
            backend.note_late_starts([unit(element)], [unit(0)])
        asyncio.run(backend.launch(GroupSpec("gcam"), 1, f"q{element}"))
        left_out.append("--exclude=node1" in calls("sbatch")[-1])
    assert left_out == [False, True]
    assert "fail to start on node1, so new ones" in asyncio.run(backend.describe(unit(2))).remedy


def test_no_node_is_left_out_where_the_scheduler_may_be_out_of_reach(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls
) -> None:
    """Where no worker is connected, or only one on the same node, nothing is known of the node."""
    fake_command("sbatch", stdout="8\n")
    lines = [f"7|{element}|RUNNING|None|1:30|node1|scalable-r|{MINE}\n" for element in range(3)]
    fake_command("squeue", stdout="".join(lines))
    asyncio.run(backend.observe())
    backend.note_late_starts([unit(1), unit(2)], [])
    backend.note_late_starts([unit(1), unit(2)], [unit(0)])
    asyncio.run(backend.launch(GroupSpec("gcam"), 1, "q2"))
    assert "--exclude" not in calls("sbatch")[-1]


def test_a_group_that_fails_everywhere_keeps_no_other_off_the_nodes(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls
) -> None:
    fake_command("sbatch", stdout="8\n")
    fail_on("node1", fake_command, 0, 1)
    asyncio.run(backend.observe())
    run_on(fake_command, node3=2, node2=3)
    asyncio.run(backend.observe())
    big = Unit("big-7_2", "big", "q", "7_2")
    backend.note_late_starts([big], [unit(3)])
    for tag in ("big", "gcam"):
        asyncio.run(backend.launch(GroupSpec(tag), 1, f"of {tag}"))
    assert ["--exclude=node1" in call for call in calls("sbatch")] == [False, True]
