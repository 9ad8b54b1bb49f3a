"""What goes wrong with workers and schedulers is told within seconds, in the words of Kubernetes, and stays apart."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import kubernetes_clusters
import pytest
from kubernetes_clusters import spec
from kubernetes_site import OURS, KubernetesSite

from scalable.cluster.port import Reason
from scalable.errors import SchedulerStartError
from scalable.providers.base import ScalePlan
from scalable.providers.registry import get_provider
from scalable.testing.conformance import Running, by_value
from scalable.testing.conformance.running import square

SECONDS = 120.0
"""Within which each reason is told, also on a machine that is busy with other tests, where the operator may take 20 of
them to act. The kubelet alone takes up to 12 to find that there is no image."""

# An image need not have all packages of the client.
pytestmark = pytest.mark.filterwarnings("ignore::distributed.versions.VersionMismatchWarning")

Options = Mapping[str, Any]

# Component, options of the target for it, reason, and the words of Kubernetes.
FAILURES: dict[str, tuple[Options, Options, Reason, str]] = {
    "no-image": ({"image": "localhost/absent:1"}, {}, Reason.IMAGE, "localhost/absent:1"),
    "huge": ({"memory": "900Gi"}, {}, Reason.UNSCHEDULABLE, "Insufficient memory"),
    "elsewhere": (
        {},
        {"node_selector": {"disk": "tape"}},
        Reason.UNSCHEDULABLE,
        "node selector|affinity",
    ),
    "tiny": ({"memory": "16Mi"}, {}, Reason.OUT_OF_MEMORY, "OOMKilled"),
    "no-account": (
        {},
        {"worker_service_account": "absent"},
        Reason.REFUSED,
        'serviceaccount "absent" not found',
    ),
    "no-key": (
        {},
        {
            "pod_template": {
                "spec": {
                    "containers": [
                        {
                            "name": "worker",
                            "env": [
                                {
                                    "name": "KEY",
                                    "valueFrom": {"secretKeyRef": {"name": "absent", "key": "k"}},
                                }
                            ],
                        }
                    ]
                }
            }
        },
        Reason.REFUSED,
        'secret "absent" not found',
    ),
    "malformed": (
        {},
        {"pod_template": {"spec": {"dnsPolicy": "Nowhere"}}},
        Reason.REFUSED,
        "Nowhere",
    ),
}


@pytest.fixture(scope="module")
def place(site: KubernetesSite) -> Iterator[str]:
    with site.namespace() as namespace:
        yield namespace


@pytest.fixture(scope="module")
def running(place: str) -> Iterator[Running]:
    """A cluster with a group for each failure, and one without."""
    components = {"fine": {}, **{name: component for name, (component, *_) in FAILURES.items()}}
    options = {name: own for name, (_, own, *_) in FAILURES.items() if own}
    with kubernetes_clusters.cluster(place, components, {"components": options}) as running:
        running.scale(fine=1)
        yield running


def tell(running: Running, tag: str, reason: Reason) -> str:
    """Wait until a group has the reason; return the words of its explanation, and of what is shown meanwhile."""
    deadline = time.monotonic() + SECONDS
    while True:
        group, explanation = running.backend.groups[tag], running.backend.explain(tag).get(tag)
        if explanation is not None and explanation.reason is reason:
            return f"{group.detail}\n{explanation}\n{explanation.native}"
        assert time.monotonic() < deadline, (reason, group, explanation)
        time.sleep(0.1)


@pytest.mark.parametrize("tag", FAILURES)
def test_why_a_worker_does_not_start(running: Running, tag: str) -> None:
    *_, reason, words = FAILURES[tag]
    wanted = {name: group.wanted for name, group in running.backend.groups.items()}
    running.provider.scale(running.handle, ScalePlan({**wanted, tag: 1}))
    try:
        assert re.search(words, tell(running, tag, reason))
        # The other groups go on.
        with running.client() as client:
            assert client.submit(by_value(square), 3, tag="fine", pure=False).result(SECONDS) == 9
        assert running.backend.groups["fine"].running == 1
    finally:
        running.provider.scale(running.handle, ScalePlan(wanted))


def test_a_quota(running: Running, site: KubernetesSite, place: str) -> None:
    # The scheduler and the worker that there is; pods of other groups may still go.
    site.kubectl("create", "quota", "small", "--hard=pods=2", f"--namespace={place}")
    try:
        running.until(
            lambda: site.get("resourcequotas", place)[0]["status"].get("used"),
            "the quota is in force",
        )
        running.provider.scale(running.handle, ScalePlan({"fine": 2}))
        assert "exceeded quota: small" in tell(running, "fine", Reason.QUOTA)
        assert running.backend.groups["fine"].running == 1
    finally:
        site.kubectl("delete", "quota", "small", f"--namespace={place}")
        running.provider.scale(running.handle, ScalePlan({"fine": 1}))


def test_a_quota_that_leaves_room_for_a_part_of_a_launch(
    site: KubernetesSite, namespace: str
) -> None:
    with kubernetes_clusters.cluster(namespace, {"fine": {}}) as running:
        running.scale(fine=1)
        limit = ("--hard=count/deployments.apps=3", f"--namespace={namespace}")
        site.kubectl("create", "quota", "few", *limit)
        running.until(
            lambda: site.get("resourcequotas", namespace)[0]["status"].get("used"),
            "the quota is in force",
        )
        running.provider.scale(running.handle, ScalePlan({"fine": 4}))
        assert "exceeded quota: few" in tell(running, "fine", Reason.QUOTA)
        running.backend.wait_for_group("fine", 2, timeout=SECONDS)
        assert not running.backend.groups["fine"].failed
        site.kubectl("delete", "quota", "few", f"--namespace={namespace}")
        running.backend.wait_for_group("fine", 4, timeout=running.timeout)
        workers = f"{OURS},dask.org/component=worker"
        assert len(site.names("deployments", namespace, workers)) == 4


def test_a_worker_that_is_evicted(site: KubernetesSite, namespace: str) -> None:
    # The kubelet evicts a pod that fills a volume beyond its size.
    component = {"mounts": {"emptyDir:2Mi": "/full"}}
    with kubernetes_clusters.cluster(namespace, {"full": component}) as running:
        running.scale(full=1)
        (evicted,) = running.backend.groups["full"].workers
        with running.client() as client:
            client.submit(by_value(fill), "/full/file", tag="full").result(SECONDS)
            running.until(lambda: evicted not in running.backend.groups["full"].workers, "it ends")

            def said() -> list[str]:
                return [event.text for event in running.backend.events if "Evicted" in event.text]

            running.until(said, "why is told")
        assert evicted in said()[0]
        assert "exceeds the limit" in said()[0]
        running.backend.wait_for_group("full", 1, timeout=running.timeout)


def fill(path: str) -> None:
    from pathlib import Path

    Path(path).write_bytes(bytes(8 * 2**20))


# -- The scheduler's own pod, and what must be there before it

SCHEDULERS: dict[str, tuple[Options, str]] = {
    "image": ({"image": "localhost/absent:1"}, "localhost/absent:1"),
    "unschedulable": ({"scheduler_memory": "900Gi"}, "Insufficient memory"),
    "crash": ({"python": "/nonexistent/python"}, "/nonexistent/python"),
}


@pytest.mark.parametrize("fault", SCHEDULERS)
def test_why_a_scheduler_does_not_start(site: KubernetesSite, namespace: str, fault: str) -> None:
    options, words = SCHEDULERS[fault]
    began = time.monotonic()
    wanted = spec(namespace, {"fine": {}}, {"startup_timeout": "60s", **options})
    with pytest.raises(SchedulerStartError, match=words):
        get_provider("kubernetes").build_cluster(wanted)
    assert time.monotonic() - began < 60 + SECONDS
    assert site.leftovers(namespace) == []


def test_a_namespace_that_is_missing(site: KubernetesSite) -> None:
    with pytest.raises(Exception, match="scalable-tests-absent") as told:
        get_provider("kubernetes").build_cluster(spec("scalable-tests-absent", {"fine": {}}))
    assert "create the namespace" in str(told.value)
