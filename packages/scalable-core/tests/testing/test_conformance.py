"""The fake provider meets the requirements of every provider."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from scalable.client import ScalableClient
from scalable.providers.base import DeploymentProvider
from scalable.testing.conformance import Limitation, ProviderConformance
from scalable.testing.fakes import FakeProvider
from scalable.testing.simulation import UnitBehavior


class TestFakeProvider(ProviderConformance):
    manifest = """
        version: 1
        project: {name: conformance}
        targets: {here: {provider: fake}}
        components: {alpha: {}, beta: {slots: 2}}
    """
    # Not run: the task goes on for ten minutes in a thread of this process, which does not end before it.
    cannot: ClassVar = {"interrupt": Limitation("a thread cannot be interrupted", run=False)}
    provider: ClassVar = FakeProvider()

    def make_provider(self) -> DeploymentProvider:
        return self.provider

    def kill_worker(self, client: ScalableClient, worker: str) -> None:
        self.provider.kill(worker)

    def leftovers(self) -> Sequence[str]:
        return self.provider.leftovers()


class TestFakeProviderOnASlowSystem(TestFakeProvider):
    provider: ClassVar = FakeProvider(
        {
            "alpha": UnitBehavior(accept=0.3, answer=0.2, queue=0.5, boot=0.2, stop_delay=0.3),
            "beta": UnitBehavior(naming=0.4, failing_starts=1, boot=0.1),
        }
    )
