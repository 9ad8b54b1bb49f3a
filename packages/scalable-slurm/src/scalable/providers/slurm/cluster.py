"""`SlurmCluster`: worker groups of different shape on one scheduler, as elements of Slurm job arrays."""

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
from scalable.manifest.issues import ValidationReport
from scalable.manifest.schema import ComponentConfig
from scalable.manifest.sourcemap import SourceMap
from scalable.providers.slurm.backend import SlurmBackend
from scalable.providers.slurm.commands import Slurm, SlurmJob
from scalable.providers.slurm.guard import QueueGuard
from scalable.providers.slurm.jobqueue import make_host, site_defaults
from scalable.providers.slurm.options import JobOptions, SlurmOptions
from scalable.providers.slurm.request import job_request
from scalable.providers.slurm.rundir import RunDirectory
from scalable.providers.slurm.script import Tls

if TYPE_CHECKING:
    from distributed.security import Security
    from pydantic import BaseModel

__all__ = ["SlurmCluster"]

# squeue is asked every few seconds at most: sites throttle those who ask more often.
_PACE = Pace(poll=5.0)

# A job whose worker has left is "completing" until the site's epilog is through, and says how it ended only then.
# Its successor does not wait for that.
_RETRY = RetryPolicy(linger=180.0)


class SlurmCluster(GroupedCluster):
    """A Dask cluster on Slurm whose workers come in groups.

    Its scheduler runs in this process, as dask-jobqueue's does, and what neither option nor component says is taken
    from dask-jobqueue's configuration (``~/.config/dask/jobqueue.yaml``). Traffic between client, scheduler and
    workers is under TLS.

    Parameters
    ----------
    options : SlurmOptions, optional
        What a manifest's target says; instead of it, the same as keyword arguments.
    components : iterable of ComponentConfig, optional
        The groups to begin with; more can be added by `add_container`.
    security : bool
        Whether traffic is under TLS. Without it, whoever reaches the scheduler's port can run code as you.
    dashboard_address : str, optional
        Where the dashboard listens. It is not under TLS: by default, on a free port for this machine alone.
    pace : Pace, optional
        How often Slurm is asked.
    **said
        Options of a Slurm target: ``queue``, ``account``, ``walltime``, ``interface`` and so on.

    Raises
    ------
    ValidationFailedError
        An option is wrong or unknown.
    NotSupportedError
        Built off the main thread before dask-jobqueue was imported.

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
        **said: Any,
    ) -> None:
        self.options = options or _read(SlurmOptions, said, "SlurmCluster")
        self._site = site_defaults()
        known = list(components)
        run = f"{self.options.name or 'run'}-{uuid.uuid4().hex[:12]}"
        directory = RunDirectory(Path(self.options.logs_location).absolute() / run)
        with contextlib.ExitStack() as undo:
            undo.callback(directory.remove_keys)
            trusted: Security | None = None
            self._tls: Tls | None = None
            if security:
                trusted, self._tls = directory.write_keys()
            self.logs_location = directory.logs
            host = make_host(
                name=run,
                interface=self.options.interface,
                security=trusted,
                dashboard_address=dashboard_address,
            )
            undo.callback(host.close)
            pace = pace or _PACE
            # Within the time of a step of closing, or nobody would learn which jobs are left.
            patience = 0.75 * pace.close_timeout
            self._backend = SlurmBackend(
                Slurm(), run, host.scheduler_address, {}, patience=patience
            )
            guard = QueueGuard(self._backend.job_name)
            undo.callback(guard.dismiss)
            for component in known:
                self._know(component, self.options)
            super().__init__(
                host,
                self._backend,
                [self._group(component) for component in known],
                name=run,
                max_workers=self.options.max_workers,
                retry=_RETRY,
                pace=pace,
                at_the_end=[guard.dismiss, directory.remove_keys],
            )
            undo.pop_all()  # from here on, close() does it

    @property
    def jobs(self) -> tuple[SlurmJob, ...]:
        """Its jobs, those that have ended included, as Slurm has shown each of them last."""
        return self._backend.jobs

    def add_container(
        self,
        tag: str,
        cpus: int = 1,
        memory: str | int | None = None,
        dirs: Mapping[str, str] | None = None,
        path: str | None = None,
        preload_script: str | None = None,
        **said: Any,
    ) -> None:
        """Add a group, as yet without workers.

        Parameters
        ----------
        tag : str
            Its name, which `add_workers` and ``client.submit(tag=…)`` use.
        cpus : int
            Cores of one worker.
        memory : str or int, optional
            Memory of one worker, such as ``32G``.
        dirs : mapping of str to str, optional
            What the container sees: its path by the host's.
        path : str, optional
            The container image; without one, workers run without container.
        preload_script : str, optional
            What a worker runs first.
        **said
            More fields of a manifest's component: ``gpus``, ``slots``, ``env``, ``runtime``; and what a target may say
            for single components: ``queue``, ``walltime``, ``constraint`` and so on.

        Raises
        ------
        ValidationFailedError
            A field is wrong or unknown.
        ValueError
            There is a group of that tag.
        """
        fields = {
            "cpus": cpus,
            "memory": memory,
            "mounts": dirs,
            "image": path,
            "preload_script": preload_script,
            **said,
        }
        given = {name: value for name, value in fields.items() if value is not None}
        job = {name: given.pop(name) for name in JobOptions.model_fields.keys() & given.keys()}
        component = _read(ComponentConfig, given, f"components.{tag}", name=tag)
        own = {tag: _read(JobOptions, job, f"components.{tag}")} if job else {}
        self._know(component, self.options.model_copy(update={"components": own}))
        self.add_group(self._group(component))

    def add_workers(self, n: int, tag: str) -> None:
        """Have `n` more workers in a group.

        Raises
        ------
        UnknownTagError
            There is no such group.
        """
        self._change(tag, n)

    def remove_workers(self, n: int, tag: str) -> None:
        """Have `n` workers less in a group, but not less than none. They finish what they run first."""
        self._change(tag, -n)

    def _change(self, tag: str, by: int) -> None:
        wanted = self.groups[tag].wanted if tag in self.groups else 0
        self.scale_groups({tag: max(0, wanted + by)})

    def _know(self, component: ComponentConfig, options: SlurmOptions) -> None:
        request = job_request(
            component, options, self._site, logs=self.logs_location, tls=self._tls
        )
        self._backend.requests.setdefault(component.name, request)

    def _group(self, component: ComponentConfig) -> GroupSpec:
        return GroupSpec(component.name, component.slots, self.options.startup_timeout)


def _read(model: type[BaseModel], said: Mapping[str, Any], where: str, **given: Any) -> Any:
    made, issues = check_model(model, said, where, SourceMap(), given=given)
    if made is None:
        raise ValidationFailedError(ValidationReport.of(issues))
    return made
