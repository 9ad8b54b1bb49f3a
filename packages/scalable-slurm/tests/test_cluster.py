from __future__ import annotations

import logging
import signal
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scalable.cluster import Pace
from scalable.errors import (
    LeftoverError,
    LimitExceededError,
    NotSupportedError,
    ValidationFailedError,
)
from scalable.providers.slurm import SlurmCluster, SlurmOptions
from scalable.providers.slurm.options import JobOptions

if TYPE_CHECKING:
    from conftest import FakeCommand


def test_a_job_that_cannot_be_cancelled_is_reported_by_close(
    tmp_path: Path, fake_command: FakeCommand
) -> None:
    for command in ("squeue", "scancel"):
        fake_command(command)
    fake_command("sbatch", stdout="7\n")
    pace = Pace(tick=0.05, poll=0.1, close_timeout=4.0)
    cluster = SlurmCluster(logs_location=str(tmp_path), interface="lo", security=False, pace=pace)
    fake_command("squeue", stdout=f"7|0|RUNNING|None|1:30|node1|scalable-{cluster.name}|\n")
    cluster.add_container("gcam")
    cluster.add_workers(1, "gcam")
    with pytest.raises(LeftoverError) as caught:
        cluster.close()
    try:
        assert [str(each) for each in caught.value.leftovers] == ["Slurm job 7_0 (RUNNING)"]
        assert cluster._watchdog._process.poll() is None  # cancels it when that is possible
    finally:
        cluster._watchdog.stop()


def test_the_watchdog_of_a_cluster_that_left_nothing_ends_with_it(
    tmp_path: Path, fake_command: FakeCommand
) -> None:
    for command in ("squeue", "scancel"):
        fake_command(command)
    cluster = SlurmCluster(logs_location=str(tmp_path), interface="lo", security=False)
    cluster.close()
    assert cluster._watchdog._process.poll() == -signal.SIGKILL


def test_the_watchdog_of_a_cluster_that_made_nothing_ends_with_it_without_slurm(
    tmp_path: Path, fake_command: FakeCommand
) -> None:
    for command in ("squeue", "scancel"):
        fake_command(command, stderr="no Slurm here", status=1)
    pace = Pace(tick=0.05, poll=0.1, close_timeout=4.0)
    cluster = SlurmCluster(logs_location=str(tmp_path), interface="lo", security=False, pace=pace)
    cluster.close()
    assert cluster._watchdog._process.poll() == -signal.SIGKILL


def test_options_of_other_libraries_are_answered_with_what_to_write(tmp_path: Path) -> None:
    for option in ("silence_logs", "config_overwrite", "cores"):
        refused: dict[str, Any] = {"logs_location": str(tmp_path), option: 1}
        with pytest.raises(NotSupportedError, match=f"no option {option}: "):
            SlurmCluster(**refused)
    with pytest.raises(ValidationFailedError, match="no interface"):
        SlurmCluster(logs_location=str(tmp_path), interface="nosuch0")
    assert list(tmp_path.iterdir()) == []


def test_the_interface_of_workers_goes_with_the_host_of_the_scheduler(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"logs_location": str(tmp_path), "security": False}
    with SlurmCluster(**fields, interface="lo", scheduler_host="127.0.0.1") as cluster:
        assert cluster.scheduler_address.startswith("tcp://127.0.0.1:")
    with pytest.raises(ValidationFailedError, match="scheduler_host or scheduler_interface"):
        SlurmCluster(**fields, scheduler_interface="lo", scheduler_host="127.0.0.1")


class Four:
    """A number of another library."""

    def __index__(self) -> int:
        return 4


def test_options_are_taken_as_python_has_them(tmp_path: Path) -> None:
    """Paths, spans of time, and numbers such as NumPy's."""
    fields: dict[str, Any] = {"local_directory": Path("/var/tmp"), "walltime": timedelta(hours=1)}
    with SlurmCluster(logs_location=tmp_path, interface="lo", security=False, **fields) as cluster:
        assert cluster.options.local_directory == "/var/tmp"
        assert cluster.options.walltime == 3600
        image: Any = Path("/images/gcam.sif")
        cpus: Any = Four()
        cluster.add_container("gcam", cpus=cpus, path=image, dirs={"/data": "/data"})
        with pytest.raises(ValidationFailedError, match=r"gcam2\.env\.A: cannot be object"):
            cluster.add_container("gcam2", env={"A": object()})
        with pytest.raises(ValidationFailedError, match="E_BAD_NAME"):
            cluster.add_container("")


