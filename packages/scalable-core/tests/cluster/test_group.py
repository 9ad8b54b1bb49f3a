"""The books of one group: what they make of launches, looks and reports. No clock, no I/O."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalable.cluster.group import Ended, Fate, Group, Observation, RetryPolicy
from scalable.cluster.link import DrainProgress, Report, Stage, WorkerInfo
from scalable.cluster.port import Explanation, GroupSpec, Phase, Reason, Unit, UnitState

TROUBLE = Explanation(Reason.EXITED, "it ended")
NOBODY = Report()


def unit(number: int, request: str = "r1") -> Unit:
    return Unit(f"gcam-{number}", "gcam", request)


def seen(at: float, *states: UnitState) -> Observation:
    return Observation({state.unit.id: state for state in states}, at)


def running(*units: Unit) -> list[UnitState]:
    return [UnitState(one, Phase.RUNNING) for one in units]


def workers(*units: Unit, tasks: int = 0) -> Report:
    return Report({one.id: WorkerInfo("running", tasks) for one in units})


def group_of(*units: Unit, wanted: int = 0, **spec: float) -> Group:
    """Make the books of a group whose first launch was answered with these units, at 0."""
    group = Group(GroupSpec("gcam", **spec), wanted=wanted)  # type: ignore[arg-type] # of many types
    group.expect("r1", len(units))
    group.answer("r1", units, 0.0)
    return group


def fates(ended: list[Ended]) -> list[Fate]:
    return [end.fate for end in ended]


def test_units_count_from_the_moment_they_are_asked_for() -> None:
    group = Group(GroupSpec("gcam"))
    group.expect("r1", 3)
    assert (group.unnamed, len(group.alive)) == (3, 0)

    group.answer("r1", [unit(1)], 1.0)
    assert (group.unnamed, len(group.alive)) == (2, 1)

    group.look(seen(2.0, *running(unit(1), unit(2), unit(3))), NOBODY, 2.0)
    assert (group.unnamed, len(group.alive)) == (0, 3)


def test_an_observation_may_come_before_the_answer() -> None:
    group = Group(GroupSpec("gcam"))
    group.expect("r1", 2)
    group.look(seen(1.0, *running(unit(1), unit(2))), NOBODY, 1.0)
    assert (group.unnamed, len(group.alive)) == (0, 2)

    group.look(seen(2.0, UnitState(unit(1), Phase.GONE), *running(unit(2))), NOBODY, 2.0)
    group.answer("r1", [unit(1), unit(2)], 3.0)
    assert [member.unit for member in group.alive] == [unit(2)]


def test_a_named_unit_that_ends_is_not_taken_for_one_without_a_name() -> None:
    group = Group(GroupSpec("gcam"))
    group.expect("r1", 3)
    group.answer("r1", [unit(1)], 0.0)
    ended = group.look(seen(1.0, UnitState(unit(1), Phase.GONE)), NOBODY, 1.0)

    assert fates(ended) == [Fate.STILLBORN]
    assert group.unnamed == 2


def test_what_is_not_named_in_time_is_given_up_once() -> None:
    group = Group(GroupSpec("gcam", startup_timeout=60))
    group.expect("r1", 3)
    assert group.give_up(1000.0) == {}  # it has not even been answered
    group.answer("r1", [unit(1)], 1000.0)

    assert group.give_up(1060.0) == {}
    assert group.give_up(1061.0) == {"r1": 2}
    assert group.give_up(1062.0) == {}
    assert group.unnamed == 0


def test_units_of_other_groups_are_none_of_its_business() -> None:
    group = group_of(unit(1))
    other = Unit("gcam-land-1", "gcam-land", "r9")
    group.look(seen(1.0, *running(unit(1), other)), NOBODY, 1.0)

    assert list(group.members) == ["gcam-1"]


def test_a_look_that_began_before_a_unit_says_nothing_of_it() -> None:
    group = group_of()
    group.expect("r2", 1)
    group.answer("r2", [unit(1, "r2")], 5.0)

    assert group.look(seen(4.0), NOBODY, 6.0) == []
    assert group.look(seen(5.0), NOBODY, 6.5) == []
    assert fates(group.look(seen(7.0), NOBODY, 7.0)) == [Fate.STILLBORN]


def test_an_end_that_is_told_twice_is_one_end() -> None:
    group = group_of(unit(1))
    gone = UnitState(unit(1), Phase.GONE)

    assert fates(group.look(seen(1.0, gone), NOBODY, 1.0)) == [Fate.STILLBORN]
    assert group.look(seen(2.0, gone), NOBODY, 2.0) == []


def test_each_end_has_its_fate() -> None:
    group = group_of(*map(unit, range(1, 6)), startup_timeout=60)
    joined = workers(unit(1), unit(2))
    group.look(seen(1.0, *running(*map(unit, range(1, 6)))), joined, 1.0)
    group.members["gcam-5"].leaving = DrainProgress(Stage.BUSY)
    states = running(unit(2), unit(3)) + [UnitState(unit(n), Phase.GONE) for n in (1, 4, 5)]
    ended = group.look(seen(70.0, *states), workers(), 70.0)

    assert {end.member.unit.id: end.fate for end in ended} == {
        "gcam-1": Fate.LOST,
        "gcam-3": Fate.LATE,
        "gcam-4": Fate.STILLBORN,
        "gcam-5": Fate.DISMISSED,
    }
    later = group.look(None, replace(NOBODY, refused={"gcam-3": "Python 3.9"}), 81.0)
    assert {end.member.unit.id: (end.fate, end.detail) for end in later} == {
        "gcam-2": (Fate.STRAY, ""),
        "gcam-3": (Fate.REFUSED, "Python 3.9"),
    }


def test_all_units_of_one_launch_are_one_strike() -> None:
    group = group_of(unit(1), unit(2), unit(3))
    for _ in range(5):
        assert not group.strike("r1", TROUBLE, 0.0)
    assert not group.strike("r2", TROUBLE, 0.0)
    assert group.strike("r3", TROUBLE, 0.0)


def test_a_worker_that_joins_wipes_the_strikes_out() -> None:
    group = group_of(unit(1))
    group.strike("r8", TROUBLE, 0.0)
    group.strike("r9", TROUBLE, 0.0)
    group.look(None, workers(unit(1)), 1.0)

    assert not group.strike("r10", TROUBLE, 2.0)


def test_a_setback_never_shortens_the_wait_after_another() -> None:
    group = group_of(unit(1))
    group.look(None, workers(unit(1)), 1.0)
    group.strike("r2", TROUBLE, 1.0)
    group.strike("r3", TROUBLE, 1.0)
    wait = group.retry_at
    group.look(None, NOBODY, 1.5)  # the first young death costs no wait

    assert group.retry_at == wait > 1.5


@given(st.lists(st.integers(0, 200), max_size=20))
def test_waits_grow_but_not_for_ever(failures: list[int]) -> None:
    policy = RetryPolicy(delay=0.5, longest_delay=60)
    waits = [policy.back_off(n) for n in sorted(failures)]

    assert waits == sorted(waits)
    assert all(0 <= wait <= 60 for wait in waits)


def test_a_healthy_worker_shows_that_workers_can_live() -> None:
    retry = RetryPolicy(young_deaths=2, healthy_after=10)
    group = Group(GroupSpec("gcam"), retry)
    for n in range(1, 4):
        request = f"r{n}"
        group.expect(request, 2)
        group.answer(request, [unit(2 * n, request), unit(2 * n + 1, request)], 20.0 * n)
        group.look(None, workers(unit(2 * n, request), unit(2 * n + 1, request)), 20.0 * n)
        # One of the two dies young, the other lives.
        group.look(None, workers(unit(2 * n + 1, request)), 20.0 * n + 1)
        assert not group.lose(TROUBLE)
        group.look(None, workers(unit(2 * n + 1, request)), 20.0 * n + 12)

    for n in range(4, 6):
        request = f"r{n}"
        group.expect(request, 1)
        group.answer(request, [unit(2 * n, request)], 20.0 * n)
        group.look(None, workers(unit(2 * n, request)), 20.0 * n)
        group.look(None, NOBODY, 20.0 * n + 1)
    assert group.lose(TROUBLE)


def test_a_worker_that_came_and_left_between_two_looks_is_no_failed_start() -> None:
    group = group_of(unit(1))
    gone = seen(1.0, UnitState(unit(1), Phase.GONE, Reason.EXITED))

    assert fates(group.look(gone, Report(removed=["gcam-1"]), 1.0)) == [Fate.LOST]
    assert not group.lose(TROUBLE)
    assert group.retry_at <= 1.0


def died_young(reported: Report = NOBODY) -> Group:
    """Make the books of a group that gives up after one young death, and has had one."""
    group = Group(GroupSpec("gcam"), RetryPolicy(young_deaths=1))
    group.expect("r1", 1)
    group.answer("r1", [unit(1)], 0.0)
    group.look(None, workers(unit(1)), 1.0)
    assert fates(group.look(seen(2.0, UnitState(unit(1), Phase.GONE)), reported, 2.0)) == [
        Fate.LOST
    ]
    return group


def test_a_death_counts_although_the_scheduler_has_not_noticed_it() -> None:
    assert died_young(reported=workers(unit(1))).lose(TROUBLE)


@pytest.mark.parametrize("reason", [Reason.CANCELLED, Reason.NODE_FAILURE, Reason.PREEMPTED])
def test_a_death_that_others_brought_about_says_nothing_of_the_group(reason: Reason) -> None:
    group = died_young()
    assert not group.lose(Explanation(reason, "it was taken away"))
    assert group.lose(TROUBLE)


def test_young_deaths_are_forgiven_with_the_group() -> None:
    group = died_young()
    group.forgive()
    assert not group.lose(TROUBLE)


def test_the_least_useful_go_first() -> None:
    group = group_of(*map(unit, range(1, 6)))
    states = [UnitState(unit(1), Phase.PENDING, Reason.PRIORITY), *running(*map(unit, range(2, 6)))]
    report = Report(
        {
            "gcam-3": WorkerInfo("running", tasks=1),
            "gcam-4": WorkerInfo("running", tasks=0, results=5),
            "gcam-5": WorkerInfo("running"),
        }
    )
    group.look(seen(1.0, *states), report, 1.0)

    order = [f"gcam-{n}" for n in (1, 2, 5, 4, 3)]
    for wanted in range(6):
        group.wanted = wanted
        assert [member.unit.id for member in group.surplus()] == order[: 5 - wanted]


def test_the_most_useful_are_called_back_first_but_none_that_has_to_go() -> None:
    group = group_of(*map(unit, range(1, 5)))
    states = running(unit(1), unit(2), unit(3))
    states.append(UnitState(unit(4), Phase.RUNNING, seconds_left=1000))
    report = Report({f"gcam-{n}": WorkerInfo("running", tasks=n) for n in range(1, 5)})
    group.look(seen(1.0, *states), report, 1.0)
    for member in group.members.values():
        member.leaving = DrainProgress(Stage.BUSY)
    group.members["gcam-1"].leaving = DrainProgress(Stage.GONE)

    assert [m.unit.id for m in group.recallable(500.0)] == ["gcam-4", "gcam-3", "gcam-2"]
    assert [m.unit.id for m in group.recallable(990.0)] == ["gcam-3", "gcam-2"]


def test_workers_hand_over_before_their_time_is_up() -> None:
    group = group_of(unit(1), unit(2), handover=100)
    states = [
        UnitState(unit(1), Phase.RUNNING, seconds_left=1000),
        UnitState(unit(2), Phase.RUNNING, seconds_left=200),
    ]
    group.look(seen(0.0, *states), workers(unit(1), unit(2)), 0.0)

    def expiring(now: float) -> list[str]:
        return [member.unit.id for member in group.expiring(now)]

    # Never more than a quarter of a unit's time is kept free.
    assert expiring(149.0) == []
    assert expiring(151.0) == ["gcam-2"]
    assert expiring(901.0) == ["gcam-1"]  # each once


def test_its_status_says_what_it_waits_for() -> None:
    group = group_of(unit(1), unit(2), unit(3), wanted=4)
    group.expect("r2", 1)
    queued = UnitState(unit(1), Phase.PENDING, Reason.QUOTA, "QOSMaxCpuPerUserLimit")
    group.look(seen(1.0, queued, *running(unit(2), unit(3))), workers(unit(3)), 1.0)
    status = group.status()

    assert (status.pending, status.starting, status.running, status.draining) == (2, 1, 1, 0)
    assert (status.reason, status.detail) == (Reason.QUOTA, "QOSMaxCpuPerUserLimit")
    assert status.workers == ("gcam-3",)


def test_its_status_says_what_keeps_draining_workers() -> None:
    group = group_of(unit(1), unit(2))
    group.look(seen(1.0, *running(unit(1), unit(2))), workers(unit(1), unit(2)), 1.0)
    group.members["gcam-1"].leaving = DrainProgress(Stage.HOLDING, 3)
    group.members["gcam-2"].leaving = DrainProgress(Stage.MOVING, 5)
    status = group.status()

    assert (status.running, status.draining, status.holding) == (0, 2, 3)
    assert (status.reason, status.detail) == (None, "")


def test_a_group_that_is_tried_again_starts_afresh() -> None:
    group = group_of(unit(1))
    for request in ("r1", "r2", "r3"):
        group.strike(request, TROUBLE, 50.0)
    group.failure = TROUBLE
    group.forgive()

    assert group.failure is None
    assert group.retry_at == 0.0
    assert not group.strike("r4", TROUBLE, 60.0)
    assert not group.status().failed
