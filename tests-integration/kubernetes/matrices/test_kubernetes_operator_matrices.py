"""The operator is down for a while: it is told, and goes on by itself."""

from __future__ import annotations

import re
import time

import pytest
from kubernetes_clusters import cluster
from kubernetes_site import KubernetesSite

from scalable.providers.base import ScalePlan
from scalable.testing.conformance import by_value
from scalable.testing.conformance.running import square

pytestmark = pytest.mark.filterwarnings("ignore::distributed.versions.VersionMismatchWarning")

TOLD = 30.0
"""Seconds within which it is told that the operator does nothing."""


def test_the_operator_is_down_while_a_group_grows(site: KubernetesSite, namespace: str) -> None:
    with cluster(namespace, {"alpha": {}, "beta": {}}) as running:
        running.scale(alpha=1, beta=1)
        workers = {tag: group.workers for tag, group in running.backend.groups.items()}
        with site.stopped_operator():
            stopped = time.monotonic()
            running.provider.scale(running.handle, ScalePlan({"alpha": 2, "beta": 1}))

            def told() -> object:
                explanation = running.backend.explain("alpha")["alpha"]
                return re.search("operator", f"{explanation} {explanation.native}")

            running.until(told, "the operator is named")
            assert time.monotonic() - stopped < TOLD
            with running.client() as client:
                assert client.submit(by_value(square), 3, tag="beta").result(30) == 9
            time.sleep(max(0.0, 60.0 - (time.monotonic() - stopped)))  # an outage of a minute
        running.until(lambda: running.backend.groups["alpha"].running == 2, "it goes on by itself")
        after = {tag: group.workers for tag, group in running.backend.groups.items()}
        assert after["beta"] == workers["beta"]
        assert {*workers["alpha"]} < {*after["alpha"]}


def test_a_cluster_closes_while_the_operator_is_down(site: KubernetesSite, namespace: str) -> None:
    with cluster(namespace, {"alpha": {}}) as running:
        running.scale(alpha=1)
        with site.stopped_operator():
            began = time.monotonic()
            running.provider.close(running.handle)
            assert time.monotonic() - began < 120
            assert site.leftovers(namespace) == []
