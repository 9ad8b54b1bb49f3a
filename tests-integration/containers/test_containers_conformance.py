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

    @pytest.fixture(autouse=True)
    def _by(self, site: ContainerSite) -> None:
        self.site = site

    def leftovers(self) -> Sequence[str]:
        return self.site.containers()
