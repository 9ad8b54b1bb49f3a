"""What goes well and wrong on Compute Engine: what users read, what goes on, and that nothing is left."""

from __future__ import annotations

import math
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gce_project
import pytest
from gce_project import GceProject, Image
from slurm_site import wait_until

from scalable.cluster.port import Reason
from scalable.errors import GroupFailedError, SchedulerStartError
from scalable.manifest.parser import parse_manifest
from scalable.providers.base import ClusterHandle, DeploymentSpec
from scalable.providers.cloud.gcp import GCPProvider

ZONES = ("us-central1-a", "us-central1-b")
DENIED = {
    "instances.bulkInsert": "compute.instances.create",
    "zoneOperations.get": "compute.zoneOperations.get",
    "instances.get": "compute.instances.get",
}
"""Calls of a start, and the permission that each needs."""


def spec_in(project: GceProject, components: Any = None, **options: Any) -> DeploymentSpec:
    target = {**project.target, "external_ips": False, **options}
    text = gce_project.manifest(target, components=components or {"gcam": {}})
    return DeploymentSpec.from_manifest(parse_manifest(text), target_name="here")


@contextmanager
def cluster(project: GceProject, components: Any = None, **options: Any) -> Iterator[ClusterHandle]:
    provider = GCPProvider()
    handle = provider.build_cluster(spec_in(project, components, **options))
    try:
        yield handle
    finally:
        provider.close(handle)


def workers(project: GceProject) -> list[str]:
    """Return the names of the machines of workers."""
    return [name for name in project.instances if not name.endswith("-scheduler")]


def logged(log: Path, gate: Path) -> Callable[[int], int]:
    """Return a function for tasks: it logs that it starts, and ends when a file is there."""

    def square(number: int) -> int:
        import time

        with log.open("a") as file:
            file.write(f"{number}\n")
        while not gate.exists():
            time.sleep(0.05)
        return number * number

    return square


def test_machines_that_a_zone_lacks_come_from_the_next_one(project: GceProject) -> None:
    with cluster(project, {"gcam": {}, "plots": {}}) as handle:
        project.conditions.stock[ZONES[0]] = 3
        handle.backend.scale_groups({"gcam": 5})
        wait_until(lambda: len(workers(project)) == 5, "five machines are there", 60)
        zones = sorted(project.instances[name].zone for name in workers(project))
        assert zones == [ZONES[0]] * 3 + [ZONES[1]] * 2
        handle.backend.wait_for_group("gcam", 5, timeout=120)


def test_where_no_zone_has_machines_the_group_waits(project: GceProject) -> None:
    with cluster(project, {"gcam": {}, "plots": {}}) as handle:
        backend = handle.backend
        backend.scale_groups({"plots": 1})
        backend.wait_for_group("plots", timeout=120)
        others = backend.groups["plots"].workers
        project.conditions.stock.update(dict.fromkeys(ZONES, 0))
        backend.scale_groups({"gcam": 5, "plots": 1})
        wait_until(lambda: backend.groups["gcam"].reason is Reason.CAPACITY, "it says why", 30)
        assert backend.explain()["gcam"].reason is Reason.CAPACITY
        project.conditions.stock.clear()
        backend.wait_for_group("gcam", 5, timeout=120)
        assert backend.groups["plots"].workers == others


@pytest.mark.parametrize("notice", [0.0, 30.0])
def test_the_work_of_a_preempted_machine_is_done_elsewhere(
    project: GceProject, tmp_path: Path, notice: float
) -> None:
    log, gate = tmp_path / "starts", tmp_path / "gate"
    with cluster(project, {"gcam": {}, "plots": {}}, spot=True) as handle:
        backend = handle.backend
        backend.scale_groups({"gcam": 1, "plots": 1})
        for tag in ("gcam", "plots"):
            backend.wait_for_group(tag, timeout=120)
        others = backend.groups["plots"].workers
        (taken,) = backend.groups["gcam"].workers
        with handle.client_factory() as client:
            future = client.submit(logged(log, gate), 3, tag="gcam")
            wait_until(log.exists, "the task runs", 60)
            project.preempt(taken, notice=notice)
            wait_until(lambda: log.read_text() == "3\n3\n", "it runs elsewhere", 120)
            gate.touch()
            assert future.result(120) == 9
        assert backend.groups["plots"].workers == others
        wait_until(lambda: taken not in project.instances, "its machine is deleted", 60)


