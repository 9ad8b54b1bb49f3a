"""The project that other tests use: what its instances do, and what it refuses of Google's own client."""

from __future__ import annotations

import copy
import json
import os
import socket
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import psutil
import pytest
from gce_project import PROJECT, GceProject, Image
from google.api_core import exceptions
from google.auth import credentials
from google.cloud import compute_v1
from slurm_site import wait_until

A, B, C = (f"us-central1-{letter}" for letter in "abc")
SUBNETWORK = f"projects/{PROJECT}/regions/us-central1/subnetworks/default"
IMAGE = "projects/cos-cloud/global/images/family/cos-stable"
STAYS = "#!/bin/bash\n:"

PROPERTIES: Mapping[str, Any] = {
    "machine_type": "e2-standard-2",
    "labels": {"scalable-run": "here"},
    "disks": [
        {
            "boot": True,
            "auto_delete": True,
            "initialize_params": {"source_image": IMAGE, "disk_size_gb": 20},
        }
    ],
    "network_interfaces": [
        {"subnetwork": SUBNETWORK, "access_configs": [{"name": "external-nat"}]}
    ],
    "scheduling": {
        "provisioning_model": "SPOT",
        "automatic_restart": False,
        "on_host_maintenance": "TERMINATE",
        "instance_termination_action": "STOP",
        "max_run_duration": {"seconds": 3600},
    },
    "metadata": {"items": [{"key": "startup-script", "value": STAYS}]},
    "service_accounts": [
        {"email": "default", "scopes": ["https://www.googleapis.com/auth/cloud-platform"]}
    ],
}


def without_credentials() -> Any:
    make: Any = credentials.AnonymousCredentials  # which has no types
    return make()


class Api:
    """Google's clients, which go to the project, and repeat nothing."""

    def __init__(self, url: str) -> None:
        self._where: Any = {
            "credentials": without_credentials(),
            "client_options": {"api_endpoint": url},
        }
        self.instances = compute_v1.InstancesClient(**self._where)
        self.operations = compute_v1.ZoneOperationsClient(**self._where)

    def client(self, cls: Callable[..., Any]) -> Any:
        return cls(**self._where)

    def bulk(
        self, *names: str, zone: str = A, least: int = 1, request_id: str = "", **changes: Any
    ) -> compute_v1.Operation:
        properties = {**copy.deepcopy(dict(PROPERTIES)), **changes}
        body = {
            "count": len(names),
            "min_count": least,
            "instance_properties": properties,
            "per_instance_properties": {name: {} for name in names},
        }
        return self.send(body, zone, request_id)

    def send(self, body: Mapping[str, Any], zone: str = A, key: str = "") -> compute_v1.Operation:
        request = compute_v1.BulkInsertInstanceRequest(
            project=PROJECT,
            zone=zone,
            request_id=key or str(uuid.uuid4()),
            bulk_insert_instance_resource_resource=compute_v1.BulkInsertInstanceResource(body),
        )
        return self.instances.bulk_insert_unary(request, retry=None)

    def done(self, operation: compute_v1.Operation, zone: str = A) -> compute_v1.Operation:
        def get() -> compute_v1.Operation:
            return self.operations.get(project=PROJECT, zone=zone, operation=operation.name)

        wait_until(lambda: get().status == compute_v1.Operation.Status.DONE, operation.name, 30)
        return get()

    def get(self, name: str, zone: str = A) -> compute_v1.Instance:
        return self.instances.get(project=PROJECT, zone=zone, instance=name)

    def names(self, expression: str = "", zone: str = A) -> list[str]:
        request = compute_v1.ListInstancesRequest(project=PROJECT, zone=zone, filter=expression)
        return [each.name for each in self.instances.list(request)]

    def delete(self, name: str, zone: str = A, key: str = "") -> compute_v1.Operation:
        request = compute_v1.DeleteInstanceRequest(
            project=PROJECT, zone=zone, instance=name, request_id=key or str(uuid.uuid4())
        )
        return self.instances.delete_unary(request, retry=None)

    def console(self, name: str, zone: str = A) -> str:
        output = self.instances.get_serial_port_output(project=PROJECT, zone=zone, instance=name)
        return output.contents

    def written(self, name: str) -> str:
        """Return the same; empty as long as the machine does not run."""
        return self.console(name) if self.get(name).status == "RUNNING" else ""


@pytest.fixture
def api(used_project: GceProject) -> Iterator[Api]:
    yield Api(used_project.url)
    used_project.renew()
    assert used_project.inventory() == []


