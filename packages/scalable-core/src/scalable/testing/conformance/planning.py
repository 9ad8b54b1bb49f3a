"""Tests of what a provider does before anything starts: names, validation, plans."""

from __future__ import annotations

import json

import pytest

from scalable.manifest.jsonschema import compose_schema
from scalable.planning import build_plan
from scalable.providers.base import API_VERSION, DeploymentProvider, DescribesOptions
from scalable.providers.registry import describe_providers
from scalable.testing.conformance.base import SuiteBase
from scalable.testing.offline import modules_of_planning

__all__ = ["PlanningTests"]


class PlanningTests(SuiteBase):
    """What a provider does offline."""

    def test_the_api_version_is_supported(self) -> None:
        provider = self.make_provider()
        assert isinstance(provider, DeploymentProvider)
        assert getattr(provider, "api_version", 1) <= API_VERSION
        assert provider.name == provider.name.strip().lower() != ""

    def test_its_own_manifest_is_valid(self) -> None:
        report = self.make_provider().validate(self.spec())
        assert report.errors == ()

    def test_every_error_is_reported_at_once(self) -> None:
        spec = self.spec(sheep=1, goats=2, n_workers="many")
        paths = {issue.path for issue in self.make_provider().validate(spec).errors}
        assert {
            f"targets.{spec.target_name}.{key}" for key in ("sheep", "goats", "n_workers")
        } <= paths

    def test_a_count_for_an_unknown_group_is_an_error(self) -> None:
        report = self.make_provider().validate(self.spec(workers={"omega": 1}))
        assert not report.ok

    def test_validating_and_planning_import_no_dask(self) -> None:
        name = self.spec().provider_name
        sources = {info.distribution for info in describe_providers() if info.name == name}
        if not sources - {"this process"}:
            pytest.skip(f"provider {name!r} is not installed, so a new process cannot find it")
        assert not {"dask", "distributed"} & modules_of_planning(self.manifest)

    def test_its_options_have_a_schema(self) -> None:
        provider = self.make_provider()
        if not isinstance(provider, DescribesOptions):
            pytest.skip("this provider does not describe its options")
        schema = compose_schema({provider.name: provider.options_schema()})
        assert provider.name in json.dumps(schema)

    def test_the_same_manifest_gives_the_same_plan(self) -> None:
        first, second = (build_plan(self.spec(n_workers=2), self.make_provider()) for _ in range(2))
        assert first.to_json() == second.to_json()
        assert first.scale_plan.workers_by_tag == {"alpha": 2, "beta": 2}
