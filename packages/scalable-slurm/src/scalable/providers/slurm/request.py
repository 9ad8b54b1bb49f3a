"""What a worker of a component asks of Slurm: the component first, then the target, then the site's own defaults."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scalable.providers.common import said_or_default
from scalable.providers.containers import chosen_runtime, mounts_and_preload

if TYPE_CHECKING:
    from scalable.manifest.schema import ComponentConfig
    from scalable.providers.slurm.options import SlurmOptions
    from scalable.providers.slurm.site import SiteDefaults

__all__ = ["PREFERRED_RUNTIME", "JobRequest", "Tls", "job_request"]

PREFERRED_RUNTIME = "apptainer"
"""What runs an image where neither target nor component says. Few sites have another."""


@dataclass(frozen=True)
class Tls:
    """What a worker needs to be trusted, as paths on the shared file system.

    Parameters
    ----------
    ca_file : str
        The certificate of the run's own authority.
    cert, key : str
        The worker's certificate, and its private key.
    """

    ca_file: str
    cert: str
    key: str


@dataclass(frozen=True)
class JobRequest:
    """What one worker of a component asks of Slurm, and what it runs there.

    Parameters
    ----------
    tag : str
        The component.
    slots, cpus, gpus : int
        Tasks at a time; cores; GPUs.
    memory : int or None
        Bytes; None leaves it to the partition's default.
    walltime : int or str or None
        Seconds, or a time as sbatch reads it; None leaves it to the partition's default.
    partition, account, qos, constraint, reservation : str or None
        Slurm's own.
    directives : tuple of str
        More options of sbatch, one word each.
    skipped : tuple of str
        Parts of options that the site's sbatch does not take, such as ``--mem``.
    modules, prologue : tuple of str
        Environment modules to load, and shell lines to run, before the worker.
    python : str
        The interpreter on the nodes, where there is no container.
    runtime : str
        ``none``, ``apptainer``, ``singularity``, ``podman`` or ``docker``.
    image : str or None
        What the container is made from.
    mounts, env : mapping of str to str
        Container path by host path; variables of the worker.
    preload : str or None
        What the worker runs first.
    interface : str or None
        The network interface that workers listen on.
    local_directory : str
        Where a worker keeps what does not fit into memory, on its node.
    log_directory : str
        Where logs go, on the shared file system.
    tls : Tls or None
        How workers prove who they are.
    death_timeout : int
        Seconds without a scheduler after which a worker ends by itself.
    """

    tag: str
    log_directory: str
    slots: int = 1
    cpus: int = 1
    gpus: int = 0
    memory: int | None = None
    walltime: int | str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    directives: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    python: str = "python3"
    runtime: str = "none"
    image: str | None = None
    mounts: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    preload: str | None = None
    interface: str | None = None
    local_directory: str = "/tmp"  # noqa: S108 - the nodes' own scratch, where the site names no other
    tls: Tls | None = None
    death_timeout: int = 60


def job_request(
    component: ComponentConfig,
    options: SlurmOptions,
    site: SiteDefaults,
    *,
    logs: str,
    tls: Tls | None,
) -> JobRequest:
    """Put together what one worker asks for.

    Parameters
    ----------
    component : ComponentConfig
        What the worker is for.
    options : SlurmOptions
        What the target says.
    site : SiteDefaults
        What holds where neither says anything.
    logs : str
        Where the jobs' logs go.
    tls : Tls or None
        How the workers prove who they are.
    """
    options = options.for_component(component.name)
    runtime = chosen_runtime(component, options.container_runtime, PREFERRED_RUNTIME)
    mounts, preload = mounts_and_preload(component)
    return JobRequest(
        tag=component.name,
        log_directory=logs,
        slots=component.slots,
        cpus=said_or_default(component, "cpus", site.cpus),
        gpus=component.gpus,
        memory=said_or_default(component, "memory", site.memory),
        walltime=options.walltime or site.walltime,
        partition=options.queue or site.queue,
        account=options.account or site.account,
        qos=options.qos,
        constraint=options.constraint,
        reservation=options.reservation,
        directives=(*site.directives, *options.directives),
        skipped=site.skipped,
        modules=options.modules,
        prologue=(*site.prologue, *options.prologue),
        python=options.python or site.python or sys.executable,
        runtime=runtime,
        image=component.image if runtime != "none" else None,
        mounts=mounts,
        env=component.env,
        preload=preload,
        interface=options.interface or site.interface,
        local_directory=options.local_directory or site.local_directory or "/tmp",  # noqa: S108 - the nodes' own
        tls=tls,
        death_timeout=site.death_timeout,
    )
