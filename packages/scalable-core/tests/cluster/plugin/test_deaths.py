"""Whose fault the death of a worker is, on real schedulers and workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import pytest
from distributed import Event, Future, KilledWorker, get_client, get_worker, secede
from hypothesis import given
from hypothesis import strategies as st
from task_functions import wait_at_gate

from scalable.cluster.plugin.dask_internals import run_alone
from scalable.cluster.plugin.deaths import find_suspects
from scalable.cluster.port import Explanation, Reason
from scalable.errors import WorkerDiedError

if TYPE_CHECKING:
    from cluster.plugin.conftest import Rig

Until = Callable[..., None]

CRASH = Explanation(Reason.EXITED, "its process crashed with SIGSEGV", "SIGSEGV", "last words")
PREEMPTION = Explanation(Reason.PREEMPTED, "its node was needed")


starts: list[str] = []
"""A line for each start of `count_and_wait_at_gate`, all of them in this process."""


def count_and_wait_at_gate() -> Any:
    starts.append(get_worker().name)
    return wait_at_gate()


def secede_and_wait_at_gate() -> Any:
    secede()
    return wait_at_gate()


def wait_at_other_gate(x: Any) -> Any:
    Event("other gate").wait()
    return x


def run_child() -> Any:
    client = get_client()
    child = client.submit(wait_at_gate, key="child", resources={"b-c": 1})
    secede()
    return child.result()


def kill_while_running(
    rig: Rig,
    until: Until,
    keys: Collection[str],
    *,
    tag: str = "a",
    why: Explanation | None = CRASH,
) -> str:
    """Let a worker of the group die as soon as it executes these tasks; return its name."""
    (name,) = rig.add(tag)
    until(lambda: {ts.key for ts in rig.worker(name).state.executing} >= {*keys})
    until(lambda: rig.running() >= {*keys})
    rig.close(name)
    until(lambda: name not in rig.report().workers)
    if why is not None:
        rig.run(rig.link.explain_deaths({name: why}))
    return name


def test_the_task_that_ran_ends_in_the_reason_and_the_others_do_not(
    rig: Rig, gate: Event, until: Until
) -> None:
    running = rig.client.submit(wait_at_gate, key="running", resources={"a": 1}, priority=1)
    waiting = rig.client.map(wait_at_gate, range(5), resources={"a": 1})
    names = [kill_while_running(rig, until, ["running"]) for _ in range(4)]
    with pytest.raises(WorkerDiedError, match="crashed with SIGSEGV") as caught:
        running.result(timeout=30)
    assert isinstance(caught.value, KilledWorker)
    assert caught.value.task == "running"
    assert caught.value.workers == (*names,)
    assert caught.value.explanation == CRASH
    gate.set()
    rig.add("a")
    assert rig.client.gather(waiting) == [*range(5)]
    assert rig.scheduler.task_prefixes["wait_at_gate"].suspicious == 0
    # It can be tried again, as any task that has failed.
    rig.client.retry(running)
    assert running.result(timeout=30) is None


class EndsWhoPicklesIt:
    """A result that is being pickled until the test has ended the worker."""

    begun = threading.Event()
    ended = threading.Event()

    def __reduce__(self) -> Any:
        self.begun.set()
        self.ended.wait(30)
        return EndsWhoPicklesIt, ()


def lose_result(rig: Rig, until: Until, key: str) -> str:
    """Let a worker die that runs nothing and has a result; return its name."""
    (name,) = rig.add("a")
    # The scheduler may not know the task yet, which has just been submitted.
    until(lambda: key in rig.scheduler.tasks and rig.scheduler.tasks[key].state == "memory")
    rig.close(name)
    until(lambda: name not in rig.report().workers)
    rig.run(rig.link.explain_deaths({name: CRASH}))
    return name


def test_a_task_whose_result_ends_who_pickles_it_is_the_culprit(rig: Rig, until: Until) -> None:
    """Nothing runs when that happens for the first time; later, it is pickled while its task runs alone."""
    EndsWhoPicklesIt.begun.clear()
    EndsWhoPicklesIt.ended.clear()
    future = rig.client.submit(EndsWhoPicklesIt, key="made", resources={"a": 1})
    lose_result(rig, until, "made")
    names = [lose_result(rig, until, "made")]
    for _ in range(3):
        (name,) = rig.add("a")
        until(EndsWhoPicklesIt.begun.is_set)
        EndsWhoPicklesIt.begun.clear()
        assert rig.scheduler.tasks["made"].state == "processing"
        rig.close(name)
        until(lambda name=name: name not in rig.report().workers)
        rig.run(rig.link.explain_deaths({name: CRASH}))
        names.append(name)
    with pytest.raises(WorkerDiedError, match="crashed with SIGSEGV") as caught:
        future.result(timeout=30)
    assert caught.value.workers == (*names,)
    EndsWhoPicklesIt.ended.set()


class CountsPickles:
    pickled = 0

    def __reduce__(self) -> Any:
        type(self).pickled += 1
        return CountsPickles, ()


def test_a_result_that_was_pickled_without_harm_is_no_reason(rig: Rig, until: Until) -> None:
    CountsPickles.pickled = 0
    future = rig.client.submit(CountsPickles, key="made", resources={"a": 1})
    tried = []
    for _ in range(5):
        lose_result(rig, until, "made")
        tried.append(CountsPickles.pickled)
    assert tried == [0, 0, 1, 1, 1]
    rig.add("a")
    assert type(future.result(timeout=30)) is CountsPickles


def test_a_task_that_ran_is_suspected_whatever_is_more_urgent(
    rig: Rig, gate: Event, until: Until
) -> None:
    (name,) = rig.add("a")
    running = rig.client.submit(wait_at_gate, key="running", resources={"a": 1})
    until(lambda: "running" in rig.running())
    urgent = rig.client.map(wait_at_gate, range(5), resources={"a": 1}, priority=10)
    until(lambda: rig.report().workers[name].tasks == 6)
    rig.close(name)
    until(lambda: not rig.report().workers)
    rig.run(rig.link.explain_deaths({name: CRASH}))
    assert rig.scheduler.tasks["running"].suspicious == 1
    assert not any(rig.scheduler.tasks[future.key].suspicious for future in urgent)
    gate.set()
    rig.add("a")
    rig.client.gather([running, *urgent])


def test_deaths_from_outside_are_held_against_nobody(rig: Rig, gate: Event, until: Until) -> None:
    running = rig.client.submit(wait_at_gate, 1, key="running", resources={"a": 1})
    for _ in range(6):
        kill_while_running(rig, until, ["running"], why=PREEMPTION)
    gate.set()
    rig.add("a")
    assert running.result(timeout=30) == 1


def test_a_task_in_very_many_deaths_from_outside_is_given_up(
    rig: Rig, gate: Event, until: Until
) -> None:
    running = rig.client.submit(wait_at_gate, 1, key="running", resources={"a": 1})
    for _ in range(16):
        kill_while_running(rig, until, ["running"], why=PREEMPTION)
    with pytest.raises(WorkerDiedError, match="each of 16 attempts: its node was needed"):
        running.result(timeout=30)
    gate.set()


def test_a_task_that_may_be_given_up_waits_for_the_reason(
    rig: Rig, gate: Event, until: Until
) -> None:
    rig.client.submit(wait_at_gate, key="running", resources={"a": 1})
    future = rig.client.submit(wait_at_gate, 1, key="running", resources={"a": 1})
    for _ in range(3):
        kill_while_running(rig, until, ["running"])
    last = kill_while_running(rig, until, ["running"], why=None)
    (idle,) = rig.add("a")
    rig.run(rig.ticks(3))
    assert rig.scheduler.tasks["running"].state == "no-worker"
    assert rig.report().deaths == {last: False}
    rig.run(rig.link.explain_deaths({last: PREEMPTION}))
    until(lambda: rig.worker(idle).state.executing)
    assert not rig.report().deaths
    gate.set()
    future.result(timeout=30)


def test_a_reason_that_does_not_come_is_not_waited_for_forever(
    rig: Rig, gate: Event, until: Until
) -> None:
    rig.plugin.deaths.max_wait = 0.2
    future = rig.client.submit(wait_at_gate, key="running", resources={"a": 1})
    for _ in range(4):
        kill_while_running(rig, until, ["running"], why=None)
    with pytest.raises(WorkerDiedError, match="no reason is known"):
        future.result(timeout=30)


def test_retries_are_further_attempts(rig: Rig, gate: Event, until: Until) -> None:
    future = rig.client.submit(wait_at_gate, key="running", resources={"a": 1}, retries=2)
    for _ in range(6):
        kill_while_running(rig, until, ["running"])
    with pytest.raises(WorkerDiedError) as caught:
        future.result(timeout=30)
    assert caught.value.attempts == 6


def test_of_several_that_ran_only_the_culprit_ends(rig: Rig, gate: Event, until: Until) -> None:
    """Both are suspected; each then runs alone, and the innocent one finishes."""
    culprit = rig.client.submit(wait_at_gate, key="culprit", resources={"b-c": 1})
    innocent = rig.client.submit(wait_at_other_gate, 1, key="innocent", resources={"b-c": 1})
    kill_while_running(rig, until, ["culprit", "innocent"], tag="b-c")
    Event("other gate", client=rig.client).set()
    for _ in range(3):
        (name,) = rig.add("b-c")
        until(lambda: [*rig.plugin.deaths._alone.values()] == ["culprit"])
        until(lambda: rig.running() == {"culprit"})
        rig.close(name)
        until(lambda: rig.report().deaths)
        rig.run(rig.link.explain_deaths({name: CRASH}))
    with pytest.raises(WorkerDiedError) as caught:
        culprit.result(timeout=30)
    assert caught.value.attempts == 4
    rig.add("b-c")
    assert innocent.result(timeout=30) == 1


def test_a_task_that_must_wait_does_not_start_on_a_free_worker(
    rig: Rig, gate: Event, until: Until
) -> None:
    """Dask assigns it to another worker at once; it is taken back before that has started it."""
    starts.clear()
    future = rig.client.submit(count_and_wait_at_gate, key="running", resources={"a": 1})
    for n in range(1, 5):
        rig.add("a", "a")
        until(rig.running)
        until(lambda n=n: len(starts) == n)
        name = str(rig.scheduler.tasks["running"].processing_on.name)
        rig.close(name)
        until(lambda: rig.report().deaths)
        if n < 4:
            rig.run(rig.link.explain_deaths({name: CRASH}))
    rig.run(rig.ticks(3))
    assert len(starts) == 4
    rig.run(rig.link.explain_deaths({name: CRASH}))
    with pytest.raises(WorkerDiedError):
        future.result(timeout=30)
    assert len(starts) == 4


def test_a_death_without_a_record_counts_once_it_is_known_whose_it_was(
    rig: Rig, gate: Event, until: Until
) -> None:
    """The reports of the starts were lost with the first worker; the other task is no longer there since."""
    culprit = rig.client.submit(wait_at_gate, key="culprit", resources={"b-c": 1})
    innocent = rig.client.submit(wait_at_other_gate, 1, key="innocent", resources={"b-c": 1})
    (name,) = rig.add("b-c")
    until(lambda: rig.running() == {"culprit", "innocent"})
    rig.plugin.deaths._running.clear()
    rig.close(name)
    until(lambda: rig.report().deaths)
    rig.run(rig.link.explain_deaths({name: CRASH}))
    assert rig.scheduler.tasks["culprit"].suspicious == 0
    innocent.release()
    until(lambda: "innocent" not in rig.scheduler.tasks)
    names = [name]
    for _ in range(3):
        (name,) = rig.add("b-c")
        names.append(name)
        until(lambda: [*rig.plugin.deaths._alone.values()] == ["culprit"])
        until(lambda: rig.running() == {"culprit"})
        rig.close(name)
        until(lambda: rig.report().deaths)
        rig.run(rig.link.explain_deaths({name: CRASH}))
    with pytest.raises(WorkerDiedError) as caught:
        culprit.result(timeout=30)
    assert caught.value.workers == (*names,)


def test_a_suspected_task_does_not_wait_for_one_that_has_seceded(
    rig: Rig, gate: Event, until: Until
) -> None:
    rig.add("a", "b-c")
    seceded = rig.client.submit(secede_and_wait_at_gate, key="seceded", resources={"b-c": 1})
    until(lambda: "seceded" in rig.plugin.deaths._seceded)
    before = rig.client.submit(wait_at_other_gate, 1, key="before", resources={"a": 1})
    suspect = rig.client.submit(wait_at_gate, before, key="suspect", resources={"b-c": 1})
    until(lambda: "suspect" in rig.scheduler.tasks)
    run_alone(rig.scheduler.tasks["suspect"], 60.0)
    Event("other gate", client=rig.client).set()
    until(lambda: [*rig.plugin.deaths._alone.values()] == ["suspect"])
    assert "seceded" in rig.running()
    gate.set()
    rig.client.gather([seceded, suspect])


def test_deaths_by_tasks_that_are_forgotten_are_held_against_the_one_that_submitted_them(
    rig: Rig, gate: Event, until: Until
) -> None:
    parent = rig.client.submit(run_child, key="parent", resources={"b-c": 1})
    for _ in range(4):
        (name,) = rig.add("b-c")
        until(lambda: "child" in rig.running())
        until(lambda: "parent" in rig.plugin.deaths._seceded)
        rig.close(name)
        until(lambda: rig.report().deaths)
        # As if the parent had a client of its own, which ends with its process.
        rig.client.cancel([Future("child", rig.client)], force=True)
        until(lambda: "child" not in rig.scheduler.tasks)
        rig.run(rig.link.explain_deaths({name: CRASH}))
    with pytest.raises(WorkerDiedError) as caught:
        parent.result(timeout=30)
    assert caught.value.task == "parent"


def test_others_start_again_after_a_suspected_task(rig: Rig, gate: Event, until: Until) -> None:
    tasks = rig.client.map(wait_at_gate, range(20), resources={"b-c": 1})
    (name,) = rig.add("b-c")
    until(lambda: len(rig.running()) == 2)
    rig.close(name)
    until(lambda: rig.report().deaths)
    rig.run(rig.link.explain_deaths({name: CRASH}))
    assert len(rig.plugin.deaths._suspects) == 3
    (name,) = rig.add("b-c")
    until(lambda: rig.plugin.deaths._alone)
    until(lambda: len(rig.worker(name).state.executing) == 2)
    until(rig.running)
    assert len(rig.running()) == 1
    gate.set()
    assert rig.client.gather(tasks) == [*range(20)]
    until(lambda: not rig.plugin.deaths._alone)
    assert not rig.plugin.deaths._suspects


def test_a_worker_without_a_plugin_is_judged_by_its_heartbeat(
    rig: Rig, gate: Event, until: Until
) -> None:
    rig.plugin.deaths.recording_delay = -1.0
    future = rig.client.submit(wait_at_gate, key="running", resources={"a": 1})
    waiting = rig.client.submit(wait_at_gate, 1, key="waiting", resources={"a": 1}, priority=-1)
    for _ in range(4):
        (name,) = rig.add("a")
        until(lambda name=name: rig.worker(name).state.executing)
        rig.plugin.deaths._recording.clear()
        until(lambda name=name: rig.executing(name))
        rig.close(name)
        until(lambda: rig.report().deaths)
        rig.run(rig.link.explain_deaths({name: CRASH}))
    with pytest.raises(WorkerDiedError):
        future.result(timeout=30)
    gate.set()
    rig.add("a")
    assert waiting.result(timeout=30) == 1


KEYS = "abcdefgh"


@given(
    queue=st.permutations(KEYS),
    length=st.integers(0, len(KEYS)),
    running=st.sets(st.sampled_from(KEYS)),
    seceded=st.sets(st.sampled_from(KEYS)),
    alone=st.one_of(st.none(), st.sampled_from(KEYS)),
    slots=st.integers(1, 4),
)
def test_a_culprit_is_named_only_where_no_other_task_can_be(
    queue: list[str],
    length: int,
    running: set[str],
    seceded: set[str],
    alone: str | None,
    slots: int,
) -> None:
    queue = queue[:length]
    suspects = find_suspects(queue, running, seceded & running, alone, slots)
    assert {*suspects.keys} <= {*queue}
    assert {*suspects.running} <= {*suspects.keys}
    assert bool(suspects.keys) == bool(queue)
    if suspects.culprit:
        assert suspects.keys == suspects.culprit
        assert queue == [*suspects.culprit] or suspects.culprit == (alone,)
