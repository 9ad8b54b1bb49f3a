"""The conformance suite with workers in containers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pytest
from container_site import TARGET, ContainerSite

from scalable.testing.conformance import ProviderConformance


@pytest.mark.filterwarnings("ignore::distributed.versions.VersionMismatchWarning")
@pytest.mark.usefixtures("work")
class TestConformance(ProviderConformance):
    manifest: ClassVar = f"""
        version: 1
        project: {{name: conformance}}
        targets: {{{TARGET}: {{provider: local, containers: "${{SCALABLE_TESTS_RUNTIME}}"}}}}
        components:
          alpha: {{image: "${{SCALABLE_TESTS_IMAGE}}"}}
          beta: {{image: "${{SCALABLE_TESTS_IMAGE}}", slots: 2}}
        """

    other_image: ClassVar = "${SCALABLE_TESTS_OTHER_IMAGE}"

    @pytest.fixture(autouse=True)
    def _by(self, site: ContainerSite, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site = site
        monkeypatch.setenv("SCALABLE_TESTS_OTHER_IMAGE", site.other_image)

    def leftovers(self) -> Sequence[str]:
        return self.site.containers()
