"""The command line and the environment of one worker process of a component."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from scalable.providers.containers import mounts_and_preload
from scalable.providers.tls import TlsFiles, tls_arguments
from scalable.providers.worker import server_command, thread_environment, worker_arguments

if TYPE_CHECKING:
    from scalable.manifest.schema import ComponentConfig

__all__ = [
    "TLS",
    "Command",
    "CommandFactory",
    "Container",
    "local_worker_arguments",
    "process_command",
    "worker_environment",
]

TLS = "tls"
"""Directory of a worker's TLS files, in its own directory."""


@dataclass(frozen=True)
class Container:
    """A container that a worker runs in: the worker's process is only its client, and the container outlives it.

    Parameters
    ----------
    runtime : str
        ``podman`` or ``docker``.
    name : str
        The container's name.
    memory : int or None
        Memory limit in bytes that the runtime enforces; None for no limit.
    """

    runtime: str
    name: str
    memory: int | None = None


@dataclass(frozen=True)
class Command:
    """Command that starts one worker.

    Parameters
    ----------
    argv : tuple of str
        Program and arguments; they do not pass a shell.
    env : mapping of str to str
        Variables that are set in addition to the client's own environment. May hold secrets.
    container : Container, optional
        The container that the worker runs in, unless it runs as a child of the process.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    container: Container | None = None


class CommandFactory(Protocol):
    """Callable that returns the command of one worker of a component: in a plain process or in a container."""

    def __call__(
        self,
        component: ComponentConfig,
        *,
        name: str,
        slots: int,
        scheduler_address: str,
        directory: Path,
    ) -> Command:
        """Return the command of the worker `name`, which may write below `directory`."""
        ...


def process_command(
    component: ComponentConfig,
    *,
    name: str,
    slots: int,
    scheduler_address: str,
    directory: Path,
) -> Command:
    """Return the command of a worker that is a plain process of this machine.

    Parameters
    ----------
    component : ComponentConfig
        The worker's component.
    name : str
        The worker's name on the scheduler.
    slots : int
        Tasks at a time: Dask's threads, and the amount of the tag that the worker carries.
    scheduler_address : str
        Address of the scheduler on this machine.
    directory : Path
        Directory for data that does not fit into memory, and with the worker's TLS files if the scheduler needs them.

    Examples
    --------
    >>> from scalable.manifest.schema import ComponentConfig
    >>> gcam = ComponentConfig(name="gcam", cpus=4, memory=8 * 10**9, env={"GCAM_HOME": "/opt/gcam"})
    >>> command = process_command(
    ...     gcam, name="gcam-1", slots=2, scheduler_address="tcp://127.0.0.1:8786", directory=Path("/run/x")
    ... )
    >>> " ".join(command.argv[7:])  # doctest: +NORMALIZE_WHITESPACE
    'worker tcp://127.0.0.1:8786 --nthreads 2 --resources gcam=2 --memory-limit 8000000000
     --local-directory /run/x --no-dashboard --dashboard-address 127.0.0.1:0 --no-nanny --nworkers 1
     --death-timeout 60 --host 127.0.0.1 --name gcam-1'
    >>> command.env["GCAM_HOME"], command.env["OMP_NUM_THREADS"]
    ('/opt/gcam', '2')
    """
    arguments = local_worker_arguments(
        component,
        name=name,
        slots=slots,
        scheduler_address=scheduler_address,
        directory=directory,
        preload=mounts_and_preload(component)[1],
    )
    command = server_command(sys.executable, "worker")
    return Command((*command, *arguments), worker_environment(component, slots))


def local_worker_arguments(
    component: ComponentConfig,
    *,
    name: str,
    slots: int,
    scheduler_address: str,
    directory: Path,
    preload: str | None,
) -> list[str]:
    """Return the arguments of ``dask worker`` on this machine, in a container or not; see `process_command`."""
    # In the worker's own directory, which a container sees under the same path.
    tls = (
        tls_arguments(TlsFiles.within(directory / TLS))
        if scheduler_address.startswith("tls")
        else []
    )
    return worker_arguments(
        scheduler_address,
        tag=component.name,
        slots=slots,
        memory=component.memory,
        directory=str(directory),
        preload=preload,
        # The default is all interfaces, open to everything that reaches this machine.
        extra=("--host", "127.0.0.1", *tls, "--name", name),
    )


def worker_environment(component: ComponentConfig, slots: int) -> dict[str, str]:
    """Return the environment variables of a worker; the component's own take precedence."""
    # As distributed's nanny sets it (distributed.nanny.pre-spawn-environ): the C library returns freed memory.
    trim = {"MALLOC_TRIM_THRESHOLD_": "65536"}
    return {**trim, **thread_environment(component.cpus, slots), **component.env}
