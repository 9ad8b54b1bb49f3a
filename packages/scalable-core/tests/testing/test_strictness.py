"""The suite fails a provider that breaks a requirement: one bad provider for each that could be missed."""

from __future__ import annotations

import itertools
import ssl
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from distributed import LocalCluster, Security

from scalable.client import ScalableClient
from scalable.errors import ClusterClosedError
from scalable.manifest.issues import ValidationReport
from scalable.providers.base import ClusterHandle, DeploymentProvider, DeploymentSpec, ScalePlan
from scalable.providers.options import TargetOptions
from scalable.providers.tls import make_credentials
from scalable.testing.conformance import ProviderConformance
from scalable.testing.fakes import FakeProvider

OUTCOME = (AssertionError, pytest.fail.Exception)


class Suite(ProviderConformance):
    __test__ = False
    timeout: ClassVar = 3.0
    manifest = """
        version: 1
        project: {name: conformance}
        targets: {here: {provider: fake}}
        components: {alpha: {}, beta: {slots: 2}}
    """

    def __init__(self, provider: FakeProvider) -> None:
        self.provider = provider

    def make_provider(self) -> DeploymentProvider:
        return self.provider

    def kill_worker(self, client: ScalableClient, worker: str) -> None:
        self.provider.kill(worker)

    def leftovers(self) -> Sequence[str]:
        return self.provider.leftovers()


def failing() -> AbstractContextManager[Any]:
    return pytest.raises(OUTCOME)


def test_a_provider_that_finds_no_errors_fails() -> None:
    class Careless(FakeProvider):
        def validate(self, spec: DeploymentSpec) -> ValidationReport:
            return ValidationReport()

    suite = Suite(Careless())
    with failing():
        suite.test_every_error_is_reported_at_once()
    with failing():
        suite.test_a_count_for_an_unknown_group_is_an_error()


def test_a_provider_that_plans_at_random_fails() -> None:
    class Fickle(FakeProvider):
        numbers = itertools.count(1)

        def plan_scale(self, spec: DeploymentSpec) -> ScalePlan:
            return replace(super().plan_scale(spec), max_workers=next(self.numbers) + 10)

    with failing():
        Suite(Fickle()).test_the_same_manifest_gives_the_same_plan()


def test_a_provider_that_leaves_something_after_a_failed_build_fails() -> None:
    class Messy(FakeProvider):
        made: ClassVar[list[str]] = []

        def _build(self, spec: DeploymentSpec, options: TargetOptions) -> ClusterHandle:
            self.made.append("scheduler")
            return super()._build(spec, options)

        def leftovers(self) -> list[str]:
            return super().leftovers() + self.made

    with pytest.MonkeyPatch.context() as patch, failing():
        Suite(Messy()).test_a_failed_build_leaves_nothing_behind(patch)


def test_a_provider_that_scales_other_groups_fails() -> None:
    class Clumsy(FakeProvider):
        def scale(self, cluster: ClusterHandle, plan: ScalePlan) -> None:
            cluster.backend.scale_groups(dict.fromkeys(plan.workers_by_tag, 0))
            deadline = time.monotonic() + 60
            # Until none is left that could be taken back.
            while any(group.running + group.draining for group in cluster.backend.groups.values()):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            super().scale(cluster, plan)

    suite = Suite(Clumsy())
    with suite.cluster() as running, failing():
        suite.test_groups_scale_independently(running)


def test_a_provider_that_ends_workers_during_a_task_fails() -> None:
    class Brutal(FakeProvider):
        def scale(self, cluster: ClusterHandle, plan: ScalePlan) -> None:
            for tag, status in cluster.backend.groups.items():
                for worker in status.workers[plan.workers_by_tag.get(tag, 0) :]:
                    self.kill(worker)
            super().scale(cluster, plan)

    suite = Suite(Brutal())
    with suite.cluster() as running, failing():
        suite.test_running_tasks_finish_before_their_worker_stops(running)


def test_a_provider_that_cannot_close_twice_fails() -> None:
    class Touchy(FakeProvider):
        def close(self, cluster: ClusterHandle) -> None:
            if self.leftovers() == []:
                raise ClusterClosedError(cluster.backend.name)
            super().close(cluster)

    with pytest.raises(ClusterClosedError):
        Suite(Touchy()).test_close_is_idempotent()


def test_a_provider_that_leaves_something_behind_fails() -> None:
    class Forgetful(FakeProvider):
        def close(self, cluster: ClusterHandle) -> None:
            self.open = cluster

    provider = Forgetful()
    with failing(), Suite(provider).cluster():
        pass
    provider.open.backend.close()


class Lenient(Security):
    """Encrypts, and does not ask who connects."""

    def get_listen_args(self, role: str) -> Any:
        arguments = super().get_listen_args(role)  # type: ignore[no-untyped-call]
        arguments["ssl_context"].verify_mode = ssl.CERT_NONE
        return arguments


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_a_provider_that_lets_everybody_connect_fails(protocol: str) -> None:
    credentials = make_credentials()
    keys = {
        f"tls_{role}_{part}": getattr(credentials, part)
        for role in ("client", "scheduler")
        for part in ("cert", "key")
    }
    lenient: Any = Lenient  # untyped in distributed
    security = lenient(require_encryption=protocol == "tls", tls_ca_file=credentials.cert, **keys)
    with LocalCluster(
        n_workers=0, protocol=protocol, security=security, dashboard_address="127.0.0.1:0"
    ) as open_to_all:
        provider = FakeProvider()
        running: Any = SimpleNamespace(backend=open_to_all)
        with failing():
            Suite(provider).test_others_cannot_connect(running)
