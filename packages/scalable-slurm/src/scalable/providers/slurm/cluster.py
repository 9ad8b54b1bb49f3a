"""`SlurmCluster`: a Dask cluster on Slurm with a worker group per component."""

from __future__ import annotations

import contextlib
import logging
import math
import operator
import os
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, SupportsIndex

from scalable.cluster import GroupedCluster, Pace, RetryPolicy
from scalable.cluster.budget import Budget
from scalable.cluster.ledger import new_run_id
from scalable.cluster.port import GroupSpec
from scalable.cluster.quiet import keep_dask_quiet
from scalable.errors import NotSupportedError, ValidationFailedError, did_you_mean
from scalable.manifest import parse_manifest
from scalable.manifest.checking import check_model
from scalable.manifest.document.place import Place
from scalable.manifest.issues import ValidationIssue, ValidationReport
from scalable.manifest.schema import ComponentConfig
from scalable.manifest.validate import validate_manifest
from scalable.planning import group_size
from scalable.providers.base import DeploymentSpec
from scalable.providers.checks import check_mpi
from scalable.providers.containers import chosen_runtime
from scalable.providers.options import Limits
from scalable.providers.slurm.backend import SlurmBackend
from scalable.providers.slurm.checking import check_component
from scalable.providers.slurm.commands import Slurm
from scalable.providers.slurm.jobqueue import make_host, site_defaults
from scalable.providers.slurm.options import JobOptions, SlurmOptions
from scalable.providers.slurm.output import SlurmJob
from scalable.providers.slurm.preflight import check_interfaces
from scalable.providers.slurm.request import (
    PREFERRED_RUNTIME,
    chosen_cluster,
    job_request,
    logs_directory,
    run_prefix,
)
from scalable.providers.slurm.rundir import RunDirectory
from scalable.providers.slurm.watchdog import QueueWatchdog
from scalable.providers.tls import TlsFiles

if TYPE_CHECKING:
    from distributed.security import Security
    from pydantic import BaseModel

__all__ = ["SlurmCluster"]

logger = logging.getLogger("scalable.providers.slurm")

# squeue runs every few seconds at most, and rarely while all workers are connected: it costs the controller of the site
# two requests, and sites throttle clients that poll more often. Shorter than the time for which a job is known to wait.
_PACE = Pace(poll=5.0, steady_poll=20.0)

# A job whose worker has left is COMPLETING until the site's epilog has finished, and shows only then how it ended. Its
# replacement does not wait for that.
_RETRY = RetryPolicy(orphan_timeout=180.0)


