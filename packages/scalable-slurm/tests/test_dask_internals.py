"""What we need of Dask beyond its public interface, each name by itself on the installed version.

docs/extending/dask.md lists the names and where they are used.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dask.config
import pytest
from dask.utils import parse_bytes, parse_timedelta

from scalable.providers.slurm.jobqueue import import_jobqueue
from scalable.providers.slurm.site import _READERS
from scalable.providers.tls import make_credentials


def test_a_cluster_of_dask_jobqueue_can_be_without_workers() -> None:
    """`dask_jobqueue.slurm.SLURMCluster`: runs a scheduler in this process, and submits nothing for no workers."""
    import_jobqueue()
    from dask_jobqueue.slurm import SLURMCluster

    with SLURMCluster(
        name="ours",
        n_workers=0,
        cores=1,
        processes=1,
        memory="1 GiB",
        interface=None,
        security=None,
        scheduler_options={"dashboard_address": "127.0.0.1:0"},
    ) as cluster:
        assert cluster.scheduler_address.startswith("tcp://")
        assert cluster.scheduler_comm is not None
        assert cluster.loop is not None
        # The link names another address, but it is there that the dashboard listens.
        port = urlsplit(cluster.dashboard_link).port
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
        assert not cluster.workers


def test_a_cluster_of_dask_jobqueue_asks_for_the_keys_of_its_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dask_jobqueue.slurm.SLURMCluster._get_worker_security`: writes keys to files, which it leaves."""
    import_jobqueue()
    from dask_jobqueue.slurm import SLURMCluster

    monkeypatch.chdir(tmp_path)
    security = make_credentials().security()
    options: dict[str, Any] = {"name": "ours", "cores": 1, "processes": 1, "memory": "1 GiB"}
    options |= {"n_workers": 0, "shared_temp_directory": str(tmp_path)}
    options["scheduler_options"] = {"dashboard_address": ":0"}
    asked: list[Any] = []

    class WithoutJobs(SLURMCluster):
        def _get_worker_security(self, security: Any) -> None:
            asked.append(security)

    with WithoutJobs(security=security, **options) as cluster:
        assert cluster.scheduler_address.startswith("tls://")
    assert asked == [security]
    assert not [*tmp_path.iterdir()]
    with SLURMCluster(security=security, **options):
        assert [*tmp_path.iterdir()]


def test_a_cluster_of_dask_jobqueue_takes_another_class_of_jobs() -> None:
    """`dask_jobqueue.slurm.SLURMJob`: what inherits it takes its place, and may be made, but is not started."""
    import_jobqueue()
    from dask_jobqueue.slurm import SLURMCluster, SLURMJob

    made: list[Any] = []

    class NoJob(SLURMJob):
        def __init__(self, *_: Any, **__: Any) -> None:
            made.append(self)
            self.worker_processes = 1

    # Its own class would refuse this configuration.
    with (
        dask.config.set({"jobqueue.slurm.cores": None, "jobqueue.slurm.memory": "as much as fits"}),
        SLURMCluster(
            n_workers=0,
            job_cls=NoJob,  # type: ignore[arg-type] # annotated as an instance
            shared_temp_directory=".",
            scheduler_options={"dashboard_address": "127.0.0.1:0"},
        ) as cluster,
    ):
        assert cluster.scheduler_address
        assert not cluster.workers
    assert made


def test_the_import_replaces_the_handler_of_sigint() -> None:
    """`dask_jobqueue`: its import replaces SIGINT's handler on the main thread, and fails on others."""
    code = """
import signal, threading
before, errors = signal.getsignal(signal.SIGINT), []
def off_the_main_thread():
    try:
        import dask_jobqueue
    except ValueError as error:
        errors.append(error)
thread = threading.Thread(target=off_the_main_thread)
thread.start(); thread.join()
assert errors, "import_jobqueue need not refuse this any more"
import dask_jobqueue
assert signal.getsignal(signal.SIGINT) is not before, "import_jobqueue need not put it back any more"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_configuration_has_the_keys_that_we_read() -> None:
    """`jobqueue.slurm`: the section of dask-jobqueue's configuration, with every key that we read."""
    import_jobqueue()
    found = {name.replace("_", "-") for name in dask.config.get("jobqueue.slurm")}
    assert found >= _READERS.keys()


@pytest.mark.parametrize(
    ("text", "amount"), [("4 GB", 4_000_000_000), ("1 GiB", 2**30), ("16e9", 16e9), (5, 5)]
)
def test_amounts_of_memory(text: str | int, amount: int) -> None:
    """`dask.utils.parse_bytes`: decimal and binary units, and plain numbers."""
    assert parse_bytes(text) == amount


@pytest.mark.parametrize(("text", "seconds"), [(60, 60), ("5 minutes", 300), ("2h", 7200)])
def test_times(text: str | int, seconds: int) -> None:
    """`dask.utils.parse_timedelta`: numbers of seconds, and units."""
    assert parse_timedelta(text) == seconds
