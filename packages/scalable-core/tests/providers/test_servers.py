from __future__ import annotations

import psutil
from distributed import LocalCluster

from scalable.providers.servers import stop_http_server_of
from scalable.testing.fakes import FakeProvider
from scalable.testing.offline import spec_of


def listening() -> set[int]:
    return {
        connection.laddr.port
        for connection in psutil.Process().net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def test_a_cluster_without_an_http_server_has_no_port_and_names_no_dashboard() -> None:
    before = listening()
    with LocalCluster(
        n_workers=0, protocol="inproc", processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        assert listening() > before
        stop_http_server_of(cluster)
        assert listening() == before
        assert cluster.dashboard_link == ""


def test_simulated_clusters_have_no_port() -> None:
    before = listening()
    provider = FakeProvider()
    with provider.build_cluster(spec_of("fake")) as handle:
        tag = next(iter(handle.backend.groups))
        handle.backend.scale_groups({tag: 1})
        handle.backend.wait_for_group(tag, timeout=60)
        assert listening() == before
