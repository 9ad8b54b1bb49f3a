"""dask-jobqueue's configuration and cluster class, without the side effects of its import."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scalable.errors import NotSupportedError
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

    Raises
    ------
    ValidationFailedError
        Some values cannot be read.
    """
    import dask.config

    import_jobqueue()
    config: Mapping[str, Any] = dask.config.get("jobqueue.slurm")
    return read_site({name.replace("_", "-"): value for name, value in config.items()})


def make_host(
    *,
    name: str,
    interface: str | None,
    security: Any,
    dashboard_address: str | None,
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
        Address of the dashboard, which does not use TLS; None for a free port on the loopback interface.
    """
    import_jobqueue()
    from dask_jobqueue.slurm import SLURMCluster

    return SLURMCluster(
        name=name,
        n_workers=0,
        # Required, but for a job that is never submitted: `SlurmBackend` submits the workers.
        cores=1,
        processes=1,
        memory="1 GiB",
        interface=interface,
        security=security,
        scheduler_options={"dashboard_address": dashboard_address or "127.0.0.1:0"},
    )