def script(text: str) -> dict[str, Any]:
    return {"items": [{"key": "startup-script", "value": f"#!/bin/bash\n{text}"}]}


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return properties with a change at one place; that of a list is its first."""
    whole: dict[str, Any] = copy.deepcopy(dict(PROPERTIES))
    at: Any = whole
    *above, last = path.split("/")
    for part in above:
        at = at[part][0] if isinstance(at[part], list) else at[part]
    at[last] = value
    return whole


REFUSED = {
    "a machine type by its URL": ("machine_type", f"zones/{A}/machineTypes/e2-standard-2"),
    "an unknown machine type": ("machine_type", "e2-standard-3"),
    "an upper-case label": ("labels", {"tag": "Stitches"}),
    "a label that begins with a digit": ("labels", {"2nd": "a"}),
    "a long label": ("labels", {"a": "b" * 64}),
    "65 labels": ("labels", {f"a{i}": "" for i in range(65)}),
    "a label of a disk": ("disks/initialize_params/labels", {"A": "b"}),
    "no disk": ("disks", []),
    "a disk that does not boot": ("disks/boot", False),
    "a disk below its image": ("disks/initialize_params/disk_size_gb", 9),
    "an unknown image": ("disks/initialize_params/source_image", IMAGE + "s"),
    "a disk type by its URL": ("disks/initialize_params/disk_type", f"zones/{A}/diskTypes/pd-ssd"),
    "no network": ("network_interfaces", []),
    "a subnetwork of another region": (
        "network_interfaces/subnetwork",
        SUBNETWORK.replace("central", "east"),
    ),
    "a subnetwork without its project": ("network_interfaces/subnetwork", "default"),
    "a Spot VM that restarts": ("scheduling/automatic_restart", True),
    "a Spot VM that migrates": ("scheduling/on_host_maintenance", "MIGRATE"),
    "another action": ("scheduling/instance_termination_action", "SUSPEND"),
    "a short limit": ("scheduling/max_run_duration", {"seconds": 29}),
    "a long limit": ("scheduling/max_run_duration", {"seconds": 121 * 86400}),
    "a limit without action": ("scheduling/instance_termination_action", ""),
    "a key of metadata": ("metadata/items", [{"key": "a b", "value": ""}]),
    "a key twice": ("metadata/items", [{"key": "a", "value": ""}] * 2),
    "large metadata": ("metadata/items", [{"key": "a", "value": "b" * (2**18 + 1)}]),
    "an account without scopes": ("service_accounts/scopes", []),
    "a GPU of another series": (
        "guest_accelerators",
        [{"accelerator_type": "nvidia-tesla-t4", "accelerator_count": 1}],
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(api: Api, used_project: GceProject, what: str) -> None:
    path, value = REFUSED[what]
    with pytest.raises((exceptions.BadRequest, exceptions.InternalServerError)):
        api.bulk("a", **changed(path, value))
    assert used_project.inventory() == []


def test_names_counts_and_ids_are_checked(api: Api, used_project: GceProject) -> None:
    for name in ("A", "a_b", "2a", "a-", "a" * 64):
        with pytest.raises(exceptions.BadRequest, match=r"resource\.name"):
            api.bulk(name)
    good: Any = {"instance_properties": dict(PROPERTIES)}
    for body in (
        {**good, "count": 2, "per_instance_properties": {"a": {}}},
        {**good, "count": 1, "min_count": 2, "per_instance_properties": {"a": {}}},
        {**good, "count": 1},
        {**good, "count": 1, "name_pattern": "a-#", "per_instance_properties": {"a": {}}},
        {**good, "count": 0},
    ):
        with pytest.raises(exceptions.BadRequest):
            api.send(body)
    with pytest.raises(exceptions.BadRequest, match="requestId"):
        api.bulk("a", request_id="1")
    with pytest.raises(exceptions.NotFound):
        api.bulk("a", zone="us-central1-x")
    assert used_project.inventory() == []


def test_unknown_fields_tokens_and_calls_are_refused(api: Api, used_project: GceProject) -> None:
    base = f"{used_project.url}/compute/v1/projects/{PROJECT}"

    def status(verb: str, path: str, body: Any = None, **headers: str) -> int:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(base + path, data, headers, method=verb)
        with pytest.raises(urllib.error.HTTPError) as error, urllib.request.urlopen(request):
            pass
        with error.value:
            return error.value.code

    assert status("POST", f"/zones/{A}/instances/bulkInsert", {"cuont": 1}) == 400
    assert status("GET", f"/zones/{A}/instances?fliter=a") == 400
    assert status("GET", f"/zones/{A}/instances?filter=a") == 400
    assert status("GET", f"/zones/{A}/instances", Authorization="Bearer a") == 400
    assert status("POST", f"/zones/{A}/instances", {}) == 501
    assert used_project.traffic.unknown == [
        f"POST /compute/v1/projects/{PROJECT}/zones/{A}/instances"
    ]


def test_an_instance_boots_and_ends_itself(api: Api, used_project: GceProject) -> None:
    used_project.conditions.images["missing:1"] = Image(is_missing=True)
    text = r"""
