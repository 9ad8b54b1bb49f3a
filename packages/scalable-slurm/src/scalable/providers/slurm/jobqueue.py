"""dask-jobqueue's configuration and cluster class, without the side effects of its import."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scalable.errors import (
    ClusterError,
    NotSupportedError,
    ValidationFailedError,
    describe_error,
)
from scalable.manifest.issues import ValidationIssue, ValidationReport
from scalable.providers.slurm.site import SiteDefaults, read_site

if TYPE_CHECKING:
    from scalable.cluster.host import Host

__all__ = ["import_jobqueue", "make_host", "site_defaults"]


def import_jobqueue() -> None:
    """Import dask-jobqueue, and restore the SIGINT handler, which its import replaces by ``sys.exit``.

    Raises
    ------
    NotSupportedError
        Not on the main thread: Python allows signal handlers to be set only there, so the import itself would fail.
    """
    if "dask_jobqueue" in sys.modules:
        return
    if threading.current_thread() is not threading.main_thread():
        raise NotSupportedError(
            "a Slurm cluster is built off the main thread, where dask-jobqueue cannot be imported; "
            "run `import dask_jobqueue` on the main thread first"
        )
    handler = signal.getsignal(signal.SIGINT)
    try:
        import dask_jobqueue  # noqa: F401 - loads its configuration
    finally:
        signal.signal(signal.SIGINT, handler)


def site_defaults() -> SiteDefaults:
    """Return the site's and the user's settings for Slurm in dask-jobqueue's configuration (``jobqueue.yaml``).

    It is read without dask-jobqueue, whose own defaults are those of `SiteDefaults`, so on any thread.

    Raises
    ------
    ValidationFailedError
        Some values cannot be read.
    """
    import dask.config

    sections = _section(dask.config.config, "jobqueue")
    config = _section(sections, "slurm", "jobqueue.")
    by_name = {str(name).replace("_", "-"): value for name, value in config.items()}
    set_here = {name: value for name, value in by_name.items() if value not in (None, [], {})}
    site = read_site(by_name, {name: _where_set(name) for name in set_here})
    return replace(site, notes=(*site.notes, *_notes_on_others(sections)))


_SYSTEMS = frozenset({"htcondor", "local", "lsf", "moab", "oar", "pbs", "sge", "slurm"})
"""The sections that dask-jobqueue itself has; others are read for a ``config_name`` only."""


def _notes_on_others(sections: Mapping[str, Any]) -> Iterator[ValidationIssue]:
    for name, section in sections.items():
        if name not in _SYSTEMS and section:
            path = f"jobqueue.{name}"
            message = "has no effect: jobqueue.slurm alone is read; move these settings there"
            yield ValidationIssue(path, message, "W_JOBQUEUE", "warning", _file_with(path))


def _section(config: Mapping[str, Any], name: str, above: str = "") -> Mapping[str, Any]:
    section = config.get(name) or {}
    if not isinstance(section, Mapping):
        message = "must be a mapping; correct it in dask-jobqueue's configuration"
        where = _file_with(f"{above}{name}")
        issue = ValidationIssue(f"{above}{name}", message, "E_JOBQUEUE", file=where)
        raise ValidationFailedError(ValidationReport.of([issue]))
    return section


def _where_set(name: str) -> str:
    """Return where a setting of ``jobqueue.slurm`` comes from, as far as that can be told."""
    variable = f"DASK_JOBQUEUE__SLURM__{name.replace('-', '_').upper()}"
    if variable in os.environ:
        return f"${variable}"
    return _file_with(f"jobqueue.slurm.{name}") or "dask.config"


def _file_with(key: str) -> str | None:
    import dask.config

    return next(map(str, reversed([*dask.config.paths_containing_key(key)])), None)


def make_host(
    *,
    name: str,
    interface: str | None,
    security: Any,
    dashboard_address: str | None,
    host: str | None = None,
    port: int | None = None,
) -> Host:
    """Start a scheduler in this process, as dask-jobqueue does, without workers.

    Parameters
    ----------
    name : str
        The cluster's name.
    interface : str or None
        The network interface to listen on; None for that of the site's configuration.
    security : distributed.Security or None
        The scheduler's TLS settings; None without TLS.
    dashboard_address : str or None
        Address of the dashboard, which does not use TLS; None for that of the site's configuration, or else a free port
        on the loopback interface.
    host : str or None
        The address to listen on, instead of an interface; None for that of the site's configuration.
    port : int or None
        The port to listen on; None for that of the site's configuration, or else a free one.

    Raises
    ------
    ClusterError
        The scheduler cannot listen there.
    """
    import_jobqueue()
    from dask_jobqueue.slurm import SLURMCluster, SLURMJob

    class NoJob(SLURMJob):
        """A job that is never made: `SlurmBackend` submits the workers, and reads the configuration for them."""

        def __init__(self, *_: Any, **__: Any) -> None:
            self.worker_processes = 1

    class WithoutJobs(SLURMCluster):
        """Keeps the keys of scheduler and clients in memory: those of the workers are files already."""

        def _get_worker_security(self, security: Any) -> None:
            return None

    site = site_defaults()
    own = {"host": host, "port": port, "interface": interface}
    options = {**site.scheduler, **{key: value for key, value in own.items() if value is not None}}
    if host is not None or interface is not None:
        # A target that says where replaces all that the configuration says about it.
        options = {
            key: value for key, value in options.items() if key not in _WHERE or own.get(key)
        }
    elif not _WHERE & options.keys():
        options["interface"] = site.interface
    if options.get("host"):
        options.pop("interface", None)  # which is that of the workers then
    options["dashboard_address"] = (
        dashboard_address or site.scheduler.get("dashboard_address") or "127.0.0.1:0"
    )
    try:
        return WithoutJobs(
            name=name,
            n_workers=0,
            job_cls=NoJob,  # type: ignore[arg-type] # annotated as an instance
            interface=interface or site.interface,
            security=security,
            scheduler_options=options,
            silence_logs=False,  # see keep_dask_quiet
        )
    except (RuntimeError, ValueError) as error:
        cause = _os_error_behind(error)
        if cause is None:
            raise
        place = {key: value for key, value in options.items() if key in {*_WHERE, "port"} and value}
        where = ", ".join(f"{key} {value}" for key, value in place.items()) or "any port"
        raise ClusterError(
            f"the scheduler cannot listen at {where}: {describe_error(cause)}; "
            "set scheduler_host, scheduler_port or scheduler_interface to what is free on this machine"
        ) from error


def _os_error_behind(error: BaseException | None) -> OSError | None:
    """Return the error of the system below those that Dask raises, which do not tell what has happened."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


_WHERE = frozenset({"host", "interface"})
