"""The tests with faults fail a backend, a provider or an engine that is taken in by one: a bad one for each."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from scalable.cluster import RetryPolicy, explanations, grouped, launching
from scalable.cluster.member import Member, Observation
from scalable.cluster.native import NativeCalls
from scalable.cluster.port import (
    Backend,
    Explanation,
    GroupSpec,
    LaunchResult,
    Leftover,
    Reason,
    Unit,
    UnitState,
)
from scalable.errors import ClusterClosedError, GroupTimeoutError, LaunchError
from scalable.providers.base import ClusterHandle, DeploymentProvider, ScalePlan
from scalable.providers.common import BaseProvider
from scalable.testing.conformance import ProviderConformance
from scalable.testing.fakes import FakeProvider


class Plain(FakeProvider):
    """Leaves it to the suite to find what is wrong."""

    def close(self, cluster: ClusterHandle) -> None:
        BaseProvider.close(self, cluster)


class Suite(ProviderConformance):
    __test__ = False
    timeout: ClassVar = 60.0
    manifest = """
        version: 1
        project: {name: conformance}
        targets: {here: {provider: fake}}
        components: {alpha: {}, beta: {slots: 2}}
    """

    def __init__(self, provider: FakeProvider | None = None) -> None:
        self.provider = provider or Plain()

    def make_provider(self) -> DeploymentProvider:
        return self.provider

    def leftovers(self) -> Sequence[str]:
        return self.provider.leftovers()


class ImpatientSuite(Suite):
    """For what would never happen."""

    __test__ = False
    timeout: ClassVar = 5.0


def failing(match: str, *errors: type[Exception]) -> AbstractContextManager[Any]:
    """Expect a failed assertion, or one of these errors, with a text that tells where the suite has noticed it."""
    return pytest.raises((AssertionError, pytest.fail.Exception, *errors), match=match)


class Changed:
    """A backend that does all as another one does."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    async def launch(
        self, group: GroupSpec, n: int, request_id: str
    ) -> LaunchResult | Sequence[Unit]:
        return await self.backend.launch(group, n, request_id)

    async def observe(self) -> Mapping[str, UnitState]:
        return await self.backend.observe()

    async def stop(self, units: Sequence[Unit]) -> None:
        await self.backend.stop(units)

    async def describe(self, unit: Unit) -> Explanation:
        return await self.backend.describe(unit)

    async def sweep(self) -> Sequence[Leftover]:
        return await self.backend.sweep()


