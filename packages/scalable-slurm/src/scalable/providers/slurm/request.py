"""What a worker of a component asks of Slurm: the component first, then the target, then the site's own defaults."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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
    walltime: int | str | None = options.walltime
    if walltime is None and site.get("walltime"):
        walltime = str(
            site["walltime"]
        )  # dask-jobqueue hands it to sbatch: a plain number is minutes
    return JobRequest(
        tag=component.name,
        log_directory=logs,
        slots=component.slots,
        cpus=said_or_default(component, "cpus", site.get("job-cpu") or site.get("cores")),
        gpus=component.gpus,
        memory=said_or_default(component, "memory", _site_memory(site)),
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
        death_timeout=_seconds(site.get("death-timeout") or 60),
    )


def _site_memory(site: Mapping[str, Any]) -> int | None:
    asked = _job_memory(site.get("job-mem"))
    return _memory(site.get("memory")) if asked is None else asked


def _memory(text: Any) -> int | None:
    """Read an amount of memory as dask-jobqueue does.

    Examples
    --------
    >>> _memory("4 GB"), _memory("16e9"), _memory(None)
    (4000000000, 16000000000, None)
    """
    from dask.utils import parse_bytes

    return None if text is None else int(parse_bytes(text))


def _job_memory(text: Any) -> int | None:
    """Read what dask-jobqueue hands to ``sbatch --mem`` as it is: a plain number is MiB, and 64G is 64 GiB.

    Examples
    --------
    >>> _job_memory("4000") == 4000 * 2**20, _job_memory("64G") == _job_memory("64GB") == 64 * 2**30
    (True, True)
    """
    if text is None:
        return None
    number = re.fullmatch(r"(\d+)([kmgt]?)b?", str(text), re.IGNORECASE)
    if number is None:
        return _memory(text)
    power = "kmgt".index(number[2].lower() or "m") + 1
    return int(number[1]) << 10 * power


def _seconds(text: Any) -> int:
    """Read a time as Dask does.

    Examples
    --------
    >>> _seconds(60), _seconds("5 minutes")
    (60, 300)
    """
    from dask.utils import parse_timedelta

    return int(parse_timedelta(text))


def _words(directives: Any) -> list[str]:
    """Split directives such as ``-C haswell`` into the words of a command line.

    Examples
    --------
    >>> _words(["-C haswell", "--mail-type=END"])
    ['-C', 'haswell', '--mail-type=END']
    """
    return [word for directive in directives or () for word in shlex.split(directive)]
