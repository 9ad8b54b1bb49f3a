"""What a worker of a component asks of Slurm: the component first, then the target, then the site's own defaults."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from scalable.providers.common import said_or_default
from scalable.providers.containers import chosen_runtime, mounts_and_preload
from scalable.providers.slurm.script import JobRequest, Tls

if TYPE_CHECKING:
    from scalable.manifest.schema import ComponentConfig
    from scalable.providers.slurm.options import SlurmOptions
    from scalable.providers.slurm.site import SiteDefaults

__all__ = ["PREFERRED_RUNTIME", "job_request"]

PREFERRED_RUNTIME = "apptainer"
"""What runs an image where neither target nor component says. Few sites have another."""


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
