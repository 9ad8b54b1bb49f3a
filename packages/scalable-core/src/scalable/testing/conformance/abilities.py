"""Tests of what a provider may be able to do beyond the contract: prices, rendering, checks before a start."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from scalable.manifest.parser import parse_manifest
from scalable.planning import build_plan
from scalable.providers.base import DeploymentSpec, EstimatesCost, Preflights, Renders
from scalable.testing.conformance.base import SuiteBase

if TYPE_CHECKING:
    from scalable.costing import CostEstimate

__all__ = ["AbilityTests"]

_SECRET = "hunter2-scalable-conformance"  # noqa: S105 - of nothing
_VARIABLE = "SCALABLE_CONFORMANCE_SECRET"


class AbilityTests(SuiteBase):
    """What the optional protocols of a provider promise."""

    # -- Prices

    def test_prices_have_a_source_and_unknown_is_not_free(self) -> None:
        one, two = (self._estimate(n) for n in (1, 2))
        assert one == self._estimate(1), "the same plan has two prices"
        for item in (*one.items, *two.items):
            if item.unit_price is not None:
                assert item.unit_price > 0, f"None is an unknown price, not 0: {item}"
                assert item.source, f"where is this price from: {item}"
                assert item.as_of is not None, f"of which day is this price: {item}"
                assert item.as_of <= date.today(), f"a price of the future: {item}"
        assert (one.hourly is None) == (two.hourly is None), "a price is known for some counts only"
        # Whatever is not known, what is known does not become less.
        assert one.known_hourly <= two.known_hourly, "more workers cost less"

    def _estimate(self, workers: int) -> CostEstimate:
        provider, spec = self.make_provider(), self.spec(n_workers=workers)
        if not isinstance(provider, EstimatesCost):
            pytest.skip("this provider knows no prices")
        estimate = provider.estimate_cost(spec, build_plan(spec, provider).scale_plan)
        if estimate is None:
            pytest.skip("nothing in the manifest has a price")
        return estimate

    # -- Rendering

    def test_rendering_shows_every_group_and_no_secret(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = self._spec_with_secret(monkeypatch)
        provider = self.make_provider()
        if not isinstance(provider, Renders):
            pytest.skip("this provider renders nothing")
        plan = build_plan(spec, provider).scale_plan
        first, second = ([*provider.render(spec, plan)] for _ in range(2))
        assert first == second, "the same manifest is rendered in two ways"
        for artifact in first:
            assert _SECRET not in artifact.name + artifact.content, (
                f"a secret is in {artifact.name}"
            )
        for tag in plan.workers_by_tag:
            shown = [a for a in first if tag in a.name or tag in a.content]
            assert shown, f"nothing is rendered of {tag}: {[a.name for a in first]}"
        assert list(self.leftovers()) == []

    def _spec_with_secret(self, monkeypatch: pytest.MonkeyPatch) -> DeploymentSpec:
        """Return a spec with a worker for each group, and a value from the environment in alpha's."""
        monkeypatch.setenv(_VARIABLE, _SECRET)
        document = parse_manifest(self.manifest).raw
        own = (document["components"]["alpha"] or {}).get("env", {})
        alpha: dict[str, Any] = {"env": {**own, "TOKEN": f"${{{_VARIABLE}}}"}}
        spec = self._spec(document, {"n_workers": 1}, alpha)
        assert spec.components["alpha"].env["TOKEN"] == _SECRET
        return spec

    # -- Checks

    def test_checks_make_nothing_and_say_what_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = self._spec_with_secret(monkeypatch)
        provider = self.make_provider()
        if not isinstance(provider, Preflights):
            pytest.skip("this provider checks nothing")
        results = [*provider.preflight(spec)]
        # Trouble is a result: here, none of the system's commands is found.
        with monkeypatch.context() as patch:
            patch.setenv("PATH", "/nonexistent")
            results += provider.preflight(spec)
        for result in results:
            assert result.name, f"what was checked: {result}"
            assert result.detail, f"what was found: {result}"
            assert "\n" not in result.detail + result.remedy, f"more than one line: {result}"
            assert result.remedy or result.ok is not False, f"what to do about it: {result}"
            assert _SECRET not in result.detail + result.remedy, f"a secret is in {result.name}"
        assert list(self.leftovers()) == []
