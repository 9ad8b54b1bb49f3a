from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalable.cluster import AdaptivePolicy
from scalable.costing import CostEstimate, CostLineItem
from scalable.errors import LimitExceededError, ValidationFailedError
from scalable.manifest.issues import ValidationReport
from scalable.manifest.lock import manifest_lock
from scalable.manifest.parser import parse_manifest
from scalable.manifest.validate import validate_manifest
from scalable.planning import (
    Plan,
    build_plan,
    check_counts,
    check_limits,
    most_expensive_plan,
    plan_budget,
    scale_plan,
)
from scalable.providers.base import ClusterHandle, DeploymentSpec, ResourceRequest, ScalePlan
from scalable.providers.options import TargetOptions, WorkerRange

COMPONENTS: dict[str, Any] = {"gcam": {"cpus": 4, "memory": "8G"}, "plots": {}}


def spec_of(
    options: Mapping[str, Any],
    components: Mapping[str, Any] = COMPONENTS,
    env: Mapping[str, str] | None = None,
) -> DeploymentSpec:
    manifest = parse_manifest(
        {
            "version": 1,
            "project": {"name": "test"},
            "targets": {"here": {"provider": "demo", **options}},
            "components": components,
            "tasks": {"run": {"component": next(iter(components))}} if components else {},
        },
        env=env or {},
    )
    return DeploymentSpec.from_manifest(manifest, target_name="here")


def planned(options: dict[str, Any], **kwargs: Any) -> ScalePlan:
    return scale_plan(spec_of(options, **kwargs), TargetOptions(**options))


def problems(options: dict[str, Any]) -> list[tuple[str, str]]:
    issues = check_counts(spec_of(options), TargetOptions(**options))
    return [(issue.path, issue.code) for issue in issues]


class PlainProvider:
    """A provider that does nothing, without any of the optional abilities."""

    name = "demo"

    def validate(self, spec: DeploymentSpec) -> ValidationReport:
        return ValidationReport.of([])

    def build_cluster(self, spec: DeploymentSpec) -> ClusterHandle:
        raise NotImplementedError

    def scale(self, cluster: ClusterHandle, plan: ScalePlan) -> None: ...

    def close(self, cluster: ClusterHandle) -> None: ...


class PricedProvider(PlainProvider):
    """gcam costs 3 an hour, plots 1, anything else is unknown; the scheduler costs 0.5."""

    prices: Mapping[str, str] = {"gcam": "3", "plots": "1", "scheduler": "0.5"}

    def estimate_cost(self, spec: DeploymentSpec, plan: ScalePlan) -> CostEstimate:
        return CostEstimate(
            tuple(
                CostLineItem(
                    tag,
                    Decimal(count),
                    "worker",
                    Decimal(self.prices[tag]) if tag in self.prices else None,
                    source="test",
                    as_of=date(2026, 1, 1),
                )
                for tag, count in {**plan.workers_by_tag, "scheduler": 1}.items()
            )
        )


