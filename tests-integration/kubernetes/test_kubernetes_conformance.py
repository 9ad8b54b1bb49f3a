"""The requirements of every provider, and of those whose scheduler runs elsewhere, on a real Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from kubernetes_site import ANOTHER_PYTHON, KubernetesSite

from scalable.testing.conformance import Running
from scalable.testing.remote import RemoteConformance


# An image need not have all packages of the client.
@pytest.mark.filterwarnings("ignore::distributed.versions.VersionMismatchWarning")
@pytest.mark.usefixtures("work")
class TestConformance(RemoteConformance):
    manifest = """
        version: 1
        project: {name: conformance}
        targets:
          there:
            provider: kubernetes
            namespace: "${SCALABLE_TESTS_NAMESPACE}"
            image: "${SCALABLE_TESTS_IMAGE}"
            resources: {requests: {cpu: 50m, memory: 256Mi}}
            scheduler_cpu: 50m
            scheduler_memory: 512Mi
        components: {alpha: {}, beta: {slots: 2}}
        """
    other_image = "${SCALABLE_TESTS_OTHER_IMAGE}"

    @pytest.fixture(autouse=True)
    def _there(self, site: KubernetesSite, namespace: str) -> None:
        self.site, self.namespace = site, namespace

    def leftovers(self) -> Sequence[str]:
        return self.site.leftovers(self.namespace)

    def replace_scheduler(self, running: Running) -> None:
        # Its Deployment starts another, which the same Service names.
        selector = f"dask.org/cluster-name={running.backend.name},dask.org/component=scheduler"
        (pod,) = self.site.names("pods", self.namespace, selector)
        now = ("--grace-period=0", "--force")
        self.site.kubectl("delete", "pod", pod, f"--namespace={self.namespace}", *now)

    def another_python(self) -> Mapping[str, Any]:
        return {"python": ANOTHER_PYTHON}
