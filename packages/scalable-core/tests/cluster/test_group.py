"""State of one group: how observations and reports change it. No clock, no I/O."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scalable.cluster.group import Group
from scalable.cluster.link import DrainProgress, Report, Stage, WorkerInfo
from scalable.cluster.member import EndReason, Observation, UnitEnd
from scalable.cluster.port import (
    Explanation,
    GroupSpec,
    LaunchResult,
    Phase,
    Reason,
    Unit,
    UnitState,
)
from scalable.cluster.retry import RetryPolicy
from scalable.cluster.status import group_status

PROBLEM = Explanation(Reason.EXITED, "it ended")
EMPTY = Report()
LATER = 1000.0
"""When failures have lasted for long enough."""


def unit(number: int, request: str = "r1") -> Unit:
    return Unit(f"gcam-{number}", "gcam", request)


def seen(at: float, *states: UnitState) -> Observation:
    return Observation({state.unit.id: state for state in states}, at)


def running(*units: Unit) -> list[UnitState]:
    return [UnitState(one, Phase.RUNNING) for one in units]


def workers(*units: Unit, tasks: int = 0) -> Report:
    return Report({one.id: WorkerInfo("running", tasks) for one in units})


def group_of(*units: Unit, wanted: int = 0, **spec: float) -> Group:
    """Return a group whose first launch was answered with these units, at 0."""
    group = Group(GroupSpec("gcam", **spec), wanted=wanted)  # type: ignore[arg-type] # of many types
    group.record_request("r1", len(units), 0.0)
    group.record_answer("r1", LaunchResult(units), 0.0)
    return group


def test_scale_in_empties_what_several_units_share_first() -> None:
    """Busy workers stay; of the idle ones, those leave first that share a job with the fewest busy ones."""
    jobs = {"a": [0, 1, 0, 0], "b": [0, 0, 0], "c": [0, 0, 0, 0], "": [0]}
    units = {
        Unit(f"gcam-{job}{number}", "gcam", "r1", job and f"job-{job}"): tasks
        for job, loads in jobs.items()
        for number, tasks in enumerate(loads)
    }
    group = group_of(*units)
    report = Report({one.id: WorkerInfo("running", tasks) for one, tasks in units.items()})
    group.update(seen(1.0, *running(*units)), report, 1.0)
    leaving = ["gcam-0", *("gcam-b0", "gcam-b1", "gcam-b2")]
    leaving += ["gcam-c0", "gcam-c1", "gcam-c2", "gcam-c3", "gcam-a0", "gcam-a2", "gcam-a3"]
    for count in (1, 4, 8, 11):
        group.pin(12 - count)
        assert sorted(m.unit.id for m in group.surplus()) == sorted(leaving[:count])


def end_reasons(ended: list[UnitEnd]) -> list[EndReason]:
    return [end.reason for end in ended]


def test_units_count_as_soon_as_they_are_requested() -> None:
    group = Group(GroupSpec("gcam"))
    group.record_request("r1", 3, 0.0)
    assert (group.unnamed, len(group.alive)) == (3, 0)

    group.record_answer("r1", LaunchResult([unit(1)], unnamed=2), 1.0)
    assert (group.unnamed, len(group.alive)) == (2, 1)

    group.update(seen(2.0, *running(unit(1), unit(2), unit(3))), EMPTY, 2.0)
    assert (group.unnamed, len(group.alive)) == (0, 3)


def test_an_observation_may_come_before_the_answer() -> None:
    group = Group(GroupSpec("gcam"))
    group.record_request("r1", 2, 0.0)
    group.update(seen(1.0, *running(unit(1), unit(2))), EMPTY, 1.0)
    assert (group.unnamed, len(group.alive)) == (0, 2)

    group.update(seen(2.0, UnitState(unit(1), Phase.GONE), *running(unit(2))), EMPTY, 2.0)
    group.record_answer("r1", LaunchResult([unit(1), unit(2)]), 3.0)
    assert [member.unit for member in group.alive] == [unit(2)]


def test_a_named_unit_that_ends_is_not_taken_for_one_without_a_name() -> None:
    group = Group(GroupSpec("gcam"))
    group.record_request("r1", 3, 0.0)
    group.record_answer("r1", LaunchResult([unit(1)], unnamed=2), 0.0)
    ended = group.update(seen(1.0, UnitState(unit(1), Phase.GONE)), EMPTY, 1.0)

    assert end_reasons(ended) == [EndReason.NEVER_JOINED]
    assert group.unnamed == 2


def test_units_that_are_not_named_in_time_are_given_up_once() -> None:
    group = Group(GroupSpec("gcam", startup_timeout=60))
    group.record_request("r1", 3, 0.0)
    assert group.forget_overdue_requests(1000.0) == {}  # it has not even been answered
    group.record_answer("r1", LaunchResult([unit(1)], unnamed=2), 1000.0)

    assert group.forget_overdue_requests(1060.0) == {}
    overdue = group.forget_overdue_requests(1061.0)
    assert {request_id: request.unnamed for request_id, request in overdue.items()} == {"r1": 2}
    assert group.forget_overdue_requests(1062.0) == {}
    assert group.unnamed == 0


def test_units_of_other_groups_are_ignored() -> None:
    group = group_of(unit(1))
    other = Unit("gcam-land-1", "gcam-land", "r9")
    group.update(seen(1.0, *running(unit(1), other)), EMPTY, 1.0)

    assert list(group.members) == ["gcam-1"]


def test_an_observation_that_began_before_a_launch_does_not_show_its_units_as_gone() -> None:
    group = group_of()
    group.record_request("r2", 1, 0.0)
    group.record_answer("r2", LaunchResult([unit(1, "r2")]), 5.0)

    assert group.update(seen(4.0), EMPTY, 6.0) == []
    assert group.update(seen(5.0), EMPTY, 6.5) == []
    assert group.members["gcam-1"].absences == 0


def test_a_unit_is_gone_when_it_is_absent_for_long_enough_and_its_worker_is_not_connected() -> None:
    group = Group(GroupSpec("gcam"), RetryPolicy(absence_timeout=30))
    group.record_request("r1", 2, 0.0)
    group.record_answer("r1", LaunchResult([unit(1), unit(2)]), 0.0)
    assert group.update(seen(1.0), workers(unit(2)), 1.0) == []
    assert group.update(seen(30.0), workers(unit(2)), 30.0) == []
    # Shown again, it is absent anew.
    assert group.update(seen(31.0, *running(unit(1))), workers(unit(2)), 31.0) == []
    assert group.update(seen(40.0), workers(unit(2)), 40.0) == []
    ended = group.update(seen(71.0), workers(unit(2)), 71.0)

    assert [(end.member.unit, end.reason) for end in ended] == [(unit(1), EndReason.NEVER_JOINED)]


def test_a_unit_that_was_stopped_is_gone_when_two_observations_do_not_show_it() -> None:
    group = group_of(unit(1))
    group.update(seen(1.0, *running(unit(1))), EMPTY, 1.0)
    group.members["gcam-1"].stopped_at = 1.0
    assert group.update(seen(2.0), EMPTY, 2.0) == []
    assert end_reasons(group.update(seen(3.0), EMPTY, 3.0)) == [EndReason.STOPPED]


def test_until_a_launch_is_answered_all_its_units_count() -> None:
    group = Group(GroupSpec("gcam"), wanted=5)
    group.record_request("r1", 5, 0.0)
    group.record_lost_answer("r1")
    assert (group.unnamed, group.lacking, group.unclear_request) == (5, 0, ("r1", 5))

    group.record_answer("r1", LaunchResult([unit(1), unit(2)]), 9.0)
    assert (group.unnamed, group.lacking, group.unclear_request) == (0, 3, None)


def test_observations_can_tell_what_a_launch_has_created() -> None:
    group = Group(GroupSpec("gcam"), wanted=2)
    group.record_request("r1", 2, 0.0)
    group.record_lost_answer("r1")
    group.update(seen(1.0, *running(unit(1), unit(2))), EMPTY, 1.0)
    assert (group.unnamed, group.lacking, group.unclear_request) == (0, 0, None)


def test_an_end_that_is_reported_twice_is_one_end() -> None:
    group = group_of(unit(1))
    gone = UnitState(unit(1), Phase.GONE)

    assert end_reasons(group.update(seen(1.0, gone), EMPTY, 1.0)) == [EndReason.NEVER_JOINED]
    assert group.update(seen(2.0, gone), EMPTY, 2.0) == []


def test_each_end_has_its_reason() -> None:
    group = group_of(*map(unit, range(1, 6)), startup_timeout=60)
    joined = workers(unit(1), unit(2))
    group.update(seen(1.0, *running(*map(unit, range(1, 6)))), joined, 1.0)
    group.members["gcam-5"].leaving = DrainProgress(Stage.BUSY)
    states = running(unit(2), unit(3)) + [UnitState(unit(n), Phase.GONE) for n in (1, 4, 5)]
    ended = group.update(seen(70.0, *states), workers(), 70.0)

    assert {end.member.unit.id: end.reason for end in ended} == {
        "gcam-1": EndReason.LOST,
        "gcam-3": EndReason.JOIN_TIMEOUT,
        "gcam-4": EndReason.NEVER_JOINED,
        "gcam-5": EndReason.STOPPED,
    }
    later = group.update(None, replace(EMPTY, refused={"gcam-3": "Python 3.9"}), 81.0)
    assert {end.member.unit.id: (end.reason, end.detail) for end in later} == {
        "gcam-2": (EndReason.ORPHANED, ""),
        "gcam-3": (EndReason.REFUSED, "Python 3.9"),
    }


def test_a_worker_that_joins_resets_the_count_of_failed_starts() -> None:
    group = group_of(unit(1))
    group.failures.record_start_failure("r8", PROBLEM, 0.0)
    group.failures.record_start_failure("r9", PROBLEM, 0.0)
    group.update(None, workers(unit(1)), 1.0)

    assert not group.failures.record_start_failure("r10", PROBLEM, 2.0)


def test_a_worker_that_is_about_to_confirm_its_registration_still_starts() -> None:
    group = group_of(unit(1))
    running = seen(1.0, UnitState(unit(1), Phase.RUNNING))
    group.update(running, Report(workers={"gcam-1": WorkerInfo("init")}), 1.0)
    status = group_status(group)
    assert (status.starting, status.running, status.unavailable) == (1, 0, 0)

    group.update(None, workers(unit(1)), 2.0)
    assert group_status(group).running == 1


def test_a_failure_never_shortens_the_back_off_of_another() -> None:
    group = group_of(unit(1))
    group.update(None, workers(unit(1)), 1.0)
    group.failures.record_start_failure("r2", PROBLEM, 1.0)
    group.failures.record_start_failure("r3", PROBLEM, 1.0)
    retry_at = group.failures.retry_at
    group.update(None, EMPTY, 1.5)  # the first early loss costs no back-off

    assert group.failures.retry_at == retry_at > 1.5


def test_a_healthy_worker_resets_the_count_of_early_losses() -> None:
    group = Group(GroupSpec("gcam"), RetryPolicy(max_early_losses=2, healthy_after=10))

    def launch(number: int, now: float) -> Report:
        group.record_request(f"r{number}", 1, 0.0)
        group.record_answer(f"r{number}", LaunchResult([unit(number, f"r{number}")]), now)
        joined = workers(unit(number, f"r{number}"))
        group.update(None, joined, now)
        return joined

    for n in range(1, 4):
        launch(2 * n, 100.0 * n)
        group.update(None, EMPTY, 100.0 * n + 1)  # lost early
        assert not group.failures.record_loss(PROBLEM, LATER)
        joined = launch(2 * n + 1, 100.0 * n + 2)
        group.update(None, joined, 100.0 * n + 20)  # healthy
    for n in (8, 9):
        launch(n, 100.0 * n)
        group.update(None, EMPTY, 100.0 * n + 1)
    assert group.failures.record_loss(PROBLEM, LATER)


def test_a_worker_that_joined_and_left_between_two_reports_is_not_a_failed_start() -> None:
    group = group_of(unit(1))
    gone = seen(1.0, UnitState(unit(1), Phase.GONE, Reason.EXITED))

    assert end_reasons(group.update(gone, Report(removed=["gcam-1"]), 1.0)) == [EndReason.LOST]
    assert not group.failures.record_loss(PROBLEM, LATER)
    assert group.failures.retry_at <= 1.0


def group_after_an_early_loss(reported: Report = EMPTY) -> Group:
    """Return a group that fails after one early loss, and has had one."""
    group = Group(GroupSpec("gcam"), RetryPolicy(max_early_losses=1))
    group.record_request("r1", 1, 0.0)
    group.record_answer("r1", LaunchResult([unit(1)]), 0.0)
    group.update(None, workers(unit(1)), 1.0)
    assert end_reasons(group.update(seen(2.0, UnitState(unit(1), Phase.GONE)), reported, 2.0)) == [
        EndReason.LOST
    ]
    return group


def test_a_loss_counts_before_the_scheduler_has_noticed_it() -> None:
    assert group_after_an_early_loss(reported=workers(unit(1))).failures.record_loss(PROBLEM, LATER)


@pytest.mark.parametrize("reason", [Reason.CANCELLED, Reason.NODE_FAILURE, Reason.PREEMPTED])
def test_a_loss_for_an_external_reason_does_not_count_against_the_group(reason: Reason) -> None:
    group = group_after_an_early_loss()
    assert not group.failures.record_loss(Explanation(reason, "its machine was reclaimed"), LATER)
    assert group.failures.record_loss(PROBLEM, LATER)


def test_early_losses_are_reset_with_the_group() -> None:
    group = group_after_an_early_loss()
    group.reset_failures()
    assert not group.failures.record_loss(PROBLEM, LATER)


def test_the_least_useful_are_drained_first() -> None:
    group = group_of(*map(unit, range(1, 6)))
    states = [UnitState(unit(1), Phase.PENDING, Reason.PRIORITY), *running(*map(unit, range(2, 6)))]
    report = Report(
        {
            "gcam-3": WorkerInfo("running", tasks=1),
            "gcam-4": WorkerInfo("running", tasks=0, results=5),
            "gcam-5": WorkerInfo("running"),
        }
    )
    group.update(seen(1.0, *states), report, 1.0)

    order = [f"gcam-{n}" for n in (1, 2, 5, 4, 3)]
    for wanted in range(6):
        group.wanted = wanted
        assert [member.unit.id for member in group.surplus()] == order[: 5 - wanted]


def test_the_most_useful_are_resumed_first_but_none_that_expires() -> None:
    group = group_of(*map(unit, range(1, 5)))
    states = running(unit(1), unit(2), unit(3))
    states.append(UnitState(unit(4), Phase.RUNNING, seconds_left=1000))
    report = Report({f"gcam-{n}": WorkerInfo("running", tasks=n) for n in range(1, 5)})
    group.update(seen(1.0, *states), report, 1.0)
    for member in group.members.values():
        member.leaving = DrainProgress(Stage.BUSY)
    group.members["gcam-1"].leaving = DrainProgress(Stage.GONE)

    assert [m.unit.id for m in group.resumable(500.0)] == ["gcam-4", "gcam-3", "gcam-2"]
    assert [m.unit.id for m in group.resumable(990.0)] == ["gcam-3", "gcam-2"]


def test_workers_expire_before_their_walltime_is_up() -> None:
    group = group_of(unit(1), unit(2), handover=100)
    states = [
        UnitState(unit(1), Phase.RUNNING, seconds_left=1000),
        UnitState(unit(2), Phase.RUNNING, seconds_left=200),
    ]
    group.update(seen(0.0, *states), workers(unit(1), unit(2)), 0.0)

    def expiring(now: float) -> list[str]:
        return [member.unit.id for member in group.take_expiring(now)]

    # The handover is never more than a quarter of a unit's walltime.
    assert expiring(149.0) == []
    assert expiring(151.0) == ["gcam-2"]
    assert expiring(901.0) == ["gcam-1"]  # each once


def test_a_group_that_is_scaled_again_has_no_failures() -> None:
    group = group_of(unit(1))
    for request in ("r1", "r2", "r3"):
        group.failures.record_start_failure(request, PROBLEM, 50.0)
    group.failure = PROBLEM
    group.reset_failures()

    assert group.failure is None
    assert group.failures.retry_at == 0.0
    assert not group.failures.record_start_failure("r4", PROBLEM, 60.0)
    assert not group_status(group).failed


def test_an_early_death_with_tasks_is_no_early_loss() -> None:
    reported = replace(EMPTY, deaths={unit(1).id: False}, removed=[unit(1).id])
    assert not group_after_an_early_loss(reported).failures.record_loss(PROBLEM, LATER)


def test_so_is_one_that_the_scheduler_has_not_noticed() -> None:
    busy = workers(unit(1), tasks=1)
    assert not group_after_an_early_loss(busy).failures.record_loss(PROBLEM, LATER)


def test_the_scheduler_is_told_why_a_unit_ended_that_died_with_tasks() -> None:
    group = group_of(unit(1), wanted=1)
    group.update(None, workers(unit(1), tasks=1), 1.0)
    group.update(None, replace(EMPTY, deaths={unit(1).id: True}), 2.0)
    assert group.members[unit(1).id].had_tasks
    # With others finished on the same worker, the next is launched without delay.
    assert group.failures.retry_at <= 2.0
