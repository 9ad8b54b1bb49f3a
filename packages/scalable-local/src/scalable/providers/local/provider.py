"""The provider `local`."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scalable.cluster.ledger import new_run_id
from scalable.cluster.port import GroupSpec, Leftover
from scalable.errors import ValidationFailedError
from scalable.manifest.issues import ValidationIssue
from scalable.manifest.schema import ComponentConfig
from scalable.manifest.units import format_memory
from scalable.paths import expand_home
from scalable.providers.base import (
    CheckResult,
    ClusterHandle,
    DeploymentSpec,
    Owned,
    current_owner,
)
from scalable.providers.common import BaseProvider, cluster_handle
from scalable.providers.local import runtimes
from scalable.providers.local.containers import ContainerSetup, RunContext, command_factory
from scalable.providers.local.options import LocalOptions
from scalable.providers.local.prepare import (
    check_containers,
    chosen_runtimes,
    preflight,
    prepare_containers,
)
from scalable.providers.local.runtimes import Containers
from scalable.providers.logs import kept_logs
from scalable.providers.options import explicit_or_default
from scalable.providers.servers import stop_http_server_of
from scalable.providers.tls import Credentials, make_credentials

if TYPE_CHECKING:
    from scalable.cluster.host import Host
    from scalable.cluster.port import Backend

__all__ = ["LocalProvider"]

_NEED_CONTAINERS = ("image", "mounts", "runtime", "gpus")
_NEED_PROCESSES = ("cpus", "memory", "env", "preload_script", *_NEED_CONTAINERS)


class LocalProvider(BaseProvider[LocalOptions]):
    """Runs each component as a group of worker processes, containers or threads on this machine."""

    name = "local"
    options_model = LocalOptions

    def check(self, spec: DeploymentSpec, options: LocalOptions) -> Iterator[ValidationIssue]:
        """Find what is not possible on this machine, or in processes, containers or threads."""
        if options.processes:
            yield from check_containers(spec, options)
            plain = spec.components.keys() - chosen_runtimes(spec, options).keys()
            why = "its workers are plain processes there"
            yield from _without_effect(spec, plain, _NEED_CONTAINERS, why)
            yield from _unusable_preloads(spec, plain)
            yield from self._check_memory(spec)
        else:
            if options.containers != "none":
                message = (
                    "cannot be used for threads of the client's own process; set processes: true"
                )
                yield spec.option_issue("containers", "E_NOT_SUPPORTED", message)
            why = "workers are threads of the client's own process there; set processes: true"
            yield from _without_effect(spec, spec.components, _NEED_PROCESSES, why)

    def preflight(self, spec: DeploymentSpec) -> Sequence[CheckResult]:
        """Check whether this machine has what containers need: runtimes, images, directories."""
        return list(preflight(spec, self.parse_options(spec)))

    def list_owned(self, spec: DeploymentSpec) -> Sequence[Owned]:
        """Return this user's containers of all runs on this machine, whatever the target's options are."""
        return list(runtimes.list_containers(os.getuid(), current_owner()))

    def reap(self, spec: DeploymentSpec, owned: Sequence[Owned]) -> Sequence[Leftover]:
        """Stop and remove these containers."""
        return list(runtimes.remove_owned(owned))

    def _check_memory(self, spec: DeploymentSpec) -> Iterator[ValidationIssue]:
        from scalable.providers.local.memory import machine_memory

        try:
            plan = self.plan_scale(spec)
        except ValidationFailedError:  # conflicting counts are reported by themselves
            return
        needed = sum(
            count * (plan.resources_by_tag[tag].memory or 0)
            for tag, count in plan.workers_by_tag.items()
        )
        available = machine_memory()
        if needed > available:
            message = (
                f"its initial workers may use {format_memory(needed)} of memory together, which is more "
                f"than the {available / 1e9:.3g}G of this machine; use fewer or smaller workers"
            )
            where = ("targets", spec.target_name)
            yield spec.manifest.issue(where, "W_MEMORY", message, "warning")

    def _build(self, spec: DeploymentSpec, options: LocalOptions) -> ClusterHandle:
        # Validating and planning must not import Dask.
        from scalable.cluster import GroupedCluster
        from scalable.cluster.quiet import keep_dask_quiet

        setups = prepare_containers(spec, options)
        name = new_run_id(spec.target_name)
        groups = [
            GroupSpec(
                tag,
                slots=explicit_or_default(component, "slots", options.threads_per_worker),
                startup_timeout=options.startup_timeout,
                unresponsive_timeout=options.unresponsive_timeout,
                expected_boot=_EXPECTED_BOOT,
            )
            for tag, component in spec.components.items()
        ]
        # Others on this machine reach the scheduler's port, but not the threads of this process.
        credentials = make_credentials() if options.processes else None
        end_quiet = keep_dask_quiet()
        try:
            host = _start_host(name, options, credentials)
            try:
                backend = _make_backend(
                    name, spec, options, setups, host.scheduler_address, credentials
                )
            except BaseException:
                host.close()
                raise
            cluster = GroupedCluster(
                host,
                backend,
                groups,
                name=name,
                max_workers=options.max_workers,
                on_closed=[end_quiet],
            )
        except BaseException:
            end_quiet()
            raise
        return cluster_handle(cluster, spec, workers_are_near=True)


_EXPECTED_BOOT = 2.0
"""Seconds that a worker takes to import Dask and join, on a laptop of 2020 or later."""


def _unusable_preloads(
    spec: DeploymentSpec, components: Collection[str]
) -> Iterator[ValidationIssue]:
    """Warn of scripts with which workers of these components could not start now."""
    for name, component in spec.components.items():
        script = component.preload_script
        # Dask also takes a module's name, or a URL.
        is_file = script is not None and script.endswith(".py") and "://" not in script
        if not (name in components and script and is_file):
            continue
        if what := _why_unusable(expand_home(script)):
            message = f"{script!r} {what}, so no worker of this component could start"
            if not script.startswith(("/", "~")):
                message += "; the path is relative to the current directory"
            yield spec.component_issue(name, "preload_script", "W_NO_FILE", message, "warning")


def _why_unusable(script: Path) -> str:
    """Return what keeps a script from being run; empty if nothing is known that does."""
    try:
        compile(script.read_bytes(), str(script), "exec", dont_inherit=True)
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except SyntaxError as error:
        return f"is not valid Python (line {error.lineno}: {error.msg})"
    except ValueError as error:
        return f"is not valid Python ({error})"
    return ""


def _without_effect(
    spec: DeploymentSpec, components: Collection[str], fields: tuple[str, ...], why: str
) -> Iterator[ValidationIssue]:
    """Warn once for each of these components that sets fields which have no effect on this target."""
    for name, component in spec.components.items():
        if name not in components:
            continue
        if without_effect := [field for field in fields if _is_set(component, field)]:
            first, *others = without_effect
            nor = f", nor have {', '.join(others)}" if others else ""
            message = f"has no effect on target {spec.target_name!r}{nor}, because {why}"
            yield spec.component_issue(name, first, "W_NO_EFFECT", message, "warning")


def _is_set(component: ComponentConfig, field: str) -> bool:
    default = ComponentConfig.model_fields[field].get_default(call_default_factory=True)
    return getattr(component, field) not in (default, "none")


def _start_host(name: str, options: LocalOptions, credentials: Credentials | None) -> Host:
    """Start a scheduler without workers, on an event loop in its own thread."""
    from distributed import LocalCluster

    host = LocalCluster(
        name=name,
        n_workers=0,
        processes=options.processes,
        protocol="tls" if credentials else "inproc",
        security=credentials.security() if credentials else None,
        # Without an address, distributed would listen on port 8787 of all interfaces.
        dashboard_address=options.dashboard_address or "127.0.0.1:0",
        scheduler_kwargs={"dashboard": options.dashboard_address is not None},
        silence_logs=False,  # see keep_dask_quiet
    )
    if options.dashboard_address is None:
        stop_http_server_of(host)
    return host


def _make_backend(
    name: str,
    spec: DeploymentSpec,
    options: LocalOptions,
    setups: Mapping[str, ContainerSetup],
    scheduler_address: str,
    credentials: Credentials | None,
) -> Backend:
    import dask

    from scalable.providers.local.inprocess import InProcessBackend
    from scalable.providers.local.processes import ProcessBackend

    scratch = dask.config.get("temporary-directory", None)
    parent = Path(scratch) if scratch else None
    if not options.processes:
        return InProcessBackend(scheduler_address=scheduler_address, name=name, parent=parent)
    context = RunContext(name, uid=os.getuid(), gid=os.getgid(), cores=os.cpu_count() or 1)
    return ProcessBackend(
        spec.components,
        scheduler_address=scheduler_address,
        name=name,
        parent=parent,
        make_command=command_factory(setups, context),
        containers=Containers(name, {setup.runtime.name for setup in setups.values()}),
        credentials=credentials,
        logs=kept_logs(),
    )
