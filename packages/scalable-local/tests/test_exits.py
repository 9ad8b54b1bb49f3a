from __future__ import annotations

import errno
import os
import signal

import pytest

from scalable.cluster.port import Reason
from scalable.errors import LaunchRefusedError
from scalable.providers.local.exits import exited, launch_error, out_of_memory, stopped


@pytest.mark.parametrize(
    ("status", "reason", "native", "log_tells"),
    [
        (0, Reason.EXITED, "exit code 0", False),
        (1, Reason.EXITED, "exit code 1", True),
        (-signal.SIGKILL, Reason.CANCELLED, "SIGKILL", False),
        (-signal.SIGTERM, Reason.CANCELLED, "SIGTERM", False),
        (-signal.SIGSEGV, Reason.EXITED, "SIGSEGV", True),
        (-signal.SIGABRT, Reason.EXITED, "SIGABRT", True),
        (-63, Reason.EXITED, "signal 63", True),
    ],
)
def test_an_exit_status(status: int, reason: Reason, native: str, log_tells: bool) -> None:
    end = exited(status)

    assert (end.reason, end.native, end.log_tells) == (reason, native, log_tells)


def test_a_sigkill_from_nobody_we_know_hints_at_the_machine_s_memory() -> None:
    assert "out of memory" in exited(-signal.SIGKILL).remedy
    assert exited(-signal.SIGTERM).remedy == ""


def test_out_of_memory_has_figures_and_a_remedy() -> None:
    end = out_of_memory("gcam", 5 * 2**30, 4 * 2**30)

    assert end.reason is Reason.OUT_OF_MEMORY
    assert "5.37 GB" in end.summary
    assert "4Gi" in end.summary
    assert "components.gcam.memory" in end.remedy


def test_the_log_of_what_was_stopped_tells_nothing() -> None:
    assert not stopped().log_tells


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
def test_only_what_may_pass_is_tried_again(code: int, refused: bool) -> None:
    error = launch_error("gcam", OSError(code, os.strerror(code), "/usr/bin/python"))

    assert isinstance(error, LaunchRefusedError) is refused
    assert "gcam" in str(error)
    assert "/usr/bin/python" in str(error)
