"""What goes well and wrong on Compute Engine: what users read, what goes on, and that nothing is left."""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path

import gce_clusters
import pytest
from awkward import VALUES
from clusters import start
from gce_clusters import cluster, spec_in
from gce_project import GceProject, Image
from slurm_site import wait_until
from start_log import logged, started

from scalable.cluster.port import Reason
from scalable.errors import GroupFailedError, SchedulerStartError
from scalable.providers.cloud.gcp import GCPProvider, instances
from scalable.testing.conformance import by_value

ZONES = ("us-central1-a", "us-central1-b")
DENIED = {
    "projects.get": "compute.projects.get",
    "zones.list": "compute.zones.list",
    "instances.bulkInsert": "compute.instances.create",
    "zoneOperations.list": "compute.zoneOperations.list",
    "zoneOperations.get": "compute.zoneOperations.get",
    "instances.get": "compute.instances.get",
}
"""Calls of a start, and the permission that each needs."""
WITH_EACH = {"zones": [], "region": "us-central1", "keys": "secret-manager"}
"""Options with which a start makes all of them."""


def workers(project: GceProject) -> list[str]:
    """Return the names of the machines of workers."""
    return [name for name in project.instances if not name.endswith("-scheduler")]


def first_pages(project: GceProject, zone: str) -> int:
    """Return how many lists of a zone's machines were asked for, each of as many pages as it has."""
    lists = [call for call in [*project.traffic.log] if call.method == "instances.list"]
    return sum(f"/{zone}/" in call.path and "pageToken" not in call.query for call in lists)


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


def test_after_a_notice_results_move_before_the_end(project: GceProject, tmp_path: Path) -> None:
    log = tmp_path / "starts"
    with cluster(project, {"gcam": {}, "plots": {}}, spot=True) as handle:
        backend = handle.backend
        start(backend, gcam=2, plots=1)
        others = backend.groups["plots"].workers
        with handle.client_factory() as client:
            futures = client.map(logged(log), range(8), tag="gcam")
            client.gather(futures)
            taken = backend.groups["gcam"].workers[0]
            project.preempt(taken, notice=30)
            wait_until(lambda: taken not in project.instances, "its machine is deleted", 120)
            wait_until(lambda: backend.groups["gcam"].running == 2, "another has its place", 120)
            assert client.gather(futures) == [n * n for n in range(8)]
        assert started(log) == [*range(8)]
        assert backend.groups["plots"].workers == others


def test_without_a_notice_its_work_is_done_once_more(project: GceProject, tmp_path: Path) -> None:
    log, gate = tmp_path / "starts", tmp_path / "gate"
    with cluster(project, {"gcam": {}, "plots": {}}, spot=True) as handle:
        backend = handle.backend
        start(backend, gcam=1, plots=1)
        others = backend.groups["plots"].workers
        (taken,) = backend.groups["gcam"].workers
        with handle.client_factory() as client:
            future = client.submit(logged(log, gate), 3, tag="gcam")
            wait_until(lambda: started(log) == [3], "the task runs", 60)
            project.preempt(taken, notice=0)
            wait_until(lambda: started(log) == [3, 3], "it runs elsewhere", 120)
            gate.touch()
            assert future.result(120) == 9
        assert backend.groups["plots"].workers == others
        wait_until(lambda: taken not in project.instances, "its machine is deleted", 60)


@pytest.mark.parametrize("call", DENIED)
def test_a_denied_call_is_one_line_and_leaves_nothing(project: GceProject, call: str) -> None:
    project.deny(DENIED[call])
    began = time.monotonic()
    with pytest.raises(SchedulerStartError) as error:
        GCPProvider().build_cluster(spec_in(project, **WITH_EACH))
    project.traffic.denied.clear()
    assert time.monotonic() - began < 60
    assert DENIED[call] in str(error.value)
    assert "\n" not in str(error.value)


BUSY, TOO_MANY = (503, "backendError"), (403, "rateLimitExceeded")


@pytest.mark.parametrize("call", DENIED)
@pytest.mark.parametrize(
    ("refusal", "after"), [(BUSY, False), (BUSY, True), (TOO_MANY, False)], ids=str
)
def test_a_call_that_fails_at_times_is_repeated(
    project: GceProject, call: str, refusal: tuple[int, str], after: bool
) -> None:
    project.fault(call, *refusal, times=2, after=after)
    with cluster(project, **WITH_EACH) as handle:
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


def test_a_region_that_does_not_exist_is_answered_with_a_near_one(project: GceProject) -> None:
    with pytest.raises(
        SchedulerStartError, match=r"'us-central2' \(did you mean 'us-central1'\?\)"
    ):
        GCPProvider().build_cluster(spec_in(project, zones=[], region="us-central2"))