@pytest.mark.parametrize(
    ("options", "workers", "ranges"),
    [
        pytest.param({}, (1, 1), {}, id="nothing said"),
        pytest.param({"n_workers": 3}, (3, 3), {}, id="n_workers"),
        pytest.param({"n_workers": 0}, (0, 0), {}, id="n_workers of none"),
        pytest.param({"workers": 2}, (2, 2), {}, id="workers for all"),
        pytest.param({"workers": 0, "max_workers": 5}, (0, 0), {}, id="workers of none is said"),
        pytest.param({"workers": {"gcam": 5}}, (5, 1), {}, id="workers of one"),
        pytest.param(
            {"workers": {"gcam": 5}, "n_workers": 2}, (5, 2), {}, id="workers before n_workers"
        ),
        pytest.param(
            {"adaptive": {"minimum": 1, "maximum": 4}},
            (1, 1),
            {"gcam": (1, 4), "plots": (1, 4)},
            id="adaptive starts at its minimum",
        ),
        pytest.param(
            {"adaptive": {"minimum": 1, "maximum": 4}, "n_workers": 2},
            (2, 2),
            {"gcam": (1, 4), "plots": (1, 4)},
            id="adaptive starts with n_workers",
        ),
        pytest.param(
            {"adaptive": {"maximum": 4}, "workers": {"gcam": 3}, "n_workers": 2},
            (3, 2),
            {"plots": (0, 4)},
            id="workers before adaptive",
        ),
        pytest.param(
            {"workers": {"gcam": {"minimum": 2, "maximum": 9}}, "n_workers": 5},
            (2, 5),
            {"gcam": (2, 9)},
            id="a range in workers starts at its minimum",
        ),
        pytest.param(
            {"max_workers": 6}, (0, 0), {"gcam": (0, 6), "plots": (0, 6)}, id="max_workers alone"
        ),
        pytest.param(
            {"max_workers": 6, "workers": {}},
            (0, 0),
            {"gcam": (0, 6), "plots": (0, 6)},
            id="max_workers and nothing in workers",
        ),
        pytest.param({"max_workers": 6, "n_workers": 3}, (3, 3), {}, id="max_workers not alone"),
        pytest.param(
            {"max_workers": 6, "workers": {"gcam": 2}}, (2, 1), {}, id="max_workers and one group"
        ),
        pytest.param(
            {"max_workers": 6, "adaptive": {"minimum": 1, "maximum": 50}},
            (1, 1),
            {"gcam": (1, 6), "plots": (1, 6)},
            id="no range goes above max_workers",
        ),
    ],
)
def test_precedence_of_counts(
    options: dict[str, Any], workers: tuple[int, int], ranges: dict[str, tuple[int, int]]
) -> None:
    plan = planned(options)
    assert plan.workers_by_tag == dict(zip(("gcam", "plots"), workers, strict=True))
    assert plan.ranges_by_tag == ranges
    assert plan.max_workers == options.get("max_workers")
    assert plan.policies_by_tag == {}


def test_how_quickly_groups_follow_demand_is_planned_for_each_group() -> None:
    plan = planned(
        {
            "workers": {"gcam": {"maximum": 8, "target_duration": 60}},
            "adaptive": {"maximum": 4, "idle_timeout": "30m"},
        }
    )
    assert plan.policies_by_tag == {
        "gcam": AdaptivePolicy(target_duration=60),
        "plots": AdaptivePolicy(scale_in_delay=1800),
    }


@pytest.mark.parametrize(
    ("options", "path", "code"),
    [
        ({"workers": {"gcma": 2}}, "workers.gcma", "E_UNKNOWN_TAG"),
        ({"n_workers": 9, "adaptive": {"maximum": 4}}, "n_workers", "E_OUT_OF_RANGE"),
        ({"n_workers": 0, "adaptive": {"minimum": 1, "maximum": 4}}, "n_workers", "E_OUT_OF_RANGE"),
        ({"n_workers": 5, "max_workers": 4}, "n_workers", "E_ABOVE_MAX_WORKERS"),
        ({"workers": 5, "max_workers": 4}, "workers", "E_ABOVE_MAX_WORKERS"),
        ({"workers": {"gcam": 5}, "max_workers": 4}, "workers.gcam", "E_ABOVE_MAX_WORKERS"),
        (
            {"workers": {"gcam": {"minimum": 5, "maximum": 6}}, "max_workers": 4},
            "workers.gcam.minimum",
            "E_ABOVE_MAX_WORKERS",
        ),
        (
            {"adaptive": {"minimum": 5, "maximum": 6}, "max_workers": 4},
            "adaptive.minimum",
            "E_ABOVE_MAX_WORKERS",
        ),
        ({"n_workers": 3, "max_workers": 5}, "max_workers", "E_ABOVE_MAX_WORKERS"),
        ({"workers": {"gcam": 4}, "max_workers": 4}, "max_workers", "E_ABOVE_MAX_WORKERS"),
        (
            {"adaptive": {"minimum": 1, "maximum": 4}, "n_workers": 3, "max_workers": 5},
            "max_workers",
            "E_ABOVE_MAX_WORKERS",
        ),
        (
            {"workers": {"gcam": 2}, "adaptive": {"maximum": 4}, "max_workers": 2},
            "max_workers",
            "E_NO_ROOM",
        ),
        (
            {
                "workers": {
                    "gcam": {"minimum": 1, "maximum": 4},
                    "plots": {"minimum": 0, "maximum": 1},
                },
                "max_workers": 1,
            },
            "max_workers",
            "E_NO_ROOM",
        ),
    ],
)
def test_contradicting_counts(options: dict[str, Any], path: str, code: str) -> None:
    assert problems(options) == [(f"targets.here.{path}", code)]
    with pytest.raises(ValidationFailedError) as caught:
        planned(options)
    assert [issue.path for issue in caught.value.report.errors] == [f"targets.here.{path}"]


