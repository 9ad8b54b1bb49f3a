"""What sites put in the place of Slurm's commands, and what their plugins make of jobs, on a real Slurm."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from slurm_site import SlurmSite, wait_until

from scalable.cluster import Pace
from scalable.manifest import parse_manifest
from scalable.providers.base import DeploymentSpec
from scalable.providers.slurm import SlurmCluster, SlurmProvider, commands

QUICK = Pace(tick=0.2, poll=0.5)

Replace = Callable[[str, str], None]


@pytest.fixture
def replace_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Replace:
    """Put a script in the place of one of Slurm's commands, which is ``$real`` in it."""
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")

    def replace(name: str, script: str) -> None:
        real = next(
            path
            for each in os.environ["PATH"].split(":")[1:]
            if (path := shutil.which(name, path=each))
        )
        (directory / name).write_text(f"#!/bin/bash\nreal={real}\n{script}\n")
        (directory / name).chmod(0o755)

    return replace


def submitting(run: str) -> list[psutil.Process]:
    """Return the processes of sbatch that are under way for a run."""
    option = f"--job-name=scalable-{run}"
    processes = psutil.process_iter(["cmdline"])
    return [process for process in processes if option in (process.info["cmdline"] or ())]


@pytest.mark.parametrize(
    "script",
    ['exec $real --wait "$@"', '$real "$@"; sleep 600'],
    ids=["waits", "hangs"],
)
def test_an_sbatch_that_does_not_end_holds_up_nothing(
    work: Path,
    site: SlurmSite,
    replace_command: Replace,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
) -> None:
    monkeypatch.setattr(commands, "_LOOK_EVERY", 1.0)
    replace_command("sbatch", script)
    with SlurmCluster(queue="short", interface="lo", pace=QUICK) as cluster:
        cluster.add_container("gcam", memory="200M")
        for n in (1, 3):
            cluster.scale_groups({"gcam": n})
            cluster.wait_for_group("gcam", n, timeout=60)
        assert submitting(cluster.name)
        assert not any("did not start" in event.text for event in cluster.events)
    assert submitting(cluster.name) == []


@pytest.mark.parametrize(
    "options",
    ["--comment=climate", "--comment=climate --job-name=climate_job", "--job-name=climate_job"],
)
def test_jobs_are_found_whatever_the_site_makes_of_their_names_and_comments(
    work: Path, site: SlurmSite, replace_command: Replace, options: str
) -> None:
    """Here, its sbatch also prints no job id. An array of the user's own is not touched."""
    own = site.run(
        "sbatch", "--parsable", "--array=0-1", "--comment=climate", "--job-name=scalable-mine",
        "--output=/dev/null", "--wrap", "sleep 300",
    ).strip()  # fmt: skip
    replace_command("sbatch", f'$real "$@" {options} >/dev/null && echo Thank you')
    try:
        with SlurmCluster(queue="short", interface="lo", pace=QUICK) as cluster:
            cluster.add_container("gcam", memory="200M")
            cluster.add_container("stitches", memory="200M", workers_per_job=2)
            cluster.scale_groups({"gcam": 2, "stitches": 3})
            cluster.wait_for_group("gcam", 2, timeout=60)
            cluster.wait_for_group("stitches", 3, timeout=60)
            listed = [each for each in list_owned() if each[1] == cluster.name]
            assert own not in {name.partition("_")[0] for name, _ in listed}
            assert len(listed) == 4
        assert {job.partition("_")[0] for job in site.jobs()} == {own}
    finally:
        site.run("scancel", own)


def list_owned() -> list[tuple[str, str]]:
    targets = {"hpc": {"provider": "slurm"}}
    manifest = parse_manifest({"version": 1, "project": {"name": "site"}, "targets": targets})
    spec = DeploymentSpec.from_manifest(manifest, target_name="hpc")
    return [
        (each.name, each.run_id)
        for each in SlurmProvider().list_owned(spec)
        if each.kind == "Slurm job"
    ]


def test_a_node_on_which_workers_hang_is_left_out(work: Path, site: SlurmSite) -> None:
    hang = '[ "$SLURMD_NODENAME" != node1 ] || sleep 600'
    with SlurmCluster(
        queue="short", interface="lo", pace=QUICK, prologue=[hang], startup_timeout=10
    ) as cluster:
        cluster.add_container("wide", cpus=16, memory="200M")
        cluster.add_workers(4, "wide")
        cluster.wait_for_group("wide", 3, timeout=60)
        wait_until(lambda: excluded(site, cluster) == ["node1"], "a job is kept off the node")
        assert cluster.groups["wide"].running == 3
        assert not cluster.groups["wide"].failed


def excluded(site: SlurmSite, cluster: SlurmCluster) -> list[str]:
    """Return the nodes that jobs of a cluster are kept off; Slurm still shows those of clusters before."""
    shown = site.run("scontrol", "--oneliner", "show", "job").splitlines()
    own = " ".join(job for job in shown if f"JobName=scalable-{cluster.name} " in job)
    nodes = re.findall(r" ExcNodeList=(\S+)", own)
    return [node for node in nodes if node != "(null)"]


def test_no_node_is_left_out_where_no_worker_reaches_the_scheduler(
    work: Path, site: SlurmSite
) -> None:
    with SlurmCluster(
        queue="short", interface="lo", pace=QUICK, prologue=["sleep 600"], startup_timeout=5
    ) as cluster:
        cluster.add_container("wide", cpus=16, memory="200M")
        cluster.add_workers(4, "wide")
        wait_until(lambda: any("did not reach" in e.text for e in cluster.events), "they are late")
        wait_until(lambda: len(cluster.jobs) > 4, "others are started")
        assert excluded(site, cluster) == []