Use = Callable[..., None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Return a function that builds clusters with a changed backend, or with other options."""
    start = grouped.GroupedCluster.__init__

    def use(changed: type[Changed] = Changed, **changes: Any) -> None:
        def init(self: Any, host: Any, backend: Backend, *args: Any, **options: Any) -> None:
            start(self, host, changed(backend), *args, **{**options, **changes})

        monkeypatch.setattr(grouped.GroupedCluster, "__init__", init)

    return use


def test_without_a_change_the_suite_passes(use: Use) -> None:
    use()
    Suite().test_a_launch_whose_answer_is_lost_creates_nothing_twice()


# -- Launches


def test_who_waits_for_ever_after_a_part_of_a_launch_fails(use: Use) -> None:
    use(retry=RetryPolicy(delay=1e6, max_delay=1e6))
    with failing("the rest is requested again"):
        ImpatientSuite().test_what_a_launch_did_not_give_is_requested_again()


def test_who_shows_no_reason_for_missing_capacity_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = Explanation(Reason.UNKNOWN, "it failed")
    monkeypatch.setattr(explanations, "explain_shortfall", lambda *_: silent)
    monkeypatch.setattr(explanations, "explain_launch_error", lambda _: silent)
    with failing("the reason why a worker is missing is shown"):
        ImpatientSuite().test_what_a_launch_did_not_give_is_requested_again()


def test_a_backend_that_creates_more_than_it_is_asked_for_fails(use: Use) -> None:
    class Generous(Changed):
        async def launch(
            self, group: GroupSpec, n: int, request_id: str
        ) -> LaunchResult | Sequence[Unit]:
            answer = await self.backend.launch(group, n + 1, request_id)
            assert isinstance(answer, LaunchResult)
            return replace(answer, units=answer.units[:n])

    use(Generous)
    with failing(r"assert 2 == 4|assert \(2 == 4|not within 5 s"):
        ImpatientSuite().test_what_a_launch_did_not_give_is_requested_again()


def test_who_tries_again_what_is_refused_for_good_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "LaunchRefusedError", ZeroDivisionError)
    with failing("to be tried again: this account may not", GroupTimeoutError):
        ImpatientSuite().test_a_launch_that_is_refused_for_now_passes_and_one_refused_for_good_does_not()


def test_who_gives_up_on_what_is_refused_for_now_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "LaunchRefusedError", LaunchError)
    with failing("the launch is tried again"):
        ImpatientSuite().test_a_launch_that_is_refused_for_now_passes_and_one_refused_for_good_does_not()


def test_a_backend_that_starts_a_request_twice_fails(use: Use) -> None:
    class Forgetful(Changed):
        async def launch(
            self, group: GroupSpec, n: int, request_id: str
        ) -> LaunchResult | Sequence[Unit]:
            return await self.backend.launch(group, n, uuid.uuid4().hex)

    use(Forgetful)
    with failing("alpha has 2 workers"):
        ImpatientSuite().test_a_launch_whose_answer_is_lost_creates_nothing_twice()


def test_a_backend_that_shows_phases_as_text_fails(use: Use) -> None:
    class Wordy(Changed):
        async def observe(self) -> Mapping[str, UnitState]:
            seen = await self.backend.observe()
            return {
                name: replace(state, phase=str(state.phase))  # type: ignore[arg-type]
                for name, state in seen.items()
            }

    use(Wordy)
    with failing("with the phase 'running', which is no Phase"):
        ImpatientSuite().test_answers_are_what_the_port_says()


def test_a_backend_that_returns_names_for_units_fails(use: Use) -> None:
    class Naming(Changed):
        async def launch(
            self, group: GroupSpec, n: int, request_id: str
        ) -> LaunchResult | Sequence[Unit]:
            answer = await self.backend.launch(group, n, request_id)
            assert isinstance(answer, LaunchResult)
            return [unit.id for unit in answer.units]  # type: ignore[misc]

    use(Naming)
    with failing(r"launch\(\) returned a sequence with 'alpha-1', which is no Unit"):
        ImpatientSuite().test_answers_are_what_the_port_says()


def test_who_launches_one_group_after_the_other_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NativeCalls, "is_launching", lambda self, tag: bool(self._launches))
    with failing("beta", GroupTimeoutError):
        ImpatientSuite().test_a_launch_under_way_holds_up_no_other_group_and_leaves_nothing_at_close()


def test_a_sweep_that_knows_only_what_was_observed_fails(use: Use) -> None:
    existing: set[str] = set()

    class Unaware(Changed):
        async def launch(
            self, group: GroupSpec, n: int, request_id: str
        ) -> LaunchResult | Sequence[Unit]:
            answer = await self.backend.launch(group, n, request_id)
            assert isinstance(answer, LaunchResult)
            existing.update(unit.id for unit in answer.units)
            return LaunchResult(unnamed=len(answer.units))

        async def observe(self) -> Mapping[str, UnitState]:
            seen = await self.backend.observe()
            self.seen = set(seen)
            return seen

        async def sweep(self) -> Sequence[Leftover]:
            existing.difference_update(self.seen)
            return await self.backend.sweep()

    class Native(Plain):
        def leftovers(self) -> list[str]:
            return [*super().leftovers(), *sorted(existing)]

    use(Unaware)
    with failing("'alpha-1', 'alpha-2'"):
        Suite(
            Native()
        ).test_a_launch_under_way_holds_up_no_other_group_and_leaves_nothing_at_close()


def test_a_backend_whose_thread_creates_something_after_the_end_fails(use: Use) -> None:
    closed = threading.Event()
    threads: list[threading.Thread] = []
    made: list[str] = []

    class Unguarded(Changed):
        launches = 0

        async def launch(
            self, group: GroupSpec, n: int, request_id: str
        ) -> LaunchResult | Sequence[Unit]:
            self.launches += 1
            if self.launches > 1:
                threads.append(threading.Thread(target=self.create, args=(request_id,)))
                threads[-1].start()
                while threads[-1].is_alive():
                    await asyncio.sleep(0.01)
            return await self.backend.launch(group, n, request_id)

        def create(self, request_id: str) -> None:
            closed.wait(60)
            made.append(request_id)

    class Native(Plain):
        def close(self, cluster: ClusterHandle) -> None:
            super().close(cluster)
            closed.set()
            for thread in threads:
                thread.join()

        def leftovers(self) -> list[str]:
            return [*super().leftovers(), *made]

    use(Unguarded)
    with failing("abandoned-"):
        Suite(Native()).test_a_launch_that_was_given_up_creates_nothing_after_close()


# -- Observations


def test_who_does_not_say_that_it_cannot_observe_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = Explanation(Reason.NETWORK, "")
    monkeypatch.setattr(explanations, "explain_failed_observation", lambda _: silent)
    with failing("the group says that it is not observed"):
        ImpatientSuite().test_observations_that_fail_are_told_and_replace_nothing()


def test_who_never_observes_again_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def interval(self: NativeCalls) -> float:
        return float("inf") if self._failed_observations else self.poll

    monkeypatch.setattr(NativeCalls, "_observation_interval", property(interval))
    with failing("the group is observed again"):
        ImpatientSuite().test_observations_that_fail_are_told_and_replace_nothing()


@pytest.fixture
def credulous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a unit for gone as soon as an observation does not show it."""

    def is_vanished(self: Member, seen: Observation, _: float, __: float) -> bool:
        return self.launched < seen.asked_at

    monkeypatch.setattr(Member, "_is_vanished", is_vanished)


@pytest.mark.usefixtures("credulous")
def test_who_replaces_workers_that_are_not_shown_fails() -> None:
    with failing("workers|alpha"):
        Suite().test_observations_that_omit_workers_lose_none()


@pytest.mark.usefixtures("credulous")
def test_who_launches_again_what_a_stale_answer_does_not_show_fails() -> None:
    with failing("another launch|assert|alpha has 2 workers"):
        ImpatientSuite().test_stale_observations_launch_nothing()


# -- The number of calls


def test_a_provider_that_launches_one_by_one_fails() -> None:
    class Pedantic(Plain):
        def scale(self, cluster: ClusterHandle, plan: ScalePlan) -> None:
            for tag, count in plan.workers_by_tag.items():
                for n in range(1, count + 1):
                    super().scale(cluster, ScalePlan({tag: n}))
                    cluster.backend.wait_for_group(tag, n, timeout=60)

    with failing(r"2 <= \(-\(-2 // 2\) \+ 0\)"):
        Suite(Pedantic()).test_native_calls_are_few()


def test_who_observes_twice_a_turn_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    observe = NativeCalls.observe

    async def twice(self: NativeCalls, busy: bool, *, steady: bool) -> Observation | None:
        seen = await observe(self, busy, steady=steady)
        return seen and Observation(await self.backend.observe(), seen.asked_at)

    monkeypatch.setattr(NativeCalls, "observe", twice)
    with failing("2 == 1"):
        Suite().test_native_calls_are_few()


def test_a_provider_that_asks_all_the_time_fails() -> None:
    class Curious(Plain):
        def scale(self, cluster: ClusterHandle, plan: ScalePlan) -> None:
            super().scale(cluster, plan)
            threading.Thread(target=self.ask, args=(cluster,)).start()

        def ask(self, cluster: ClusterHandle) -> None:
            with suppress(ClusterClosedError):
                while True:
                    cluster.backend.logs()
                    time.sleep(0.01)

    with failing("describe"):
        Suite(Curious()).test_native_calls_are_few()


def test_a_provider_that_stops_group_by_group_fails() -> None:
    class Slow(Plain):
        def close(self, cluster: ClusterHandle) -> None:
            for tag in [] if cluster.backend.status.name == "closed" else ["alpha", "beta"]:
                cluster.backend.scale_groups({tag: 0})
                deadline = time.monotonic() + 60
                while cluster.backend.groups[tag].running + cluster.backend.groups[tag].draining:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
            super().close(cluster)

    with failing(r"\[2, 1\] == \[3\]|\[1, 1, 1\] == \[3\]"):
        Suite(Slow()).test_native_calls_are_few()
