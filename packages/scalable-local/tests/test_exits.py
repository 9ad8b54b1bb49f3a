from __future__ import annotations

import errno
import os
import signal

import pytest

from scalable.cluster.port import Reason
from scalable.errors import LaunchRefusedError
from scalable.providers.local.command import Container
from scalable.providers.local.exits import (
    explain_container_exit,
    explain_exit,
    explain_out_of_memory,
    explain_stop,
    launch_error,
)


@pytest.mark.parametrize(
    ("status", "reason", "native", "log_is_useful"),
    [
        (0, Reason.EXITED, "exit code 0", False),
        (1, Reason.EXITED, "exit code 1", True),
        (-signal.SIGKILL, Reason.UNKNOWN, "SIGKILL", False),
        (-signal.SIGTERM, Reason.UNKNOWN, "SIGTERM", False),
        (-signal.SIGSEGV, Reason.EXITED, "SIGSEGV", True),
        (-signal.SIGABRT, Reason.EXITED, "SIGABRT", True),
        (-63, Reason.EXITED, "signal 63", True),
    ],
)
def test_an_exit_status(status: int, reason: Reason, native: str, log_is_useful: bool) -> None:
    worker_exit = explain_exit(status)

    assert (worker_exit.reason, worker_exit.native, worker_exit.log_is_useful) == (
        reason,
        native,
        log_is_useful,
    )


def test_an_unexplained_sigkill_hints_at_the_machine_s_memory() -> None:
    assert "out of memory" in explain_exit(-signal.SIGKILL).remedy
    assert "task" in explain_exit(-signal.SIGTERM).remedy


def test_out_of_memory_has_figures_and_a_remedy() -> None:
    worker_exit = explain_out_of_memory("gcam", 5 * 2**30, 4 * 2**30)

    assert worker_exit.reason is Reason.OUT_OF_MEMORY
    assert "5.37 GB" in worker_exit.summary
    assert "4Gi" in worker_exit.summary
    assert "components.gcam.memory" in worker_exit.remedy


GCAM = Container("podman", "laptop-1f-gcam-1", memory=8 * 10**9)
FREE = Container("podman", "laptop-1f-gcam-1")


@pytest.mark.parametrize(
    ("container", "status", "killed", "reason", "native"),
    [
        (GCAM, 0, False, Reason.EXITED, "exit code 0"),
        (GCAM, 1, False, Reason.EXITED, "exit code 1"),
        (GCAM, 128 + signal.SIGSEGV, False, Reason.EXITED, "SIGSEGV"),
        (GCAM, 128 + signal.SIGTERM, False, Reason.UNKNOWN, "SIGTERM"),
        (GCAM, 128 + signal.SIGKILL, False, Reason.UNKNOWN, "SIGKILL"),
        (GCAM, 128 + signal.SIGKILL, True, Reason.OUT_OF_MEMORY, "SIGKILL"),
        (FREE, 128 + signal.SIGKILL, True, Reason.UNKNOWN, "SIGKILL"),
        # The client of the container, not what runs in it.
        (GCAM, -signal.SIGKILL, False, Reason.UNKNOWN, "SIGKILL"),
        (GCAM, 125, False, Reason.REFUSED, "exit code 125"),
    ],
)
def test_an_exit_status_of_a_container(
    container: Container, status: int, killed: bool, reason: Reason, native: str
) -> None:
    worker_exit = explain_container_exit("gcam", container, status, killed=killed, log="")

    assert (worker_exit.reason, worker_exit.native) == (reason, native)


def test_a_killed_container_hints_at_its_own_memory_or_else_at_the_machine_s() -> None:
    own = explain_container_exit("gcam", GCAM, 137, killed=False, log="")
    machine = explain_container_exit("gcam", FREE, 137, killed=False, log="")

    assert "components.gcam.memory" in own.remedy
    assert "8G" in own.remedy
    assert "the machine ran out of memory" in machine.remedy


# As recorded from Podman 4.3 with catatonit and runc, and Docker 20.10 with tini.
@pytest.mark.parametrize(
    ("status", "log"),
    [
        (1, "ERROR (catatonit:6): failed to exec pid1: No such file or directory"),
        (127, "[FATAL tini (7)] exec python3 failed: No such file or directory"),
        (127, 'Error: runc: exec: "python3": executable file not found in $PATH: OCI runtime'),
        (1, "ModuleNotFoundError: No module named 'distributed'"),
    ],
)
def test_an_image_without_dask(status: int, log: str) -> None:
    worker_exit = explain_container_exit(
        "gcam", GCAM, status, killed=False, log=f"something\n{log}"
    )

    assert worker_exit.reason is Reason.IMAGE
    assert "python3" in worker_exit.summary
    assert "install dask" in worker_exit.remedy


def test_a_model_s_missing_program_is_not_an_image_error() -> None:
    log = "FileNotFoundError: gcam.exe: executable file not found"

    assert explain_container_exit("gcam", GCAM, 2, killed=False, log=log).reason is Reason.EXITED


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("Error: statfs /data: no such file or directory", "statfs /data: no such file"),
        (
            "docker: Error response from daemon: invalid mount config\n\nRun 'docker run --help'",
            "podman could not start its container: invalid mount config",
        ),
        ("", "did not say why"),
    ],
)
def test_a_refusal_is_reported_with_the_runtimes_message(log: str, message: str) -> None:
    assert message in explain_container_exit("gcam", GCAM, 125, killed=False, log=log).summary


def test_a_missing_init_has_a_remedy() -> None:
    log = "Error: container-init binary not found on the host: stat /usr/libexec/podman/catatonit"

    assert (
        "install catatonit"
        in explain_container_exit("gcam", GCAM, 125, killed=False, log=log).remedy
    )


def test_the_log_of_a_stopped_worker_is_not_useful() -> None:
    assert not explain_stop().log_is_useful


@pytest.mark.parametrize(
    ("code", "refused"),
    [
        (errno.ENOENT, True),
        (errno.EACCES, True),
        (errno.E2BIG, True),
        (errno.EAGAIN, False),
        (errno.ENOMEM, False),
        (errno.EMFILE, False),
        (errno.ENOSPC, False),
    ],
)
def test_only_temporary_errors_are_retried(code: int, refused: bool) -> None:
    error = launch_error("gcam", OSError(code, os.strerror(code), "/usr/bin/python"))

    assert isinstance(error, LaunchRefusedError) is refused
    assert "gcam" in str(error)
    assert "/usr/bin/python" in str(error)
