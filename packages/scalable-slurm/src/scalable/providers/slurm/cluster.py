"""`SlurmCluster`: a Dask cluster on Slurm with a worker group per component."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalable.cluster import GroupedCluster, Pace, RetryPolicy
from scalable.cluster.port import GroupSpec
from scalable.errors import ValidationFailedError
from scalable.manifest.checking import check_model
from scalable.manifest.document.place import Place
from scalable.manifest.issues import ValidationReport
from scalable.manifest.schema import ComponentConfig
from scalable.providers.slurm.backend import SlurmBackend
from scalable.providers.slurm.commands import Slurm
from scalable.providers.slurm.jobqueue import make_host, site_defaults
from scalable.providers.slurm.options import JobOptions, SlurmOptions
from scalable.providers.slurm.output import SlurmJob
from scalable.providers.slurm.request import job_request
from scalable.providers.slurm.rundir import RunDirectory
from scalable.providers.slurm.watchdog import QueueWatchdog
from scalable.providers.tls import TlsFiles

if TYPE_CHECKING:
    from distributed.security import Security
    from pydantic import BaseModel

__all__ = ["SlurmCluster"]

# squeue runs every few seconds at most: sites throttle clients that poll more often.
_PACE = Pace(poll=5.0)

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
        Options of a Slurm target: ``queue``, ``account``, ``walltime``, ``interface`` and so on.

    Raises
    ------
    ValidationFailedError
        An option is wrong or unknown.
    NotSupportedError
        The cluster is built off the main thread, and dask-jobqueue has not been imported yet.

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
        self.options = options or _validated(SlurmOptions, fields, "SlurmCluster")
        self._site = site_defaults()
        first = list(components)
        run = f"{self.options.name or 'run'}-{uuid.uuid4().hex[:12]}"
        directory = RunDirectory(Path(self.options.logs_location).absolute() / run)
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(directory.remove_keys)
            client_security: Security | None = None
            self._tls: TlsFiles | None = None
            if security:
                client_security, self._tls = directory.write_keys()
            self.logs_location = directory.logs
            host = make_host(
                name=run,
                interface=self.options.interface,
                security=client_security,
                dashboard_address=dashboard_address,
            )
            cleanup.callback(host.close)
            pace = pace or _PACE
            # Shorter than the limit of a closing step, or the remaining jobs could not be reported.
            sweep_timeout = 0.75 * pace.close_timeout
            self._backend = SlurmBackend(
                Slurm(), run, host.scheduler_address, {}, sweep_timeout=sweep_timeout
            )
            watchdog = QueueWatchdog(self._backend.job_name, directory.path)
            cleanup.callback(watchdog.stop)
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
                on_closed=[watchdog.stop, directory.remove_keys],
            )
            cleanup.pop_all()  # from here on, close() does this

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
        ValidationFailedError
            A field is wrong or unknown.
        ValueError
            The tag is already in use.
        """
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
        component = _validated(ComponentConfig, given, f"components.{tag}", name=tag)
        own = {tag: _validated(JobOptions, job, f"components.{tag}")} if job else {}
        self._add_request(component, self.options.model_copy(update={"components": own}))
        self.add_group(self._group(component))

    def add_workers(self, n: int, tag: str) -> None:
        """Add `n` to the wanted number of workers of a group.

        Raises
        ------
        UnknownTagError
            No group has this tag.
        """
        self._scale_by(tag, n)

    def remove_workers(self, n: int, tag: str) -> None:
        """Subtract `n` from the wanted number of workers of a group, down to zero. Workers finish their tasks first."""
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


def _validated(model: type[BaseModel], fields: Mapping[str, Any], where: str, **given: Any) -> Any:
    validated, issues = check_model(model, fields, Place().at(where), given=given)
    if validated is None:
        raise ValidationFailedError(ValidationReport.of(issues))
    return validated