def test_counts_that_just_fit() -> None:
    assert problems({"n_workers": 2, "max_workers": 4}) == []
    assert problems({"n_workers": 4, "adaptive": {"minimum": 4, "maximum": 4}}) == []


def test_groups_that_share_one_worker_in_turns_get_a_warning() -> None:
    assert problems({"max_workers": 1}) == [("targets.here.max_workers", "W_ONE_WORKER")]
    assert planned({"max_workers": 1}).ranges_by_tag == {"gcam": (0, 1), "plots": (0, 1)}
    assert problems({"max_workers": 2}) == []
    assert problems({"max_workers": 1, "workers": {"gcam": 0}, "adaptive": {"maximum": 1}}) == []


def test_every_bad_count_is_found_at_once() -> None:
    options = {"workers": {"gcam": 9, "plots": 8, "gcma": 1}, "max_workers": 4}
    assert [path for path, _ in problems(options)] == [
        "targets.here.workers.gcma",
        "targets.here.workers.gcam",
        "targets.here.workers.plots",
    ]


def test_an_unknown_component_is_compared_with_those_that_exist() -> None:
    [issue] = check_counts(spec_of({}), TargetOptions(workers={"gcma": 1}))
    assert "did you mean 'gcam'?" in issue.message


def test_a_component_that_only_the_overlay_of_a_target_has_is_known() -> None:
    manifest = parse_manifest(
        {
            "version": 1,
            "project": {"name": "test"},
            "targets": {"here": {"provider": "demo", "overlay": "big", "workers": {"ml": 2}}},
            "components": COMPONENTS,
            "overlays": {"big": {"components": {"ml": {"new": True}}}},
        }
    )
    spec = DeploymentSpec.from_manifest(manifest, target_name="here")
    assert list(check_counts(spec, TargetOptions(workers={"ml": 2}))) == []


def test_the_manifest_and_the_provider_report_an_unknown_tag_alike() -> None:
    spec = spec_of({"workers": {"gcma": 1}})
    whole = validate_manifest(spec.manifest, known_providers=["demo"])
    assert set(check_counts(spec, TargetOptions(workers={"gcma": 1}))) == set(whole.issues)


def test_workers_request_the_resources_of_their_component() -> None:
    components = {**COMPONENTS, "ml": {"gpus": 2}}
    assert planned({}, components=components).resources_by_tag == {
        "gcam": ResourceRequest(cpus=4, memory=8 * 10**9),
        "plots": ResourceRequest(),
        "ml": ResourceRequest(gpus=2),
    }


@given(
    cap=st.none() | st.integers(1, 12),
    n_workers=st.none() | st.integers(0, 6),
    bounds=st.none() | st.tuples(st.integers(0, 6), st.integers(0, 6)).map(sorted),
    gcam=st.none() | st.integers(0, 6),
)
def test_a_plan_holds_its_cap_and_its_ranges(
    cap: int | None, n_workers: int | None, bounds: list[int] | None, gcam: int | None
) -> None:
    spec = spec_of({})
    made = TargetOptions(
        max_workers=cap,
        n_workers=n_workers,
        adaptive=WorkerRange(minimum=bounds[0], maximum=bounds[1]) if bounds else None,
        workers=None if gcam is None else {"gcam": gcam},
    )
    if not ValidationReport.of(check_counts(spec, made)).ok:
        with pytest.raises(ValidationFailedError):
            scale_plan(spec, made)
        return
    plan = scale_plan(spec, made)
    assert plan.workers_by_tag.keys() == {"gcam", "plots"}
    for tag, (low, high) in plan.ranges_by_tag.items():
        assert low <= plan.workers_by_tag[tag] <= high
    if cap is not None:
        assert sum(plan.workers_by_tag.values()) <= cap
        assert all(high <= cap for _, high in plan.ranges_by_tag.values())
        kept = {
            tag: plan.ranges_by_tag.get(tag, (count, count))[0]
            for tag, count in plan.workers_by_tag.items()
        }
        for tag, (_, high) in plan.ranges_by_tag.items():
            assert not high or sum(kept.values()) - kept[tag] < cap, "there is room for one"


