"""Scaling and closing, on a real GroupedCluster with a backend whose units stay pending."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

from scalable.cluster import AdaptivePolicy
from scalable.providers.base import ClusterHandle, DeploymentSpec, ScalePlan
from scalable.providers.common import BaseProvider
from scalable.providers.options import TargetOptions

if TYPE_CHECKING:
    from providers.conftest import Start


class QueueProvider(BaseProvider[TargetOptions]):
    name = "queue"
    options_model = TargetOptions

    def _build(self, spec: DeploymentSpec, options: TargetOptions) -> ClusterHandle:
        raise NotImplementedError


def scaled(handle: ClusterHandle, plan: ScalePlan) -> dict[str, tuple[int, int | None, int | None]]:
    QueueProvider().scale(handle, plan)
    groups = handle.backend.groups
    return {tag: (group.wanted, group.minimum, group.maximum) for tag, group in groups.items()}


def test_counts_ranges_and_the_cap_are_set(start: Start) -> None:
    handle = start()
    plan = ScalePlan({"gcam": 2, "plots": 1}, {}, {"gcam": (2, 6)}, max_workers=8)
    assert scaled(handle, plan) == {"gcam": (2, 2, 6), "plots": (1, None, None)}
    assert handle.backend.max_workers == 8


def test_an_adaptive_group_starts_with_its_count(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = start()
    calls: list[dict[str, int]] = []
    scale = handle.backend.scale_groups

    def record(counts: Mapping[str, int]) -> None:
        calls.append(dict(counts))
        scale(counts)

    monkeypatch.setattr(handle.backend, "scale_groups", record)
    plan = ScalePlan({"gcam": 2, "plots": 1}, {}, {"gcam": (0, 6)})
    QueueProvider().scale(handle, plan)
    QueueProvider().scale(handle, plan)
    # Once a group is adaptive, applying the same plan again does not undo its current size.
    assert calls == [{"gcam": 2, "plots": 1}, {"plots": 1}]


def test_an_adaptive_group_can_get_other_bounds_and_be_pinned(start: Start) -> None:
    handle = start()
    assert scaled(handle, ScalePlan({"gcam": 3}, {}, {"gcam": (3, 6)}))["gcam"] == (3, 3, 6)
    assert scaled(handle, ScalePlan({"gcam": 0}, {}, {"gcam": (4, 5)}))["gcam"] == (4, 4, 5)
    assert scaled(handle, ScalePlan({"gcam": 2}))["gcam"] == (2, None, None)


def test_an_adaptive_group_follows_demand_as_the_plan_says(start: Start) -> None:
    handle = start()
    patient = AdaptivePolicy(target_duration=60, scale_in_delay=1800)
    scaled(handle, ScalePlan({"gcam": 0}, {}, {"gcam": (0, 6)}, policies_by_tag={"gcam": patient}))
    groups = handle.backend._controller.groups
    assert groups["gcam"].policy == patient
    # Other bounds leave it as it is, as does a count in between.
    handle.backend.scale_groups({"gcam": 2})
    handle.backend.adapt_groups({"gcam": (0, 3)})
    assert groups["gcam"].policy == patient
    scaled(handle, ScalePlan({"gcam": 0}, {}, {"gcam": (0, 6)}))
    assert groups["gcam"].policy is None


@pytest.mark.parametrize(("before", "after"), [(8, 2), (2, 8), (None, 2), (2, None)])
def test_counts_and_cap_change_together(
    start: Start, before: int | None, after: int | None
) -> None:
    handle = start(before)
    scaled(handle, ScalePlan({"gcam": before or 8}, max_workers=before))
    groups = scaled(handle, ScalePlan({"gcam": after or 8}, max_workers=after))
    assert groups["gcam"] == (after or 8, None, None)
    assert handle.backend.max_workers == after


def test_closing_is_idempotent(start: Start) -> None:
    handle = start()
    QueueProvider().close(handle)
    QueueProvider().close(handle)
    assert handle.backend.status.name == "closed"
