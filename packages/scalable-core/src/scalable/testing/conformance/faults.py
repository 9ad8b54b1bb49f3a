"""Tests of a native system whose answers are uncertain: partial, refused, late, lost, false or missing.

A `scalable.testing.faults.FaultyBackend` stands between the provider's backend and the engine, so that the units are
real and the faults are the same for every provider.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from scalable.cluster.port import Explanation, Reason
from scalable.errors import GroupFailedError, LaunchError, LaunchRefusedError
from scalable.providers.base import ScalePlan
from scalable.testing.conformance.base import SuiteBase
from scalable.testing.conformance.running import (
    Running,
    by_value,
    logged_nap,
    square,
    starts,
    worker_infos,
)
from scalable.testing.faults import NO_CAPACITY, FaultyBackend, faulty_backends

__all__ = ["FaultTests"]

_LATER = Explanation(Reason.QUOTA, "the account has as many machines as it may have")
_TELLS_OF_ANSWER = re.compile(r"(launch|observe|describe|sweep)\(\) (of|returned|shows) ")
_NEVER = Explanation(Reason.REFUSED, "this account may not have such machines")


class FaultTests(SuiteBase):
    """What a provider and the engine make of answers that are uncertain."""

    @contextmanager
    def uncertain(self, *, quick: bool = True) -> Iterator[tuple[Running, FaultyBackend]]:
        """Build a cluster, whose native system has the faults that the test sets.

        Parameters
        ----------
        quick : bool
            Whether the engine takes more turns and observes more often than the provider has specified.
        """
        with faulty_backends(quick=quick) as made, self.cluster() as running:
            (native,) = made
            try:
                yield running, native
            finally:
                native.heal()

    # -- Launches

    def test_what_a_launch_did_not_give_is_requested_again(self) -> None:
        with self.uncertain() as (running, native):
            native.capacity = 1
            _request(running, ScalePlan({"alpha": 2, "beta": 0}, max_workers=2))
            running.until(lambda: native.launches("alpha") > 1, "the rest is requested again")
            running.until(
                lambda: running.backend.groups["alpha"].reason is Reason.CAPACITY,
                "the reason why a worker is missing is shown",
            )
            shown, why = running.backend.groups["alpha"], running.backend.explain()["alpha"]
            assert (shown.failed, why.reason) == (False, Reason.CAPACITY)
            assert NO_CAPACITY.summary in shown.detail
            native.capacity = None
            running.backend.wait_for_group("alpha", 2, timeout=self.timeout)
            _look(running, native, 1)
            assert native.created_units("alpha") == len(native.shown_units("alpha")) == 2

    def test_a_launch_that_is_refused_for_now_passes_and_one_refused_for_good_does_not(
        self,
    ) -> None:
        with self.uncertain() as (running, native):
            native.launch_errors = {
                "alpha": LaunchRefusedError(_NEVER.summary, _NEVER),
                "beta": LaunchError(_LATER.summary, _LATER),
            }
            _request(running, ScalePlan({"alpha": 1, "beta": 1}))
            with pytest.raises(GroupFailedError, match=_NEVER.summary):
                running.backend.wait_for_group("alpha", timeout=self.timeout)
            running.until(lambda: native.launches("beta") > 1, "the launch is tried again")
            shown, why = running.backend.groups["beta"], running.backend.explain()["beta"]
            assert (shown.failed, shown.reason, why.reason) == (False, Reason.QUOTA, Reason.QUOTA)
            assert _LATER.summary in shown.detail
            native.launch_errors = {}
            running.backend.wait_for_group("beta", timeout=self.timeout)
            assert (native.launches("alpha"), native.created_units("alpha")) == (1, 0)
            running.scale(alpha=1)

    def test_a_launch_whose_answer_is_lost_creates_nothing_twice(self) -> None:
        with self.uncertain() as (running, native):
            native.lost_answers = 1
            running.scale(alpha=2)
            _look(running, native, 2)
            assert len(native.shown_units("alpha")) == 2
            with running.client() as client:
                assert len(worker_infos(client)) == 2

    def test_a_launch_under_way_holds_up_no_other_group_and_leaves_nothing_at_close(self) -> None:
        with self.uncertain() as (running, native), ThreadPoolExecutor() as thread:
            native.held = {"alpha"}
            _request(running, ScalePlan({"alpha": 2, "beta": 1}))
            running.backend.wait_for_group("beta", timeout=self.timeout)
            assert running.backend.groups["alpha"].pending == 2
            assert (native.launches("alpha"), native.created_units("alpha")) == (1, 0)
            closing = thread.submit(running.provider.close, running.handle)
            try:
                running.until(lambda: running.backend.status.name != "running", "closing has begun")
            finally:
                native.held = ()
            closing.result(self.timeout)
            assert native.created_units("alpha") == 2
            assert list(self.leftovers()) == []

    def test_a_launch_that_was_given_up_creates_nothing_after_close(self) -> None:
        with self.uncertain() as (running, native):
            _request(running, ScalePlan({"alpha": 1, "beta": 0}))
            running.until(lambda: native.created_units("alpha"), "a launch is answered")
            native.abandoned = {"alpha": 1}
            running.provider.close(running.handle)
            deadline = time.monotonic() + 1.0 + 2.0 * native.longest_launch
            while time.monotonic() < deadline:
                assert list(self.leftovers()) == []
                time.sleep(0.1)

    # -- Observations

    def test_observations_that_fail_are_told_and_replace_nothing(self) -> None:
        with self.uncertain() as (running, native), running.client() as client:
            running.scale(alpha=1)
            before = running.backend.groups["alpha"].workers
            native.observe_error = OSError("the gateway does not answer")
            _look(running, native, 1)
            running.until(
                lambda: "the gateway" in running.backend.groups["alpha"].detail,
                "the group says that it is not observed",
            )
            assert "the gateway" in running.backend.explain()["alpha"].summary
            assert client.submit(by_value(square), 3, tag="alpha").result(self.timeout) == 9
            assert running.backend.groups["alpha"].workers == before
            native.observe_error = None
            running.until(
                lambda: running.backend.groups["alpha"].reason is None,
                "the group is observed again",
            )
            assert running.backend.groups["alpha"].workers == before
            assert native.launches("alpha") == 1

    def test_observations_that_omit_workers_lose_none(self) -> None:
        with self.uncertain() as (running, native), running.client() as client:
            running.scale(alpha=1, beta=1)
            # A worker may have failed to start before.
            launches = [native.launches(tag) for tag in ("alpha", "beta")]
            before = {tag: group.workers for tag, group in running.backend.groups.items()}
            first = client.submit(by_value(logged_nap), 2.0, 1, tag="alpha")
            running.until(lambda: starts(client), "a task is under way")
            native.hidden = before["alpha"]
            _look(running, native, 1)
            native.hidden = ()
            assert first.result(self.timeout) == 2.0
            second = client.submit(by_value(logged_nap), 2.0, 2, tag="alpha")
            running.until(lambda: 2 in starts(client), "another task is under way")
            native.empty = True
            _look(running, native, 3)
            native.empty = False
            assert second.result(self.timeout) == 2.0
            _look(running, native, 1)
            assert starts(client) == [1, 2]
            assert {tag: group.workers for tag, group in running.backend.groups.items()} == before
            assert [native.launches(tag) for tag in ("alpha", "beta")] == launches

    def test_stale_observations_launch_nothing(self) -> None:
        with self.uncertain() as (running, native):
            running.scale(alpha=1)
            _look(running, native, 1)
            native.stale = one = native.answer
            _request(running, ScalePlan({"alpha": 2, "beta": 0}))
            running.until(lambda: native.launches("alpha") == 2, "another launch is made")
            _look(running, native, 2)
            native.stale = None
            running.scale(alpha=2)
            _look(running, native, 1)
            two, native.stale = native.answer, one
            _look(running, native, 1)
            assert running.backend.groups["alpha"].running == 2
            native.stale = two
            _request(running, ScalePlan({"alpha": 1, "beta": 0}))
            running.until(lambda: native.counts["stop"], "the surplus worker is stopped")
            _look(running, native, 1)
            assert running.backend.groups["alpha"].running == 1
            assert native.created_units("alpha") == native.launches("alpha") == 2

    # -- Answers

    def test_answers_are_what_the_port_says(self) -> None:
        with self.uncertain() as (running, native):
            running.scale(alpha=1)
            _look(running, native, 1)
            told = [event.text for event in running.backend.events]
            assert [text for text in told if _TELLS_OF_ANSWER.search(text)] == []

    # -- The number of calls

    def test_native_calls_are_few(self) -> None:
        with self.uncertain(quick=False) as (running, native):
            running.scale(alpha=2, beta=1)
            for tag, wanted in (("alpha", 2), ("beta", 1)):
                most = native.groups[tag].max_launch or wanted
                # Of a worker that failed to start, each replacement may be a launch.
                replaced = native.created_units(tag) - wanted
                assert native.launches(tag) <= -(-wanted // most) + replaced
            before, turns = native.counts, native.turns
            running.until(lambda: native.turns >= turns + 5, "some turns are taken")
            assert set(native.counts - before) <= {"observe"}
            assert _most_in_one_turn(native, "observe") == 1
            running.provider.close(running.handle)
            assert [call.units for call in native.calls if call.name == "stop"] == [3]
            assert native.counts["sweep"] == 1


def _request(running: Running, plan: ScalePlan) -> None:
    """Scale through the provider, and do not wait."""
    running.provider.scale(running.handle, plan)


def _look(running: Running, native: FaultyBackend, times: int) -> None:
    """Wait until the engine has observed the native system so often, and has drawn its conclusions."""
    # One that is under way may have begun before a fault was set.
    enough = native.counts["observe"] + times
    running.until(lambda: native.answered >= enough, f"{times} observations are made")
    turns = native.turns
    running.until(lambda: native.turns >= turns + 2, "another turn is taken")


def _most_in_one_turn(native: FaultyBackend, name: str) -> int:
    turns = [call.turn for call in native.calls if call.name == name]
    return max(map(turns.count, turns), default=0)
