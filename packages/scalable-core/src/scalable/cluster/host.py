"""Where the Dask scheduler lives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from distributed.security import Security
    from tornado.ioloop import IOLoop

__all__ = ["Host"]


class Host(Protocol):
    """The library's own cluster object, with a scheduler and without workers.

    Every ``distributed.deploy.Cluster`` is one: `LocalCluster(n_workers=0)`, dask-jobqueue's `SLURMCluster`. The
    engine uses the door that it opens to its scheduler, and never its own ways of scaling.
    """

    @property
    def scheduler_address(self) -> str:
        """Where clients and workers find the scheduler."""
        ...

    @property
    def dashboard_link(self) -> str:
        """Where people find the dashboard; empty where there is none."""
        ...

    @property
    def loop(self) -> IOLoop | None:
        """The running event loop, which may run in another thread; Dask declares it optional before the start."""
        ...

    @property
    def security(self) -> Security:
        """How to talk to the scheduler."""
        ...

    scheduler_comm: Any
    """RPC to the scheduler, used on `loop`."""

    def close(self, timeout: float | None = None) -> Any:
        """End the scheduler."""
        ...