class SlurmCluster(GroupedCluster):
    """A Dask cluster on Slurm with worker groups.

    The scheduler runs in this process, as dask-jobqueue's does. Defaults for what neither the options nor a component
    set are dask-jobqueue's (``~/.config/dask/jobqueue.yaml``). Client, scheduler and workers communicate over TLS.

    Parameters
    ----------
    options : SlurmOptions, optional
        The options of a target. Alternatively, pass them as keyword arguments.
    components : iterable of ComponentConfig, optional
        The components of the first groups; `add_container` adds more.
    security : bool
        Whether to use TLS. Without it, anyone who can reach the scheduler's port can run code as you.
    dashboard_address : str, optional
        Address of the dashboard, which does not use TLS. By default, a free port on the loopback interface.
    pace : Pace, optional
        How often the controller runs and polls Slurm.
    **fields
        Options of a Slurm target: ``queue``, ``account``, ``walltime``, ``interface`` and so on. With ``workers``,
        ``n_workers`` or ``adaptive``, groups have the size that they would have in a target; otherwise they are empty.

    Raises
    ------
    TypeError
        An argument is of another type; or options are passed in both ways.
    ValidationFailedError
        An option is wrong or unknown, or this machine has no such interface.
    NotSupportedError
        The cluster is built off the main thread, and dask-jobqueue has not been imported yet; or an option is one of
        other libraries, and the error says what takes its place.

    Examples
    --------
    Without a manifest::

        cluster = SlurmCluster(queue="short", account="climate", walltime="02:00:00", interface="ib0")
        cluster.add_container("gcam", cpus=8, memory="32G", path="/images/gcam.sif", dirs={"/data": "/data"})
        cluster.add_workers(4, "gcam")
        client = ScalableClient(cluster)
    """

    def __init__(
        self,
        options: SlurmOptions | None = None,
        *,
        components: Iterable[ComponentConfig] = (),
        security: bool = True,
        dashboard_address: str | None = None,
        pace: Pace | None = None,
        **fields: Any,
    ) -> None:
        if not isinstance(security, bool):
            raise NotSupportedError(
                "SlurmCluster makes keys of its own, and takes none: pass security=True, or False for none"
            )
        first = list(components)
        _check_types(options, first, pace, fields)
        self.options = _checked_options(fields) if options is None else options
        budget = _budget(self.options.limits)
        self._site = site_defaults()
        for note in self._site.notes:
            logger.warning("%s", note)
        check_interfaces(self.options, self._site)
        run = new_run_id(run_prefix(self.options, self._site), 12)
        directory = RunDirectory(logs_directory(self.options, self._site) / run)
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(directory.remove_keys)
            end_quiet = keep_dask_quiet()
            cleanup.callback(end_quiet)
            directory.remove_keys_of_dead_runs()
            client_security: Security | None = None
            self._tls: TlsFiles | None = None
            if security:
                client_security, self._tls = directory.write_keys()
            self.logs_location = directory.logs
            host = make_host(
                name=run,
                interface=self.options.scheduler_interface or self.options.interface,
                host=self.options.scheduler_host,
                port=self.options.scheduler_port,
                security=client_security,
                dashboard_address=dashboard_address or self.options.dashboard_address,
            )
            cleanup.callback(host.close)
            pace = pace or _PACE
            # Shorter than the limit of a closing step, or the remaining jobs could not be reported.
            sweep_timeout = 0.75 * pace.close_timeout
            cluster = chosen_cluster(self.options, self._site)
            self._backend = SlurmBackend(
                Slurm(cluster), run, host.scheduler_address, {}, sweep_timeout=sweep_timeout
            )
            self._watchdog = QueueWatchdog(self._backend.job_name, directory.path, cluster)
            cleanup.callback(self._watchdog.stop)
            for component in first:
                self._add_request(component, self.options)
            super().__init__(
                host,
                self._backend,
                [self._group(component) for component in first],
                name=run,
                max_workers=self.options.max_workers,
                retry=_RETRY,
                pace=pace,
                on_closed=[self._end_watchdog, directory.remove_keys, end_quiet],
            )
            cleanup.pop_all()  # from here on, close() does this
        if budget.is_limited:
            self.set_budget(budget)

    def _end_watchdog(self) -> None:
        if self._backend.has_left_jobs:
            self._watchdog.let_go()
        else:
            self._watchdog.stop()

    @property
    def jobs(self) -> tuple[SlurmJob, ...]:
        """All jobs of the cluster, ended ones included, each as ``squeue`` last showed it."""
        return self._backend.jobs

    def add_container(
        self,
        tag: str,
        cpus: int = 1,
        memory: str | int | None = None,
        dirs: Mapping[str, str] | None = None,
        path: str | None = None,
        preload_script: str | None = None,
        **fields: Any,
    ) -> None:
        """Add a group without workers.

        Parameters
        ----------
        tag : str
            The group's name, for `add_workers` and ``client.submit(tag=…)``.
        cpus : int
            Cores of one worker.
        memory : str or int, optional
            Memory of one worker, such as ``32G``.
        dirs : mapping of str to str, optional
            Mounts: container paths by host path.
        path : str, optional
            The container image; without one, workers run without a container.
        preload_script : str, optional
            Module or script that a worker runs first.
        **fields
            More fields of a manifest's component (``gpus``, ``slots``, ``env``, ``runtime``), and options that a target
            may set for single components (``queue``, ``walltime``, ``constraint`` and so on).

        Raises
        ------
        TypeError
            A field is passed under both of its names: ``path`` and ``image``, or ``dirs`` and ``mounts``.
        ValidationFailedError
            A field is wrong or unknown, or cannot be obeyed with the others.
        ValueError
            The tag is already in use.
        """
        for name, other, value in (("path", "image", path), ("dirs", "mounts", dirs)):
            if value is not None and fields.get(other) is not None:
                raise TypeError(f"add_container got both {name} and {other}, which are the same")
        all_fields = {
            "cpus": cpus,
            "memory": memory,
            "mounts": dirs,
            "image": path,
            "preload_script": preload_script,
            **fields,
        }
        given = {name: value for name, value in all_fields.items() if value is not None}
        job = {name: given.pop(name) for name in JobOptions.model_fields.keys() & given.keys()}
        component = _validated(ComponentConfig, given, ("components", str(tag)), name=tag)
        runtime = chosen_runtime(component, self.options.container_runtime, PREFERRED_RUNTIME)
        if component.mounts and runtime == "none":
            raise _invalid(
                f"components.{tag}.mounts",
                "E_NO_IMAGE",
                "dirs have no effect without a container: pass the image as path, and a container runtime",
            )
        own: JobOptions = _validated(JobOptions, job, ("components", str(tag)))
        if tag in self.options.components:
            given_here = {name: getattr(own, name) for name in own.model_fields_set}
            own = self.options.components[tag].model_copy(update=given_here)
        options = self.options.model_copy(update={"components": {tag: own}})
        _check_component(component, options)
        for name in ("components", "workers"):
            _warn_if_misspelt(name, tag, getattr(self.options, name))
        self._add_request(component, options)
        self.add_group(self._group(component))
        self._give_configured_size(tag)

    def _give_configured_size(self, tag: str) -> None:
        """Scale a new group as a target with these options would, if any of them is about sizes."""
        if not {"workers", "n_workers", "adaptive"} & self.options.model_fields_set:
            return
        if isinstance(self.options.workers, Mapping) and tag not in self.options.workers:
            return
        size = group_size(tag, self.options)
        self.scale_groups({tag: size.initial})
        if size.adaptive:
            bounds = {tag: (size.minimum, size.maximum)}
            self.adapt_groups(bounds, {tag: size.policy} if size.policy else None)

    def add_workers(self, n: int, tag: str) -> None:
        """Add `n` to the wanted number of workers of a group. The tag may also come first.

        Raises
        ------
        UnknownTagError
            No group has this tag.
        TypeError, ValueError
            `n` is not a number above 0, or all groups together would exceed `max_workers` or what a scheduler serves.
        """
        n, tag = _count_and_tag("add_workers", n, tag)
        self._scale_by(tag, n)

    def remove_workers(self, n: int, tag: str) -> None:
        """Subtract `n` from the wanted number of workers of a group, down to zero. The tag may also come first.

        Workers finish their tasks first.

        Raises
        ------
        UnknownTagError
            No group has this tag.
        TypeError, ValueError
            `n` is not a number above 0.
        """
        n, tag = _count_and_tag("remove_workers", n, tag)
        self._scale_by(tag, -n)

    def _scale_by(self, tag: str, by: int) -> None:
        wanted = self.groups[tag].wanted if tag in self.groups else 0
        self.scale_groups({tag: max(0, wanted + by)})

    def _add_request(self, component: ComponentConfig, options: SlurmOptions) -> None:
        request = job_request(
            component, options, self._site, logs=self.logs_location, tls=self._tls
        )
        self._backend.requests.setdefault(component.name, request)

    def _group(self, component: ComponentConfig) -> GroupSpec:
        return GroupSpec(
            component.name,
            component.slots,
            self.options.startup_timeout,
            unresponsive_timeout=self.options.unresponsive_timeout,
            expected_queue=_EXPECTED_QUEUE,
            expected_boot=_EXPECTED_BOOT,
        )


