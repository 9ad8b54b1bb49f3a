from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scalable.errors import NotSupportedError
from scalable.mpi import mpi_argv, mpi_environment, run_mpi


def test_a_worker_without_ranks_says_what_to_do() -> None:
    with pytest.raises(NotSupportedError, match="give its component `nodes` or `ranks`"):
        mpi_argv(["a.out"], environ={"SCALABLE_NODES": "2"})


@pytest.mark.parametrize(("ranks", "nodes"), [(1, 1), (3, 2), (8, 2)])
def test_fewer_ranks_than_there_are_need_fewer_nodes(ranks: int, nodes: int) -> None:
    argv = mpi_argv(["a.out"], ranks=ranks, environ=mpi_environment(2, 8, 4))
    assert argv[:4] == ["srun", f"--nodes={nodes}", f"--ntasks={ranks}", "--cpus-per-task=4"]


@pytest.mark.parametrize("ranks", [0, 9])
def test_more_ranks_than_there_are_are_refused(ranks: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 8"):
        mpi_argv(["a.out"], ranks=ranks, environ=mpi_environment(2, 8, 4))


def test_a_program_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = tmp_path / "mpirun"
    launcher.write_text('#!/bin/sh\nshift 2; exec "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name, value in mpi_environment(1, 2, 1).items():
        monkeypatch.setenv(name, value)
    said = [sys.executable, "-c", "print('it\\'s done')"]
    done = run_mpi(said, launcher="mpirun", capture_output=True, text=True)
    assert done.stdout == "it's done\n"
    with pytest.raises(subprocess.CalledProcessError):
        run_mpi([sys.executable, "-c", "raise SystemExit(3)"], launcher="mpirun")
