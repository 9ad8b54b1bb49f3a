"""Tests of what is left: after a build that failed, and after the end of a cluster."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from scalable.errors import ValidationFailedError
from scalable.providers.base import Owned, Reaps, current_owner
from scalable.testing.conformance.base import ABILITIES, SuiteBase, ability
from scalable.testing.conformance.clients import client_process, expect, let_it_exit
from scalable.testing.conformance.failing import FAILURE, calls_made, failing_call, known_steps
from scalable.testing.conformance.running import Running, by_value, nap, square
from scalable.testing.state import changes, global_state

__all__ = ["EndingTests"]


class EndingTests(SuiteBase):
    """What a build that failed and a cluster that has ended leave, which is nothing."""

    # -- A build that fails

    def test_an_invalid_manifest_builds_nothing(self) -> None:
        with pytest.raises(ValidationFailedError):
            self.make_provider().build_cluster(self.spec(sheep=1))
        assert list(self.leftovers()) == []

    def test_a_failed_build_leaves_nothing_behind(self) -> None:
        own = tuple(self.native_calls())
        with calls_made((*known_steps(), *own)) as calls, self.cluster():
            made = dict(calls)  # without those of the end
        unused = [str(step) for step in own if not made[step]]
        assert not unused, f"native_calls() names what no build calls: {unused}"
        for step, count in made.items():
            for which in sorted({1, count}) if count else ():
                where = f"call {which} of {count} of {step} fails"
                with failing_call(step, which):
                    self._fail_to_build(where)
                assert list(self.leftovers()) == [], f"is left when {where}"

    def _fail_to_build(self, where: str) -> None:
        provider = self.make_provider()
        try:
            handle = provider.build_cluster(self.spec())
        except Exception as error:  # noqa: BLE001 - which class it is, is up to the provider
            message = str(error)
        else:
            provider.close(handle)
            raise AssertionError(f"the build succeeds although {where}")
        assert FAILURE in message, f"the error does not name the cause when {where}"

    # -- The end of a cluster

    def test_close_is_idempotent(self) -> None:
        with self.cluster() as running:
            running.scale(alpha=1)
            running.provider.close(running.handle)
            running.provider.close(running.handle)
            assert list(self.leftovers()) == []

    @ability("interrupt")
    def test_close_ends_running_tasks(self) -> None:
        with self.cluster() as running:
            running.scale(alpha=1)
            with running.client() as client:
                future = client.submit(by_value(nap), 600.0, tag="alpha")
                running.until(lambda: any(client.processing().values()), "the task is under way")
                running.provider.close(running.handle)
                assert future.status in ("cancelled", "lost")

    def test_nothing_that_belongs_to_the_process_is_touched(self) -> None:
        self._use_a_cluster()  # modules that are imported late register this and that
        threads = {*threading.enumerate()}
        before = global_state()
        during = self._use_a_cluster()
        for when, state in (("while the cluster is open", during), ("after", global_state())):
            changed = changes(before, state)
            assert changed == {}, f"{when}: {changed}"
        deadline = time.monotonic() + self.timeout
        while left := [*_threads_of_a_cluster(threads)]:
            assert time.monotonic() < deadline, f"threads do not end: {left}"
            time.sleep(0.1)

    def _use_a_cluster(self) -> dict[str, Any]:
        """Return the state of the process while a cluster is open."""
        with self.cluster() as running:
            running.scale(alpha=1)
            with running.client() as client:
                assert client.submit(by_value(square), 3, tag="alpha").result(self.timeout) == 9
            return (
                global_state()
            )  # without the client, which is made the default of Dask's functions

    # -- The end of a client that does not close its cluster

    def test_a_client_that_exits_without_closing_leaves_nothing(self) -> None:
        with self._client() as client:
            expect(client, "building", "up")
            let_it_exit(client, self.timeout)
            assert list(self.leftovers()) == []

    def test_what_a_killed_client_leaves_ends_or_can_be_reaped(self) -> None:
        self._skip_without_leftovers()
        provider, spec = self.make_provider(), self.spec()
        before = {*provider.list_owned(spec)} if isinstance(provider, Reaps) else set()
        with self._client() as client:
            expect(client, "building", "up")
            client.kill()
            client.wait()
            if isinstance(provider, Reaps):
                left = [item for item in provider.list_owned(spec) if item not in before]
                _check_owned(left, {item.run_id for item in before})
                assert list(provider.reap(spec, left)) == []
            deadline = time.monotonic() + self.timeout
            while (left_over := list(self.leftovers())) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert left_over == [], f"neither ended in {self.timeout:g} s nor reaped: {left_over}"

    def _client(self) -> AbstractContextManager[subprocess.Popen[str]]:
        return client_process(self, self.client_options)

    def _skip_without_leftovers(self) -> None:
        """Skip a test of which nothing is left without `leftovers`."""
        if "leftovers" in self.cannot:
            declared = self.cannot["leftovers"]
            reason = declared if isinstance(declared, str) else declared.reason
            pytest.skip(f"cannot {ABILITIES['leftovers']}: {reason}")

    def test_reaping_does_not_touch_what_was_not_asked_for(self) -> None:
        provider, spec = self.make_provider(), self.spec()
        if not isinstance(provider, Reaps):
            pytest.skip("this provider finds nothing of dead runs")
        before = {*provider.list_owned(spec)}
        with self.cluster() as ours:
            ours.scale(alpha=1)
            our_units = {*provider.list_owned(spec)} - before
            if not our_units:
                pytest.skip("nothing of this provider outlives its client")
            (our_run,) = _check_owned(our_units, {item.run_id for item in before})
            other = Running(provider, provider.build_cluster(spec), self.timeout)
            try:
                other.scale(alpha=1)
                their_units = {*provider.list_owned(spec)} - before - our_units
                _check_owned(their_units, {our_run, *(item.run_id for item in before)})
                assert their_units, "list_owned does not list a second cluster"
                assert list(provider.reap(spec, [*their_units])) == []
                other.until(
                    lambda: not their_units & {*provider.list_owned(spec)}, "reaped units are gone"
                )
            finally:
                provider.close(other.handle)
            with ours.client() as client:
                result = client.submit(by_value(square), 3, tag="alpha").result(self.timeout)
                assert result == 9
            # Asked last: what was reaped by mistake may take a moment to disappear.
            assert ours.backend.groups["alpha"].running == 1
            assert our_units <= {*provider.list_owned(spec)}


def _threads_of_a_cluster(before: Collection[threading.Thread]) -> Iterator[threading.Thread]:
    """Yield the threads that are new, but for those that Dask keeps for all clusters of the process."""
    for thread in threading.enumerate():
        if thread not in before and not thread.name.startswith("Dask-Offload"):
            yield thread


def _check_owned(items: Iterable[Owned], others: Collection[str]) -> set[str]:
    """Return the runs of what `list_owned` returned for one cluster: one, if anything.

    Parameters
    ----------
    items : iterable of Owned
        Things of that cluster.
    others : collection of str
        The runs of other clusters.
    """
    runs = {item.run_id for item in items}
    for item in items:
        assert item.owner == current_owner(), f"{item} is ours, not of {item.owner!r}"
        assert item.run_id, f"{item} has no run"
    assert len(runs) <= 1, f"the things of one cluster are of several runs: {sorted(runs)}"
    assert not runs & {*others}, f"{sorted(runs)} is the run of another cluster, too"
    return runs
