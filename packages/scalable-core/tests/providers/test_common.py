from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import pytest
from pydantic import Field

from scalable.errors import NotSupportedError, ValidationFailedError
from scalable.manifest.issues import ValidationIssue
from scalable.manifest.schema import ComponentConfig
from scalable.planning import build_plan
from scalable.providers.base import (
    ClusterHandle,
    DeploymentProvider,
    DeploymentSpec,
    DescribesOptions,
    PlansScale,
    ResourceRequest,
    ScalePlan,
)
from scalable.providers.checks import no_effect_warnings
from scalable.providers.common import BaseProvider, PlansOnly
from scalable.providers.options import TargetOptions, explicit_or_default
from scalable.providers.registry import clear_registry, get_provider, register_provider
from scalable.testing.offline import spec_of

if TYPE_CHECKING:
    from providers.conftest import Start

COMPONENTS = "gcam: {cpus: 4, memory: 8G, mounts: {/data: /data}}\nplots: {}"


@pytest.mark.parametrize(
    ("component", "path"),
    [("{nodes: 2}", "nodes"), ("{nodes: 2, ranks: 8}", "nodes"), ("{ranks: 8}", "ranks")],
)
def test_nodes_and_ranks_are_refused_where_the_provider_has_none(component: str, path: str) -> None:
    spec = spec_of("desk", "room: attic", f"gcam: {component}")
    (issue,) = DeskProvider().validate(spec).errors
    assert (issue.path, issue.code) == (f"components.gcam.{path}", "E_NOT_SUPPORTED")
    assert "provider 'desk'" in issue.message
    assert issue.line is not None


class DeskOptions(TargetOptions):
    """Options of a target on desks."""

    room: Literal["attic", "cellar"] = Field(description="Where the desks are.")
    hours: int | None = Field(default=None, description="How long they are free.")


class DeskProvider(BaseProvider[DeskOptions]):
    """Runs workers on desks."""

    name = "desk"
    options_model = DeskOptions
    handle: ClusterHandle
    built: DeploymentSpec | None = None

    def check(self, spec: DeploymentSpec, options: DeskOptions) -> Iterator[ValidationIssue]:
        if options.room == "cellar":
            yield spec.option_issue("room", "E_DAMP", "the cellar is damp; choose the attic")
        yield from no_effect_warnings(spec, "mounts", "desks have no disks")

    def request(self, component: ComponentConfig, options: DeskOptions) -> ResourceRequest:
        return ResourceRequest(
            cpus=explicit_or_default(component, "cpus", 2), walltime=options.hours
        )

    def _build(self, spec: DeploymentSpec, options: DeskOptions) -> ClusterHandle:
        self.built = spec
        return self.handle


class PricedDeskProvider(DeskProvider):
    def estimate_cost(self, spec: DeploymentSpec, plan: ScalePlan) -> None:
        return None


def desk_of(options: str = "", *, room: str = "attic") -> DeploymentSpec:
    return spec_of("desk", f"room: {room}\n{options}", COMPONENTS)


def test_it_is_a_provider_with_abilities() -> None:
    provider = DeskProvider()
    assert isinstance(provider, DeploymentProvider)
    assert isinstance(provider, PlansScale)
    assert isinstance(provider, DescribesOptions)
    assert provider.options_schema() == DeskOptions.model_json_schema()


def test_the_registry_takes_it() -> None:
    register_provider("desk", DeskProvider)
    try:
        assert isinstance(get_provider("desk"), DeskProvider)
    finally:
        clear_registry()


def test_a_subclass_must_build() -> None:
    class Unfinished(BaseProvider[DeskOptions]):
        name = "desk"
        options_model = DeskOptions

    with pytest.raises(TypeError, match="_build"):
        Unfinished()  # type: ignore[abstract]  # the mistake under test


def test_every_problem_is_found_at_once_and_located() -> None:
    report = DeskProvider().validate(
        desk_of("hours: long\nworkers: {gcma: 1, plots: 9}\nmax_workers: 4\nn_wrokers: 2")
    )
    assert [(issue.path, issue.code, issue.line) for issue in report.issues] == [
        ("targets.here.hours", "E_BAD_VALUE", 7),
        ("targets.here.workers.gcma", "E_UNKNOWN_TAG", 8),
        ("targets.here.workers.plots", "E_ABOVE_MAX_WORKERS", 8),
        ("targets.here.n_wrokers", "E_UNKNOWN_KEY", 10),
    ]
    assert str(report.errors[0]).startswith("scalable.yaml:7:5 E_BAD_VALUE targets.here.hours: ")