_EXPECTED_QUEUE = 60.0
"""Seconds, until starts were measured: a round of Slurm's main scheduler; its ``sched_interval`` is 60 by default."""

_EXPECTED_BOOT = 10.0
"""Seconds, until starts were measured: the interpreter and Dask, from a shared file system."""


# Of the original Scalable, and of dask-jobqueue's SLURMCluster.
_ELSEWHERE = {
    **dict.fromkeys(
        ("silence_logs", "suppress_logs"),
        "set the levels of loggers: logging.getLogger('scalable').setLevel('ERROR')",
    ),
    "config_overwrite": "nothing is overwritten: pass the options of each group to add_container",
    **dict.fromkeys(
        ("run_scripts_path", "use_run_scripts"),
        "no scripts are written; `scalable plan --render` shows what is submitted",
    ),
    "project": "pass account",
    **dict.fromkeys(("cores", "job_cpu"), "pass cpus to add_container"),
    **dict.fromkeys(("memory", "job_mem"), "pass memory to add_container"),
    "processes": "pass workers_per_job to add_container for several workers in one job, or slots for tasks at a time",
    **dict.fromkeys(("env_extra", "job_script_prologue"), "pass prologue"),
    **dict.fromkeys(("job_extra", "job_extra_directives"), "pass directives"),
    **dict.fromkeys(
        ("header_skip", "job_directives_skip"), "set it in dask-jobqueue's configuration"
    ),
    **dict.fromkeys(("extra", "worker_extra_args"), "set it in dask-jobqueue's configuration"),
    "log_directory": "pass logs_location",
    "shared_temp_directory": "pass logs_location, where the keys are",
    "scheduler_options": "pass scheduler_host, scheduler_port, scheduler_interface and dashboard_address",
    "host": "pass scheduler_host",
    "death_timeout": "set it in dask-jobqueue's configuration",
    "protocol": "pass security=False for a scheduler without TLS",
    "nanny": "there is none: the cluster itself replaces workers",
    "asynchronous": "each method has a twin named …_async",
    "config_name": "the configuration is jobqueue.slurm",
}


def _checked_options(fields: Mapping[str, Any]) -> SlurmOptions:
    for name in fields:
        if name in _ELSEWHERE:
            raise NotSupportedError(f"SlurmCluster has no option {name}: {_ELSEWHERE[name]}")
    options: SlurmOptions = _validated(SlurmOptions, fields, "SlurmCluster")
    if options.comm_port is not None:
        logger.warning("comm_port has no effect: set scheduler_port or worker_ports, or remove it")
    bounds, start = options.adaptive, options.n_workers
    if bounds and start is not None and not bounds.minimum <= start <= bounds.maximum:
        message = "must lie between the minimum and the maximum of adaptive"
        raise _invalid("SlurmCluster.n_workers", "E_OUT_OF_RANGE", message)
    return options