def test_a_zone_that_does_not_exist_costs_nothing(project: GceProject) -> None:
    # No list of machines would ever be complete.
    with pytest.raises(
        SchedulerStartError, match=r"'us-central1-z' \(did you mean 'us-central1-[a-z]'\?\)"
    ):
        GCPProvider().build_cluster(spec_in(project, zones=[ZONES[0], "us-central1-z"]))
    assert project.calls("instances.bulkInsert") == 0


def test_zones_that_are_named_need_not_be_listed(project: GceProject) -> None:
    project.deny(DENIED["zones.list"])
    with cluster(project):
        assert len(project.instances) == 1


def test_variables_reach_workers_as_they_are(project: GceProject) -> None:
    env = {f"V{n}": value for n, value in enumerate([*VALUES, "🌍 𠮷"])}
    with cluster(project, {"gcam": {"env": env}}) as handle:
        start(handle.backend, gcam=1)
        with handle.client_factory() as client:
            found = client.submit(by_value(_variables), [*env], tag="gcam").result(60)
    assert found == env


def _variables(names: list[str]) -> dict[str, str]:
    import os

    return {name: os.environ[name] for name in names}


def test_nothing_is_made_after_close(project: GceProject) -> None:
    gce_clusters.close_while_requesting(project, times=5, seed=1)


def test_two_groups_of_150(project: GceProject) -> None:
    with cluster(project, {"gcam": {}, "plots": {}}) as handle:
        project.conditions.is_stub = True
        before = project.calls("instances.bulkInsert")
        handle.backend.scale_groups({"gcam": 150, "plots": 150})
        wait_until(lambda: len(workers(project)) == 300, "all machines are there", 120)
        assert project.calls("instances.bulkInsert") - before == 2
        asked, began = first_pages(project, ZONES[0]), time.monotonic()
        wait_until(lambda: first_pages(project, ZONES[0]) >= asked + 5, "it asks", 120)
        # Every 2 seconds, in one list.
        assert first_pages(project, ZONES[0]) - asked <= (time.monotonic() - began) / 2 + 1
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


SECRET_CALLS = ("secrets.create", "secrets.setIamPolicy", "secrets.addVersion")


def test_a_key_can_be_kept_as_a_secret(project: GceProject, tmp_path: Path) -> None:
    project.secrets.refusals_to_read = 1  # the permission takes effect after a while
    with cluster(project, keys="secret-manager") as handle:
        (scheduler,) = project.instances
        assert project.secrets.names == [scheduler.removesuffix("-scheduler")]
        handle.backend.scale_groups({"gcam": 1})
        handle.backend.wait_for_group("gcam", timeout=120)
        with handle.client_factory() as client:
            assert client.submit(logged(tmp_path / "starts"), 3, tag="gcam").result(60) == 9
        for instance in project.instances.values():
            assert [item.key for item in instance.properties.metadata.items] == ["startup-script"]
    assert project.secrets.names == []


@pytest.mark.parametrize("call", SECRET_CALLS)
@pytest.mark.parametrize("after", [False, True])
def test_a_secret_whose_making_fails_at_times_is_made_once(
    project: GceProject, call: str, after: bool
) -> None:
    project.fault(call, 503, times=1, after=after)
    project.fault(call, None, times=1, after=after)
    with cluster(project, keys="secret-manager"):
        assert len(project.secrets.names) == 1


@pytest.mark.parametrize("call", SECRET_CALLS)
def test_a_secret_that_is_refused_is_one_line_and_leaves_nothing(
    project: GceProject, call: str
) -> None:
    project.fault(call, 403, reason="PERMISSION_DENIED", times=9)
    with pytest.raises(SchedulerStartError, match=r"roles/secretmanager\.admin") as error:
        GCPProvider().build_cluster(spec_in(project, keys="secret-manager"))
    assert "\n" not in str(error.value)
    assert project.secrets.names == []


def test_a_secret_that_no_machine_may_read_is_said(
    project: GceProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "_READS", 2)
    with_another = {"keys": "secret-manager", "service_account": "other@climate-tests.example"}
    project.secrets.accounts["other@climate-tests.example"] = True
    with pytest.raises(SchedulerStartError, match="the run's key cannot be read") as error:
        GCPProvider().build_cluster(spec_in(project, **with_another))
    assert "secretmanager.versions.access" in str(error.value)


def test_the_secret_of_a_killed_run_is_listed_and_removed(project: GceProject) -> None:
    spec = spec_in(project, keys="secret-manager")
    with cluster(project, keys="secret-manager"):
        provider = GCPProvider()
        (machine, secret) = sorted(provider.list_owned(spec), key=lambda each: each.kind)
        assert (machine.kind, secret.kind) == ("machine", "secret")
        assert machine.run_id == secret.run_id
        assert provider.reap(spec, [secret]) == []
        assert project.secrets.names == []
        assert provider.reap(spec, [secret]) == []


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
