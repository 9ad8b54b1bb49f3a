"""The provider ``slurm``."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from scalable.cluster.port import Leftover
from scalable.errors import (
    ProviderNotSetUpError,
    describe_error,
    did_you_mean,
)
from scalable.manifest.issues import ValidationIssue
from scalable.manifest.schema import ComponentConfig
from scalable.providers.base import (
    Artifact,
    CheckResult,
    ClusterHandle,
    DeploymentSpec,
    Owned,
    ResourceRequest,
    ScalePlan,
    current_owner,
)
from scalable.providers.common import BaseProvider, cluster_handle
from scalable.providers.options import Limits
from scalable.providers.queries import run_now
from scalable.providers.slurm.checking import check_component
from scalable.providers.slurm.labels import job_name, may_be_ours
from scalable.providers.slurm.options import SlurmOptions
from scalable.providers.slurm.output import SlurmJob
from scalable.providers.slurm.request import (
    JobRequest,
    chosen_cluster,
    job_request,
    logs_directory,
    run_prefix,
)
from scalable.providers.slurm.sbatch import sbatch_argv
from scalable.providers.slurm.script import job_script

__all__ = ["SlurmProvider"]

T = TypeVar("T")

_LIST_TIMEOUT = 50.0
"""Seconds after which ``squeue`` is ended; less than a provider has for its list."""

_OTHER_SCRIPTS = 100
"""Arrays with other names and comments than ours that are looked at, the newest first: a site may rewrite both."""

_KEYS = "TLS keys"

_NOT_CONFIGURED = "Could not establish a configuration source"
"""What Slurm's commands say on a machine that has them, and no ``slurm.conf``."""


