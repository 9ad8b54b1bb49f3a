from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scalable.errors import NotSupportedError
from scalable.providers.slurm.preflight import _check_logs
from scalable.providers.slurm.presence import FILE, dead_runs
from scalable.providers.slurm.rundir import RunDirectory


def modes(directory: Path) -> dict[str, int]:
    """Return the permissions of a directory and of everything in it."""
    found = (directory, *directory.rglob("*"))
    return {str(path.relative_to(directory)): stat.S_IMODE(path.stat().st_mode) for path in found}


def test_keys_are_readable_by_their_user_only(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "run"
    security, tls = RunDirectory(path).write_keys()
    found = modes(path)
    assert [found.pop(name) for name in (".", "jobs", "tls")] == [0o700] * 3
    assert found
    assert set(found.values()) == {0o600}
    assert "PRIVATE KEY" in Path(tls.key).read_text()
    # Scheduler and clients have them in memory, for another user may be able to replace the files.
    for role in ("scheduler", "client"):
        assert security.get_tls_config_for_role(role)["key"] == Path(tls.key).read_text()
        assert security.get_tls_config_for_role(role)["ca_file"] == Path(tls.ca_file).read_text()
    assert security.require_encryption


def test_a_run_leaves_its_logs_but_no_keys(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    directory.write_keys()
    (Path(directory.logs) / "7_0.log").touch()
    directory.remove_keys()
    directory.remove_keys()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["7_0.log"]


def test_a_run_without_logs_leaves_nothing(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    directory.write_keys()
    directory.remove_keys()
    assert list(tmp_path.iterdir()) == []


def test_a_run_does_not_reuse_the_directory_of_another(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "run")
    with pytest.raises(FileExistsError):
        RunDirectory(tmp_path / "run")


def test_keys_that_cannot_be_written_are_reported_with_their_path(tmp_path: Path) -> None:
    """Neither the error of a write over quota nor that of one over this limit has a file name."""
    directory = RunDirectory(tmp_path / "run")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the system chooses the errno
            directory.write_keys()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value.filename).startswith(str(directory.path))
    directory.remove_keys()
    assert not directory.path.exists()


def test_a_directory_without_room_is_named_and_not_left(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the system chooses the errno
            RunDirectory(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value.filename).startswith(str(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_slurm_would_misread_is_rejected(tmp_path: Path) -> None:
    location = tmp_path / "DOMAIN\\user"
    with pytest.raises(NotSupportedError, match="set logs_location to another"):
        RunDirectory(location / "run")
    assert not location.exists()
    assert _check_logs(location).ok is False


def test_the_next_run_removes_the_keys_of_one_whose_client_was_killed(tmp_path: Path) -> None:
    killed = """
import os, sys
from pathlib import Path
from scalable.providers.slurm.rundir import RunDirectory
RunDirectory(Path(sys.argv[1]) / "killed").write_keys()
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", killed, str(tmp_path)], check=False)
    alive = RunDirectory(tmp_path / "alive")
    alive.write_keys()
    assert [run.name for run in dead_runs(tmp_path, time.time())] == ["killed"]
    assert [run.name for run in dead_runs(tmp_path, time.time() + 1e6)] == ["killed"]
    RunDirectory(tmp_path / "next").remove_keys_of_dead_runs()
    assert {path.name for path in tmp_path.iterdir()} == {"alive", "next"}
    assert (tmp_path / "alive" / "tls").exists()
    alive.remove_keys()


def test_a_client_on_another_machine_is_dead_once_it_has_been_silent_for_long(
    tmp_path: Path,
) -> None:
    run = RunDirectory(tmp_path / "elsewhere")
    run.write_keys()
    (run.path / FILE).write_text("1 1 another-boot/pid:[1]\n")
    os.utime(run.path / FILE, (1000.0, 1000.0))
    assert list(dead_runs(tmp_path, 1000.0 + 3000.0)) == []
    assert list(dead_runs(tmp_path, 1000.0 + 4000.0)) == [run.path]
    run.remove_keys()


def test_what_other_users_put_beside_runs_is_not_waited_for(tmp_path: Path) -> None:
    """A pipe would never end, and a link leads to files of others."""
    for name in ("pipe", "link"):
        (tmp_path / name / "tls").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe" / FILE)
    (tmp_path / "dead").write_text("0 0 0")
    (tmp_path / "link" / FILE).symlink_to(tmp_path / "dead")

    assert list(dead_runs(tmp_path, time.time() + 1e6)) == []
