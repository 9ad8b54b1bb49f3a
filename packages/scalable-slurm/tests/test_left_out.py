from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from slurm_units import MINE, unit

from scalable.cluster.port import GroupSpec
from scalable.providers.slurm.backend import SlurmBackend

if TYPE_CHECKING:
    from conftest import Calls, FakeCommand


def fail_on(node: str, fake_command: FakeCommand, *elements: int) -> None:
    lines = [f"7|{element}|FAILED|NonZeroExitCode|INVALID|{node}|{MINE}" for element in elements]
    fake_command("squeue", stdout="\n".join(lines) + "\n")


def test_a_node_on_which_workers_do_not_start_is_left_out_and_named(
    backend: SlurmBackend, fake_command: FakeCommand, calls: Calls
) -> None:
    fake_command("sbatch", stdout="8\n")
    fail_on("node1", fake_command, 0)
    asyncio.run(backend.observe())
    asyncio.run(backend.observe())  # the same end
    asyncio.run(backend.launch(GroupSpec("gcam"), 1, "q1"))
    fail_on("node1", fake_command, 0, 1)
    asyncio.run(backend.observe())
    asyncio.run(backend.launch(GroupSpec("gcam"), 1, "q2"))
    assert ["--exclude=node1" in call for call in calls("sbatch")] == [False, True]
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
    lines = [f"7|{element}|{state}|None|INVALID|node1|{MINE}\n" for element in range(2)]
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
    lines = [f"7|{element}|CANCELLED|None|INVALID|node1|{MINE}\n" for element in range(2)]
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