def _budget(limits: Limits) -> Budget:
    """Return what a cluster may use."""
    if limits.max_cost is not None or limits.max_hourly_cost is not None:
        raise NotSupportedError(
            "Slurm has no prices, so that it can keep no limit on cost: pass max_worker_hours or max_workers"
        )
    return Budget(
        limits.max_workers, max_worker_hours=limits.max_worker_hours, on_exceed=limits.on_exceed
    )


def _check_types(
    options: object, components: Iterable[object], pace: object, fields: Mapping[str, Any]
) -> None:
    if not (options is None or isinstance(options, SlurmOptions)):
        raise TypeError("SlurmCluster takes options by name, such as SlurmCluster(queue='short')")
    if options is not None and fields:
        raise TypeError(
            f"SlurmCluster got options, and {', '.join(sorted(fields))} apart from them; pass one or the other"
        )
    if not all(isinstance(component, ComponentConfig) for component in components):
        raise TypeError(
            "components must be ComponentConfig objects; add_container adds others, and takes options for their jobs"
        )
    if not (pace is None or isinstance(pace, Pace)):
        raise TypeError("pace must be a Pace, such as Pace(poll=10.0)")


def _check_component(component: ComponentConfig, options: SlurmOptions) -> None:
    """Check a component as in a manifest; warnings are logged."""
    name = "SlurmCluster"
    targets = {name: {"provider": "slurm"}}
    manifest = parse_manifest({"version": 1, "project": {"name": name}, "targets": targets})
    manifest = manifest.model_copy(update={"components": {component.name: component}})
    spec = DeploymentSpec.from_manifest(manifest, target_name=name)
    report = ValidationReport.of(
        [
            *validate_manifest(manifest, known_providers={"slurm"}).issues,
            *check_mpi(spec, "slurm", supported=True),
            *check_component(spec, component.name, options),
        ]
    )
    if not report.ok:
        raise ValidationFailedError(report)
    for issue in report.warnings:
        logger.warning("%s: %s", issue.path, issue.message)


def _warn_if_misspelt(option: str, tag: str, by_tag: object) -> None:
    if isinstance(by_tag, Mapping) and by_tag and tag not in by_tag:
        near = did_you_mean(tag, by_tag)
        if near or option == "workers":
            logger.warning("the option %s says nothing about %r%s", option, tag, near)


def _count_and_tag(method: str, n: object, tag: object) -> tuple[int, str]:
    """Return a number of workers and a tag, which were passed in one order or the other.

    Examples
    --------
    >>> _count_and_tag("add_workers", "gcam", 4)
    (4, 'gcam')
    """
    if isinstance(n, str):
        n, tag = tag, n
    if isinstance(n, bool) or not isinstance(n, SupportsIndex) or not isinstance(tag, str):
        raise TypeError(
            f"{method} takes a number of workers and a tag, such as {method}(4, 'gcam')"
        )
    if (count := operator.index(n)) < 1:
        raise ValueError(f"{method} takes a number of workers above 0, not {count}")
    return count, tag


def _as_written(value: object, place: Place) -> Any:
    """Return what a manifest would have in the place of a value: text for a path, and numbers as Python's own.

    Examples
    --------
    >>> from pathlib import Path
    >>> _as_written({Path("/data"): [Path("/in"), timedelta(hours=1)]}, Place())
    {'/data': ['/in', 3600]}
    """
    if isinstance(value, Mapping):
        return {
            _as_written(key, place): _as_written(each, place.child(str(key)))
            for key, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_as_written(each, place) for each in value]
    if isinstance(value, timedelta):
        return math.ceil(value.total_seconds())
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, SupportsIndex):  # a number of NumPy's
        return operator.index(value)
    message = f"cannot be {type(value).__name__}: write it as in a manifest"
    raise ValidationFailedError(ValidationReport.of([place.issue("E_BAD_VALUE", message)]))


def _invalid(path: str, code: str, message: str) -> ValidationFailedError:
    return ValidationFailedError(ValidationReport.of([ValidationIssue(path, message, code)]))


def _validated(
    model: type[BaseModel], fields: Mapping[str, Any], where: str | tuple[str, ...], **given: Any
) -> Any:
    place = Place().at(where)
    plain = {name: _as_written(value, place.child(name)) for name, value in fields.items()}
    validated, issues = check_model(model, plain, place, given=given)
    if validated is None:
        raise ValidationFailedError(ValidationReport.of(issues))
    return validated
