"""The provider passes the conformance suite of providers."""

from __future__ import annotations

from collections.abc import Sequence

from scalable.testing.conformance import ProviderConformance


class TestConformance(ProviderConformance):
    manifest = """
        version: 1
        project: {name: conformance}
        targets: {here: {provider: shell}}
        components: {alpha: {}, beta: {slots: 2}}
    """

    def leftovers(self) -> Sequence[str]:
        return self.local_processes()
