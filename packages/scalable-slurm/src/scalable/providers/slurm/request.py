"""What a worker of a component asks of Slurm: the component first, then the target, then the site's own defaults."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scalable.manifest.units import parse_duration, parse_memory
from scalable.providers.common import said_or_default
from scalable.providers.containers import chosen_runtime, mounts_and_preload
from scalable.providers.slurm.script import JobRequest, Tls

if TYPE_CHECKING:
    from scalable.manifest.schema import ComponentConfig
    from scalable.providers.slurm.options import SlurmOptions

__all__ = ["PREFERRED_RUNTIME", "job_request"]

PREFERRED_RUNTIME = "apptainer"
"""What runs an image where neither target nor component says. Few sites have another."""


def job_request(
    component: ComponentConfig,
    options: SlurmOptions,
    site: Mapping[str, Any],
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
    site : mapping
        The ``jobqueue.slurm`` part of dask-jobqueue's configuration, for what neither says.
    logs : str
        Where the jobs' logs go.
    tls : Tls or None
        How the workers prove who they are.
    """
    options = options.of(component.name)
    runtime = chosen_runtime(component, options.container_runtime, PREFERRED_RUNTIME)
    mounts, preload = mounts_and_preload(component)
    walltime = options.walltime
    if walltime is None and site.get("walltime"):
        walltime = parse_duration(str(site["walltime"]))
    return JobRequest(
        tag=component.name,
        log_directory=logs,
        slots=component.slots,
        cpus=said_or_default(component, "cpus", site.get("job-cpu") or site.get("cores")),
        gpus=component.gpus,
        memory=said_or_default(
            component, "memory", _memory(site.get("job-mem") or site.get("memory"))
        ),
        walltime=walltime,
        partition=options.queue or site.get("queue"),
        account=options.account or site.get("account"),
        qos=options.qos,
        constraint=options.constraint,
        reservation=options.reservation,
        directives=(*_words(site.get("job-extra-directives")), *options.directives),
        skipped=tuple(site.get("job-directives-skip") or ()),
        modules=options.modules,
        prologue=(*(site.get("job-script-prologue") or ()), *options.prologue),
        python=options.python or site.get("python") or sys.executable,
        runtime=runtime,
        image=component.image if runtime != "none" else None,
        mounts=mounts,
        env=component.env,
        preload=preload,
        interface=options.interface or site.get("interface"),
        local_directory=options.local_directory or site.get("local-directory") or "/tmp",  # noqa: S108 - the nodes' own
        tls=tls,
        death_timeout=int(site.get("death-timeout") or 60),
    )


def _memory(text: Any) -> int | None:
    """Read dask-jobqueue's spelling of memory.

    Examples
    --------
    >>> _memory("4 GB"), _memory("500MiB"), _memory(None)
    (4000000000, 524288000, None)
    """
    return None if text is None else parse_memory(str(text).replace(" ", "").rstrip("bB"))


def _words(directives: Any) -> list[str]:
    """Split directives such as ``-C haswell`` into the words of a command line.

    Examples
    --------
    >>> _words(["-C haswell", "--mail-type=END"])
    ['-C', 'haswell', '--mail-type=END']
    """
    return [word for directive in directives or () for word in shlex.split(directive)]
