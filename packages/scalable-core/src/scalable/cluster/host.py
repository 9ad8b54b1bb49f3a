"""Where the Dask scheduler lives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from distributed.security import Security
    from tornado.ioloop import IOLoop

__all__ = ["Host"]


class Host(Protocol):
    """A Dask cluster object with a scheduler and without workers.

    Every ``distributed.deploy.Cluster`` is one: `LocalCluster(n_workers=0)`, dask-jobqueue's `SLURMCluster`. The
    engine uses its connection to the scheduler, and never its methods for scaling.
    """

    @property
    def scheduler_address(self) -> str:
        """The address for clients and workers."""
        ...

    @property
    def dashboard_link(self) -> str:
        """The URL of the dashboard; empty where there is none."""
        ...

    @property
    def loop(self) -> IOLoop | None:
        """The running event loop, perhaps of another thread; Dask declares it None before the start."""
        ...

    @property
    def security(self) -> Security:
        """TLS configuration for connections to the scheduler."""
        ...

    scheduler_comm: Any
    """RPC to the scheduler, to be used on `loop`."""

    def close(self, timeout: float | None = None) -> Any:
        """Close the scheduler."""
        ...
