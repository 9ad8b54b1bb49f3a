"""The requirements of every provider, and of those whose scheduler runs elsewhere, on a project of Google Cloud."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from gce_project import GceProject, Image

from scalable.providers.cloud.gcp import GCPProvider
from scalable.testing.remote import RemoteConformance


class TestGcp(RemoteConformance):
    manifest = """
        version: 1
        project: {name: conformance}
        targets:
          there:
            provider: gcp
            project_id: "${SCALABLE_TESTS_PROJECT}"
            zones: [us-central1-a, us-central1-b]
            external_ips: false
        components: {alpha: {}, beta: {slots: 2}}
        """
    other_image = "another-image"

    @pytest.fixture(autouse=True)
    def _there(self, project: GceProject, monkeypatch: pytest.MonkeyPatch) -> None:
        self.project = project
        monkeypatch.setenv("SCALABLE_TESTS_PROJECT", project.target["project_id"])
        project.conditions.images[self.other_image] = Image(
            env={"SCALABLE_CONFORMANCE_IMAGE": "other"}
        )

    def leftovers(self) -> Sequence[str]:
        return self.project.inventory()

    def _wait_for_the_end(self) -> None:
        """What costs money ends by itself, and the rest is reaped."""
        self._wait_until(
            lambda: not any(each.status == "RUNNING" for each in self.project.instances),
            "nothing runs any more",
        )
        provider, spec = GCPProvider(), self.spec()
        assert not provider.reap(spec, provider.list_owned(spec))
        super()._wait_for_the_end()
