"""Accounts with limits, and a second cluster of the same site, on a real Slurm with its database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pickling import by_value
from slurm_site import SlurmSite, provide, wait_until

from scalable.client import ScalableClient
from scalable.cluster import Pace
from scalable.errors import GroupFailedError
from scalable.providers.slurm import SlurmCluster

QUICK = Pace(tick=0.2, poll=0.5)


@pytest.fixture(scope="module")
def site() -> Iterator[SlurmSite]:
    with provide(accounting=True) as site:
        yield site


def far_jobs(site: SlurmSite) -> list[str]:
    """List the elements that have not ended on the second cluster."""
    states = "--states=PENDING,RUNNING,CONFIGURING,SUSPENDED"
    return site.run("squeue", "-M", "far", "-h", "-r", states, "-o", "%i").split()


@by_value
def whereabouts() -> str:
    return os.environ["SLURM_CLUSTER_NAME"]


def test_what_an_account_may_submit_runs_and_the_rest_follows(work: Path, site: SlurmSite) -> None:
    with SlurmCluster(queue="short", account="tiny", interface="lo", pace=QUICK) as cluster:
        cluster.add_container("gcam", memory="200M")
        cluster.add_workers(6, "gcam")
        cluster.wait_for_group("gcam", 4)
        assert len(site.jobs()) == 4
        (explained,) = cluster.explain().values()
        assert "AssocMaxSubmitJobLimit" in str(explained)
        assert not cluster.groups["gcam"].failed
        user = site.run("id", "-un").strip()
        modify = ("sacctmgr", "-i", "-Q", "modify", "user", "where", f"name={user}", "account=tiny")
        site.run(*modify, "set", "MaxSubmitJobs=6")
        try:
            cluster.wait_for_group("gcam", 6)
        finally:
            site.run(*modify, "set", "MaxSubmitJobs=4")


def test_an_account_that_a_user_does_not_have_fails_at_once(work: Path) -> None:
    with SlurmCluster(queue="short", account="nosuch", interface="lo", pace=QUICK) as cluster:
        cluster.add_container("gcam", memory="200M")
        cluster.add_workers(1, "gcam")
        with pytest.raises(GroupFailedError, match="Invalid account"):
            cluster.wait_for_group("gcam")


@pytest.mark.parametrize("how", ["option", "variable"])
def test_workers_run_and_end_on_another_cluster(
    work: Path, site: SlurmSite, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "variable":
        monkeypatch.setenv("SBATCH_CLUSTERS", "far")
    chosen = "far" if how == "option" else None
    with SlurmCluster(queue="short", cluster=chosen, interface="lo", pace=QUICK) as cluster:
        cluster.add_container("gcam", memory="200M")
        # More than an array of that cluster may have.
        cluster.add_workers(6, "gcam")
        cluster.wait_for_group("gcam", 6)
        assert len(far_jobs(site)) == 6
        assert site.jobs() == []
        with ScalableClient(cluster) as client:
            assert client.submit(whereabouts, tag="gcam").result(60) == "far"
        victim = far_jobs(site)[0]
        site.run("scancel", "-M", "far", victim)
        wait_until(
            lambda: any("was cancelled" in event.text for event in cluster.events), "it is told"
        )
        cluster.wait_for_group("gcam", 6)
    assert far_jobs(site) == []


MANIFEST = """\
version: 1
project: {name: site}
targets:
  hpc: {provider: slurm, queue: short, cluster: far, walltime: 00:10:00, interface: lo, n_workers: 5}
components:
  gcam: {memory: 200M}
"""

CLIENT = """\
import time
from scalable.session import ScalableSession
with ScalableSession.from_yaml() as client:
    client.submit(int, tag="gcam").result()
    print("here", flush=True)
    time.sleep(600)
"""


def scalable(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scalable.cli", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_run_on_another_cluster_is_listed_and_ends_with_its_client(
    work: Path, site: SlurmSite
) -> None:
    (work / "scalable.yaml").write_text(MANIFEST)
    (work / "client.py").write_text(CLIENT)
    checked = scalable("check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    with subprocess.Popen(
        [sys.executable, "client.py"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as client:
        assert client.stdout is not None
        try:
            assert client.stdout.readline() == "here\n"
            listed = json.loads(scalable("ps", "--json").stdout)
            assert sum(thing["kind"] == "Slurm job" for thing in listed) == 5
        finally:
            client.kill()
    wait_until(lambda: not far_jobs(site), "its jobs are gone")
