"""Where the Dask scheduler lives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from scalable.cluster.port import Explanation, Phase

if TYPE_CHECKING:
    from distributed.security import Security
    from tornado.ioloop import IOLoop

__all__ = ["Host", "SchedulerState", "WatchedHost"]


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
        """Close the scheduler; return nothing, or a list of `Leftover` that could not be removed.

        On `loop`'s own thread, it may return an awaitable of that.
        """
        ...


@dataclass(frozen=True)
class SchedulerState:
    """The state of a scheduler in the native system that runs it.

    Parameters
    ----------
    phase : Phase
        PENDING: it is being started. GONE: it has ended, and will not come back with what it had.
    explanation : Explanation
        Why: ``IMAGE``, "pulling its image"; for one that is gone, what ended it, and the tail of its log.
    """

    phase: Phase
    explanation: Explanation


@runtime_checkable
class WatchedHost(Protocol):
    """A host that knows how its scheduler is, because a native system runs it elsewhere. A host may be one."""

    async def scheduler_state(self) -> SchedulerState:
        """Return the state of the scheduler in the native system.

        Called on the engine's event loop every few seconds, while the scheduler does not answer. May raise anything,
        which proves nothing.
        """
        ...
