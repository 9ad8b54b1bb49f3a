from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytest
from google.cloud import compute_v1

from scalable.cluster.port import GroupSpec, Phase, Reason
from scalable.errors import LaunchError, NativeTimeoutError
from scalable.providers.cloud.gcp.api import GceApi, GceError, GceUnreachableError
from scalable.providers.cloud.gcp.backend import GceBackend
from scalable.providers.cloud.gcp.keys import Keys
from scalable.providers.cloud.gcp.machines import machine_named
from scalable.providers.cloud.gcp.names import Run
from scalable.providers.cloud.gcp.options import GCPOptions
from scalable.providers.cloud.gcp.request import WorkerRequest
from scalable.providers.cloud.gcp.scheduler import Place

ZONES = ("us-east1-b", "us-east1-c")
BUSY = GceError("Instances.bulk_insert", "backendError", "busy", 503)
FULL = "ZONE_RESOURCE_POOL_EXHAUSTED"


class Project:
    """Compute Engine as far as launches use it: each creation is done at once, as a test says.

    Parameters
    ----------
    answers : list
        What comes of each creation: its machines are made, there is no room for them, or an error of the call.
    """

    def __init__(self, *answers: bool | Exception) -> None:
        self.answers = [*answers]
        self.requests: list[tuple[str, str]] = []
        self.machines: list[compute_v1.Instance] = []
        self.operations: dict[str, compute_v1.Operation] = {}
        self.consoles: dict[tuple[str, str], str] = {}
        self.refusals: list[Exception] = []
        """What comes of the next deletions."""

    async def create(self, zone: str, body: Mapping[str, Any], request_id: str) -> Any:
        self.requests.append((zone, request_id))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        name = f"operation-{len(self.operations)}"
        done = compute_v1.Operation(name=name, status="DONE", operation_group_id=name)
        if answer:
            for each in body["perInstanceProperties"]:
                labels = body["instanceProperties"]["labels"]
                machine = compute_v1.Instance(name=each, zone=zone, status="RUNNING", labels=labels)
                self.machines.append(machine)
        else:
            done.error = compute_v1.Error(errors=[compute_v1.Errors(code=FULL, message="full")])
        self.operations[name] = done
        return done

    async def call(self, service: str, method: str, **request: Any) -> Any:
        if service == "Instances":
            raise GceError("Instances.get", "notFound", "there is none", 404)
        assert service == "ZoneOperations"
        return self.operations[request["operation"]] if method == "get" else []

    async def instances(self, zones: list[str], label: str, value: str) -> list[Any]:
        return [each for each in self.machines if each.labels[label] == value]

    async def delete(self, zone: str, name: str) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.machines = [each for each in self.machines if each.name != name]

    async def console(self, zone: str, name: str) -> str:
        return self.consoles.get((zone, name), "")


KEYS = Keys("cert", "key")


def backend_on(project: Project) -> GceBackend:
    place = Place(Run("gcp-0", "me"), GCPOptions(zones=ZONES), ZONES, "subnetwork", KEYS)
    worker = WorkerRequest("gcam", "gcam:7", 1, 2, machine_named("e2-standard-2"))
    return GceBackend(
        cast("GceApi", project),
        place,
        {"gcam": worker},
        scheduler="tls://10.0.0.2:8786",
        scheduler_machine="gcp-0-scheduler",
        close_timeout=1,
    )


def test_a_zone_without_room_is_followed_by_the_next() -> None:
    async def run() -> None:
        project = Project(False, True)
        backend = backend_on(project)
        units = (await backend.launch(GroupSpec("gcam"), 2, "0abc")).units
        states = await backend.observe()
        assert [zone for zone, _ in project.requests] == [*ZONES]
        assert [states[unit.id].phase for unit in units] == [Phase.RUNNING] * 2

    asyncio.run(run())


def test_no_zone_has_room() -> None:
    async def run() -> None:
        backend = backend_on(Project(False, False))
        await backend.launch(GroupSpec("gcam"), 1, "0abc")
        await backend.observe()
        (state,) = (await backend.observe()).values()
        assert (state.phase, state.reason) == (Phase.GONE, Reason.CAPACITY)
        assert FULL in state.detail

    asyncio.run(run())


def test_a_launch_that_is_not_answered_is_repeated_under_the_same_id() -> None:
    async def run() -> None:
        project = Project(BUSY, True)
        backend = backend_on(project)
        with pytest.raises(ConnectionError, match="busy"):
            await backend.launch(GroupSpec("gcam"), 1, "0abc")
        first = await backend.launch(GroupSpec("gcam"), 1, "0abc")
        assert await backend.launch(GroupSpec("gcam"), 1, "0abc") == first
        assert len(project.requests) == 2
        assert len(set(project.requests)) == 1

    asyncio.run(run())


