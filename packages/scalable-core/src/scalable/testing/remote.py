"""The requirements of a provider whose scheduler runs elsewhere, beyond those of every provider.

A provider runs them by a subclass, as it does with `scalable.testing.conformance.ProviderConformance`::

    from scalable.testing.remote import RemoteConformance


    class TestConformance(RemoteConformance):
        manifest = '''
        version: 1
        project: {name: conformance}
        targets: {there: {provider: shell-elsewhere}}
        components: {alpha: {}, beta: {slots: 2}}
        '''
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from dask import delayed  # type: ignore[attr-defined] # which it exports, and does not declare
from distributed import Queue

from scalable.cluster.port import Reason
from scalable.errors import SchedulerLostError, VersionMismatchError
from scalable.testing.conformance import ProviderConformance, Running, by_value
from scalable.testing.conformance.clients import client_process, expect
from scalable.testing.conformance.running import die, nap, square

if TYPE_CHECKING:
    from scalable.providers.base import ClusterHandle

__all__ = ["RemoteConformance"]


class RemoteConformance(ProviderConformance):
    """The requirements of a provider whose scheduler runs elsewhere. Subclass it and set `manifest`.

    `leftovers` must be overridden, and list what clusters of other processes have left, too.

    Attributes
    ----------
    stall : float
        Seconds for which a scheduler that recovers does not answer.
    orphan_timeout : int
        Seconds after which the cluster of a client that was killed must have begun to end. The target has an option of
        this name, that of `scalable.providers.options.RemoteTargetOptions`.
    """

    stall: ClassVar[float] = 60.0
    orphan_timeout: ClassVar[int] = 10

    # -- What a provider may override

    def kill_scheduler(self, handle: ClusterHandle) -> None:
        """End the scheduler without Scalable's knowledge, as a crash would."""
        with contextlib.closing(handle.client_factory()) as client, contextlib.suppress(OSError):
            client.run_on_scheduler(by_value(die))

    def replace_scheduler(self, running: Running) -> None:
        """End the scheduler, and start another one at its address, which knows nothing of the cluster.

        Without it, that is not tested.
        """
        pytest.skip("the suite has no replace_scheduler")

    def another_python(self) -> Mapping[str, Any]:
        """Return options of the target with which the scheduler has another Python than this process.

        Without it, that is not tested.
        """
        pytest.skip("the suite has no another_python")

    # -- The scheduler is late

    def test_a_stalled_scheduler_is_late_and_comes_back(self, running: Running) -> None:
        running.scale(alpha=1, beta=1)
        workers = {tag: group.workers for tag, group in running.backend.groups.items()}
        with running.client() as client:
            stalled = threading.Thread(
                target=lambda: client.run_on_scheduler(by_value(_block), seconds=self.stall)
            )
            stalled.start()
            running.until(
                lambda: all(
                    group.reason is Reason.NETWORK and group.running == 0
                    for group in running.backend.groups.values()
                ),
                "each group says that the scheduler does not answer",
            )
            stalled.join(self.stall + self.timeout)
            running.until(
                lambda: all(group.running == 1 for group in running.backend.groups.values()),
                "the scheduler answers again",
            )
            # Nothing was replaced, and nothing runs twice.
            assert {tag: g.workers for tag, g in running.backend.groups.items()} == workers
            assert client.submit(by_value(square), 3, tag="alpha").result(self.timeout) == 9

    # -- The scheduler is lost

    def test_a_killed_scheduler_is_told_to_everyone_who_waits(self) -> None:
        with self.cluster() as running:
            running.scale(alpha=1)
            told: list[BaseException] = []
            with running.client() as client:
                future = client.submit(by_value(nap), 600.0, tag="alpha")
                running.until(lambda: any(client.processing().values()), "the task runs")
                # Workers that it would have only with tasks.
                running.backend.adapt_groups({"beta": (0, 2)})
                queue = Queue("conformance", client=client)
                waits = [
                    partial(running.backend.wait_for_group, "beta"),
                    partial(running.backend.wait_for_workers, 2),
                    partial(client.wait_for_workers, 2),
                    queue.get,
                ]
                waiters = [
                    threading.Thread(target=_wait, args=(wait, told), daemon=True) for wait in waits
                ]
                for waiter in waiters:
                    waiter.start()
                self.kill_scheduler(running.handle)
                with pytest.raises(SchedulerLostError):
                    future.result(self.timeout)
                for waiter in waiters:
                    waiter.join(self.timeout)
                assert [type(error) for error in told] == [SchedulerLostError] * len(waits)
                assert all(group.failed for group in running.backend.groups.values())
                assert not any(group.running for group in running.backend.groups.values())
                assert running.backend.explain()["alpha"].summary
                for call in (
                    lambda: client.submit(by_value(square), 3, tag="alpha"),
                    queue.qsize,
                    client.who_has,
                    delayed(square)(3).compute,  # which must not go on in this process
                    running.client,
                ):
                    with pytest.raises(SchedulerLostError):
                        call()

    def test_a_scheduler_that_was_replaced_is_lost(self) -> None:
        with self.cluster() as running:
            running.scale(alpha=1)
            with running.client() as client:
                future = client.submit(by_value(nap), 600.0, tag="alpha")
                running.until(lambda: any(client.processing().values()), "the task runs")
                self.replace_scheduler(running)
                with pytest.raises(SchedulerLostError):
                    future.result(self.timeout)
                with pytest.raises(SchedulerLostError):
                    running.backend.wait_for_group("alpha", timeout=self.timeout)
                assert all(group.failed for group in running.backend.groups.values())

    def test_a_scheduler_of_another_python_is_named_before_anything_is_sent(self) -> None:
        spec = self.spec(**self.another_python())
        with pytest.raises(VersionMismatchError, match=r"(?s)client.*scheduler") as mismatch:
            self.make_provider().build_cluster(spec)
        ours = ".".join(map(str, sys.version_info[:2]))
        assert ours in str(mismatch.value)
        assert list(self.leftovers()) == []

    # -- The client is gone

    def test_the_cluster_of_a_killed_client_ends(self) -> None:
        with self._client() as client:
            expect(client, "building", "up")
            assert list(self.leftovers())
            client.kill()
            client.wait()
            self._wait_for_the_end()

    def test_the_cluster_of_a_client_that_is_killed_while_it_is_built_ends(self) -> None:
        with self._client() as client:
            expect(client, "building")
            # The first moment at which there is something, before anybody has connected to it.
            self._wait_until(lambda: list(self.leftovers()), "its scheduler exists")
            client.kill()
            client.wait()
            self._wait_for_the_end()

    def _wait_for_the_end(self) -> None:
        self._wait_until(lambda: not list(self.leftovers()), "its cluster has ended")

    def _wait_until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + self.orphan_timeout + self.timeout
        while not condition():
            assert time.monotonic() < deadline, f"not in time: {what}; left: {self.leftovers()}"
            time.sleep(0.05)

    def test_ctrl_c_while_it_is_built_leaves_nothing(self) -> None:
        with self._client() as client:
            expect(client, "building")
            began = time.monotonic()
            expect(client, "up")
            duration = time.monotonic() - began
            client.send_signal(signal.SIGINT)
            client.communicate(timeout=self.timeout)
            assert list(self.leftovers()) == []
        for share in (0.02, 0.25, 0.5, 0.75):
            with self._client() as client:
                expect(client, "building")
                time.sleep(share * duration)
                client.send_signal(signal.SIGINT)
                said, errors = client.communicate(timeout=self.timeout)
                assert client.returncode, (said, errors)
                assert "KeyboardInterrupt" in errors
                assert list(self.leftovers()) == []

    def _client(self) -> AbstractContextManager[subprocess.Popen[str]]:
        return client_process(self, {**self.client_options, "orphan_timeout": self.orphan_timeout})

    # -- Others

    def test_two_clusters_do_not_see_each_other(self, running: Running) -> None:
        # Validating and planning import no Dask.
        from distributed import Client

        running.scale(alpha=1)
        provider = self.make_provider()
        other = Running(provider, provider.build_cluster(self.spec()), self.timeout)
        try:
            other.scale(alpha=1)
            ours, theirs = running.backend, other.backend
            assert ours.name != theirs.name
            assert ours.scheduler_address != theirs.scheduler_address
            with pytest.raises(OSError, match=r"trying to connect|certificate"):
                Client(theirs.scheduler_address, security=ours.security, timeout=5)
        finally:
            provider.close(other.handle)
        with running.client() as client:
            assert client.submit(by_value(square), 3, tag="alpha").result(self.timeout) == 9


def _wait(wait: Callable[[], object], told: list[BaseException]) -> None:
    try:
        wait()
    except Exception as error:  # noqa: BLE001 - which one it is, is what the test asks
        told.append(error)


def _block(seconds: float) -> None:
    import time

    time.sleep(seconds)
