"""The online, read-only checks of ``scalable check``: whether a start would work at this site."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from scalable.errors import ValidationFailedError, did_you_mean
from scalable.manifest.document.place import Place
from scalable.manifest.issues import ValidationReport
from scalable.providers.base import CheckResult
from scalable.providers.containers import image_reference, runs_as_child
from scalable.providers.slurm.commands import NoAnswerError, SlurmCommandError
from scalable.providers.slurm.directives import values_of
from scalable.providers.slurm.packing import pack, reduce_room
from scalable.providers.slurm.request import JobRequest, job_request, logs_directory
from scalable.providers.slurm.sbatch import asked_for, sbatch_argv

if TYPE_CHECKING:
    from scalable.manifest.schema import ComponentConfig
    from scalable.providers.slurm.commands import Slurm
    from scalable.providers.slurm.options import SlurmOptions
    from scalable.providers.slurm.site import SiteDefaults

__all__ = ["check_interface", "check_interfaces", "preflight", "scheduler_interface"]

_TOOLS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo")

# Shared file systems, by their names in /proc/mounts. Any other is likely to be local to one machine.
_SHARED_FILE_SYSTEMS = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.glusterfs",
        "fuse.sshfs",
        "gfs2",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "ocfs2",
        "panfs",
        "pvfs2",
        "smb3",
        "virtiofs",
        "wekafs",
    }
)


async def preflight(
    slurm: Slurm,
    options: SlurmOptions,
    components: Mapping[str, ComponentConfig],
    site: SiteDefaults,
) -> list[CheckResult]:
    """Check tools, controller, partition, every component's request, interface, images and directories.

    Parameters
    ----------
    slurm : Slurm
        Runs the commands.
    options : SlurmOptions
        The target's options.
    components : mapping of str to ComponentConfig
        The components, by name.
    site : SiteDefaults
        The site's defaults from dask-jobqueue's configuration.
    """
    results = [*_check_tools()]
    if all(result.ok for result in results):
        results.append(await _check_controller(slurm))
    reachable = all(result.ok for result in results)
    requests = {
        tag: job_request(component, options, site, logs="/dev", tls=None)
        for tag, component in components.items()
    }
    if reachable:
        wanted = dict.fromkeys(_partition(request, os.environ) for request in requests.values())
        results += await _check_partitions(slurm, wanted)
        for tag, request in requests.items():
            results.append(await _check_request(slurm, tag, request))
    results.append(check_interface(scheduler_interface(options, site)))
    for tag, request in requests.items():
        results += _check_image(tag, request)
    results.append(_check_logs(logs_directory(options, site)))
    scratch = {_local_directory(request) for request in requests.values()}
    results += map(_check_scratch, sorted(scratch))
    results += [CheckResult("jobqueue.yaml", None, str(note)) for note in site.notes]
    return results


def _check_tools() -> Iterator[CheckResult]:
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


async def _check_controller(slurm: Slurm) -> CheckResult:
    try:
        version = await slurm.version()
        answer = await slurm.ping()
    except SlurmCommandError as error:
        remedy = "ask the site whether Slurm is down; check SLURM_CONF if it is set"
        return CheckResult("controller", False, str(error), remedy)
    return CheckResult("controller", True, f"{version}; {answer}")


def _partition(request: JobRequest, environ: Mapping[str, str]) -> tuple[str | None, str]:
    """Return the partition that jobs get into, None for the site's default, and what says so if no option does.

    Examples
    --------
    >>> _partition(JobRequest("a", "/l", directives=("-p", "long")), {"SBATCH_PARTITION": "x"})
    ('long', ', by a directive')
    >>> _partition(JobRequest("a", "/l"), {"SBATCH_PARTITION": "x"}), _partition(JobRequest("a", "/l"), {})
    (('x', ', by $SBATCH_PARTITION'), (None, ''))
    """
    argv = sbatch_argv(request, 1, job_name="", comment="")
    by_argument, wanted = asked_for(argv, "partition", {}), asked_for(argv, "partition", environ)
    if wanted == request.partition:
        return wanted, ""
    return wanted, ", by $SBATCH_PARTITION" if by_argument is None else ", by a directive"


async def _check_partitions(
    slurm: Slurm, wanted: Iterable[tuple[str | None, str]]
) -> list[CheckResult]:
    try:
        partitions = await slurm.partitions()
    except SlurmCommandError as error:
        return [CheckResult("partition", None, str(error))]
    default = next((name.rstrip("*") for name in partitions if name.endswith("*")), None)
    states = {name.rstrip("*"): state for name, state in partitions.items()}
    remedy = f"set queue to one of: {', '.join(sorted(states))}"
    results = []
    for names, by in wanted:
        if names is None and default is None:
            text = "the site has no default partition, as far as sinfo shows"
            results.append(CheckResult("partition", None, text, remedy))
        elif names is None:
            results.append(_check_partition(states, default or "", ", the site's default", remedy))
        else:
            results.append(_check_partition(states, names, by, remedy))
    return results


def _check_partition(states: Mapping[str, str], wanted: str, why: str, remedy: str) -> CheckResult:
    # There may be several; Slurm then uses the one where the job can start first.
    for name in wanted.split(","):
        if name not in states:
            near = did_you_mean(name, states)
            return CheckResult(
                "partition", False, f"there is no partition {name!r}{why}{near}", remedy
            )
        if states[name] != "up":
            text = f"partition {name!r} is {states[name]}{why}"
            return CheckResult("partition", False, text, "choose another, or wait")
    return CheckResult("partition", True, f"{wanted} is up{why}")


def _local_directory(request: JobRequest) -> str:
    """Return the local directory of workers, which the site's arguments of workers may set as well.

    Examples
    --------
    >>> _local_directory(JobRequest("a", "/l", worker_arguments=("--local-directory", "/scratch")))
    '/scratch'
    """
    given = values_of(request.worker_arguments, "--local-directory")
    return given[-1] if given else request.local_directory


async def _check_request(slurm: Slurm, tag: str, request: JobRequest) -> CheckResult:
    """Check a request with Slurm itself: account, QOS, walltime, and whether any node is large enough."""
    name = f"component {tag}"
    packed = await pack(slurm, request)
    argv = sbatch_argv(packed, 1, job_name="scalable-check", comment="scalable check")
    try:
        answer = await slurm.test_only(argv)
    except NoAnswerError as error:
        remedy = "see by hand whether this site's sbatch hangs: sbatch --test-only --wrap true"
        return CheckResult(name, None, f"sbatch --test-only: {error.stderr}", remedy)
    except SlurmCommandError as error:
        if request.workers_per_job == "auto" and (smaller := await reduce_room(slurm, packed)):
            return await _check_request(slurm, tag, smaller)
        remedy = "compare cpus, memory, gpus, walltime, account and qos with what the site offers (sinfo -l)"
        return CheckResult(name, False, error.stderr, remedy)
    several = f"; {packed.room} workers in each job" if packed.room > 1 else ""
    return CheckResult(name, True, f"{answer or 'Slurm would accept it'}{several}")


def scheduler_interface(options: SlurmOptions, site: SiteDefaults) -> str | None:
    """Return the interface that the scheduler is to listen on; None if it listens on an address.

    Examples
    --------
    >>> from scalable.providers.slurm.options import SlurmOptions
    >>> from scalable.providers.slurm.site import SiteDefaults
    >>> scheduler_interface(SlurmOptions(interface="ib0", scheduler_interface="eth0"), SiteDefaults())
    'eth0'
    """
    if options.scheduler_host:
        return None
    own = options.scheduler_interface or options.interface
    if own or "host" in site.scheduler:
        return own
    return site.scheduler.get("interface") or site.interface


def check_interface(wanted: str | None) -> CheckResult:
    """Check whether this machine, where the scheduler runs, has the network interface."""
    import psutil

    interfaces = sorted(psutil.net_if_addrs())
    if wanted is None:
        return CheckResult(
            "interface",
            None,
            "not set, so the interface of the default route is used",
            f"if workers cannot reach this machine through it, set interface to one of: {', '.join(interfaces)}",
        )
    if wanted in interfaces:
        return CheckResult("interface", True, f"{wanted} exists")
    return CheckResult(
        "interface",
        False,
        f"this machine has no interface {wanted!r}{did_you_mean(wanted, interfaces)}",
        f"set interface to one of: {', '.join(interfaces)}",
    )


def check_interfaces(options: SlurmOptions, site: SiteDefaults, where: Place | None = None) -> None:
    """Check that this machine, where the scheduler runs, has the interface that it is to listen on.

    Parameters
    ----------
    options : SlurmOptions
        The target's options.
    site : SiteDefaults
        The site's defaults.
    where : Place, optional
        The target, for the position of the error.

    Raises
    ------
    ValidationFailedError
        It has not.
    """
    key = "scheduler_interface" if options.scheduler_interface else "interface"
    found = check_interface(scheduler_interface(options, site))
    if found.ok is False:  # Dask would raise a bare ValueError
        place = (where or Place().at("SlurmCluster")).child(key)
        issue = place.issue("E_INTERFACE", f"{found.detail}; {found.remedy}")
        raise ValidationFailedError(ValidationReport.of([issue]))


def _check_image(tag: str, request: JobRequest) -> Iterator[CheckResult]:
    if request.image is None:
        return
    name = f"image of {tag}"
    if not runs_as_child(request.runtime) or "://" in image_reference(
        request.runtime, request.image
    ):
        yield CheckResult(name, None, f"{request.image} is in a registry, which is not checked")
    elif os.access(request.image, os.R_OK):
        yield CheckResult(name, True, f"{request.image} is readable")
    else:
        yield CheckResult(
            name,
            False,
            f"{request.image} is not readable",
            "set image to the path of a file that this machine and the nodes share",
        )


def _check_logs(logs: Path) -> CheckResult:
    """Check whether logs and keys can be written where the nodes can read them."""
    name = "logs_location"
    nearest = _nearest_existing(logs)
    if "\\" in str(logs):
        remedy = "set logs_location to another directory"
        return CheckResult(
            name, False, f"{logs} contains a backslash, which Slurm misreads", remedy
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        remedy = "set logs_location to a writable directory"
        return CheckResult(name, False, f"{nearest} is not writable", remedy)
    kind = _file_system_type(nearest)
    if kind in _SHARED_FILE_SYSTEMS:
        return CheckResult(
            name, True, f"{nearest} is writable and on a shared file system ({kind})"
        )
    return CheckResult(
        name,
        None,
        f"{nearest} is writable, but its file system ({kind}) may be local to this machine",
        "make sure that the nodes share it, or set logs_location to a directory that they share",
    )


def _check_scratch(location: str) -> CheckResult:
    """Check the workers' local directory on this machine, in place of the nodes, each of which has its own."""
    name = "local_directory"
    if "$" in location:
        return CheckResult(name, None, f"{location} is known on the nodes alone")
    nearest = _nearest_existing(Path(location))
    if os.access(nearest, os.W_OK | os.X_OK):
        return CheckResult(
            name, True, f"{nearest} is writable here; the nodes are assumed to be alike"
        )
    remedy = "make sure that it is writable on the nodes, or set local_directory"
    return CheckResult(name, None, f"{nearest} is not writable on this machine", remedy)


def _nearest_existing(path: Path) -> Path:
    """Return the path itself, or its nearest parent that exists."""
    return next(part for part in (path, *path.parents) if part.exists())


def _file_system_type(path: Path) -> str:
    """Return the type of the file system that a path is on, as mount(8) names it."""
    import psutil

    real = path.resolve()
    # Of several mounts on one directory, the last one is visible.
    kinds = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    return next((kinds[part] for part in (real, *real.parents) if part in kinds), "unknown")