@pytest.mark.parametrize("call", DENIED)
def test_a_denied_call_is_one_line_and_leaves_nothing(project: GceProject, call: str) -> None:
    project.deny(DENIED[call])
    began = time.monotonic()
    with pytest.raises(SchedulerStartError) as error:
        GCPProvider().build_cluster(spec_in(project))
    project.traffic.denied.clear()
    assert time.monotonic() - began < 60
    assert DENIED[call] in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("call", DENIED)
@pytest.mark.parametrize("after", [False, True])
def test_a_call_that_fails_at_times_is_repeated(
    project: GceProject, call: str, after: bool
) -> None:
    project.fault(call, 503, times=2, after=after)
    with cluster(project) as handle:
        assert len(project.instances) == 1
        handle.backend.scale_groups({"gcam": 1})
        handle.backend.wait_for_group("gcam", timeout=120)
        assert len(project.instances) == 2


def test_a_call_whose_answer_is_lost_creates_nothing_twice(project: GceProject) -> None:
    project.fault("instances.bulkInsert", None, after=True)
    with cluster(project) as handle:
        assert len(project.instances) == 1
        project.fault("instances.bulkInsert", None, after=True)
        handle.backend.scale_groups({"gcam": 2})
        handle.backend.wait_for_group("gcam", 2, timeout=120)
        assert len(project.instances) == 3


def test_nothing_is_made_after_close(project: GceProject) -> None:
    seed = random.Random(1)
    for _ in range(5):
        fault = project.fault("instances.bulkInsert", 503, times=math.inf, skip=1)
        with cluster(project) as handle:
            handle.backend.scale_groups({"gcam": 3})
            threading.Event().wait(seed.uniform(0, 3))
        project.traffic.faults.remove(fault)
        assert project.inventory() == []
        before = project.calls("instances.bulkInsert")
        threading.Event().wait(2)
        assert project.calls("instances.bulkInsert") == before
        assert project.inventory() == []


def test_two_groups_of_150(project: GceProject) -> None:
    with cluster(project, {"gcam": {}, "plots": {}}) as handle:
        project.conditions.is_stub = True
        before = project.calls("instances.bulkInsert")
        handle.backend.scale_groups({"gcam": 150, "plots": 150})
        wait_until(lambda: len(workers(project)) == 300, "all machines are there", 120)
        assert project.calls("instances.bulkInsert") - before == 2
        began = time.monotonic()
    assert time.monotonic() - began < 60
    assert project.traffic.most_at_once["instances.delete"] <= 16


def test_what_others_create_delays_no_end(project: GceProject) -> None:
    over = threading.Event()

    def create(_: object) -> tuple[()]:
        over.wait(200)
        return ()

    with cluster(project):
        theirs = str(uuid.uuid4())
        project.operations.start("bulkInsert", ZONES[0], "", create, request_id=theirs, request="")
        began = time.monotonic()
    took = time.monotonic() - began
    over.set()
    assert took < 60


def test_an_image_that_does_not_exist_is_named(project: GceProject) -> None:
    project.conditions.images["missing:1"] = Image(is_missing=True)
    with pytest.raises(SchedulerStartError, match="image") as error:
        GCPProvider().build_cluster(spec_in(project, image="missing:1"))
    assert error.value.explanation.reason is Reason.IMAGE
    components = {"gcam": {"image": "missing:1"}}
    with cluster(project, components, image="image") as handle:
        handle.backend.scale_groups({"gcam": 1})
        with pytest.raises(GroupFailedError, match="image"):
            handle.backend.wait_for_group("gcam", timeout=240)


def test_a_machine_that_somebody_deletes_is_replaced(project: GceProject) -> None:
    with cluster(project) as handle:
        handle.backend.scale_groups({"gcam": 1})
        handle.backend.wait_for_group("gcam", timeout=120)
        (first,) = handle.backend.groups["gcam"].workers
        project.remove(first)
        wait_until(
            lambda: handle.backend.groups["gcam"].workers not in ((), (first,)),
            "another one has its place",
            120,
        )


def test_through_the_firewall_or_not_at_all(project: GceProject) -> None:
    with cluster(project, external_ips=True) as handle:
        handle.backend.scale_groups({"gcam": 1})
        handle.backend.wait_for_group("gcam", timeout=120)
    project.conditions.open_ports.clear()
    with pytest.raises(SchedulerStartError, match="firewall"):
        GCPProvider().build_cluster(spec_in(project, external_ips=True, startup_timeout="20s"))