def test_limits_hold(tmp_path: Path, fake_command: FakeCommand) -> None:
    for command in ("squeue", "scancel"):
        fake_command(command)
    fake_command("sbatch", stdout="7\n")
    fields: dict[str, Any] = {"logs_location": str(tmp_path), "interface": "lo", "security": False}
    limits = {"max_workers": 2, "max_worker_hours": 10, "on_exceed": "drain"}
    with SlurmCluster(**fields, limits=limits) as cluster:
        cluster.add_container("gcam")
        with pytest.raises(LimitExceededError, match="max_workers"):
            cluster.add_workers(3, "gcam")
        cluster.add_workers(2, "gcam")
        assert cluster.groups["gcam"].wanted == 2
        assert cluster.usage["limits"]["max_worker_hours"] == 10
    for limit in ("max_cost", "max_hourly_cost"):
        with pytest.raises(NotSupportedError, match="pass max_worker_hours"):
            SlurmCluster(**fields, limits={limit: 5})


def test_groups_have_the_size_that_the_options_say(
    tmp_path: Path, fake_command: FakeCommand
) -> None:
    for command in ("squeue", "scancel"):
        fake_command(command)
    fake_command("sbatch", stdout="7\n")
    with SlurmCluster(
        logs_location=str(tmp_path), interface="lo", security=False, n_workers=2
    ) as cluster:
        cluster.add_container("gcam")
        assert cluster.groups["gcam"].wanted == 2
        with pytest.raises(ValidationFailedError, match="pass the image as path"):
            cluster.add_container("plots", dirs={"/data": "/data"})
        cluster.remove_workers("gcam", 2)  # type: ignore[arg-type] # the other order
        assert cluster.groups["gcam"].wanted == 0
        with pytest.raises(TypeError, match="a number of workers and a tag"):
            cluster.add_workers("gcam", "4")  # type: ignore[arg-type]


def test_arguments_that_cannot_be_obeyed_are_refused(tmp_path: Path) -> None:
    options = SlurmOptions(logs_location=str(tmp_path), interface="lo")
    with pytest.raises(TypeError, match="queue apart from them"):
        SlurmCluster(options, queue="short")
    with pytest.raises(TypeError, match="by name, such as"):
        SlurmCluster("short")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be ComponentConfig objects"):
        SlurmCluster(options, components={"gcam": {}})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="must be a Pace"):
        SlurmCluster(options, pace=5)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_container_is_checked_like_a_component_of_a_manifest(
    tmp_path: Path, fake_command: FakeCommand, caplog: pytest.LogCaptureFixture
) -> None:
    for command in ("squeue", "scancel"):
        fake_command(command)
    options = SlurmOptions(
        logs_location=str(tmp_path),
        interface="lo",
        components={"gcam": JobOptions(queue="long", qos="high")},
        workers={"gcam": 0},
    )
    with SlurmCluster(options, security=False) as cluster:
        with pytest.raises(ValidationFailedError, match="nodes or ranks"):
            cluster.add_container("wrf", nodes=2, path="wrf.sif")
        with pytest.raises(ValidationFailedError, match="has its job for itself"):
            cluster.add_container("wrf", nodes=2, workers_per_job=4)
        with pytest.raises(ValidationFailedError, match="at least the number of nodes"):
            cluster.add_container("wrf", nodes=2, ranks=1)
        with pytest.raises(ValidationFailedError, match="slots: must be at most 10000"):
            cluster.add_container("wrf", slots=10**9)
        with pytest.raises(ValidationFailedError, match="reads as something else"):
            cluster.add_container("a", path="a.sif", dirs={"/a,b": "/c"})
        with pytest.raises(TypeError, match="both path and image"):
            cluster.add_container("a", path="a.sif", image="b.sif")
        cluster.add_container("gcam", qos="low")
        request = cluster._backend.requests["gcam"]
        assert (request.partition, request.qos) == ("long", "low")
        assert not [text for text in caplog.messages if "says nothing" in text]
        cluster.add_container("gcm")
        assert [text for text in caplog.messages if "did you mean 'gcam'" in text]
        cluster.add_container("tiny", memory=4)
        warning = "components.tiny.memory: is too little for a worker"
        assert [text for text in caplog.messages if warning in text]
        with pytest.raises(ValueError, match="1000000000 workers are more than one Dask scheduler"):
            cluster.add_workers(10**9, "gcam")


def test_log_lines_of_others_stay_where_the_program_writes_them(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A program may write its log and Dask's to one file, for which both loggers have one handler."""
    own = logging.FileHandler(tmp_path / "log")
    dasks = logging.StreamHandler()
    for logger, handler in ((None, own), ("distributed", own), ("distributed", dasks)):
        logging.getLogger(logger).addHandler(handler)
        request.addfinalizer(partial(logging.getLogger(logger).removeHandler, handler))
    request.addfinalizer(own.close)
    options = SlurmOptions(logs_location=str(tmp_path), interface="lo")
    first, second = (SlurmCluster(options, security=False) for _ in range(2))
    logging.getLogger("scalable.providers.slurm").warning("a warning of ours")
    levels = [dasks.level]
    for cluster in (first, second):
        cluster.close()
        levels.append(dasks.level)
    assert "a warning of ours\n" in (tmp_path / "log").read_text()
    assert levels == [logging.WARNING, logging.WARNING, logging.NOTSET]