def test_checks_of_the_provider_come_with_those_of_counts() -> None:
    spec = desk_of("workers: {gcma: 1}", room="cellar")
    report = DeskProvider().validate(spec)
    assert [issue.code for issue in report.errors] == ["E_DAMP", "E_UNKNOWN_TAG"]
    assert [issue.path for issue in report.warnings] == ["components.gcam.mounts"]


@pytest.mark.parametrize(
    ("provider", "codes"), [(DeskProvider(), ["E_NOT_SUPPORTED"]), (PricedDeskProvider(), [])]
)
def test_a_limit_on_cost_needs_prices(provider: DeskProvider, codes: list[str]) -> None:
    report = provider.validate(desk_of("limits: {max_hourly_cost: 3}"))
    assert [issue.code for issue in report.errors] == codes
    assert all(issue.path == "targets.here.limits.max_hourly_cost" for issue in report.errors)


def test_nothing_is_built_from_an_invalid_spec() -> None:
    provider = DeskProvider()
    with pytest.raises(ValidationFailedError) as caught:
        provider.build_cluster(desk_of("hours: long"))
    assert [issue.path for issue in caught.value.report.errors] == ["targets.here.hours"]
    assert provider.built is None


def test_a_provider_that_only_plans_says_so_once_the_spec_is_valid() -> None:
    class Drawn(PlansOnly[DeskOptions]):
        name = "drawn"
        options_model = DeskOptions

    assert Drawn().plan_scale(desk_of("n_workers: 3")).workers_by_tag == {"gcam": 3, "plots": 3}
    with pytest.raises(ValidationFailedError):
        Drawn().build_cluster(desk_of(room="loft"))
    with pytest.raises(NotSupportedError, match="provider 'drawn' cannot build clusters"):
        Drawn().build_cluster(desk_of())


def test_warnings_do_not_keep_it_from_building(start: Start) -> None:
    provider = DeskProvider()
    provider.handle = start()
    spec = desk_of()
    assert provider.validate(spec).warnings
    assert provider.build_cluster(spec) is provider.handle
    assert provider.built is spec


def test_invalid_options_are_not_parsed() -> None:
    with pytest.raises(ValidationFailedError):
        DeskProvider().parse_options(desk_of("hours: long"))
    assert DeskProvider().parse_options(desk_of("hours: 3")).hours == 3


def test_a_plan_has_the_requests_of_the_provider() -> None:
    plan = build_plan(desk_of("hours: 3\nn_workers: 2"), DeskProvider()).scale_plan
    assert plan.resources_by_tag == {
        "gcam": ResourceRequest(cpus=4, walltime=3),
        "plots": ResourceRequest(cpus=2, walltime=3),
    }
    assert plan.workers_by_tag == {"gcam": 2, "plots": 2}


def test_issues_are_located() -> None:
    spec = desk_of("limits: {max_hourly_cost: 3}")
    assert spec.option_issue("room", "E_X", "wrong").path == "targets.here.room"
    inside = spec.option_issue(("limits", "max_hourly_cost"), "W_X", "odd", "warning")
    assert (inside.path, inside.line) == ("targets.here.limits.max_hourly_cost", 7)
    assert inside.severity == "warning"
    issue = spec.component_issue("gcam", "cpus", "E_X", "wrong")
    assert (issue.path, issue.line, issue.severity) == ("components.gcam.cpus", 9, "error")


def test_a_component_takes_precedence_over_its_target_and_that_over_the_schema() -> None:
    spec = desk_of()
    gcam, plots = spec.components["gcam"], spec.components["plots"]
    assert explicit_or_default(gcam, "cpus", 2) == 4
    assert explicit_or_default(plots, "cpus", 2) == 2
    assert explicit_or_default(plots, "cpus", None) == 1


def test_it_imports_no_dask() -> None:
    code = (
        "import sys, scalable.providers.common, scalable.planning\n"
        "sys.exit(str({'dask', 'distributed', 'tornado'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == ""
