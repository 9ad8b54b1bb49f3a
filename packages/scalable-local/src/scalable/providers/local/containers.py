"""The command of one worker in its component's image. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalable.providers.containers import (
    container_argv,
    container_environment,
    runs_as_child,
    user_flags,
)
from scalable.providers.local.command import (
    Command,
    CommandFactory,
    Container,
    local_worker_arguments,
    process_command,
    worker_environment,
)
from scalable.providers.local.termination import LABEL
from scalable.providers.worker import server_command

if TYPE_CHECKING:
    from scalable.manifest.schema import ComponentConfig

__all__ = [
    "RUN_LABEL",
    "USER_LABEL",
    "ContainerSetup",
    "RunContext",
    "Runtime",
    "command_factory",
    "container_command",
    "find_error_line",
]

# How Podman, Docker and Apptainer begin the line that states an error.
_ERROR_LINE = re.compile(
    r"^(?:(?:Error|FATAL|docker|Error response from daemon):\s*)+(.+)$", re.MULTILINE
)

RUN_LABEL = "scalable.run"
"""Container label with the id of the run."""

USER_LABEL = "scalable.user"
"""Container label with the id of the user who started the run: a Docker daemon has containers of many users."""


@dataclass(frozen=True)
class Runtime:
    """A container runtime and its abilities on this machine.

    Parameters
    ----------
    name : str
        One of `scalable.providers.containers.RUNTIMES`.
    limits_memory, limits_cpus : bool
        Whether it can limit a container's memory and cores.
    rootless : bool
        Whether it runs containers of a user other than root without a daemon.
    """

    name: str
    limits_memory: bool = False
    limits_cpus: bool = False
    rootless: bool = False


@dataclass(frozen=True)
class ContainerSetup:
    """Runtime, image and mounts of a component's workers, as resolved on this machine.

    Parameters
    ----------
    runtime : Runtime
        The runtime that runs the image.
    image : str
        The image.
    mounts : mapping of str to str
        Path in the container by absolute path on this machine.
    preload : str or None
        The script that each worker runs first, by its path in the container.
    """

    runtime: Runtime
    image: str
    mounts: Mapping[str, str]
    preload: str | None = None


@dataclass(frozen=True)
class RunContext:
    """The run and the user that containers belong to, and the size of the machine.

    Parameters
    ----------
    run : str
        Id of the run, for labels and names.
    uid, gid : int
        The user and the group that own the files that workers write.
    cores : int
        Cores of this machine: Docker rejects a higher limit.
    """

    run: str
    uid: int
    gid: int
    cores: int


def container_command(
    component: ComponentConfig,
    setup: ContainerSetup,
    context: RunContext,
    *,
    name: str,
    slots: int,
    scheduler_address: str,
    directory: Path,
) -> Command:
    """Return the command of a worker in its image; see `process_command` for the parameters.

    A worker sees its image, its component's variables and mounts, and `directory`. Of this machine's other files and
    variables, it sees only those that Apptainer and Singularity share by default.

    Examples
    --------
    >>> from scalable.manifest.schema import ComponentConfig
    >>> gcam = ComponentConfig(name="gcam", cpus=2, memory=8 * 10**9, env={"TOKEN": "hush"})
    >>> setup = ContainerSetup(Runtime("podman", limits_memory=True, limits_cpus=True), "gcam:7", {"/data": "/in"})
    >>> command = container_command(
    ...     gcam, setup, RunContext("laptop-1f", uid=0, gid=0, cores=8),
    ...     name="gcam-1", slots=1, scheduler_address="tcp://127.0.0.1:8786", directory=Path("/run/x"),
    ... )
    >>> print(*command.argv)  # doctest: +ELLIPSIS +NORMALIZE_WHITESPACE
    podman run --name=laptop-1f-gcam-1 --label=scalable.run=laptop-1f --label=scalable.user=0 --pull=never
     --stop-timeout=0 --user=0:0 --memory=8000000000 --memory-swap=8000000000 --cpus=2 --init --log-driver=none
     --security-opt=label=disable --shm-size=8000000000 --network=host --entrypoint= ... --env TOKEN
     --mount type=bind,source=/data,target=/in --mount type=bind,source=/run/x,target=/run/x gcam:7
     python3 -P -u ... worker tcp://127.0.0.1:8786 ... --name gcam-1
    """
    environment = worker_environment(component, slots)
    runtime = setup.runtime
    worker = [
        *server_command("python3", "worker"),
        *local_worker_arguments(
            component,
            name=name,
            slots=slots,
            scheduler_address=scheduler_address,
            directory=directory,
            preload=setup.preload,
        ),
    ]
    mounts = {**setup.mounts, str(directory): str(directory)}
    if runs_as_child(runtime.name):
        argv = container_argv(
            runtime.name, setup.image, mounts=mounts, gpus=component.gpus, flags=["--cleanenv"]
        )
        inherited = {**environment, LABEL: str(directory)}
        return Command((*argv, *worker), container_environment(runtime.name, inherited))
    memory = component.memory if runtime.limits_memory else None
    container = Container(runtime.name, f"{context.run}-{name}", memory)
    argv = container_argv(
        runtime.name,
        setup.image,
        mounts=mounts,
        variables=environment,
        shm_size=memory,
        flags=[
            *_identity_flags(container, runtime, context, home=str(directory)),
            *_limit_flags(component, container, runtime, context),
        ],
    )
    return Command((*argv, *worker), container_environment(runtime.name, environment), container)


def _identity_flags(
    container: Container, runtime: Runtime, context: RunContext, *, home: str
) -> list[str]:
    return [
        f"--name={container.name}",
        f"--label={RUN_LABEL}={context.run}",
        f"--label={USER_LABEL}={context.uid}",
        # The image was pulled when the cluster was built; a worker's start must not wait for a registry.
        "--pull=never",
        # Whatever removes the container has waited for the worker already.
        "--stop-timeout=0",
        # The caller's user, whatever the image specifies, so that the files that workers write are the caller's.
        f"--user={context.uid}:{context.gid}",
        *user_flags(keep_id=runtime.rootless, home=home if context.uid else None),
    ]


def _limit_flags(
    component: ComponentConfig, container: Container, runtime: Runtime, context: RunContext
) -> list[str]:
    flags = []
    if container.memory is not None:
        # --memory-swap is memory and swap together, so that the two are equal without swap.
        flags += [f"--memory={container.memory}", f"--memory-swap={container.memory}"]
    if runtime.limits_cpus and component.cpus < context.cores:
        flags.append(f"--cpus={component.cpus}")
    return flags


def find_error_line(output: str) -> str:
    r"""Return the line of a runtime's output that states the error, without its prefix.

    Examples
    --------
    >>> find_error_line("Trying to pull gcam:7...\nError: short-name resolution failed\n")
    'short-name resolution failed'
    >>> find_error_line("docker: no such image: gcam:7.\n\nRun 'docker run --help' for more information")
    'no such image: gcam:7.'
    >>> find_error_line("Segmentation fault\n")
    'Segmentation fault'
    """
    errors = _ERROR_LINE.findall(output)
    lines = [line for line in output.splitlines() if line.strip()]
    found = errors or lines or ["it did not say why"]
    return str(found[-1]).strip()


def command_factory(setups: Mapping[str, ContainerSetup], context: RunContext) -> CommandFactory:
    """Return a factory that puts workers into containers if their component has a setup, and into processes otherwise.

    Parameters
    ----------
    setups : mapping of str to ContainerSetup
        Setup by component.
    context : RunContext
        The run that the containers belong to.
    """

    def make(component: ComponentConfig, **worker: Any) -> Command:
        if setup := setups.get(component.name):
            return container_command(component, setup, context, **worker)
        return process_command(component, **worker)

    return make
