"""The wanted counts of groups at one time, from their state, their work and the cap."""

from __future__ import annotations

from scalable.cluster.adaptive import AdaptivePolicy
from scalable.cluster.group import Group
from scalable.cluster.link import Demand, WorkerInfo
from scalable.cluster.member import Member
from scalable.cluster.port import GroupSpec, Unit
from scalable.cluster.targets import update_targets

POLICY = AdaptivePolicy(target_duration=5, scale_in_delay=10)


def group(tag: str, *, busy: int = 0, idle: int = 0) -> Group:
    """Return a group that may have up to 10 workers, and has these."""
    made = Group(GroupSpec(tag), range=(0, 10), wanted=busy + idle)
    for n in range(busy + idle):
        unit = Unit(f"{tag}-{n}", tag, "request")
        tasks = 1 if n < busy else 0
        made.members[unit.id] = Member(
            unit, launched=0.0, joined_at=1.0, worker=WorkerInfo("running", tasks)
        )
    return made


def work(slots: int) -> Demand:
    return Demand(slots=slots, unknown=slots)


def wanted(
    groups: list[Group], demand: dict[str, Demand], now: float, cap: int | None = 4
) -> list[int]:
    by_tag = {each.spec.tag: each for each in groups}
    update_targets(by_tag, demand, POLICY, cap, now)
    return [each.wanted for each in groups]


def test_a_group_without_any_worker_gets_its_share_at_once() -> None:
    groups = [group("gcam", busy=4), group("stitches")]
    assert wanted(groups, {"gcam": work(9), "stitches": work(9)}, now=100.0) == [2, 2]


def test_a_group_with_some_workers_gets_more_after_the_scale_in_delay_of_others() -> None:
    groups = [group("gcam", busy=3), group("stitches", busy=1)]
    demand = {"gcam": work(9), "stitches": work(9)}
    assert wanted(groups, demand, now=100.0) == [3, 2]
    assert wanted(groups, demand, now=109.0) == [3, 2]
    assert wanted(groups, demand, now=110.0) == [2, 2]


def test_idle_workers_make_room_at_once_where_others_need_it() -> None:
    groups = [group("gcam", busy=2, idle=1), group("stitches", busy=1)]
    # The share of the first is 1 of 4, but it has two that work.
    assert wanted(groups, {"gcam": work(2), "stitches": work(9)}, now=100.0) == [2, 3]


def test_idle_workers_stay_for_a_while_where_no_other_group_needs_the_room() -> None:
    groups = [group("gcam", busy=1, idle=2)]
    assert wanted(groups, {"gcam": work(1)}, now=100.0, cap=None) == [3]
    assert wanted(groups, {"gcam": work(1)}, now=110.0, cap=None) == [1]


def test_workers_of_a_group_without_work_make_room_although_they_seem_busy() -> None:
    # What the scheduler said of its workers is older than what it said of their work.
    groups = [group("gcam", busy=3), group("stitches", busy=1)]
    assert wanted(groups, {"stitches": work(9)}, now=100.0) == [0, 4]


def test_work_of_a_group_that_is_to_have_no_worker_is_noted() -> None:
    gcam, fair = Group(GroupSpec("gcam")), Group(GroupSpec("fair"), wanted=1)
    groups = {"gcam": gcam, "fair": fair}
    # Tasks without a tag, which count for the first group, run on workers of the other.
    update_targets(groups, {"gcam": Demand(slots=5)}, POLICY, None, 1.0)
    assert (gcam.unclaimed, gcam.unclaimed_since) == (0, None)
    for now in (2.0, 3.0):
        update_targets(groups, {"gcam": Demand(slots=5, tagged=2)}, POLICY, None, now)
        assert (gcam.unclaimed, gcam.unclaimed_since) == (2, 2.0)
    fair.pin(0)
    update_targets(groups, {"gcam": Demand(slots=5, tagged=2)}, POLICY, None, 4.0)
    assert (gcam.unclaimed, gcam.unclaimed_since) == (5, 2.0)
    gcam.range = (0, 3)
    update_targets(groups, {"gcam": Demand(slots=5, tagged=2)}, POLICY, None, 5.0)
    assert (gcam.unclaimed, gcam.unclaimed_since) == (0, None)
