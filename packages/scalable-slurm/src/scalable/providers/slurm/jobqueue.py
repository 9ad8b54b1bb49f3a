"""dask-jobqueue: its configuration and its cluster object, without what its import does to this process."""

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
    """Import dask-jobqueue, and put back the handler of SIGINT, which its import replaces by ``sys.exit``.

    Raises
    ------
    NotSupportedError
        Off the main thread, where Python lets nobody set handlers, so that the import itself would fail.
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
        import dask_jobqueue  # noqa: F401 - for its configuration
    finally:
        signal.signal(signal.SIGINT, handler)


def site_defaults() -> SiteDefaults:
    """Read what the site and the user have set for Slurm in dask-jobqueue's configuration (``jobqueue.yaml``).

    Raises
    ------
    ValidationFailedError
        Some of it cannot be read.
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
        How people call the cluster.
    interface : str or None
        The network interface it listens on; None leaves it to the site's configuration.
    security : distributed.Security or None
        How it is to be talked to.
    dashboard_address : str or None
        Where the dashboard listens; None for a free port of this machine's own interface, since it is not under TLS.
    """
    import_jobqueue()
    from dask_jobqueue.slurm import SLURMCluster

    return SLURMCluster(
        name=name,
        n_workers=0,
        # Required of a job that never runs: workers are submitted by `SlurmBackend`.
        cores=1,
        processes=1,
        memory="1 GiB",
        interface=interface,
        security=security,
        scheduler_options={"dashboard_address": dashboard_address or "127.0.0.1:0"},
    )
