"""Would a start work? Looks at the site online and read-only, as ``scalable check`` shows it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalable.errors import did_you_mean
from scalable.providers.base import CheckResult
from scalable.providers.containers import image_word, runs_as_child
from scalable.providers.slurm.commands import SlurmCommandError
from scalable.providers.slurm.request import job_request
from scalable.providers.slurm.script import JobRequest, sbatch_arguments

if TYPE_CHECKING:
    from scalable.manifest.schema import ComponentConfig
    from scalable.providers.slurm.commands import Slurm
    from scalable.providers.slurm.options import SlurmOptions

__all__ = ["preflight"]

_TOOLS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo")


async def preflight(
    slurm: Slurm,
    options: SlurmOptions,
    components: Mapping[str, ComponentConfig],
    site: Mapping[str, Any],
) -> list[CheckResult]:
    """Check tools, controller, partition, every component's request, interface, images and directories.

    Parameters
    ----------
    slurm : Slurm
        Who runs the commands.
    options : SlurmOptions
        What the target says.
    components : mapping of str to ComponentConfig
        What workers there would be.
    site : mapping
        dask-jobqueue's configuration for Slurm.
    """
    results = [*_tools()]
    if all(result.ok for result in results):
        results.append(await _controller(slurm))
    reachable = all(result.ok for result in results)
    requests = {
        tag: job_request(component, options, site, logs="/dev", tls=None)
        for tag, component in components.items()
    }
    if reachable:
        results.append(await _partition(slurm, options.queue or site.get("queue")))
        for tag, request in requests.items():
            results.append(await _request(slurm, tag, request))
    results += _interface(options.interface or site.get("interface"))
    for tag, request in requests.items():
        results += _image(tag, request)
    results += _directories(options)
    return results


def _tools() -> Iterator[CheckResult]:
    missing = [name for name in _TOOLS if shutil.which(name) is None]
    if missing:
        yield CheckResult(
            "tools",
            False,
            f"not on PATH: {', '.join(missing)}",
            "run this where Slurm's commands are, such as a login node",
        )
    else:
        yield CheckResult("tools", True, f"{', '.join(_TOOLS)} are on PATH")


async def _controller(slurm: Slurm) -> CheckResult:
    try:
        version = await slurm.version()
        answer = await slurm.ping()
    except SlurmCommandError as error:
        remedy = "ask the site whether Slurm is down; check SLURM_CONF if it is set"
        return CheckResult("controller", False, str(error), remedy)
    return CheckResult("controller", True, f"{version}; {answer}")


async def _partition(slurm: Slurm, wanted: str | None) -> CheckResult:
    try:
        partitions = await slurm.partitions()
    except SlurmCommandError as error:
        return CheckResult("partition", None, str(error))
    if wanted is None:
        return CheckResult("partition", True, "the site's default")
    # More than one may be named; Slurm then takes the one that is free first.
    for name in wanted.split(","):
        if name not in partitions:
            near = did_you_mean(name, partitions)
            return CheckResult(
                "partition",
                False,
                f"there is no partition {name!r}{near}",
                f"set queue to one of: {', '.join(sorted(partitions))}",
            )
        if partitions[name] != "up":
            return CheckResult(
                "partition",
                False,
                f"partition {name!r} is {partitions[name]}",
                "choose another, or wait",
            )
    return CheckResult("partition", True, f"{wanted} is up")


async def _request(slurm: Slurm, tag: str, request: JobRequest) -> CheckResult:
    """Let Slurm itself judge: account, QOS, walltime, and whether any node could hold such a worker."""
    name = f"component {tag}"
    arguments = sbatch_arguments(request, 1, job_name="scalable-check", comment="scalable check")
    try:
        answer = await slurm.test(arguments)
    except SlurmCommandError as error:
        remedy = "compare cpus, memory, gpus, walltime, account and qos with what the site offers (sinfo -l)"
        return CheckResult(name, False, error.stderr, remedy)
    return CheckResult(name, True, answer or "Slurm would take it")


def _interface(wanted: str | None) -> Iterator[CheckResult]:
    import psutil

    interfaces = sorted(psutil.net_if_addrs())
    if wanted is None:
        yield CheckResult(
            "interface",
            None,
            "none is named, so that the one of the default route is taken",
            f"if workers cannot reach this machine by it, set interface to one of: {', '.join(interfaces)}",
        )
    elif wanted in interfaces:
        yield CheckResult("interface", True, f"{wanted} is there")
    else:
        yield CheckResult(
            "interface",
            False,
            f"this machine has no interface {wanted!r}{did_you_mean(wanted, interfaces)}",
            f"set interface to one of: {', '.join(interfaces)}",
        )


def _image(tag: str, request: JobRequest) -> Iterator[CheckResult]:
    if request.image is None:
        return
    name = f"image of {tag}"
    if not runs_as_child(request.runtime) or "://" in image_word(request.runtime, request.image):
        yield CheckResult(name, None, f"{request.image} is in a registry, which is not asked")
    elif os.access(request.image, os.R_OK):
        yield CheckResult(name, True, f"{request.image} can be read")
    else:
        yield CheckResult(
            name,
            False,
            f"{request.image} cannot be read",
            "give the path of an image file that this machine and the nodes share",
        )


def _directories(options: SlurmOptions) -> Iterator[CheckResult]:
    logs = Path(options.logs_location).absolute()
    nearest = next(path for path in (logs, *logs.parents) if path.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        yield CheckResult(
            "logs_location",
            False,
            f"{nearest} is not writable",
            "set logs_location to a directory that is",
        )
    elif nearest.is_relative_to(tempfile.gettempdir()):
        yield CheckResult(
            "logs_location",
            None,
            f"{logs} looks like this machine's own",
            "set logs_location to a directory on a file system that the nodes share",
        )
    else:
        yield CheckResult("logs_location", True, f"{nearest} is writable")
