"""A group's counts, and why workers of it are missing."""

from __future__ import annotations

from scalable.cluster.group import Group
from scalable.cluster.link import DrainProgress, Stage, WorkerInfo
from scalable.cluster.member import Member
from scalable.cluster.port import GroupSpec, Phase, Reason, Unit, UnitState
from scalable.cluster.status import group_status


def member(number: int, phase: Phase, *state: object, joined: bool = False) -> Member:
    unit = Unit(f"gcam-{number}", "gcam", "r1")
    made = Member(unit, 0.0, state=UnitState(unit, phase, *state))  # type: ignore[arg-type] # of several types
    if joined:
        made.joined_at, made.worker = 1.0, WorkerInfo("running")
    return made


def group_of(*members: Member, wanted: int = 0) -> Group:
    return Group(GroupSpec("gcam"), wanted=wanted, members={m.unit.id: m for m in members})


def test_it_shows_what_a_group_waits_for() -> None:
    group = group_of(
        member(1, Phase.PENDING, Reason.QUOTA, "QOSMaxCpuPerUserLimit"),
        member(2, Phase.RUNNING),
        member(3, Phase.RUNNING, joined=True),
        wanted=4,
    )
    group.record_request("r2", 1, 0.0)
    status = group_status(group)

    assert (status.pending, status.starting, status.running, status.draining) == (2, 1, 1, 0)
    assert (status.reason, status.detail) == (Reason.QUOTA, "QOSMaxCpuPerUserLimit")
    assert status.workers == ("gcam-3",)


def test_it_shows_what_keeps_draining_workers() -> None:
    group = group_of(member(1, Phase.RUNNING, joined=True), member(2, Phase.RUNNING, joined=True))
    group.members["gcam-1"].leaving = DrainProgress(Stage.HOLDING, 3)
    group.members["gcam-2"].leaving = DrainProgress(Stage.MOVING, 5)
    status = group_status(group)

    assert (status.running, status.draining, status.holding) == (0, 2, 3)
    assert (status.reason, status.detail) == (None, "")


def test_it_shows_work_for_which_no_worker_is_wanted() -> None:
    group = group_of()
    assert group_status(group).reason is None
    for slots, text in ((1.0, "1 slot of work waits"), (3.0, "3 slots of work wait")):
        group.unclaimed = slots
        status = group_status(group)
        assert status.reason is Reason.UNWANTED
        assert status.detail == f"{text}, and 0 workers are wanted"
