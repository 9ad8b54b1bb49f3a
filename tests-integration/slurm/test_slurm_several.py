"""Several workers in one job, and several nodes for one worker, on a real Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pickling import by_value
from slurm_site import SlurmSite, wait_until

from scalable.client import ScalableClient
from scalable.cluster import Pace
from scalable.providers.slurm import SlurmCluster

QUICK = Pace(tick=0.2, poll=0.5)


@pytest.fixture
def cluster(work: Path) -> Iterator[SlurmCluster]:
    """A cluster on nodes of 16 cores, of which each has room for four workers."""
    with SlurmCluster(queue="whole", walltime="00:10:00", interface="lo", pace=QUICK) as made:
        made.add_container("gcam", cpus=4, memory="600M")
        yield made


def jobs_of(cluster: SlurmCluster) -> set[str]:
    return {name.rpartition(".")[0] for name in cluster.groups["gcam"].workers}


@by_value
def nap(seconds: float) -> tuple[str, str]:
    from distributed import get_worker

    time.sleep(seconds)
    return str(get_worker().name), os.environ["OMP_NUM_THREADS"]


@by_value
def end_once(path: str, size: int) -> str:
    """End the first worker, by a signal or by using memory of this size; return the name of the second."""
    from distributed import get_worker

    if not Path(path).exists():
        Path(path).touch()
        held = b"x" * size
        time.sleep(60 if held else 0)
        os.kill(os.getpid(), signal.SIGKILL)
    return str(get_worker().name)


def test_each_worker_is_a_unit_and_each_job_leaves_as_a_whole(
    cluster: SlurmCluster, site: SlurmSite, calls: Callable[[str], int]
) -> None:
    cluster.scale_groups({"gcam": 7})
    cluster.wait_for_group("gcam", 7)
    assert calls("sbatch") == 1
    first = jobs_of(cluster)
    assert len(first) == len(site.jobs()) == 2
    with ScalableClient(cluster) as client:
        # One of the second job, which has three, is busy: the first goes.
        (busy,) = [name for name in cluster.groups["gcam"].workers if name.endswith("_1.2")]
        names = [info["name"] for info in client.scheduler_info(n_workers=-1)["workers"].values()]
        assert sorted(names) == sorted(cluster.groups["gcam"].workers)
        task = client.submit(nap, 10.0, tag="gcam", workers=[busy])
        wait_until(lambda: any(client.processing().values()), "it is under way")
        cluster.scale_groups({"gcam": 3})
        wait_until(lambda: len(site.jobs()) == 1, "one job is left")
        assert task.result(60) == (busy, "4")
        cluster.wait_for_group("gcam", 3)
        assert jobs_of(cluster) == {busy.rpartition(".")[0]}
        cluster.scale_groups({"gcam": 4})
        cluster.wait_for_group("gcam", 4)
        # One that ends alone makes room for another.
        cluster.scale_groups({"gcam": 2})
        wait_until(lambda: cluster.groups["gcam"].draining == 0, "two have left")
        cluster.scale_groups({"gcam": 4})
        cluster.wait_for_group("gcam", 4)
    assert calls("sbatch") == 1
    assert len(site.jobs()) == 1
    logs = cluster.logs("gcam")
    assert all("Registered to" in logs[name] for name in cluster.groups["gcam"].workers)


def test_a_worker_that_ends_is_explained_and_replaced_in_its_job(
    cluster: SlurmCluster, site: SlurmSite, work: Path, calls: Callable[[str], int]
) -> None:
    cluster.scale_groups({"gcam": 3})
    cluster.wait_for_group("gcam", 3)
    (job,) = jobs_of(cluster)
    with ScalableClient(cluster) as client:
        for size, why in ((0, "was ended by SIGKILL"), (800_000_000, "used more memory than")):
            survivor = client.submit(end_once, str(work / f"{size}"), size, tag="gcam").result(60)
            assert survivor.startswith(job)
            wait_until(lambda: any(why in event.text for event in cluster.events), why)  # noqa: B023
            wait_until(lambda: cluster.groups["gcam"].running == 3, "it is replaced")
    assert jobs_of(cluster) == {job}
    assert len(cluster.logs("gcam")) == 3 + 2
    assert calls("sbatch") == 1
    assert len(site.jobs()) == 1


def test_workers_end_with_their_job_and_are_replaced(
    cluster: SlurmCluster, site: SlurmSite
) -> None:
    cluster.scale_groups({"gcam": 4})
    cluster.wait_for_group("gcam", 4)
    (before,) = jobs_of(cluster)
    site.run("scancel", *site.jobs())
    wait_until(
        lambda: cluster.groups["gcam"].running == 4 and before not in jobs_of(cluster),
        "all are replaced",
    )
    assert len(jobs_of(cluster)) == 1
    wait_until(
        lambda: any("was cancelled" in event.text for event in cluster.events), "it is explained"
    )


@by_value
def spread(ranks: int | None) -> list[list[str]]:
    from scalable.mpi import run_mpi

    program = ["sh", "-c", "echo $SLURM_PROCID $SLURMD_NODENAME"]
    done = run_mpi(program, ranks=ranks, capture_output=True, text=True)
    return sorted(line.split() for line in done.stdout.splitlines())


@by_value
def fail_on_one_rank() -> None:
    from scalable.mpi import run_mpi

    run_mpi(["sh", "-c", "[ $SLURM_PROCID != 2 ] || exit 3; sleep 600"])


def test_a_task_of_an_mpi_component_starts_its_ranks_on_all_nodes(work: Path) -> None:
    with SlurmCluster(queue="short", walltime="00:10:00", interface="lo", pace=QUICK) as cluster:
        cluster.add_container("wrf", cpus=2, memory="300M", nodes=2, ranks=4)
        cluster.add_workers(1, "wrf")
        with ScalableClient(cluster) as client:
            found = client.submit(spread, None, tag="wrf").result(100)
            assert [rank for rank, _ in found] == ["0", "1", "2", "3"]
            assert sorted(Counter(node for _, node in found).values()) == [2, 2]
            assert len(client.submit(spread, 3, tag="wrf").result(100)) == 3
            with pytest.raises(subprocess.CalledProcessError):
                client.submit(fail_on_one_rank, tag="wrf").result(100)
