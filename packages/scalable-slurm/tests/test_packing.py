from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from scalable.providers.slurm.commands import Slurm
from scalable.providers.slurm.packing import pack, parse_nodes, workers_that_fit
from scalable.providers.slurm.request import JobRequest

if TYPE_CHECKING:
    from conftest import FakeCommand

NODES = parse_nodes("shared*|NO|16|64000|(null)|(null)\nwhole|EXCLUSIVE|32|64000|(null)|ssd\n")


def test_of_nodes_that_differ_the_smallest_counts() -> None:
    """As a site's own sinfo shows them that leaves out --exact."""
    text = (
        "PARTITION|OVERSUBS|CPUS|MEMORY|GRES|AVAIL_FEATURES\nwhole|EXCLUSIVE|32+|64000+|gpu:2|ssd\n"
    )
    (node,) = parse_nodes(text)
    assert (node.cpus, node.memory, node.gpus) == (32, 64000 * 2**20, 2)


@pytest.mark.parametrize(
    ("request_", "environ", "workers"),
    [
        (JobRequest("a", "/l", directives=("-p", "whole")), {}, 32),
        (JobRequest("a", "/l", partition="whole", directives=("--partition=shared",)), {}, 1),
        (JobRequest("a", "/l"), {"SBATCH_PARTITION": "whole"}, 32),
        (JobRequest("a", "/l", partition="shared"), {"SBATCH_PARTITION": "whole"}, 1),
        (JobRequest("a", "/l", partition="whole", skipped=("-p ",)), {}, 1),
        (JobRequest("a", "/l"), {"SBATCH_EXCLUSIVE": "exclusive"}, 16),
        (JobRequest("a", "/l", directives=("--exclus",)), {}, 16),
        (JobRequest("a", "/l", directives=("--exclusive=user",)), {}, 1),
    ],
)
def test_jobs_are_packed_for_the_partition_in_which_sbatch_puts_them(
    request_: JobRequest, environ: dict[str, str], workers: int
) -> None:
    """However it is chosen: by the target, by directives of the site, or by variables of the user."""
    assert workers_that_fit(request_, NODES, environ=environ) == workers


def test_a_launch_does_not_wait_for_a_sinfo_that_hangs(
    fake_command: FakeCommand, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("scalable.providers.slurm.packing._ANSWER_WITHIN", 0.5)
    for command in ("sinfo", "scontrol"):
        fake_command(command, then="exec sleep 600")
    request = JobRequest("gcam", "/logs", workers_per_job="auto")
    assert asyncio.run(pack(Slurm(), request)).room == 1
    (warning,) = caplog.messages
    assert "sinfo or scontrol has not answered for 0.5 s" in warning
