"""The requirements of every provider, and of those whose scheduler runs elsewhere, on a project of Google Cloud."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import another_python
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
    def _there(self, project: GceProject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.project, self.directory = project, tmp_path
        monkeypatch.setenv("SCALABLE_TESTS_PROJECT", project.target["project_id"])
        project.conditions.images[self.other_image] = Image(
            env={"SCALABLE_CONFORMANCE_IMAGE": "other"}
        )

    def another_python(self) -> Mapping[str, Any]:
        return {"python": another_python.write(self.directory / "another")}

    def leftovers(self) -> Sequence[str]:
        return self.project.inventory()

    def _wait_for_the_end(self) -> None:
        """All machines end by themselves, and are reaped then."""
        provider, spec = GCPProvider(), self.spec()

        def is_over() -> bool:
            if any(each.status != "TERMINATED" for each in self.project.instances.values()):
                return False
            assert not provider.reap(spec, provider.list_owned(spec))
            return not self.leftovers()

        self._wait_until(is_over, "all machines have ended, and could be reaped")