class SlurmProvider(BaseProvider[SlurmOptions]):
    """Runs each worker as an element of a Slurm job array."""

    name = "slurm"
    options_model = SlurmOptions
    supports_mpi = True

    def check(self, spec: DeploymentSpec, options: SlurmOptions) -> Iterator[ValidationIssue]:
        """Find options without effect, unknown components, and what no container runtime can do."""
        if options.comm_port is not None:
            message = "has no effect because ports are chosen freely; remove it"
            yield spec.option_issue("comm_port", "W_NO_EFFECT", message, "warning")
        for name in options.components.keys() - spec.components.keys():
            message = f"there is no component {name!r}{did_you_mean(name, spec.components)}"
            yield spec.option_issue(("components", name), "E_UNKNOWN_COMPONENT", message)
        for name in spec.components:
            yield from check_component(spec, name, options)

    def request(self, component: ComponentConfig, options: SlurmOptions) -> ResourceRequest:
        """Return the component's resources, with the walltime that the target sets for it."""
        walltime = options.for_component(component.name).walltime
        return replace(super().request(component, options), walltime=walltime)

    def preflight(self, spec: DeploymentSpec) -> Sequence[CheckResult]:
        """Check whether a start would work: tools, partition, limits, interface, images, directories."""
        from scalable.providers.slurm.commands import Slurm
        from scalable.providers.slurm.jobqueue import site_defaults
        from scalable.providers.slurm.preflight import preflight

        options, site = self.parse_options(spec), site_defaults()
        slurm = Slurm(chosen_cluster(options, site))
        return run_now(preflight(slurm, options, spec.components, site))

    def render(self, spec: DeploymentSpec, plan: ScalePlan) -> Sequence[Artifact]:
        """Return, for each component, the ``sbatch`` command line and the job script that a run would submit.

        Placeholders stand for what only a run knows: the scheduler's address and the run's id. A component's
        variables are not shown because a job inherits them; values that the manifest takes from the environment are
        shown as ``${VAR}``.
        """
        from scalable.providers.slurm.jobqueue import site_defaults

        options, site = self.parse_options(spec), site_defaults()
        run = f"{run_prefix(options, site)}-RUN"
        logs, comment = str(logs_directory(options, site) / run), f"scalable run={run}"
        artifacts = []
        for tag, component in spec.components.items():
            request = job_request(component, options, site, logs=logs, tls=None)
            n = max(1, plan.workers_by_tag.get(tag, 0))
            request, note = self._packed(request)
            argv = sbatch_argv(
                request,
                -(-n // request.room),
                job_name=job_name(run),
                comment=comment,
            )
            script = job_script(request, "SCHEDULER", n, run=run, comment=comment)
            text = f"{note}# {shlex.join(argv)}\n{script}"
            shown = spec.manifest.redact(text)
            artifacts.append(Artifact(f"{tag}.sbatch", "text/x-shellscript", shown))
        return artifacts

    def _packed(self, request: JobRequest) -> tuple[JobRequest, str]:
        """Return a request with the number of workers of one job, and a comment if that is known at the site only."""
        from scalable.providers.slurm.commands import Slurm
        from scalable.providers.slurm.packing import pack

        if request.workers_per_job != "auto" or shutil.which("sinfo") is not None:
            return run_now(pack(Slurm(request.cluster), request)), ""
        return request, "# One worker in each job; where jobs get whole nodes, as many as fit.\n"

    def list_owned(self, spec: DeploymentSpec) -> Sequence[Owned]:
        """Return this user's jobs of every run, in all partitions of the target's cluster, and keys of dead runs.

        Raises
        ------
        ProviderNotSetUpError
            Slurm's commands are not on PATH, or have no configuration.
        """
        from scalable.providers.slurm.commands import Slurm, SlurmCommandError
        from scalable.providers.slurm.recognition import Recognizer

        async def list_jobs() -> list[tuple[SlurmJob, Mapping[str, str]]]:
            slurm = Slurm(self._cluster(spec))
            jobs, recognizer = await slurm.list_user_jobs(), Recognizer(slurm)
            renamed = [job for job in jobs if may_be_ours(job.name, job.comment)]
            await recognizer.look_at(renamed, most=len(jobs))
            await recognizer.look_at(jobs, most=_OTHER_SCRIPTS)
            return [(job, label) for job in jobs if (label := recognizer.label_of(job))]

        remedy = "run this where Slurm's commands work, such as a login node"
        if shutil.which("squeue") is None:
            raise ProviderNotSetUpError(self.name, "squeue is not on PATH", remedy)
        try:
            jobs = run_now(asyncio.wait_for(list_jobs(), _LIST_TIMEOUT))
        except TimeoutError:
            raise SlurmCommandError("squeue", f"no answer in {_LIST_TIMEOUT:g} s") from None
        except SlurmCommandError as error:
            if _NOT_CONFIGURED in error.stderr:
                raise ProviderNotSetUpError(self.name, error.stderr, remedy) from error
            raise
        user = current_owner()
        found = []
        for job, label in jobs:
            if job.state != "COMPLETING":  # already cancelled, and about to end
                where = f" on {job.node}" if job.node else f" ({job.reason})"
                detail = f"{label['tag']} {job.state.lower()}{where}"
                found.append(Owned("Slurm job", job.id, label["run"], user, detail))
        alive = {owned.run_id for owned in found}
        for run in self._dead_runs(spec):
            if run.name not in alive:
                detail = "the client has died"
                found.append(Owned(_KEYS, str(run), run.name, user, detail))
        return found

    def reap(self, spec: DeploymentSpec, owned: Sequence[Owned]) -> Sequence[Leftover]:
        """Cancel these jobs with one ``scancel``, and remove the keys of their runs that have no others."""
        from scalable.providers.slurm.commands import Slurm, SlurmCommandError

        if not owned:
            return []
        jobs = [each for each in owned if each.kind != _KEYS]
        names = [job.name for job in jobs]
        try:
            kept = {
                each.run_id
                for each in self.list_owned(spec)
                if each.kind != _KEYS and each.name not in names
            }
            if names:
                run_now(Slurm(self._cluster(spec)).cancel(names))
        except SlurmCommandError as error:
            return [Leftover(each.kind, each.name, error.stderr) for each in owned]
        runs = {job.run_id for job in owned if Path(job.run_id).name == job.run_id}
        return [*self._remove_keys(spec, sorted(runs - kept))]

    def _dead_runs(self, spec: DeploymentSpec) -> Iterator[Path]:
        from scalable.providers.slurm.jobqueue import site_defaults
        from scalable.providers.slurm.presence import dead_runs

        logs = logs_directory(self.parse_options(spec), site_defaults())
        return dead_runs(logs, time.time())

    def _cluster(self, spec: DeploymentSpec) -> str | None:
        from scalable.providers.slurm.jobqueue import site_defaults

        return chosen_cluster(self.parse_options(spec), site_defaults())

    def _remove_keys(self, spec: DeploymentSpec, runs: Iterable[str]) -> Iterator[Leftover]:
        from scalable.providers.slurm.jobqueue import site_defaults
        from scalable.providers.slurm.rundir import remove_keys

        logs = logs_directory(self.parse_options(spec), site_defaults())
        for run in runs:
            directory = logs / run
            try:
                remove_keys(directory)
            except OSError as error:
                yield Leftover("keys", str(directory), describe_error(error))

    def _build(self, spec: DeploymentSpec, options: SlurmOptions) -> ClusterHandle:
        from scalable.providers.slurm.cluster import SlurmCluster
        from scalable.providers.slurm.jobqueue import site_defaults
        from scalable.providers.slurm.preflight import check_interfaces

        where = spec.manifest.place(("targets", spec.target_name))
        check_interfaces(options, site_defaults(), where)
        # A session sets the limits of its target.
        unlimited = options.model_copy(update={"limits": Limits()})
        cluster = SlurmCluster(unlimited, components=spec.components.values())
        return cluster_handle(cluster, spec, {"run": cluster.name, "logs": cluster.logs_location})
