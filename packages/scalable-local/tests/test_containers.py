from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from distributed.cli import dask_worker

from scalable.manifest.schema import ComponentConfig
from scalable.providers.local.command import Command, process_command
from scalable.providers.local.containers import (
    ContainerSetup,
    RunContext,
    Runtime,
    command_factory,
    container_command,
)
from scalable.providers.local.termination import LABEL

PODMAN = Runtime("podman", limits_memory=True, limits_cpus=True)
ROOT = RunContext("laptop-1f", uid=0, gid=0, cores=8)
USER = RunContext("laptop-1f", uid=1000, gid=100, cores=8)

WORKER: dict[str, Any] = {
    "name": "gcam-1",
    "slots": 2,
    "scheduler_address": "tcp://127.0.0.1:8786",
    "directory": Path("/run/x"),
}


def command(
    component: ComponentConfig,
    runtime: Runtime = PODMAN,
    context: RunContext = ROOT,
    preload: str | None = None,
) -> Command:
    setup = ContainerSetup(runtime, "gcam:7", {"/data": "/in"}, preload)
    return container_command(component, setup, context, **WORKER)


def flags(built: Command) -> set[str]:
    return set(built.argv[: built.argv.index("python3")])


def parsed(built: Command) -> dict[str, object]:
    """Parse with the command line of ``dask worker`` what comes after the program in the image."""
    arguments = list(built.argv[built.argv.index("worker") + 1 :])
    return dict(dask_worker.main.make_context("dask worker", arguments).params)


@pytest.mark.parametrize(
    "runtime", [PODMAN, Runtime("docker"), Runtime("apptainer"), Runtime("singularity")]
)
def test_a_worker_has_the_same_arguments_as_a_plain_one(runtime: Runtime) -> None:
    component = ComponentConfig(name="gcam", memory=2**30)

    inside = parsed(command(component, runtime))

    plain = process_command(component, **WORKER)
    arguments = list(plain.argv[plain.argv.index("worker") + 1 :])
    assert inside == dask_worker.main.make_context("dask worker", arguments).params
    assert inside["name"] == "gcam-1"


@pytest.mark.parametrize("name", ["podman", "docker", "apptainer", "singularity"])
def test_values_of_variables_are_not_arguments(name: str) -> None:
    built = command(
        ComponentConfig(name="gcam", cpus=4, env={"TOKEN": "hush", "OMP_NUM_THREADS": "2"}),
        Runtime(name),
    )

    assert "hush" not in " ".join(built.argv) + repr(built)
    prefix = "" if name in ("podman", "docker") else f"{name.upper()}ENV_"
    assert built.env[f"{prefix}TOKEN"] == "hush"
    assert built.env[f"{prefix}OMP_NUM_THREADS"] == "2"
    assert built.env[f"{prefix}MKL_NUM_THREADS"] == "2", "two tasks share four cores"


@pytest.mark.parametrize("name", ["podman", "docker"])
def test_each_variable_is_named_to_a_container(name: str) -> None:
    built = command(ComponentConfig(name="gcam", env={"TOKEN": "hush"}), Runtime(name))

    named = {built.argv[i + 1] for i, argument in enumerate(built.argv) if argument == "--env"}
    assert named == built.env.keys() >= {"TOKEN", "OMP_NUM_THREADS"}


def test_apptainer_lets_no_shell_read_the_values() -> None:
    built = command(ComponentConfig(name="gcam"), Runtime("apptainer"))

    assert {"--cleanenv", "--no-eval"} <= flags(built)


def test_child_processes_are_labelled_and_containers_are_named() -> None:
    child = command(ComponentConfig(name="gcam"), Runtime("apptainer"))
    apart = command(ComponentConfig(name="gcam"), Runtime("docker"))

    assert child.container is None
    assert child.env[f"APPTAINERENV_{LABEL}"] == "/run/x"
    assert apart.container is not None
    assert f"--name={apart.container.name}" in apart.argv
    assert "--label=scalable.run=laptop-1f" in apart.argv
    assert LABEL not in apart.env


def test_a_container_runs_as_its_caller() -> None:
    component = ComponentConfig(name="gcam")

    assert "--user=0:0" in flags(command(component))
    rootless = flags(command(component, Runtime("podman", rootless=True), USER))
    assert {"--user=1000:100", "--userns=keep-id", "--env=HOME=/run/x"} <= rootless
    daemon = flags(command(component, Runtime("docker"), USER))
    assert {"--user=1000:100", "--env=HOME=/run/x"} <= daemon
    assert "--userns=keep-id" not in daemon


def test_limits_are_set_where_the_runtime_can() -> None:
    component = ComponentConfig(name="gcam", cpus=2, memory=8 * 10**9)
    limits = {"--memory=8000000000", "--memory-swap=8000000000", "--cpus=2"}

    able = command(component)
    unable = command(component, Runtime("podman", rootless=True))

    assert limits <= flags(able)
    assert able.container is not None
    assert able.container.memory == 8 * 10**9
    assert not any(argument.startswith(("--memory", "--cpus")) for argument in flags(unable))
    assert unable.container is not None
    assert unable.container.memory is None


@pytest.mark.parametrize("cpus", [8, 9])
def test_a_cpu_limit_never_exceeds_the_machine(cpus: int) -> None:
    built = command(ComponentConfig(name="gcam", cpus=cpus))

    assert not any(argument.startswith("--cpus") for argument in built.argv)
    assert built.env["OMP_NUM_THREADS"] == "4", "what the component sets, for each of two tasks"


def test_a_preload_script_is_the_one_that_the_container_sees(tmp_path: Path) -> None:
    seen = tmp_path / "prepare_gcam_for_test_containers.py"
    seen.touch()  # reading the arguments imports it
    component = ComponentConfig(name="gcam", preload_script="prepare.py")

    assert parsed(command(component, preload=str(seen)))["preload"] == (str(seen),)


def test_a_component_without_setup_is_a_plain_process() -> None:
    gcam, plots = ComponentConfig(name="gcam"), ComponentConfig(name="plots")
    make = command_factory({"gcam": ContainerSetup(PODMAN, "gcam:7", {})}, ROOT)

    assert make(gcam, **WORKER).container is not None
    assert make(plots, **WORKER) == process_command(plots, **WORKER)