md() { curl -sf -H "Metadata-Flavor: Google" "http://metadata.google.internal/computeMetadata/v1/instance/$1"; }
curl -sf http://metadata.google.internal/computeMetadata/v1/instance/name || echo refused
mkdir -p /run/scalable; md attributes/word >/run/scalable/word
iptables -w -A INPUT -p tcp -j ACCEPT
docker run --rm --net=host -v /run/scalable:/run/scalable -e "A=b c" image:1 \
    sh -c 'echo "$A" $(cat /run/scalable/word) "$0"' "$(md name)"
docker run --rm missing:1 true || echo "status $?"
docker run --rm --hurry image:1 true || echo "status $?"
until md attributes/go; do sleep 0.1; done
shutdown -h now
"""
    metadata = script(text)
    metadata["items"].append({"key": "word", "value": "hello"})
    operation = api.bulk("a", metadata=metadata)
    assert operation.status == compute_v1.Operation.Status.PENDING
    assert not api.done(operation).error.errors
    assert api.get("a").status == "RUNNING"
    wait_until(lambda: api.written("a").count("status 125") == 2, "the script has gone on", 30)
    console = api.console("a")
    assert "refused" in console
    assert "b c hello a\n" in console
    assert "manifest for missing:1 not found" in console
    (instance,) = used_project.instances.values()
    assert instance.metadata is not None
    instance.metadata.change("instance/attributes/go", "now")
    wait_until(lambda: api.get("a").status == "TERMINATED", "it has ended itself", 30)
    with pytest.raises(exceptions.BadRequest, match="not ready"):
        api.console("a")
    assert used_project.inventory() == ["instance a TERMINATED", "disk a"]
    api.done(api.delete("a"))
    assert used_project.inventory() == []
    with pytest.raises(exceptions.NotFound):
        api.get("a")


def test_an_instance_whose_script_is_over_runs_on(api: Api) -> None:
    api.done(api.bulk("a", metadata=script("exit 3")))
    wait_until(lambda: "exit status 3" in api.written("a"), "the script has ended", 30)
    assert api.get("a").status == "RUNNING"


def test_a_repetition_makes_nothing(api: Api, used_project: GceProject) -> None:
    used_project.conditions.is_stub = True
    key = str(uuid.uuid4())
    first, again = (api.bulk("a", "b", request_id=key) for _ in range(2))
    assert first.name == again.name
    api.done(first)
    assert api.bulk("a", "b", request_id=key).status == compute_v1.Operation.Status.DONE
    with pytest.raises(exceptions.BadRequest, match="requestId"):
        api.bulk("c", request_id=key)
    with pytest.raises(exceptions.Conflict):
        api.bulk("b")
    key = str(uuid.uuid4())
    first, again = (api.delete("a", key=key) for _ in range(2))
    assert first.name == again.name
    api.done(first)
    assert api.names() == ["b"]


def test_lists_have_pages_and_filters(api: Api, used_project: GceProject) -> None:
    used_project.conditions.is_stub = True
    names = [f"a-{i}" for i in range(7)]
    api.done(api.bulk(*names))
    api.done(api.bulk("other", labels={"scalable-run": "there"}))
    api.done(api.bulk("far", zone=B), B)
    before = used_project.calls("instances.list")
    assert api.names('labels.scalable-run="here"') == names
    assert used_project.calls("instances.list") - before == 3
    assert api.names('(labels.scalable-run:*) AND (name != "a-0")') == [*names[1:], "other"]
    client = api.instances
    request = compute_v1.AggregatedListInstancesRequest(
        project=PROJECT, filter="labels.scalable-run:*"
    )
    everywhere = {zone: list[str]() for zone in (f"zones/{A}", f"zones/{B}", f"zones/{C}")}
    for zone, scoped in client.aggregated_list(request):
        everywhere[zone] += [each.name for each in scoped.instances]
    assert everywhere == {f"zones/{A}": [*names, "other"], f"zones/{B}": ["far"], f"zones/{C}": []}


def test_stock_and_quota(api: Api, used_project: GceProject) -> None:
    used_project.conditions.is_stub = True
    used_project.conditions.stock = {A: 3, B: 1}
    some = api.done(api.bulk(*"abcde"))
    assert not some.error.errors
    (location,) = some.instances_bulk_insert_operation_metadata.per_location_status.values()
    assert (location.created_vm_count, location.failed_to_create_vm_count) == (3, 2)
    expression = f'operationGroupId="{some.operation_group_id}"'
    request = compute_v1.ListZoneOperationsRequest(project=PROJECT, zone=A, filter=expression)
    codes = [
        error.code
        for child in api.operations.list(request)
        for error in child.error.errors
        if child.operation_type == "insert"
    ]
    assert codes == ["ZONE_RESOURCE_POOL_EXHAUSTED"] * 2
    assert len(api.names()) == 3
    all_or_none = api.done(api.bulk("x", "y", least=2, zone=B), B)
    assert all_or_none.error.errors[0].code == "ZONE_RESOURCE_POOL_EXHAUSTED"
    assert api.names(zone=B) == []
    used_project.conditions.cpu_quota = 7
    none = api.done(api.bulk("z", zone=C), C)
    assert (none.error.errors[0].code, none.http_error_status_code) == ("QUOTA_EXCEEDED", 403)


def preempted(api: Api) -> list[str]:
    expression = 'operationType="compute.instances.preempted"'
    request = compute_v1.ListZoneOperationsRequest(project=PROJECT, zone=A, filter=expression)
    return [each.target_link.rpartition("/")[2] for each in api.operations.list(request)]


def test_preemption_stops_or_deletes(api: Api, used_project: GceProject) -> None:
    api.done(api.bulk("stops"))
    deleted = changed("scheduling/instance_termination_action", "DELETE")
    api.done(api.bulk("deleted", **deleted))
    used_project.preempt("stops")
    assert api.get("stops").status == "TERMINATED"
    used_project.preempt("deleted")
    assert api.names() == ["stops"]
    assert sorted(preempted(api)) == ["deleted", "stops"]
    assert used_project.inventory() == ["instance stops TERMINATED", "disk stops"]


def test_preemption_with_a_notice(api: Api, used_project: GceProject) -> None:
    # A shell runs a trap at once where it waits, but not while a program in the foreground runs.
    text = """
