"""A run in a real account or project, which costs some cents; what it leaves ends by itself within minutes."""

from __future__ import annotations

from scalable.manifest.parser import parse_manifest
from scalable.providers.base import DeploymentSpec, Preflights, Reaps
from scalable.providers.registry import get_provider
from scalable.session import ScalableSession
from scalable.testing.conformance import by_value


def square(number: int) -> int:
    return number * number


def check(text: str) -> None:
    """Check the target ``here`` of a manifest with the components ``gcam`` and ``plots``, and run a task in each."""
    manifest = parse_manifest(text)
    spec = DeploymentSpec.from_manifest(manifest, target_name="here")
    provider = get_provider(spec.provider_name)
    assert isinstance(provider, Preflights)
    assert isinstance(provider, Reaps)
    assert [str(each) for each in provider.preflight(spec) if each.ok is False] == []
    before = {owned.run_id for owned in provider.list_owned(spec)}
    with ScalableSession(manifest, target="here") as client:
        for tag in ("gcam", "plots"):
            assert client.submit(by_value(square), 3, tag=tag).result(600) == 9
    assert {owned.run_id for owned in provider.list_owned(spec)} <= before
