"""Tests of a cluster that runs: its workers, and its groups."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scalable.cluster.port import Reason
from scalable.errors import GroupFailedError, GroupTimeoutError, UnknownTagError
from scalable.manifest.parser import parse_manifest
from scalable.providers.base import ScalePlan
from scalable.providers.tls import make_credentials
from scalable.testing.conformance.base import SuiteBase, ability
from scalable.testing.conformance.running import (
    Running,
    by_value,
    count_starts,
    logged_nap,
    pause,
    square,
    starts,
    unpause,
    variable,
    worker_infos,
    worker_name,
)

__all__ = ["WorkerTests"]


class WorkerTests(SuiteBase):
    """What a cluster does while it runs."""

    def test_groups_are_listed_and_empty_at_first(self, running: Running) -> None:
        groups = running.backend.groups
        assert {tag: (group.wanted, group.running) for tag, group in groups.items()} == {
            "alpha": (0, 0),
            "beta": (0, 0),
        }

    def test_others_cannot_connect(self, running: Running) -> None:
        # Validating and planning import no Dask.
        from distributed import connect

        address = running.backend.scheduler_address
        if address.startswith("inproc"):
            return  # no port: nobody outside of this process can try
        owner = running.backend.security.get_connection_args("client")
        asyncio.run(_say_hello(connect(address, timeout=self.timeout, **owner)))
        for intruder in _intruders():
            with pytest.raises(OSError, match=r"."):
                asyncio.run(_say_hello(connect(address, timeout=5, **intruder)))
        with pytest.raises(OSError, match=r"."):
            asyncio.run(_say_hello(connect(_without_tls(address), timeout=5)))

    def test_tagged_tasks_run_on_workers_of_their_group(self, running: Running) -> None:
        running.scale(alpha=1, beta=1)
        with running.client() as client:
            for tag in ("alpha", "beta"):
                names = client.gather(client.map(by_value(worker_name), range(4), tag=tag))
                assert set(names) == set(running.backend.groups[tag].workers)
            with pytest.raises(UnknownTagError):
                client.submit(by_value(worker_name), 0, tag="omega")

    def test_a_worker_has_as_many_threads_as_slots(self, running: Running) -> None:
        running.scale(alpha=1, beta=1)
        with running.client() as client:
            facts = {
                info["name"]: (info["nthreads"], info["resources"])
                for info in worker_infos(client).values()
            }
        (alpha,), (beta,) = (running.backend.groups[tag].workers for tag in ("alpha", "beta"))
        assert facts == {alpha: (1, {"alpha": 1}), beta: (2, {"beta": 2})}

    def test_a_worker_has_its_environment_or_validation_warns(self) -> None:
        alpha = {"env": {"SCALABLE_CONFORMANCE": "alpha"}}
        spec = self._spec(parse_manifest(self.manifest).raw, {}, alpha)
        for issue in self.make_provider().validate(spec).warnings:
            if issue.path.startswith("components.alpha.env"):
                pytest.skip(f"users are warned: {issue.message}")
        with self.cluster(alpha) as running:
            running.scale(alpha=1, beta=1)
            with running.client() as client:
                values = [
                    client.submit(by_value(variable), "SCALABLE_CONFORMANCE", tag=tag)
                    for tag in ("alpha", "beta")
                ]
                assert client.gather(values) == ["alpha", None]

    def test_each_component_has_its_own_image_or_validation_says_so(self) -> None:
        alpha = {"image": self.other_image or "example.org/another:1"}
        spec = self._spec(parse_manifest(self.manifest).raw, {}, alpha)
        for issue in self.make_provider().validate(spec).issues:
            if issue.path.startswith("components.alpha.image"):
                pytest.skip(f"users are told: {issue.message}")
        if not self.other_image:
            pytest.skip("the suite has no other_image")
        with self.cluster(alpha) as running:
            running.scale(alpha=1, beta=1)
            with running.client() as client:
                values = [
                    client.submit(by_value(variable), "SCALABLE_CONFORMANCE_IMAGE", tag=tag)
                    for tag in ("alpha", "beta")
                ]
                assert client.gather(values) == ["other", None]

    def test_waiting_for_a_group_times_out(self, running: Running) -> None:
        # Without work, an adaptive group has no worker to wait for.
        running.provider.scale(running.handle, ScalePlan(ranges_by_tag={"alpha": (0, 1)}))
        with pytest.raises(GroupTimeoutError) as late:
            running.backend.wait_for_group("alpha", timeout=0.1)
        assert isinstance(late.value, TimeoutError)
        assert (late.value.tag, late.value.wanted) == ("alpha", 1)
        running.scale(alpha=1)
        running.backend.wait_for_group("alpha", timeout=self.timeout)

    def test_groups_scale_independently(self, running: Running) -> None:
        running.scale(alpha=1, beta=1)
        before = running.backend.groups["beta"].workers
        running.scale(alpha=2)
        running.scale(alpha=0)
        assert running.backend.groups["beta"].workers == before
        assert running.backend.groups["alpha"].running == 0

    def test_scaling_is_idempotent(self, running: Running) -> None:
        running.scale(alpha=1)
        before = running.backend.groups["alpha"].workers
        running.scale(alpha=1)
        assert running.backend.groups["alpha"].workers == before

    def test_scale_in_reruns_no_task_and_loses_no_result(
        self, running: Running, tmp_path: Path
    ) -> None:
        running.scale(alpha=2, beta=1)
        with running.client() as client:
            kept = client.map(by_value(square), range(8), tag="alpha")
            assert client.gather(kept) == [n * n for n in range(8)]
            transitions = client.run_on_scheduler(by_value(count_starts))
            running.scale(alpha=1)
            running.scale(alpha=0)
            assert client.gather(kept) == [n * n for n in range(8)]
            assert client.run_on_scheduler(by_value(count_starts)) == transitions

    def test_running_tasks_finish_before_their_worker_stops(self, running: Running) -> None:
        running.scale(alpha=2, beta=1)
        with running.client() as client:
            futures = client.map(by_value(logged_nap), [1.0] * 6, range(6), tag="alpha")
            running.until(lambda: starts(client), "a task is under way")
            running.scale(alpha=1)
            assert client.gather(futures) == [1.0] * 6
            running.scale(alpha=0)
            assert sorted(starts(client)) == list(range(6))

    def test_a_paused_worker_does_not_count_and_is_explained(self, running: Running) -> None:
        running.scale(alpha=1, beta=1)
        (name,) = running.backend.groups["alpha"].workers
        with running.client() as client:
            found = {info["name"]: address for address, info in worker_infos(client).items()}
            client.run(by_value(pause), workers=[found[name]])
            running.until(
                lambda: running.backend.groups["alpha"].reason is Reason.PAUSED,
                "it is unavailable, since it is paused",
            )
            status = running.backend.groups["alpha"]
            why = running.backend.explain()["alpha"]
            future = client.submit(by_value(square), 3, tag="alpha")
            assert (status.running, status.unavailable, status.wanted) == (0, 1, 1)
            assert not status.failed
            assert why.reason is Reason.PAUSED
            assert f"{name} is paused" in why.summary
            assert client.submit(by_value(square), 3, tag="beta").result(self.timeout) == 9
            client.run(by_value(unpause), workers=[found[name]], on_error="ignore")
            # By this worker, or by one that replaced it if all this took long.
            assert future.result(self.timeout) == 9
            running.until(lambda: running.backend.groups["alpha"].running == 1, "it runs again")

    @ability("replace")
    def test_a_lost_worker_is_replaced_under_a_new_name(self, running: Running) -> None:
        running.scale(alpha=1, beta=1)
        (victim,) = running.backend.groups["alpha"].workers
        with running.client() as client:
            self.kill_worker(client, victim)
            running.until(
                lambda: set(running.backend.groups["alpha"].workers) - {victim},
                "another worker has joined",
            )
            (successor,) = running.backend.groups["alpha"].workers
            name = client.submit(by_value(worker_name), 0, tag="alpha", pure=False)
            assert name.result(self.timeout) == successor

    @ability("explain_failed_start")
    def test_a_group_that_cannot_start_fails_with_its_reason(self) -> None:
        with self.cluster(alpha=self.broken) as running:
            running.provider.scale(running.handle, ScalePlan({"alpha": 1, "beta": 1}))
            with running.client() as client:
                future = client.submit(by_value(square), 3, tag="alpha")
                with pytest.raises(GroupFailedError) as waited:
                    running.backend.wait_for_group("alpha", timeout=self.timeout)
                with pytest.raises(GroupFailedError):
                    future.result(self.timeout)
                assert client.submit(by_value(square), 3, tag="beta").result(self.timeout) == 9
            assert waited.value.tag == "alpha"
            assert waited.value.explanation.summary
            assert running.backend.groups["alpha"].failed

    @ability("adapt")
    def test_an_adaptive_group_scales_up_from_zero(self, running: Running) -> None:
        plan = ScalePlan({"alpha": 0, "beta": 0}, ranges_by_tag={"alpha": (0, 2)}, max_workers=2)
        running.provider.scale(running.handle, plan)
        with running.client() as client:
            assert client.submit(by_value(square), 5, tag="alpha").result(self.timeout) == 25


async def _say_hello(connecting: Awaitable[Any]) -> None:
    """Connect and disconnect. Both sides greet each other first, so this fails unless both accept."""
    comm = await connecting
    await comm.close()


def _intruders() -> Iterator[dict[str, Any]]:
    """Yield how others would connect: with keys of their own or with none, to whatever scheduler that is."""
    own = make_credentials().security().get_connection_args("client")
    own["ssl_context"].verify_mode = ssl.CERT_NONE
    own["require_encryption"] = False
    yield own
    without = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    without.check_hostname = False
    without.verify_mode = ssl.CERT_NONE
    yield {**own, "ssl_context": without}


def _without_tls(address: str) -> str:
    return address.replace("tls://", "tcp://")
