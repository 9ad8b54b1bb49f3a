"""Worker groups on a real Slurm: what users see, and what Slurm does to the jobs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import psutil
import pytest
from awkward import VALUES
from pickling import by_value
from slurm_site import SlurmSite, wait_until

from scalable.client import ScalableClient
from scalable.cluster import Pace
from scalable.cluster.port import Reason
from scalable.errors import GroupFailedError, UnknownTagError, WalltimeError
from scalable.providers.slurm import SlurmCluster
from scalable.providers.slurm.jobfiles import JobFiles

QUICK = Pace(tick=0.2, poll=0.5)


@pytest.fixture
def cluster(work: Path) -> Iterator[SlurmCluster]:
    with SlurmCluster(queue="short", walltime="00:10:00", interface="lo", pace=QUICK) as made:
        made.add_container("gcam", cpus=4, memory="400M")
        made.add_container("stitches", cpus=1, memory="300M", slots=2)
        yield made


@by_value
def whereabouts() -> tuple[str, str, str]:
    return (
        os.environ["SLURM_JOB_PARTITION"],
        os.environ["SLURM_CPUS_PER_TASK"],
        os.environ["OMP_NUM_THREADS"],
    )


@by_value
def nap(path: str, seconds: float) -> float:
    with Path(path).open("a") as log:
        log.write("start\n")
    time.sleep(seconds)
    return seconds


def test_each_group_has_its_own_resources_and_tasks(cluster: SlurmCluster) -> None:
    cluster.add_workers(2, "gcam")
    cluster.add_workers(1, "stitches")
    with ScalableClient(cluster) as client:
        assert client.submit(whereabouts, tag="gcam").result(60) == ("short", "4", "4")
        assert client.submit(whereabouts, tag="stitches", n=2).result(60) == ("short", "1", "1")
        with pytest.raises(UnknownTagError):
            client.submit(whereabouts, tag="gcan")
    assert cluster.scheduler_address.startswith("tls://")


def test_a_group_may_have_its_own_job_options(cluster: SlurmCluster, site: SlurmSite) -> None:
    cluster.add_container("plots", memory="200M", queue="long", walltime="01:00:00")
    cluster.scale_groups({"gcam": 1, "plots": 1})
    with ScalableClient(cluster) as client:
        partitions = [client.submit(whereabouts, tag=tag) for tag in ("gcam", "plots")]
        assert [where[0] for where in client.gather(partitions)] == ["short", "long"]
    # Those of a test before may still be ending.
    own = f"--name=scalable-{cluster.name}"
    assert sorted(site.run("squeue", "-h", "-r", own, "-o", "%l").split()) == ["10:00", "1:00:00"]


def test_many_workers_are_one_sbatch_and_one_scancel(
    work: Path, site: SlurmSite, calls: Callable[[str], int]
) -> None:
    with SlurmCluster(queue="short", interface="lo", pace=QUICK) as cluster:
        cluster.add_container("tiny", memory="200M")
        cluster.scale_groups({"tiny": 24})
        wait_until(lambda: len(site.jobs()) == 24, "24 elements are in the queue")
        assert calls("sbatch") == 1
        before = calls("scancel")
        cluster.scale_groups({"tiny": 0})
        wait_until(lambda: not site.jobs(), "they are gone")
        # Workers that have not joined may be cancelled first, and the others after they are drained.
        assert calls("scancel") - before <= 4


def test_the_queue_is_still_understood_when_jobs_were_cancelled_while_they_waited(
    cluster: SlurmCluster, site: SlurmSite
) -> None:
    cluster.add_container("wide", cpus=16, memory="300M")
    cluster.scale_groups({"wide": 6})
    cluster.wait_for_group("wide", 4)
    cluster.scale_groups({"wide": 4})
    wait_until(lambda: len(site.jobs()) == 4, "those that wait are cancelled")
    states = site.run("squeue", "-h", "-r", "--states=all", "-o", "%K %T")
    assert "N/A CANCELLED" in states  # which stands for those that waited
    victim = site.jobs()[0]
    site.run("scancel", victim)
    wait_until(
        lambda: cluster.groups["wide"].running == 4 and victim not in site.jobs(),
        "another worker takes its place",
    )
    assert not [event.text for event in cluster.events if "cannot observe" in event.text]


def test_one_group_shrinks_while_the_other_works(
    cluster: SlurmCluster, site: SlurmSite, work: Path
) -> None:
    cluster.scale_groups({"gcam": 3, "stitches": 1})
    with ScalableClient(cluster) as client:
        cluster.wait_for_group("gcam", 3)
        log = str(work / "starts")
        futures = client.map(nap, [log] * 9, [1.0] * 9, tag="gcam", pure=False)
        wait_until(lambda: Path(log).exists(), "a task has started")
        cluster.remove_workers(2, "gcam")
        assert client.gather(futures) == [1.0] * 9
        assert Path(log).read_text().count("start") == 9
        wait_until(lambda: len(site.jobs()) == 2, "one of gcam and one of stitches are left")
        assert cluster.groups["stitches"].running == 1


def test_a_cancelled_worker_is_replaced(cluster: SlurmCluster, site: SlurmSite) -> None:
    cluster.add_workers(2, "stitches")
    cluster.wait_for_group("stitches", 2)
    first = set(cluster.groups["stitches"].workers)
    victim = site.jobs()[0]
    site.run("scancel", victim)
    wait_until(
        lambda: len(set(cluster.groups["stitches"].workers) - first) == 1,
        "a worker with another name has joined",
    )
    # It is replaced before Slurm reports how it ended.
    wait_until(
        lambda: any("was cancelled" in event.text for event in cluster.events), "it is explained"
    )


@pytest.mark.usefixtures("slow_epilog")
def test_the_end_of_a_job_is_explained_despite_a_slow_epilog(
    cluster: SlurmCluster, site: SlurmSite
) -> None:
    cluster.add_workers(1, "stitches")
    cluster.wait_for_group("stitches")
    site.run("scancel", *site.jobs())
    wait_until(
        lambda: any(event.text.startswith("lost ") for event in cluster.events), "it is explained"
    )
    (lost,) = [event.text for event in cluster.events if event.text.startswith("lost ")]
    assert "was cancelled" in lost


def test_directives_of_the_site_cannot_override_ours(work: Path) -> None:
    """As in jobqueue.yaml: dask-jobqueue would let them rename the jobs and redirect their output."""
    directives = ["-J mine", "-o /dev/null", "--requeue", "--nice"]
    with (
        dask.config.set({"jobqueue.slurm.job-extra-directives": directives}),
        SlurmCluster(queue="short", interface="lo", pace=QUICK) as cluster,
    ):
        cluster.add_container("tiny", memory="200M")
        cluster.add_workers(1, "tiny")
        cluster.wait_for_group("tiny", timeout=60)
        (log,) = cluster.logs("tiny").values()
    assert "Registered to" in log


def test_a_job_with_another_comment_is_still_recognized(
    cluster: SlurmCluster, site: SlurmSite
) -> None:
    """Users may change a job's comment, and so may a site's plugin; the job is recognized nevertheless."""
    cluster.add_workers(1, "stitches")
    cluster.wait_for_group("stitches")
    (job,) = site.jobs()
    site.run("scontrol", "update", f"jobid={job}", "comment=mine")
    site.run("scancel", job)
    wait_until(
        lambda: any("was cancelled" in event.text for event in cluster.events), "it is explained"
    )


def test_a_worker_lost_with_its_node_is_explained_and_replaced(
    cluster: SlurmCluster, site: SlurmSite
) -> None:
    cluster.add_workers(1, "gcam")
    cluster.wait_for_group("gcam")
    (job,) = site.jobs()
    node = site.run("squeue", "-h", "-j", job, "-o", "%N").strip()
    site.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    wait_until(
        lambda: any("lost its node" in event.text for event in cluster.events), "it is explained"
    )
    cluster.wait_for_group("gcam", timeout=60)


def test_a_worker_is_replaced_before_its_walltime(work: Path, site: SlurmSite) -> None:
    with SlurmCluster(queue="short", walltime=60, interface="lo", pace=QUICK) as cluster:
        cluster.add_container("brief", memory="200M")
        cluster.add_workers(1, "brief")
        cluster.wait_for_group("brief")
        (first,) = cluster.groups["brief"].workers
        with ScalableClient(cluster) as client:
            kept = client.submit(sum, [1, 2], tag="brief")
            assert kept.result(60) == 3
            wait_until(
                lambda: (
                    cluster.groups["brief"].workers and first not in cluster.groups["brief"].workers
                ),
                "another worker has taken over",
            )
            # The result moved to the replacement instead of being lost with the job.
            assert client.who_has()[kept.key]
            assert kept.result(60) == 3
        texts = [event.text for event in cluster.events]
        assert any("time is nearly up" in text for text in texts)
        assert not any("reached its walltime" in text for text in texts)


def test_a_task_longer_than_the_walltime_fails_with_that_reason(
    work: Path, site: SlurmSite
) -> None:
    with SlurmCluster(queue="short", walltime=60, interface="lo", pace=QUICK) as cluster:
        cluster.add_container("brief", memory="200M")
        cluster.add_workers(1, "brief")
        with ScalableClient(cluster) as client:
            log = str(work / "starts")
            future = client.submit(nap, log, 600, tag="brief")
            with pytest.raises(
                WalltimeError, match=r"of group 'brief' reached its walltime.* 1 min"
            ):
                future.result(180)
        assert Path(log).read_text() == "start\n"


def test_a_partition_that_does_not_exist_fails_at_once(work: Path) -> None:
    with SlurmCluster(queue="nosuch", interface="lo", pace=QUICK) as cluster:
        cluster.add_container("gcam")
        cluster.add_workers(1, "gcam")
        with pytest.raises(GroupFailedError, match="invalid partition specified: nosuch"):
            cluster.wait_for_group("gcam")


def test_more_workers_than_an_array_may_have_are_several(work: Path, site: SlurmSite) -> None:
    later = ["--begin=now+600"]
    with SlurmCluster(queue="short", interface="lo", directives=later, pace=QUICK) as cluster:
        cluster.add_container("tiny")
        cluster.add_workers(120, "tiny")
        wait_until(lambda: len(site.jobs()) == 120, "all are queued", 60)
        assert not cluster.groups["tiny"].failed


@pytest.mark.usefixtures("impatient")
def test_the_log_of_a_worker_that_cannot_start_is_shown(work: Path) -> None:
    with SlurmCluster(queue="short", interface="lo", modules=["gcc/99"], pace=QUICK) as cluster:
        cluster.add_container("gcam", memory="200M")
        cluster.add_workers(2, "gcam")
        with ScalableClient(cluster) as client:
            future = client.submit(whereabouts, tag="gcam")
            with pytest.raises(GroupFailedError, match="exit code 127") as caught:
                future.result(60)
        assert "module" in caught.value.explanation.log_tail


def test_a_directory_of_a_run_that_was_removed_fails_its_groups(cluster: SlurmCluster) -> None:
    shutil.rmtree(cluster.logs_location)
    cluster.add_workers(1, "stitches")
    with pytest.raises(GroupFailedError, match="start the run again"):
        cluster.wait_for_group("stitches")


@pytest.mark.usefixtures("impatient")
def test_logs_that_the_nodes_cannot_write_are_explained(
    cluster: SlurmCluster, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_seen(files: JobFiles, tag: str) -> None:
        """As on a machine that has the directory, which nodes do not see."""

    monkeypatch.setattr(JobFiles, "check_keys", is_seen)
    shutil.rmtree(cluster.logs_location)
    cluster.add_workers(1, "stitches")
    with pytest.raises(GroupFailedError, match=r"could not be started .*logs_location"):
        cluster.wait_for_group("stitches")


def test_a_wait_in_the_queue_is_explained_with_slurms_reason(work: Path) -> None:
    with SlurmCluster(queue="short", interface="lo", pace=QUICK) as cluster:
        # The four nodes have 16 cores each, so a fifth worker has to wait.
        cluster.add_container("wide", cpus=16, memory="200M")
        cluster.add_workers(5, "wide")
        cluster.wait_for_group("wide", 4)
        wait_until(lambda: cluster.groups["wide"].reason is Reason.RESOURCES, "the reason is known")
        (explained,) = cluster.explain().values()
        assert "Resources" in str(explained)
        assert not cluster.groups["wide"].failed


def test_a_wait_for_a_licence_is_explained_and_ends(work: Path) -> None:
    one = ["--licenses=matlab:1"]
    with SlurmCluster(queue="short", interface="lo", directives=one, pace=QUICK) as cluster:
        cluster.add_container("tiny", memory="200M")
        # The cluster has two of them.
        cluster.add_workers(3, "tiny")
        cluster.wait_for_group("tiny", 2)
        wait_until(lambda: "Licenses" in str(cluster.explain()), "the reason is known")
        assert cluster.groups["tiny"].running == 2
        cluster.remove_workers(1, "tiny")
        wait_until(lambda: not cluster.explain(), "nothing is waited for")
        cluster.wait_for_group("tiny", 2)


@pytest.mark.parametrize(("queue", "several"), [("scavenge", 1), ("lent", 2)])
def test_a_preempted_worker_is_replaced(
    work: Path, site: SlurmSite, monkeypatch: pytest.MonkeyPatch, queue: str, several: int
) -> None:
    """Preempted jobs are requeued, or cancelled; here, also where the site drops variables by default."""
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    with SlurmCluster(queue=queue, interface="lo", pace=QUICK) as cluster:
        cluster.add_container("wide", cpus=16 // several, memory="200M", workers_per_job=several)
        cluster.add_workers(4 * several, "wide")
        cluster.wait_for_group("wide", 4 * several)
        first = set(cluster.groups["wide"].workers)
        blocker = site.run("sbatch", "--parsable", "-p", "short", "-c", "16", "--wrap", "sleep 600")
        wait_until(
            lambda: any("preempted" in event.text for event in cluster.events), "it is explained"
        )
        site.run("scancel", blocker.strip())
        cluster.wait_for_group("wide", 4 * several, timeout=60)
        assert len(set(cluster.groups["wide"].workers) & first) == 3 * several


def test_values_of_variables_reach_the_worker_unchanged(work: Path) -> None:
    env = {f"VALUE_{i}": value for i, value in enumerate(VALUES)}
    with SlurmCluster(queue="short", interface="lo", pace=QUICK) as cluster:
        cluster.add_container("gcam", memory="200M", env=env)
        cluster.add_workers(1, "gcam")
        with ScalableClient(cluster) as client:
            arrived = client.submit(_variables, sorted(env), tag="gcam").result(60)
    assert arrived == VALUES
    assert not (work / "pwned").exists()


@by_value
def _variables(names: list[str]) -> list[str]:
    return [os.environ[name] for name in names]


def test_a_workflow_may_run_inside_a_job(
    cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm's variables about that job would keep srun, and so a model under MPI, from starting on a worker."""
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "300"}.items():
        monkeypatch.setenv(name, value)
    cluster.add_workers(1, "stitches")
    with ScalableClient(cluster) as client:
        assert client.submit(_step, tag="stitches").result(60) == (0, "")


