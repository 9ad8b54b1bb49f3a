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
from scalable.providers.local.reaper import LABEL

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


def flags(made: Command) -> set[str]:
    return set(made.argv[: made.argv.index("dask")])


def parsed(made: Command) -> dict[str, object]:
    """Let the worker's own command line read what comes after the image and ``dask worker``."""
    words = list(made.argv[made.argv.index("worker") + 1 :])
    return dict(dask_worker.main.make_context("dask worker", words).params)


@pytest.mark.parametrize(
    "runtime", [PODMAN, Runtime("docker"), Runtime("apptainer"), Runtime("singularity")]
)
def test_a_worker_is_told_the_same_as_a_plain_one(runtime: Runtime) -> None:
    component = ComponentConfig(name="gcam", memory=2**30)

    inside = parsed(command(component, runtime))

    plain = process_command(component, **WORKER)
    words = list(plain.argv[plain.argv.index("distributed.cli.dask_worker") + 1 :])
    assert inside == dask_worker.main.make_context("dask worker", words).params
    assert inside["name"] == "gcam-1"


@pytest.mark.parametrize("name", ["podman", "docker", "apptainer", "singularity"])
def test_values_of_variables_are_no_words(name: str) -> None:
    made = command(
        ComponentConfig(name="gcam", cpus=4, env={"TOKEN": "hush", "OMP_NUM_THREADS": "2"}),
        Runtime(name),
    )

    assert "hush" not in " ".join(made.argv) + repr(made)
    prefix = "" if name in ("podman", "docker") else f"{name.upper()}ENV_"
    assert made.env[f"{prefix}TOKEN"] == "hush"
    assert made.env[f"{prefix}OMP_NUM_THREADS"] == "2"
    assert made.env[f"{prefix}MKL_NUM_THREADS"] == "2", "two tasks share four cores"


@pytest.mark.parametrize("name", ["podman", "docker"])
def test_each_variable_is_named_to_a_container(name: str) -> None:
    made = command(ComponentConfig(name="gcam", env={"TOKEN": "hush"}), Runtime(name))

    named = {made.argv[i + 1] for i, word in enumerate(made.argv) if word == "--env"}
    assert named == made.env.keys() >= {"TOKEN", "OMP_NUM_THREADS", "PYTHONUNBUFFERED"}


def test_apptainer_lets_no_shell_read_the_values() -> None:
    made = command(ComponentConfig(name="gcam"), Runtime("apptainer"))

    assert {"--cleanenv", "--no-eval"} <= flags(made)


def test_what_runs_below_us_is_labelled_and_what_does_not_can_be_found_by_name() -> None:
    child = command(ComponentConfig(name="gcam"), Runtime("apptainer"))
    apart = command(ComponentConfig(name="gcam"), Runtime("docker"))

    assert child.container is None
    assert child.env[f"APPTAINERENV_{LABEL}"] == "/run/x"
    assert apart.container is not None
    assert f"--name={apart.container.name}" in apart.argv
    assert "--label=scalable.run=laptop-1f" in apart.argv
    assert LABEL not in apart.env


def test_a_container_is_the_caller_inside_too() -> None:
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
    assert not any(word.startswith(("--memory", "--cpus")) for word in flags(unable))
    assert unable.container is not None
    assert unable.container.memory is None


@pytest.mark.parametrize("cpus", [8, 9])
def test_no_more_cores_are_asked_for_than_there_are(cpus: int) -> None:
    made = command(ComponentConfig(name="gcam", cpus=cpus))

    assert not any(word.startswith("--cpus") for word in made.argv)
    assert made.env["OMP_NUM_THREADS"] == "4", "what the component says, for each of two tasks"


def test_a_preload_script_is_the_one_that_the_container_sees(tmp_path: Path) -> None:
    seen = tmp_path / "prepare_gcam_for_test_containers.py"
    seen.touch()  # reading the arguments imports it
    component = ComponentConfig(name="gcam", preload_script="prepare.py")

    assert parsed(command(component, preload=str(seen)))["preload"] == (str(seen),)


def test_a_component_without_a_place_is_a_plain_process() -> None:
    gcam, plots = ComponentConfig(name="gcam"), ComponentConfig(name="plots")
    make = command_factory({"gcam": ContainerSetup(PODMAN, "gcam:7", {})}, ROOT)

    assert make(gcam, **WORKER).container is not None
    assert make(plots, **WORKER) == process_command(plots, **WORKER)
