"""The cluster of the tests: what is left of one."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from kubernetes_clusters import spec
from kubernetes_site import SCRIPTS, KubernetesSite, Node
from slurm_site import wait_until

from scalable.errors import SchedulerStartError
from scalable.providers.registry import get_provider


def settings() -> dict[str, str]:
    """Return the settings of this machine's kernel that a kubelet may change."""
    names = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")
    return {name: Path("/proc/sys", name).read_text() for name in names}


def processes(root: Path) -> list[str]:
    """Return the processes that a node has started: all have its directory among their files or arguments."""
    lines = (" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"]))
    return [line for line in lines if str(root) in line]


def containers(root: Path) -> list[str]:
    """Return the ids of a node's containers."""
    kept = root / "var/lib/containerd/io.containerd.grpc.v1.cri"
    return [path.name for kind in ("containers", "sandboxes") for path in (kept / kind).glob("*")]


def cgroups(ids: list[str]) -> list[Path]:
    found = Path("/sys/fs/cgroup").glob("**/k8s.io/*")
    return [path for path in found if path.name in ids]


def build_without_operator(node: Node, namespace: str) -> None:
    """Try to build a cluster where there is no operator: nobody has installed its definitions."""
    with pytest.MonkeyPatch.context() as patch, node.outside():
        patch.setenv("KUBECONFIG", str(node.kubeconfig))
        began = time.monotonic()
        with pytest.raises(SchedulerStartError, match="helm install"):
            get_provider("kubernetes").build_cluster(spec(namespace, {"alpha": {}}))
        assert time.monotonic() - began < 30
        (check,) = (
            each
            for each in get_provider("kubernetes").preflight(spec(namespace, {"alpha": {}}))  # type: ignore[attr-defined]
            if each.name == "operator"
        )
        assert check.ok is False
        assert "helm install" in check.remedy


def test_two_nodes_at_once_and_nothing_is_left_of_one(site: KubernetesSite, tmp_path: Path) -> None:
    if not isinstance(site, Node):
        pytest.skip("the cluster is not the tests' own")
    before = settings()
    root = tmp_path / "second"
    try:
        subprocess.run([SCRIPTS / "up.sh", root], check=True)
        second = Node(root)
        assert site.names("nodes", "") == second.names("nodes", "") == ["node"]
        with second.namespace() as namespace:
            second.kubectl("run", "p", "--image=localhost/pause:1", f"--namespace={namespace}")
            ready = ("wait", "--for=condition=Ready", "pod/p", "--timeout=120s")
            second.kubectl(*ready, f"--namespace={namespace}")
            assert namespace not in site.names("namespaces", "")
            ids = containers(root)
            assert cgroups(ids)
            assert processes(root)
            build_without_operator(second, namespace)
    finally:
        subprocess.run([SCRIPTS / "down.sh", root], check=True)
    assert not root.exists()
    assert str(root) not in Path("/proc/mounts").read_text()
    assert settings() == before
    wait_until(lambda: not processes(root), "its processes are gone")
    assert cgroups(ids) == []
    assert site.names("nodes", "") == ["node"]


def test_the_network_can_be_cut_and_mended(site: KubernetesSite) -> None:
    with site.cut(), pytest.raises(OSError, match="timed out"):
        socket.create_connection(("10.90.0.1", 6443), timeout=2)
    socket.create_connection(("10.90.0.1", 6443), timeout=10).close()


def test_the_operator_can_be_stopped_and_goes_on(site: KubernetesSite, namespace: str) -> None:
    metadata = {"name": "plain", "namespace": namespace}
    containers = [{"name": "nothing", "image": "localhost/pause:1"}]
    ports = [{"name": "tcp-comm", "port": 8786}]
    definition = {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": metadata,
        "spec": {
            "scheduler": {"spec": {"containers": containers}, "service": {"ports": ports}},
            "worker": {"replicas": 0, "spec": {"containers": containers}},
        },
    }
    with site.stopped_operator():
        site.apply(definition)
        with pytest.raises(AssertionError):
            wait_until(lambda: site.get("deployments", namespace), "nobody creates any", 3)
    wait_until(lambda: site.get("deployments", namespace), "they are created")
    site.kubectl("delete", "daskcluster", "plain", f"--namespace={namespace}", "--timeout=120s")