url=http://metadata.google.internal/computeMetadata/v1/instance/preempted?wait_for_change=true
trap 'echo told' TERM
echo waiting
curl -sf -H "Metadata-Flavor: Google" $url & wait $!; wait; echo; echo "after"; sleep 60 & wait
"""
    api.done(api.bulk("a", metadata=script(text)))
    wait_until(lambda: "waiting" in api.written("a"), "it waits", 30)
    used_project.preempt("a", notice=15)
    assert api.get("a").status == "STOPPING"
    wait_until(lambda: "told" in api.console("a"), "its processes are told", 30)
    wait_until(lambda: api.get("a").status == "TERMINATED", "it is over", 30)
    assert preempted(api) == ["a"]


def test_external_addresses_and_the_firewall(api: Api, used_project: GceProject) -> None:
    listen = "s.HTTPServer((os.environ['IP'], 8786), s.SimpleHTTPRequestHandler).serve_forever()"
    listen = f"import http.server as s, os; {listen}"
    url = "http://metadata.google.internal/computeMetadata/v1/instance/network-interfaces/0/ip"
    ip = f"$(curl -sf -H 'Metadata-Flavor: Google' {url})"
    metadata = script(f'docker run --rm -e "IP={ip}" image:1 python3 -c "{listen}"')
    api.done(api.bulk("open", metadata=metadata))
    used_project.conditions.open_ports = set()
    api.done(api.bulk("shut", metadata=metadata))
    private = changed("network_interfaces/access_configs", [])
    api.done(api.bulk("private", **{**private, "metadata": metadata}))

    def answers(address: str) -> bool:
        try:
            with socket.create_connection((address, 8786), 5) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return connection.recv(4) == b"HTTP"
        except OSError:
            return False

    nics = {name: api.get(name).network_interfaces[0] for name in ("open", "shut", "private")}
    for nic in nics.values():
        wait_until(partial(answers, nic.network_i_p), "it answers inside", 30)
    assert answers(nics["open"].access_configs[0].nat_i_p)
    assert not answers(nics["shut"].access_configs[0].nat_i_p)
    assert not nics["private"].access_configs
    used_project.stop("open")
    assert api.get("open").network_interfaces[0].access_configs[0].nat_i_p == ""


def test_calls_fail_are_denied_or_lose_their_answer(api: Api, used_project: GceProject) -> None:
    used_project.conditions.is_stub = True
    used_project.fault("instances.bulkInsert", 503, times=1, skip=1)
    api.done(api.bulk("a"))
    with pytest.raises(exceptions.ServiceUnavailable):
        api.bulk("b")
    assert api.names() == ["a"]
    used_project.fault("instances.bulkInsert", after=True)
    key = str(uuid.uuid4())
    with pytest.raises(OSError, match="Remote end closed"):
        api.bulk("c", request_id=key)
    api.done(api.bulk("c", request_id=key))
    assert api.names() == ["a", "c"]
    used_project.fault("instances.list", 429, "rateLimitExceeded")
    with pytest.raises(exceptions.TooManyRequests):
        api.instances.list(compute_v1.ListInstancesRequest(project=PROJECT, zone=A), retry=None)
    used_project.deny("compute.instances.create")
    with pytest.raises(exceptions.Forbidden, match=r"'compute\.instances\.create'.*instances"):
        api.bulk("d")
    assert used_project.calls("instances.bulkInsert") == 5


def test_calls_at_once_are_counted(api: Api, used_project: GceProject) -> None:
    meet = threading.Barrier(3)
    used_project.fault("zones.get", 503, times=3, before=lambda: print(meet.wait(30)))
    zones = api.client(compute_v1.ZonesClient)

    def ask() -> None:
        with pytest.raises(exceptions.ServiceUnavailable):
            zones.get(compute_v1.GetZoneRequest(project=PROJECT, zone=A), retry=None)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert used_project.traffic.most_at_once["zones.get"] == 3


def test_what_is_read_before_a_start(api: Api, used_project: GceProject) -> None:
    types = api.client(compute_v1.MachineTypesClient)
    kind = types.get(project=PROJECT, zone=A, machine_type="n2-highmem-4")
    assert (kind.guest_cpus, kind.memory_mb) == (4, 32768)
    with pytest.raises(exceptions.NotFound):
        types.get(project=PROJECT, zone=A, machine_type="n2-highmem-5")
    zones = api.client(compute_v1.ZonesClient).list(project=PROJECT)
    assert [each.name for each in zones] == [A, B, C]
    region = api.client(compute_v1.RegionsClient).get(project=PROJECT, region="us-central1")
    assert {each.metric: each.limit for each in region.quotas}["N2_CPUS"] == 2000
    subnetworks = api.client(compute_v1.SubnetworksClient)
    found = subnetworks.get(project=PROJECT, region="us-central1", subnetwork="default")
    assert found.private_ip_google_access
    images = api.client(compute_v1.ImagesClient)
    family = images.get_from_family(project="cos-cloud", family="cos-stable")
    assert family.disk_size_gb == 10
    rules = api.client(compute_v1.FirewallsClient).list(project=PROJECT)
    assert [each.name for each in rules] == ["dask", "default-allow-internal"]
    projects = api.client(compute_v1.ProjectsClient)
    assert projects.get(project=PROJECT).name == PROJECT
    with pytest.raises(exceptions.Forbidden):
        projects.get(project="others")
    gpus = api.client(compute_v1.AcceleratorTypesClient)
    assert gpus.get(project=PROJECT, zone=A, accelerator_type="nvidia-l4").name == "nvidia-l4"


def test_300_stubs(api: Api, used_project: GceProject) -> None:
    used_project.conditions.is_stub = True
    used_project.page = 500
    began = time.monotonic()
    names = [f"a-{i:03}" for i in range(300)]
    api.done(api.bulk(*names))
    assert api.names() == names
    assert used_project.inventory().count("process") == 0
    for operation in [api.delete(name) for name in names]:
        api.done(operation)
    assert used_project.inventory() == []
    assert time.monotonic() - began < 60


def test_processes_end_with_their_instance(api: Api, used_project: GceProject) -> None:
    api.done(api.bulk("a", metadata=script("sleep 600 & sleep 600")))
    root = used_project.instances["a"].directory
    assert root is not None

    def inside() -> list[int]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME") == os.fspath(root / "root"):
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found

    wait_until(lambda: len(inside()) >= 3, "all run", 30)
    used_project.remove("a")
    assert inside() == []
    assert used_project.inventory() == []