TOO_MANY = GceError("Instances.bulkInsert", "rateLimitExceeded", "too many", 403)
EXPIRED = GceError("Instances.bulkInsert", "unauthenticated", "log in", 401)
INVALID = GceError("Instances.bulkInsert", "invalid", "no such field", 400)


@pytest.mark.parametrize("refusal", [TOO_MANY, EXPIRED, INVALID], ids=lambda error: error.code)
@pytest.mark.parametrize("lost", [BUSY, GceUnreachableError("no answer"), NativeTimeoutError(1)])
def test_a_refusal_after_a_lost_answer_does_not_say_that_nothing_was_made(
    refusal: GceError, lost: Exception
) -> None:
    async def run() -> None:
        project = Project(lost, refusal, True)
        backend = backend_on(project)
        for _ in range(2):
            with pytest.raises((OSError, NativeTimeoutError)):  # and no LaunchError
                await backend.launch(GroupSpec("gcam"), 1, "0abc")
        await backend.launch(GroupSpec("gcam"), 1, "0abc")
        assert len(set(project.requests)) == 1

    asyncio.run(run())


@pytest.mark.parametrize("refusal", [TOO_MANY, EXPIRED], ids=lambda error: error.code)
def test_a_refusal_in_the_next_zone_that_passes_ends_nothing(refusal: GceError) -> None:
    async def run() -> None:
        project = Project(False, refusal, True)
        backend = backend_on(project)
        await backend.launch(GroupSpec("gcam"), 1, "0abc")
        for phase in (Phase.PENDING, Phase.RUNNING):
            (state,) = (await backend.observe()).values()
            assert state.phase is phase
        assert [zone for zone, _ in project.requests] == [ZONES[0], ZONES[1], ZONES[1]]

    asyncio.run(run())


@pytest.mark.parametrize("refusal", [TOO_MANY, EXPIRED, INVALID], ids=lambda error: error.code)
def test_a_refusal_of_the_only_attempt_is_one(refusal: GceError) -> None:
    backend = backend_on(Project(refusal))
    with pytest.raises(LaunchError, match=refusal.text):
        asyncio.run(backend.launch(GroupSpec("gcam"), 1, "0abc"))


@pytest.mark.parametrize("refusal", [TOO_MANY, GceUnreachableError("no answer")])
def test_a_machine_that_ended_is_deleted_also_where_that_is_refused_at_first(
    refusal: Exception,
) -> None:
    async def run() -> None:
        project = Project(True)
        backend = backend_on(project)
        (unit,) = (await backend.launch(GroupSpec("gcam"), 1, "0abc")).units
        await backend.observe()
        project.machines[0].status = "TERMINATED"
        project.refusals = [refusal]
        for _ in range(2):  # the end is told even so
            assert (await backend.observe())[unit.id].phase is Phase.GONE
        assert project.machines == []

    asyncio.run(run())


def test_the_next_zone_is_asked_again_where_it_does_not_answer() -> None:
    async def run() -> None:
        project = Project(False, BUSY, True)
        backend = backend_on(project)
        await backend.launch(GroupSpec("gcam"), 1, "0abc")
        with pytest.raises(ConnectionError, match="busy"):
            await backend.observe()
        await backend.observe()
        (state,) = (await backend.observe()).values()
        assert state.phase is Phase.RUNNING
        assert [zone for zone, _ in project.requests] == [ZONES[0], ZONES[1], ZONES[1]]
        assert project.requests[1] == project.requests[2]

    asyncio.run(run())


def test_the_log_of_a_worker_is_the_end_of_its_machine_s_console() -> None:
    async def run() -> None:
        project = Project(True)
        backend = backend_on(project)
        (unit,) = (await backend.launch(GroupSpec("gcam"), 1, "0abc")).units
        await backend.observe()
        project.consoles[ZONES[0], unit.id] = "member 1\nmember 2\n"
        assert await backend.read_log(unit, 1000) == "member 1\nmember 2\n"
        assert await backend.read_log(unit, 5) == "er 2\n"
        await backend.describe(unit)
        project.consoles.clear()  # a machine that has ended shows it no more
        assert "member 2" in await backend.read_log(unit, 1000)
        assert len(await backend.read_log(unit, 5)) == 5
        stranger = replace(unit, id="gcam-of-another")
        assert await backend.read_log(stranger, 1000) == ""

    asyncio.run(run())
