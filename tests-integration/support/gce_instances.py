"""The instances of a project: what becomes of them, and the processes that they are."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gce_boot
from aws_conditions import Image
from aws_machines import Machines
from gce_metadata import Metadata
from gce_network import Network
from gce_operations import Fault, Operations
from gce_rules import BASE, Catalogue, RefusedError, region_of
from google.cloud import compute_v1
from google.protobuf import json_format

_SHARED = ("tags", "metadata", "scheduling", "service_accounts", "disks", "guest_accelerators")
"""What an instance has from the request for it as it is, beside its labels."""


@dataclass
class Conditions:
    """The circumstances. A test may set each.

    Parameters
    ----------
    stock : dict of str to int
        How many more instances a zone has; any number where it is not named.
    cpu_quota : int
        vCPUs that the region's instances may have together.
    quotas : dict of str to int
        What other quotas of the region, and of the project, allow that are not as large as this one.
    booting : float
        Seconds from the creation of instances to their start.
    is_stub : bool
        Whether new instances have no process.
    images : dict of str to Image
        What is special in images of containers, by name.
    open_ports : set of int
        The ports that the firewall lets through to new instances from anywhere.
    """

    stock: dict[str, int] = field(default_factory=dict)
    cpu_quota: int = 2000
    quotas: dict[str, int] = field(default_factory=dict)
    booting: float = 0.1
    is_stub: bool = False
    images: dict[str, Image] = field(default_factory=dict)
    open_ports: set[int] = field(default_factory=lambda: {8786, 8787})


@dataclass
class Instance:
    """An instance.

    Parameters
    ----------
    name, zone : str
        What and where it is called.
    number : int
        Of no other.
    properties : object
        As the request has them.
    internal, external : str
        Its addresses; the latter is empty if it has none.
    """

    name: str
    zone: str
    number: int
    properties: Any
    internal: str
    external: str
    status: str = "PROVISIONING"
    metadata: Metadata | None = None
    directory: Path | None = None
    relays: list[Callable[[], None]] = field(default_factory=list)
    exited: threading.Event = field(default_factory=threading.Event)
    lock: threading.RLock = field(default_factory=threading.RLock)
    is_over: bool = False

    @property
    def key(self) -> str:
        """What its process is known by."""
        return f"{self.name}-{self.number}"

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return dict(self.properties.labels)


class Instances:
    """The instances of a project.

    Parameters
    ----------
    catalogue : Catalogue
        What there is to choose from.
    conditions : Conditions
        The circumstances.
    operations : Operations
        Those of the project.
    network : Network
        For their addresses.
    directory : Path
        For their files.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        conditions: Conditions,
        operations: Operations,
        network: Network,
        directory: Path,
    ) -> None:
        self._catalogue, self._conditions = catalogue, conditions
        self._operations, self._network, self._directory = operations, network, directory
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self.by_name: dict[str, Instance] = {}
        self.disks: dict[str, str] = {}
        self._machines = Machines(self._exited)
        self._programs = directory / "programs"
        gce_boot.write_programs(self._programs)

    def close(self) -> None:
        """End all processes."""
        for instance in self.all():
            self._halt(instance, "TERMINATED")
        self._machines.close()

    def clear(self) -> None:
        """Remove everything."""
        for instance in self.all():
            self._remove(instance)
        self.disks.clear()

    def all(self, zone: str = "") -> list[Instance]:
        """Return the instances of a zone, or of all."""
        with self._lock:
            return [each for each in self.by_name.values() if zone in ("", each.zone)]

    def get(self, zone: str, name: str) -> Instance:
        """Return an instance, or refuse the request for it."""
        with self._lock:
            found = self.by_name.get(name)
        if found is None or found.zone != zone:
            what = f"projects/{self._catalogue.project}/zones/{zone}/instances/{name}"
            raise RefusedError(404, "notFound", f"The resource '{what}' was not found")
        return found

    @property
    def processes(self) -> Sequence[str]:
        """The processes that run."""
        return self._machines.alive

    @property
    def cpus(self) -> int:
        """The vCPUs of all instances that have some."""
        kinds = self._catalogue.machine_types
        return sum(
            kinds[each.properties.machine_type][0]
            for each in self.all()
            if each.status != "TERMINATED"
        )

    # -- What clients ask for

    def create(self, zone: str, body: Any, request_id: str | None) -> dict[str, Any]:
        """Start the operation that creates some instances, and return it."""
        for name in body.per_instance_properties:
            if name in self.by_name:
                what = f"projects/{self._catalogue.project}/zones/{zone}/instances/{name}"
                message = f"The resource '{what}' already exists"
                raise RefusedError(409, "alreadyExists", message)

        def effect(operation: dict[str, Any]) -> Sequence[Fault]:
            return self._create(zone, body, operation)

        request = (zone, body.SerializeToString(deterministic=True))
        return self._operations.start(
            "bulkInsert", zone, "", effect, request_id=request_id, request=request
        )

    def delete(self, zone: str, name: str, request_id: str | None) -> dict[str, Any]:
        """Start the operation that deletes an instance, and return it."""
        instance = self.get(zone, name)
        with instance.lock:
            instance.status = "STOPPING"

        def effect(_: dict[str, Any]) -> Sequence[Fault]:
            self._remove(instance)
            return ()

        return self._operations.start(
            "delete", zone, name, effect, request_id=request_id, request=(zone, name)
        )

    def console(self, zone: str, name: str, start: int) -> dict[str, Any]:
        """Return what an instance has written, from a byte on."""
        instance = self.get(zone, name)
        if instance.status not in ("RUNNING", "STOPPING"):
            raise RefusedError(400, "resourceNotReady", f"The resource '{name}' is not ready")
        log = instance.directory / "serial.log" if instance.directory else None
        data = log.read_bytes() if log and log.exists() else b""
        contents = data[start:].decode(errors="replace")
        return {"contents": contents, "start": str(start), "next": str(len(data))}

    def show(self, instance: Instance) -> dict[str, Any]:
        """Return an instance as clients see it."""
        project, given = self._catalogue.project, instance.properties
        url = f"{BASE}projects/{project}/zones/{instance.zone}"
        shown = compute_v1.Instance.pb(compute_v1.Instance())
        shown.labels.update(given.labels)
        for name in _SHARED:
            target, source = getattr(shown, name), getattr(given, name)
            target.extend(source) if hasattr(target, "extend") else target.CopyFrom(source)
        for disk in shown.disks:
            disk.source = f"{url}/disks/{instance.name}"
        shown.name, shown.zone, shown.id = instance.name, url, 10**15 + instance.number
        shown.status, shown.self_link = instance.status, f"{url}/instances/{instance.name}"
        shown.machine_type = f"{url}/machineTypes/{given.machine_type}"
        (asked,) = given.network_interfaces
        nic = shown.network_interfaces.add(name="nic0", network_i_p=instance.internal)
        nic.subnetwork = asked.subnetwork
        if instance.external:
            address = instance.external if instance.status == "RUNNING" else None
            kind = {"name": "external-nat", "type_": "ONE_TO_ONE_NAT"}
            nic.access_configs.add(**kind, nat_i_p=address)
        found: dict[str, Any] = json_format.MessageToDict(shown)
        return found

    # -- What happens to instances

    def preempt(self, name: str, notice: float) -> None:
        """Let Compute Engine take an instance, after so many seconds of notice."""
        instance = self.by_name[name]
        self._operations.record("compute.instances.preempted", instance.zone, name)
        action = instance.properties.scheduling.instance_termination_action
        with instance.lock:
            instance.status = "STOPPING"
            if instance.metadata is not None:
                instance.metadata.change("instance/preempted", "TRUE")
                if notice:
                    self._machines.stop(instance.key, notice, whole=True)

        def end() -> None:
            if action == "DELETE":
                self._remove(instance)
            else:
                self._halt(instance, "TERMINATED")

        if notice:
            timer = threading.Timer(notice, end)
            timer.daemon = True
            timer.start()
        else:
            end()

    def remove(self, name: str) -> None:
        """Delete an instance, as its owner may in the console."""
        self._remove(self.by_name[name])

    def stop(self, name: str) -> None:
        """End an instance, which stays as one that is TERMINATED."""
        self._halt(self.by_name[name], "TERMINATED")

    # -- Inside

    def _create(self, zone: str, body: Any, operation: dict[str, Any]) -> Sequence[Fault]:
        names = [*body.per_instance_properties]
        with self._lock:
            fault, n = self._available(zone, body)
            if zone in self._conditions.stock:
                self._conditions.stock[zone] -= n
            made = [self._add(name, zone, body.instance_properties) for name in names[:n]]
        if made and self._conditions.booting:
            time.sleep(self._conditions.booting)
        for instance in made:
            self._boot(instance)
        group = operation["operationGroupId"]
        for name in names:
            missing = [fault] if fault is not None and name in names[n:] else ()
            self._operations.record("insert", zone, name, missing, group)
        status = {
            "targetVmCount": len(names),
            "createdVmCount": n,
            "failedToCreateVmCount": len(names) - n,
            "status": "DONE" if n else "ROLLED_BACK",
        }
        location = {"perLocationStatus": {f"zones/{zone}": status}}
        operation["instancesBulkInsertOperationMetadata"] = location
        return [fault] if fault is not None and not n else ()

    def _available(self, zone: str, body: Any) -> tuple[Fault | None, int]:
        """Return how many of the instances there can be, and why not all."""
        limit, each = self._conditions.cpu_quota, body.instance_properties.machine_type
        if self.cpus + body.count * self._catalogue.machine_types[each][0] > limit:
            text = f"Quota 'CPUS' exceeded.  Limit: {limit}.0 in region {region_of(zone)}."
            return Fault("QUOTA_EXCEEDED", text, 403), 0
        n = min(body.count, self._conditions.stock.get(zone, body.count))
        if n == body.count:
            return None, n
        text = (
            f"The zone 'projects/{self._catalogue.project}/zones/{zone}' does not have enough resources available to "
            "fulfill the request.  Try a different zone, or try again later."
        )
        fault = Fault("ZONE_RESOURCE_POOL_EXHAUSTED", text, 503)
        return fault, n if n >= (body.min_count or body.count) else 0

    def _add(self, name: str, zone: str, properties: Any) -> Instance:
        number = next(self._numbers)
        internal, external = self._network.addresses(number)
        if not properties.network_interfaces[0].access_configs:
            external = ""
        instance = Instance(name, zone, number, properties, internal, external)
        self.by_name[name] = instance
        self.disks[name] = zone
        return instance

    def _boot(self, instance: Instance) -> None:
        with instance.lock:
            if instance.is_over or instance.status != "PROVISIONING":
                return
            if not self._conditions.is_stub:
                self._start(instance)
            instance.status = "RUNNING"

    def _start(self, instance: Instance) -> None:
        root = self._directory / instance.key
        gce_boot.make_root(root)
        values = {
            f"instance/attributes/{item.key}": item.value
            for item in instance.properties.metadata.items
        }
        project = self._catalogue.project
        values |= {
            "instance/name": instance.name,
            "instance/hostname": f"{instance.name}.{instance.zone}.c.{project}.internal",
            "instance/id": str(10**15 + instance.number),
            "instance/zone": f"projects/1/zones/{instance.zone}",
            "instance/preempted": "FALSE",
            "instance/maintenance-event": "NONE",
            "instance/network-interfaces/0/ip": instance.internal,
            "instance/network-interfaces/0/access-configs/0/external-ip": instance.external,
            "instance/service-accounts/default/token": json.dumps(
                {"access_token": "tests", "expires_in": 3599, "token_type": "Bearer"}
            ),
            "project/project-id": project,
        }
        metadata = Metadata(instance.internal, values, lambda: self._shut_down(instance))
        instance.metadata, instance.directory = metadata, root
        if instance.external:
            addresses = (instance.external, instance.internal)
            ports = sorted(self._conditions.open_ports)
            instance.relays = [self._network.relay(*addresses, port) for port in ports]
        script = root / "startup-script"
        text = values.get("instance/attributes/startup-script", "")
        script.write_text(gce_boot.adapted(text, root, metadata.host))
        images = {name: asdict(image) for name, image in self._conditions.images.items()}
        env = {
            "PATH": f"{self._programs}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(root / "root"),
            "LANG": "C.UTF-8",
            "GCE_METADATA_HOST": metadata.host,
            f"{gce_boot.BED}IMAGES": json.dumps(images),
            f"{gce_boot.BED}ADDRESS": instance.internal,
        }
        argv = ["bash", "-c", gce_boot.INIT, str(script)]
        self._machines.start(instance.key, argv, env, root, root / "serial.log")

    def _shut_down(self, instance: Instance) -> None:
        """Let an instance that has asked for its end come to it."""
        with instance.lock:
            if instance.status == "RUNNING":
                instance.status = "STOPPING"
        end = threading.Thread(target=self._halt, args=(instance, "TERMINATED"), daemon=True)
        end.start()

    def _halt(self, instance: Instance, status: str) -> None:
        with instance.lock:
            for end in instance.relays:
                end()
            instance.relays = []
            if instance.metadata is not None:
                self._machines.stop(instance.key, 0)
                assert instance.exited.wait(30), f"{instance.key} does not end"
                instance.metadata.close()
                instance.metadata = None
            instance.status, instance.is_over = status, True

    def _remove(self, instance: Instance) -> None:
        self._halt(instance, "STOPPING")
        with self._lock:
            if self.by_name.get(instance.name) is instance:
                del self.by_name[instance.name]
                if all(disk.auto_delete for disk in instance.properties.disks):
                    self.disks.pop(instance.name, None)

    def _exited(self, key: str, status: int) -> None:
        for instance in self._with_key(key):
            instance.exited.set()

    def _with_key(self, key: str) -> Iterator[Instance]:
        return (each for each in self.all() if each.key == key)
