"""The cluster of the tests: what they take for granted."""

from __future__ import annotations

import socket
import subprocess
import sys

import kubernetes_site
import pytest
from kubernetes_site import KubernetesSite, Node
from slurm_site import wait_until

CLUSTER = """
apiVersion: kubernetes.dask.org/v1
kind: DaskCluster
metadata: {{name: plain}}
spec:
  scheduler:
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: scheduler
          image: "{image}"
          command: [python3, -m, distributed.cli.dask_scheduler]
          ports: [{{name: tcp-comm, containerPort: 8786}}]
          readinessProbe: {{tcpSocket: {{port: tcp-comm}}, periodSeconds: 1}}
    service:
      selector: {{dask.org/cluster-name: plain, dask.org/component: scheduler}}
      ports: [{{name: tcp-comm, port: 8786, targetPort: tcp-comm}}]
  worker:
    replicas: 2
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: worker
          image: "{image}"
          command: [python3, -m, distributed.cli.dask_worker, --name, $(DASK_WORKER_NAME)]
"""


@pytest.fixture
def node(site: KubernetesSite) -> Node:
    if not isinstance(site, Node):
        pytest.skip("the cluster is not the tests' own")
    return site


def test_the_operator_runs_a_scheduler_and_workers(site: KubernetesSite, namespace: str) -> None:
    definition = CLUSTER.format(image=kubernetes_site.image("worker"))
    site.kubectl("apply", f"--namespace={namespace}", "--filename=-", given=definition)

    def log() -> str:
        pods = site.names("pods", namespace, "dask.org/component=scheduler")
        return site.kubectl("logs", f"--namespace={namespace}", *pods) if pods else ""

    wait_until(lambda: site.get("pods", namespace), "the operator has created pods")
    scheduler = "--selector=dask.org/component=scheduler"
    ready = ("wait", "--for=condition=Ready", "pods", scheduler, "--timeout=120s")
    site.kubectl(*ready, f"--namespace={namespace}")
    wait_until(lambda: log().count("Register worker") == 2, "its workers have found it by its name")
    site.kubectl("delete", "daskcluster", "plain", f"--namespace={namespace}", "--timeout=120s")
    wait_until(lambda: not site.get("pods", namespace), "its pods are gone")


def reaches(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


def test_the_client_is_outside_of_the_cluster(node: Node) -> None:
    assert reaches("10.90.0.1", 6443)
    assert not reaches("10.90.0.1", 10250)  # the kubelet
    assert not reaches("10.77.0.1", 443)  # the API server's service
    with pytest.raises(OSError, match=r"resolution|not known"):
        socket.getaddrinfo("kubernetes.default", 443)


def test_what_runs_inside_of_the_cluster_knows_its_services(node: Node) -> None:
    code = "import socket; print(socket.gethostbyname('kubernetes.default'))"
    inside = [*node.enter(inside=True), sys.executable, "-c", code]
    assert subprocess.run(inside, capture_output=True, text=True).stdout == "10.77.0.1\n"