def test_a_plan_names_its_parts() -> None:
    spec = spec_of({"n_workers": 2})
    plan = build_plan(spec, PlainProvider())
    assert (plan.target, plan.provider) == ("here", "demo")
    assert plan.manifest_lock == manifest_lock(spec.raw_manifest)
    assert plan.scale_plan.workers_by_tag == {"gcam": 2, "plots": 2}
    assert plan.components_by_task == {"run": "gcam"}
    assert plan.cost is None


def test_a_provider_without_typed_options_may_have_options_of_its_own() -> None:
    plan = build_plan(spec_of({"n_workers": 2, "colour": "red"}), PlainProvider())
    assert plan.scale_plan.workers_by_tag == {"gcam": 2, "plots": 2}


def test_invalid_counts_make_no_plan() -> None:
    with pytest.raises(ValidationFailedError) as caught:
        build_plan(spec_of({"n_workers": "many", "max_workers": 0}), PlainProvider())
    assert {issue.path for issue in caught.value.report.errors} == {
        "targets.here.n_workers",
        "targets.here.max_workers",
    }


def test_a_plan_uses_the_counts_and_prices_of_the_provider() -> None:
    class Own(PricedProvider):
        def plan_scale(self, spec: DeploymentSpec) -> ScalePlan:
            return ScalePlan(workers_by_tag={"gcam": 7})

    plan = build_plan(spec_of({}), Own())
    assert plan.scale_plan.workers_by_tag == {"gcam": 7}
    assert plan.cost is not None
    assert plan.cost.hourly == Decimal("21.5")


@pytest.mark.parametrize("provider", [PlainProvider(), PricedProvider()])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_workers": 3},
        {"workers": {"gcam": {"maximum": 2}}},
        {"adaptive": {"maximum": 2, "idle_timeout": 600}},
    ],
)
def test_a_plan_survives_json(provider: PlainProvider, options: dict[str, Any]) -> None:
    plan = build_plan(spec_of(options), provider)
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    assert Plan.from_json(text).to_json() == text


def test_the_same_manifest_in_another_order_gives_the_same_bytes() -> None:
    one = spec_of({"n_workers": 2, "max_workers": 8}, {"b": {"cpus": 2}, "a": {}, "c": {}})
    other = spec_of({"max_workers": 8, "n_workers": 2}, {"b": {"cpus": 2}, "c": {}, "a": {}})
    assert (
        build_plan(one, PlainProvider()).to_json() == build_plan(other, PlainProvider()).to_json()
    )


def test_no_value_of_the_environment_is_in_a_plan() -> None:
    components = {"gcam": {"image": "${IMAGE}", "env": {"TOKEN": "${TOKEN}"}}}
    env = {"IMAGE": "registry/secret-image", "TOKEN": "s3cret", "ROOM": "secret-room"}
    spec = spec_of({"room": "${ROOM}"}, components, env)
    text = build_plan(spec, PlainProvider()).to_json()
    assert "secret" not in text
    assert "s3cret" not in text
    assert json.loads(text)["manifest_lock"] == manifest_lock(spec.raw_manifest)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1}', "nonsense"])
def test_text_that_is_not_a_plan_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a plan of format 1"):
        Plan.from_json(text)


def test_the_most_expensive_plan_fills_the_cap_with_the_expensive_group() -> None:
    spec = spec_of({"max_workers": 5})
    plan = ScalePlan(
        workers_by_tag={"gcam": 1, "plots": 2},
        ranges_by_tag={"gcam": (1, 3), "plots": (1, 9)},
        max_workers=5,
    )
    assert most_expensive_plan(spec, PricedProvider(), plan).workers_by_tag == {
        "gcam": 3,
        "plots": 2,
    }


def test_counts_above_the_cap_leave_no_room_and_take_none_away() -> None:
    plan = ScalePlan(
        workers_by_tag={"gcam": 9, "plots": 2}, ranges_by_tag={"plots": (2, 4)}, max_workers=5
    )
    assert most_expensive_plan(spec_of({}), PricedProvider(), plan).workers_by_tag == {
        "gcam": 9,
        "plots": 2,
    }