@by_value
def _step() -> tuple[int, str]:
    step = subprocess.run(["srun", "true"], stderr=subprocess.PIPE, text=True, check=False)
    return step.returncode, step.stderr


def test_option_variables_of_the_user_hide_no_job(
    work: Path, site: SlurmSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as habits:
        habits.setenv("SQUEUE_PARTITION", "long")
        habits.setenv("SCANCEL_PARTITION", "long")
        with SlurmCluster(queue="short", interface="lo", pace=QUICK) as cluster:
            cluster.add_container("tiny", memory="200M")
            cluster.add_workers(1, "tiny")
            cluster.wait_for_group("tiny", timeout=60)
    assert not site.jobs()


CLIENT = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from scalable.providers.slurm import SlurmCluster
cluster = SlurmCluster(queue="short", interface="lo")
cluster.add_container("wide", cpus=16, memory="200M")
cluster.add_workers(6, "wide")
cluster.wait_for_group("wide", 4)
print(cluster.name, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_a_client_that_is_killed(
    work: Path, site: SlurmSite, number: signal.Signals
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as client:
        assert client.stdout is not None
        name = client.stdout.readline().strip()
        assert len(site.jobs(f"scalable-{name}")) == 6
        client.send_signal(number)
        client.wait(60)
    wait_until(lambda: not site.jobs(f"scalable-{name}"), "its jobs are gone, queued ones too")


def test_keys_are_private_and_removed_with_the_run(work: Path) -> None:
    with SlurmCluster(queue="short", interface="lo", pace=QUICK) as cluster:
        directory = Path(cluster.logs_location)
        keys = list((directory / "tls").iterdir())
        assert keys
        assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}
        assert directory.stat().st_mode & 0o777 == 0o700
    assert not directory.exists()


def test_a_second_cluster_on_another_thread_works(work: Path) -> None:
    """Once dask-jobqueue is imported, as by any other test here, the thread does not matter."""
    done: list[float] = []

    def other() -> None:
        with SlurmCluster(queue="short", interface="lo", pace=QUICK) as cluster:
            cluster.add_container("gcam", memory="200M")
            cluster.add_workers(1, "gcam")
            cluster.wait_for_group("gcam", timeout=60)
            done.append(cluster.groups["gcam"].running)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(120)
    assert done == [1]


_QUEUES_AND_WAITS = """
import sys, time
from scalable.providers.slurm import SlurmCluster
cluster = SlurmCluster(queue="short", interface="lo", directives=["--begin=now+3600"])
cluster.add_container("tiny", memory="200M")
cluster.add_workers(3, "tiny")
time.sleep(600)
"""


def test_jobs_that_start_after_their_client_and_its_watchdog_have_died_end(
    work: Path, site: SlurmSite
) -> None:
    """As where the client ran in a job, all of whose processes Slurm has killed."""
    with subprocess.Popen([sys.executable, "-c", _QUEUES_AND_WAITS]) as client:
        try:
            wait_until(lambda: len(site.jobs()) == 3, "three jobs wait")
            (name,) = set(site.run("squeue", "-h", "-o", "%j").split())
        finally:
            family = psutil.Process(client.pid).children(recursive=True)
            client.kill()
            for process in family:
                process.kill()
    (logs,) = Path(".scalable/logs").iterdir()
    # As if some minutes had passed.
    os.utime(logs / "client", (time.time() - 600,) * 2)
    for job in site.jobs(name):
        site.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    wait_until(lambda: not site.jobs(name), "no job is left")
    assert any("client of this run has died" in log.read_text() for log in logs.glob("*.log"))
    assert (logs / "tls").exists()
    with SlurmCluster(queue="short", interface="lo"):
        assert not (logs / "tls").exists()
