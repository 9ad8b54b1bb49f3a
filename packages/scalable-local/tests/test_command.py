from __future__ import annotations

import sys
from pathlib import Path

import pytest
from distributed.cli import dask_worker

from scalable.manifest.schema import ComponentConfig
from scalable.providers.local.command import Command, process_command


def command(component: ComponentConfig) -> Command:
    return process_command(
        component,
        name=f"{component.name}-1",
        slots=component.slots,
        scheduler_address="tcp://127.0.0.1:8786",
        directory=Path("/run/x"),
    )


def parsed(built: Command) -> dict[str, object]:
    """Parse with the worker's own command line its arguments."""
    arguments = list(built.argv[built.argv.index("worker") + 1 :])
    return dict(dask_worker.main.make_context("dask worker", arguments).params)


def test_the_arguments_are_what_dask_worker_understands(tmp_path: Path) -> None:
    preload = tmp_path / "a b" / "prepare_gcam_for_test_command.py"
    preload.parent.mkdir()
    preload.touch()  # reading the arguments imports it
    component = ComponentConfig(name="gcam", slots=3, memory=2**30, preload_script=str(preload))

    params = parsed(command(component))

    assert params["scheduler"] == "tcp://127.0.0.1:8786"
    assert params["name"] == "gcam-1"
    assert params["nthreads"] == 3
    assert params["resources"] == "gcam=3"
    assert params["memory_limit"] == str(2**30)
    assert params["preload"] == (str(preload),)
    assert params["local_directory"] == "/run/x"
    assert params["host"] == "127.0.0.1"
    assert params["dashboard_address"] == "127.0.0.1:0"
    assert (params["nanny"], params["dashboard"]) == (False, False)
    assert params["death_timeout"] == "60"


def test_the_tilde_of_a_preload_script_is_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "prepare.py").touch()

    built = command(ComponentConfig(name="gcam", preload_script="~/prepare.py"))

    assert str(tmp_path / "prepare.py") in built.argv


def test_without_memory_there_is_no_limit_and_without_a_script_no_preload() -> None:
    params = parsed(command(ComponentConfig(name="gcam")))

    assert params["memory_limit"] == "0"
    assert params["preload"] == ()


def test_the_interpreter_is_this_one() -> None:
    assert command(ComponentConfig(name="gcam")).argv[0] == sys.executable


def test_tasks_share_the_cores_of_their_worker() -> None:
    def threads(cpus: int, slots: int) -> str:
        return command(ComponentConfig(name="gcam", cpus=cpus, slots=slots)).env["OMP_NUM_THREADS"]

    assert [threads(8, 1), threads(8, 2), threads(8, 3), threads(1, 4)] == ["8", "4", "2", "1"]


def test_variables_of_the_component_take_precedence() -> None:
    component = ComponentConfig(name="gcam", cpus=4, env={"OMP_NUM_THREADS": "2", "A": "b"})

    env = command(component).env

    assert env["OMP_NUM_THREADS"] == "2"
    assert env["MKL_NUM_THREADS"] == "4"
    assert env["A"] == "b"


def test_values_are_not_shown() -> None:
    built = command(ComponentConfig(name="gcam", env={"TOKEN": "hunter2"}))

    assert "hunter2" not in repr(built)
    assert "hunter2" not in " ".join(built.argv)
