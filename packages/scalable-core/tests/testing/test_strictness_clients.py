"""The suite fails a provider that leaves something when its client exits without closing, or is killed.

The clients are other processes, which make the suites of this module themselves: what they share is a directory.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from scalable.cluster.port import Leftover
from scalable.providers.base import (
    ClusterHandle,
    DeploymentProvider,
    DeploymentSpec,
    Owned,
    current_owner,
)
from scalable.providers.options import TargetOptions
from scalable.testing.conformance import ProviderConformance
from scalable.testing.fakes import FakeProvider

_DIRECTORY = "SCALABLE_STRICTNESS_DIRECTORY"


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_DIRECTORY, str(tmp_path))


def disks() -> list[Path]:
    return sorted(Path(os.environ[_DIRECTORY]).glob("*.disk"))


class Disks(FakeProvider):
    """Makes a disk for each cluster, which outlives the client that was killed."""

    def _build(self, spec: DeploymentSpec, options: TargetOptions) -> ClusterHandle:
        handle = super()._build(spec, options)
        disk = Path(os.environ[_DIRECTORY], f"{uuid.uuid4().hex}.disk")
        disk.write_text(handle.backend.name)
        self.on_close(handle, disk.unlink)
        return handle

    def on_close(self, handle: ClusterHandle, remove: Callable[[], None]) -> None:
        handle.backend._on_closed.append(remove)

    def list_owned(self, spec: DeploymentSpec) -> Sequence[Owned]:
        return [Owned("disk", d.name, d.read_text(), current_owner()) for d in disks()]

    def reap(self, spec: DeploymentSpec, owned: Sequence[Owned]) -> Sequence[Leftover]:
        for item in owned:
            Path(os.environ[_DIRECTORY], item.name).unlink()
        return []


class Suite(ProviderConformance):
    __test__ = False
    timeout: ClassVar = 60.0
    provider: ClassVar[type[FakeProvider]] = Disks
    manifest = """
        version: 1
        project: {name: conformance}
        targets: {here: {provider: fake}}
        components: {alpha: {}, beta: {slots: 2}}
    """

    def make_provider(self) -> DeploymentProvider:
        return self.provider()

    def leftovers(self) -> Sequence[str]:
        return [disk.name for disk in disks()]


class Keeps(Disks):
    """Removes its disk only if it is told to close the cluster."""

    def on_close(self, handle: ClusterHandle, remove: Callable[[], None]) -> None:
        self.remove = remove

    def close(self, cluster: ClusterHandle) -> None:
        super().close(cluster)
        self.remove()


class SuiteOfKeeps(Suite):
    provider = Keeps


class Forgets(Disks):
    def list_owned(self, spec: DeploymentSpec) -> Sequence[Owned]:
        return []


class Hasty(Suite):
    timeout = 10.0  # in which a client can start


class SuiteOfForgets(Hasty):
    provider = Forgets


class Pretends(Disks):
    def reap(self, spec: DeploymentSpec, owned: Sequence[Owned]) -> Sequence[Leftover]:
        return []


class SuiteOfPretends(Hasty):
    provider = Pretends


class Fails(Disks):
    def reap(self, spec: DeploymentSpec, owned: Sequence[Owned]) -> Sequence[Leftover]:
        return [Leftover(item.kind, item.name, "it is in use") for item in owned]


class SuiteOfFails(Suite):
    provider = Fails


class Anonymous(Disks):
    def list_owned(self, spec: DeploymentSpec) -> Sequence[Owned]:
        return [Owned("disk", d.name, d.read_text(), "") for d in disks()]


class SuiteOfAnonymous(Suite):
    provider = Anonymous


class Crashes(Disks):
    def _build(self, spec: DeploymentSpec, options: TargetOptions) -> ClusterHandle:
        raise OSError("no such site")


class SuiteOfCrashes(Suite):
    provider = Crashes


def test_a_provider_whose_remains_are_removed_passes() -> None:
    suite = Suite()
    suite.test_a_client_that_exits_without_closing_leaves_nothing()
    suite.test_what_a_killed_client_leaves_ends_or_can_be_reaped()
    assert disks() == []


def test_a_provider_that_leaves_something_when_its_client_exits_fails() -> None:
    with pytest.raises(AssertionError, match=r"\.disk"):
        SuiteOfKeeps().test_a_client_that_exits_without_closing_leaves_nothing()


@pytest.mark.parametrize("suite", [SuiteOfForgets, SuiteOfPretends])
def test_a_provider_that_never_removes_what_a_killed_client_left_fails(suite: type[Suite]) -> None:
    with pytest.raises(AssertionError, match=r"neither ended in 10 s nor reaped: .*\.disk"):
        suite().test_what_a_killed_client_leaves_ends_or_can_be_reaped()


@pytest.mark.parametrize(
    ("suite", "problem"), [(SuiteOfFails, "it is in use"), (SuiteOfAnonymous, "not of ''")]
)
def test_a_provider_that_cannot_reap_fails(suite: type[Suite], problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        suite().test_what_a_killed_client_leaves_ends_or_can_be_reaped()


def test_a_client_that_cannot_build_fails_with_its_error() -> None:
    with pytest.raises(AssertionError, match="OSError: no such site"):
        SuiteOfCrashes().test_a_client_that_exits_without_closing_leaves_nothing()
