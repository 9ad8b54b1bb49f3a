from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from google.cloud import compute_v1

from scalable.providers.cloud.gcp import removal
from scalable.providers.cloud.gcp.api import GceApi, GceError
from scalable.providers.cloud.gcp.removal import delete_run

EXPIRED = GceError("Instances.list", "unauthenticated", "Reauthentication is needed", 401)
BUSY = GceError("Instances.delete", "rateLimitExceeded", "Quota exceeded for Queries", 403)
DENIED = GceError("Instances.delete", "forbidden", "Required 'compute.instances.delete'", 403)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "_POLL", 0.0)


class Project:
    """Compute Engine with machines that go at once, after errors of the calls that a test says."""

    def __init__(self, machines: int, **errors: list[GceError]) -> None:
        self.machines = {f"m-{n}" for n in range(machines)}
        self.errors = errors

    def _fail(self, call: str) -> None:
        if self.errors.get(call):
            raise self.errors[call].pop(0)

    async def is_creating(self, zones: list[str]) -> bool:
        self._fail("is_creating")
        return False

    async def instances(self, zones: list[str], label: str, value: str) -> list[Any]:
        self._fail("instances")
        return [compute_v1.Instance(name=each, zone="z") for each in self.machines]

    async def delete(self, zone: str, name: str) -> None:
        self._fail("delete")
        self.machines.discard(name)


def removed(project: Project) -> Any:
    return asyncio.run(delete_run(cast("GceApi", project), ["z"], "r", 20))


@pytest.mark.parametrize("call", ["is_creating", "instances", "delete"])
@pytest.mark.parametrize("error", [EXPIRED, BUSY], ids=["expired", "too many requests"])
def test_a_refusal_that_passes_leaves_no_machine(call: str, error: GceError) -> None:
    project = Project(3, **{call: [error] * 2})
    assert removed(project) == []
    assert not project.machines


def test_credentials_that_stay_expired_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "_RENEWED_WITHIN", 0.1)
    (left,) = removed(Project(1, instances=[EXPIRED] * 10**6))
    assert "gcloud auth application-default login" in left.error


def test_a_machine_that_may_not_be_deleted_is_told_at_once() -> None:
    project = Project(1, delete=[DENIED])
    (left,) = removed(project)
    assert "compute.instances.delete" in left.error


class Zones(Project):
    """Machines in three zones, of which some may not be deleted, and of which one zone does not answer."""

    def __init__(self, refused: set[str], silent: GceError | None = None) -> None:
        super().__init__(0)
        self.machines = {f"m-{n}" for n in range(40)}
        self.refused, self.silent = refused, silent
        self.asked: list[str] = []

    async def instances(self, zones: list[str], label: str, value: str) -> list[Any]:
        if "c" in zones and self.silent:
            raise self.silent
        mine = [each for each in self.machines if "ab"[int(each[2:]) % 2] in zones]
        return [compute_v1.Instance(name=each, zone=zones[0]) for each in mine]

    async def delete(self, zone: str, name: str) -> None:
        await asyncio.sleep(0.001 * int(name[2:]))
        self.asked.append(name)
        if name in self.refused:
            raise GceError("Instances.delete", "invalid", "deletionProtection is enabled", 400)
        assert zone == "ab"[int(name[2:]) % 2]
        self.machines.discard(name)


def removed_of_zones(project: Zones) -> Any:
    return asyncio.run(delete_run(cast("GceApi", project), ["a", "b", "c"], "r", 1))


def test_a_machine_that_may_not_be_deleted_keeps_no_other_one_alive() -> None:
    project = Zones({"m-0", "m-3"})
    left = removed_of_zones(project)
    assert project.machines == {each.name for each in left} == {"m-0", "m-3"}
    assert "deletionProtection" in left[0].error
    assert len(project.asked) == 40  # a refusal that stays is no reason to ask again


@pytest.mark.parametrize("error", [DENIED, GceError("Instances.list", "backendError", "", 503)])
def test_a_zone_that_does_not_tell_keeps_no_machine_of_another_one_alive(error: GceError) -> None:
    project = Zones(set(), error)
    (left,) = removed_of_zones(project)
    assert not project.machines
    assert (left.kind, left.is_certain) == ("machines labelled", False)
