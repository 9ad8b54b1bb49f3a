"""Ends at many moments: of a client that is killed, and of a cluster that still requests machines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gce_clusters
import gce_project
import killed_clients
from gce_project import GceProject
from killed_clients import ORPHAN_TIMEOUT
from slurm_site import wait_until

MOMENTS = 20


def kill_after(project: GceProject, manifest: Path, calls: int) -> bool:
    """Kill a client at a call, which is answered all the same, after so many; return whether it came to that."""

    def arrange(kill: Callable[[], None]) -> object:
        return project.fault("*", skip=calls, after=True, before=kill)

    return killed_clients.run_until_killed(manifest, arrange, project.traffic.faults.remove)


def test_what_a_killed_client_has_made_ends_or_is_reaped(
    project: GceProject, tmp_path: Path
) -> None:
    target = {**project.target, "external_ips": False, "orphan_timeout": ORPHAN_TIMEOUT}
    manifest = tmp_path / "scalable.yaml"
    manifest.write_text(gce_project.manifest(target, components={"gcam": {}}), encoding="utf-8")
    killed_clients.run(manifest)
    calls = len(project.traffic.log)
    moments = [i * (calls - 1) // (MOMENTS - 1) for i in range(MOMENTS)]
    killed = sum(kill_after(project, manifest, moment) for moment in moments)
    there = [*project.instances.values()]
    assert there
    assert all(each.properties.scheduling.max_run_duration.seconds for each in there)
    wait_until(
        lambda: all(each.status == "TERMINATED" for each in project.instances.values()),
        "all machines have ended by themselves",
        ORPHAN_TIMEOUT + 240,
    )
    left = killed_clients.reap(manifest)
    print(f"{killed} kills in {calls} calls; what was left: {left}")
    # A client makes as many calls as it looks, so the last moments may not be reached.
    assert killed >= MOMENTS - 4
    assert project.inventory() == []


def test_nothing_is_made_after_close(project: GceProject) -> None:
    gce_clusters.close_while_requesting(project, times=20, seed=2)
