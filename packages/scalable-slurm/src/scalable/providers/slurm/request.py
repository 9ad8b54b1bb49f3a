"""What one worker requests of Slurm and runs there, from its component, its target, and the site's defaults."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scalable.mpi import mpi_environment
from scalable.paths import expand_home
from scalable.providers.containers import chosen_runtime, mounts_and_preload
from scalable.providers.options import explicit_or_default
from scalable.providers.slurm.directives import drop_options
from scalable.providers.slurm.environ import cluster_from
from scalable.providers.tls import TlsFiles

if TYPE_CHECKING:
    from scalable.manifest.schema import ComponentConfig
    from scalable.providers.slurm.options import SlurmOptions
    from scalable.providers.slurm.site import SiteDefaults

__all__ = [
    "PREFERRED_RUNTIME",
    "JobRequest",
    "chosen_cluster",
    "job_request",
    "logs_directory",
    "run_prefix",
]

PREFERRED_RUNTIME = "apptainer"
"""The runtime where neither target nor component sets one. Few sites have another."""


@dataclass(frozen=True)
class JobRequest:
    """What one worker of a component requests of Slurm, and what it runs there.

    Parameters
    ----------
    tag : str
        The component.
    slots, cpus, gpus : int
        Concurrent tasks, cores and GPUs of the worker.
    nodes, ranks : int
        Nodes of the worker, and MPI ranks on them, with `cpus` cores each.
    workers_per_job : int or str
        Workers that one job runs; ``auto`` for as many as fit where it gets whole nodes.
    memory : int or None
        In bytes; None for the partition's default.
    walltime : int or str or None
        Seconds, or a time in sbatch's own format; None for the partition's default.
    cluster : str or None
        The cluster; None for the one of this machine.
    partition, account, qos, constraint, reservation : str or None
        Values of the ``sbatch`` options of these names.
    directives : tuple of str
        Further arguments of ``sbatch``.
    skipped : tuple of str
        Substrings of options that the site's sbatch does not accept, such as ``--mem``.
    modules, prologue : tuple of str
        Environment modules to load and shell lines to run before the worker starts.
    python : str
        The interpreter on the nodes, used without a container.
    runtime : str
        ``none``, ``apptainer``, ``singularity``, ``podman`` or ``docker``.
    image : str or None
        The container image.
    mounts, env : mapping of str to str
        Container paths by host path; environment variables of the worker.
    preload : str or None
        Module or script that the worker runs first.
    interface : str or None
        The network interface that workers listen on.
    worker_ports : str or None
        The ports that workers listen on, ``first:last``; None for free ones.
    worker_arguments : tuple of str
        Further arguments of ``dask worker``.
    shebang : str
        The first line of the job script.
    local_directory : str
        Directory on the node for what does not fit into the worker's memory. Variables of the job are expanded.
    log_directory : str
        Directory for logs, on the shared file system.
    tls : TlsFiles or None
        The worker's TLS files; None without TLS.
    death_timeout : int
        Seconds without a scheduler after which a worker exits.
    """

    tag: str
    log_directory: str
    slots: int = 1
    cpus: int = 1
    gpus: int = 0
    nodes: int = 1
    ranks: int = 1
    workers_per_job: int | Literal["auto"] = 1
    memory: int | None = None
    walltime: int | str | None = None
    cluster: str | None = None
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
    worker_ports: str | None = None
    worker_arguments: tuple[str, ...] = ()
    shebang: str = "#!/bin/bash"
    local_directory: str = "/tmp"  # noqa: S108 - the node's own scratch space, where the site sets no other
    tls: TlsFiles | None = None
    death_timeout: int = 60

    @property
    def room(self) -> int:
        """Workers that one job runs; 1 where that is not known yet."""
        return 1 if self.workers_per_job == "auto" else self.workers_per_job

    @property
    def files(self) -> str:
        """Directory for the files by which jobs with several workers and the client tell each other about them."""
        return f"{self.log_directory}/jobs"


def job_request(
    component: ComponentConfig,
    options: SlurmOptions,
    site: SiteDefaults,
    *,
    logs: str,
    tls: TlsFiles | None,
) -> JobRequest:
    """Return the request of one worker: the component's fields, then the target's options, then the site's defaults.

    Parameters
    ----------
    component : ComponentConfig
        The worker's component.
    options : SlurmOptions
        The target's options.
    site : SiteDefaults
        Defaults for what neither sets.
    logs : str
        Directory for the jobs' logs.
    tls : TlsFiles or None
        The workers' TLS files; None without TLS.
    """
    options = options.for_component(component.name)
    runtime = chosen_runtime(component, options.container_runtime, PREFERRED_RUNTIME)
    mounts, preload = mounts_and_preload(component)
    cpus = explicit_or_default(component, "cpus", site.cpus)
    ranks = component.ranks or component.nodes
    mpi = mpi_environment(component.nodes, ranks, cpus) if component.runs_mpi else {}
    return JobRequest(
        tag=component.name,
        log_directory=logs,
        slots=component.slots,
        cpus=cpus,
        gpus=component.gpus,
        nodes=component.nodes,
        ranks=ranks,
        workers_per_job=1 if component.runs_mpi else options.workers_per_job,
        memory=explicit_or_default(component, "memory", site.memory),
        walltime=options.walltime or site.walltime,
        cluster=chosen_cluster(options, site),
        partition=options.queue or site.queue,
        account=options.account or site.account,
        qos=options.qos,
        constraint=options.constraint,
        reservation=options.reservation,
        directives=(*_site_directives(component, options, site), *options.directives),
        skipped=site.skipped,
        modules=options.modules,
        prologue=(*site.prologue, *options.prologue),
        python=_below_home(options.python or site.python or sys.executable),
        runtime=runtime,
        image=component.image if runtime != "none" else None,
        mounts=mounts,
        env={**mpi, **component.env},
        preload=preload,
        interface=options.interface or site.interface,
        worker_ports=options.worker_ports,
        worker_arguments=site.worker_arguments,
        shebang=options.shebang or site.shebang or "#!/bin/bash",
        local_directory=_below_home(
            options.local_directory or site.local_directory or "/tmp"  # noqa: S108 - the node's own
        ),
        tls=tls,
        death_timeout=site.death_timeout,
    )


def _below_home(path: str) -> str:
    return str(expand_home(path))


def _site_directives(
    component: ComponentConfig, options: SlurmOptions, site: SiteDefaults
) -> tuple[str, ...]:
    """Return the site's directives without those for what the target or the component sets itself."""
    own = {
        "--account": options.account,
        "--constraint": options.constraint,
        "--partition": options.queue,
        "--qos": options.qos,
        "--reservation": options.reservation,
        "--time": options.walltime,
        "--cpus-per-task": "cpus" in component.model_fields_set,
        **dict.fromkeys(
            ("--mem", "--mem-per-cpu", "--mem-per-gpu"), "memory" in component.model_fields_set
        ),
        **dict.fromkeys(("--nodes", "--ntasks", "--ntasks-per-node"), component.runs_mpi),
    }
    return drop_options(site.directives, {name for name, value in own.items() if value})


def chosen_cluster(options: SlurmOptions, site: SiteDefaults) -> str | None:
    """Return the cluster that jobs run on, and that is asked about them; None for the one of this machine.

    Raises
    ------
    NotSupportedError
        It is not set, and the environment names several.
    """
    return options.cluster or site.cluster or cluster_from(os.environ)


def logs_directory(options: SlurmOptions, site: SiteDefaults) -> Path:
    """Return where runs have their directories: as the target says, else as the site does."""
    own = "logs_location" in options.model_fields_set or site.log_directory is None
    location = options.logs_location if own else str(site.log_directory)
    return expand_home(os.path.expandvars(location)).absolute()


def run_prefix(options: SlurmOptions, site: SiteDefaults) -> str:
    """Return what the ids of runs begin with."""
    return options.name or site.name or "run"
