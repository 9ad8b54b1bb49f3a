"""The fake provider, as far as the conformance suite does not use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from scalable.providers.base import Reaps, ScalePlan, current_owner
from scalable.testing.fakes import FakeProvider
from scalable.testing.offline import spec_of

Eventually = Callable[[Callable[[], bool]], bool]


def test_units_can_be_listed_and_removed(eventually: Eventually) -> None:
    provider, spec = FakeProvider(), spec_of("fake")
    assert isinstance(provider, Reaps)
    assert provider.list_owned(spec) == []
    with provider.build_cluster(spec) as handle:
        provider.scale(handle, ScalePlan({"gcam": 2}))
        handle.backend.wait_for_group("gcam", 2, timeout=60)
        first, second = provider.list_owned(spec)
        assert first == replace(second, name=first.name)
        assert (first.run_id, first.owner) == (handle.backend.name, current_owner())

        assert provider.reap(spec, [first]) == []

        assert eventually(lambda: first not in provider.list_owned(spec))
    assert provider.list_owned(spec) == []
