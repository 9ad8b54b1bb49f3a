"""Dask servers of this process without a port for HTTP.

Dask starts an HTTP server with every scheduler and worker, also without a dashboard. It has no password, and a
scheduler's shows tasks, logs and call stacks, so on a machine with other users it must not be there unasked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import LocalCluster, Scheduler, Worker

__all__ = ["stop_http_server", "stop_http_server_of"]


def stop_http_server(server: Scheduler | Worker) -> None:
    """Stop the HTTP server of a scheduler or worker. To be called on its event loop, once it has started."""
    server.http_server.stop()
    server.services.pop("dashboard", None)


def stop_http_server_of(cluster: LocalCluster) -> None:
    """Stop the HTTP server of a cluster's scheduler, so that the cluster has no dashboard link. Thread-safe."""

    async def stop() -> None:
        if cluster.scheduler is not None:  # as Dask declares it before the start
            stop_http_server(cluster.scheduler)
        # Where the cluster's dashboard_link comes from: what it was told when it started.
        cluster.scheduler_info["services"].pop("dashboard", None)

    cluster.sync(stop)
