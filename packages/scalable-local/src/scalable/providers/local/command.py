"""What one worker is started with: a component as a command line and an environment."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from scalable.providers.worker import thread_environment, worker_arguments

if TYPE_CHECKING:
    from scalable.manifest.schema import ComponentConfig

__all__ = [
    "Command",
    "CommandFactory",
    "Container",
    "local_worker_arguments",
    "process_command",
    "worker_environment",
]


@dataclass(frozen=True)
class Container:
    """What a worker's process is only the client of, and what does not end with it.

    Parameters
    ----------
    runtime : str
        ``podman`` or ``docker``.
    name : str
        The container's name.
    memory : int or None
        Bytes that the runtime keeps it to; None for no limit.
    """

    runtime: str
    name: str
    memory: int | None = None


@dataclass(frozen=True)
class Command:
    """How to start one worker.

    Parameters
    ----------
    argv : tuple of str
        Program and arguments; no shell reads them.
    env : mapping of str to str
        What is set on top of the client's own environment. May hold secrets.
    container : Container, optional
        What it runs in, if that is no child of the process.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    container: Container | None = None


class CommandFactory(Protocol):
    """What turns a component into the command of one worker: as a plain process here, in a container elsewhere."""

    def __call__(
        self,
        component: ComponentConfig,
        *,
        name: str,
        slots: int,
        scheduler_address: str,
        directory: Path,
    ) -> Command:
        """Make the command of the worker `name`, which may write below `directory`."""
        ...


def process_command(
    component: ComponentConfig,
    *,
    name: str,
    slots: int,
    scheduler_address: str,
    directory: Path,
) -> Command:
    """Make the command of a worker that is a plain process of this machine.

    Parameters
    ----------
    component : ComponentConfig
        What the worker is for.
    name : str
        The worker's name at the scheduler.
    slots : int
        Tasks at a time: Dask's threads and the amount of the component's tag.
    scheduler_address : str
        Where the scheduler is, on this machine.
    directory : Path
        Where the worker keeps what does not fit into memory.

    Examples
    --------
    >>> from scalable.manifest.schema import ComponentConfig
    >>> gcam = ComponentConfig(name="gcam", cpus=4, memory=8 * 10**9, env={"GCAM_HOME": "/opt/gcam"})
    >>> command = process_command(
    ...     gcam, name="gcam-1", slots=2, scheduler_address="tcp://127.0.0.1:8786", directory=Path("/run/x")
    ... )
    >>> " ".join(command.argv[5:])  # doctest: +NORMALIZE_WHITESPACE
    'distributed.cli.dask_worker tcp://127.0.0.1:8786 --nthreads 2 --resources gcam=2 --memory-limit 8000000000
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
        preload=component.preload_script,
    )
    # Unbuffered, and with the Python stack of a crash in compiled code: the log's end is what explains a failure.
    python = (sys.executable, "-u", "-X", "faulthandler", "-m", "distributed.cli.dask_worker")
    return Command((*python, *arguments), worker_environment(component, slots))


def local_worker_arguments(
    component: ComponentConfig,
    *,
    name: str,
    slots: int,
    scheduler_address: str,
    directory: Path,
    preload: str | None,
) -> list[str]:
    """Write the arguments of a worker on this machine, whatever runs it; as for `process_command`."""
    return worker_arguments(
        scheduler_address,
        tag=component.name,
        slots=slots,
        memory=component.memory,
        directory=str(directory),
        preload=preload,
        # The default is all interfaces, open to whoever reaches this machine.
        extra=("--host", "127.0.0.1", "--name", name),
    )


def worker_environment(component: ComponentConfig, slots: int) -> dict[str, str]:
    """Say what a component's worker of so many slots finds in its environment, its own variables first."""
    # What distributed's nanny sets (distributed.nanny.pre-spawn-environ): the C library gives freed memory back.
    trim = {"MALLOC_TRIM_THRESHOLD_": "65536"}
    return {**trim, **thread_environment(component.cpus, slots), **component.env}