def test_without_a_cap_the_most_expensive_plan_has_the_maxima() -> None:
    plan = ScalePlan(
        workers_by_tag={"gcam": 4, "plots": 0}, ranges_by_tag={"plots": (0, 9)}, max_workers=None
    )
    assert most_expensive_plan(spec_of({}), PricedProvider(), plan).workers_by_tag == {
        "gcam": 4,
        "plots": 9,
    }


@pytest.mark.parametrize(
    ("options", "allowed", "within"),
    [
        ({"n_workers": 2}, 8.5, True),
        ({"n_workers": 2}, 8.4, False),
        # 0 workers now, but 2 of gcam are possible.
        ({"max_workers": 2}, 6.5, True),
        ({"max_workers": 2}, 6.4, False),
    ],
)
def test_a_limit_holds_for_the_maximum_cost_of_a_plan(
    options: dict[str, Any], allowed: float, within: bool
) -> None:
    spec = spec_of({**options, "limits": {"max_hourly_cost": allowed}})
    plan = build_plan(spec, PricedProvider()).scale_plan
    if within:
        check_limits(spec, PricedProvider(), plan)
        return
    with pytest.raises(LimitExceededError, match=r"above targets\.here\.limits\.max_hourly_cost"):
        check_limits(spec, PricedProvider(), plan)


def test_an_unknown_price_cannot_be_shown_to_be_within_a_limit() -> None:
    spec = spec_of({"limits": {"max_hourly_cost": 1000}}, {"gcam": {}, "new": {}})
    plan = build_plan(spec, PricedProvider()).scale_plan
    with pytest.raises(LimitExceededError, match="price of new is unknown"):
        check_limits(spec, PricedProvider(), plan)


def test_without_a_limit_any_cost_is_accepted() -> None:
    spec = spec_of({"n_workers": 1000})
    check_limits(spec, PricedProvider(), build_plan(spec, PricedProvider()).scale_plan)


@pytest.mark.parametrize(
    ("options", "within"), [({"n_workers": 2}, True), ({"n_workers": 3}, False)]
)
def test_a_limit_on_workers_holds_for_the_largest_size(
    options: dict[str, Any], within: bool
) -> None:
    spec = spec_of({**options, "limits": {"max_workers": 4}})
    plan = build_plan(spec, PlainProvider()).scale_plan
    if within:
        check_limits(spec, PlainProvider(), plan)
        return
    with pytest.raises(
        LimitExceededError, match=r"6 workers, which is above targets\.here\.limits"
    ):
        check_limits(spec, PlainProvider(), plan)


def test_a_limit_on_workers_sizes_nothing() -> None:
    spec = spec_of({"limits": {"max_workers": 9}})

    assert build_plan(spec, PlainProvider()).scale_plan.workers_by_tag == {"gcam": 1, "plots": 1}


def test_an_unknown_price_cannot_be_within_a_limit_on_the_whole_cost() -> None:
    spec = spec_of({"limits": {"max_cost": 1000}}, {"gcam": {}, "new": {}})
    plan = build_plan(spec, PricedProvider()).scale_plan
    with pytest.raises(LimitExceededError, match=r"limits\.max_cost cannot be enforced.* of new"):
        check_limits(spec, PricedProvider(), plan)


def test_a_budget_has_the_price_of_a_worker_and_of_what_is_there_anyway() -> None:
    limits = {"max_cost": 7, "max_worker_hours": 5, "on_exceed": "drain"}
    spec = spec_of({"limits": limits, "n_workers": 3})
    budget = plan_budget(spec, PricedProvider(), build_plan(spec, PricedProvider()).scale_plan)

    assert budget.prices == {"gcam": 3.0, "plots": 1.0}
    assert budget.fixed_price == 0.5
    assert (budget.max_cost, budget.max_worker_hours) == (7.0, 5.0)
    assert budget.on_exceed == "drain"


def test_without_prices_the_cost_is_not_known() -> None:
    spec = spec_of({})
    budget = plan_budget(spec, PlainProvider(), build_plan(spec, PlainProvider()).scale_plan)

    assert (budget.prices, budget.fixed_price) == ({}, None)


def test_a_component_without_a_price_is_left_out_of_a_budget() -> None:
    spec = spec_of({}, {"gcam": {}, "new": {}})
    budget = plan_budget(spec, PricedProvider(), build_plan(spec, PricedProvider()).scale_plan)

    assert budget.prices == {"gcam": 3.0}
