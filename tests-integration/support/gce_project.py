"""A project of Google Cloud for tests: Compute Engine over HTTP on this machine, whose instances are processes.

Whoever makes clients with the endpoint of `SCALABLE_GCE_ENDPOINT` while it is provided reaches it::

    with gce_project.provide(directory, patch) as project:
        project.target                    # what a target needs to be in it: project_id, zones
        project.calls("instances.list")   # how often clients have called a method
        project.traffic.log               # the calls themselves
        project.traffic.unknown           # requests that it has answered with 501
        project.inventory()               # everything that is in it: [] when nothing is
        project.instances                 # that exist, in whatever state

Instances run on addresses of 127.0.0.0/8 that no other test on this machine has. Their external addresses are relays,
for the ports that the firewall lets through. Images of containers are this Python with its packages, unless
``conditions.images`` says otherwise. What may go wrong, beside `gce_instances.Conditions`:

``fault(method, status, reason, times=, skip=, after=, before=)``
    A call fails; without a status its answer is lost; with ``after``, once it is done.
``deny(*permissions)``
    Callers may not do what these name: ``compute.instances.create``.
``preempt(name, notice=)``
    Compute Engine takes an instance, and leaves it TERMINATED or deletes it, as its scheduling says. With notice, its
    metadata say so before, and its processes get SIGTERM at once, as by the shutdown of a machine.
``remove(name)``, ``stop(name)``
    Somebody else deletes or stops an instance.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gce_lists
import gce_rules
import pytest
from aws_conditions import Image
from gce_faults import CallFault, Traffic
from gce_instances import Conditions, Instance, Instances
from gce_network import Network
from gce_operations import Operations
from gce_rules import BASE, Catalogue, RefusedError
from gce_secrets import ACCOUNT, Secrets
from gce_server import Method, Request, Server

__all__ = ["GceProject", "Image", "manifest", "provide"]

PROJECT = "climate-tests"
ZONES = ("us-central1-a", "us-central1-b", "us-central1-c")


class GceProject:
    """The project: see above.

    Parameters
    ----------
    directory : Path
        For files of instances.
    """

    def __init__(self, directory: Path) -> None:
        self.conditions = Conditions()
        self.catalogue = Catalogue(PROJECT, [*ZONES])
        self.traffic = Traffic()
        self.page = 3
        self.operations = Operations(PROJECT)
        self._network = Network()
        parts = (self.catalogue, self.conditions, self.operations, self._network, directory)
        self._instances = Instances(*parts)
        self.secrets = Secrets(PROJECT)
        self._server = Server(self._methods(), self.traffic)
        self.url = self._server.url

    def close(self) -> None:
        """End everything."""
        self._server.close()
        self._instances.close()
        self._network.close()

    def renew(self) -> None:
        """Make it a new project, without faults, in which nothing is."""
        vars(self.conditions).update(vars(Conditions()))
        vars(self.catalogue).update(vars(Catalogue(PROJECT, [*ZONES])))
        self.page, self.operations.delay = 3, 0.1
        self._instances.clear()
        self.operations.clear()
        self.secrets.clear()
        self.traffic.clear()

    @property
    def target(self) -> dict[str, Any]:
        """Return what a target needs to be in it."""
        return {"project_id": PROJECT, "zones": [*self.catalogue.zones[:2]]}

    # -- What is in it

    def calls(self, method: str) -> int:
        """Return how often clients have called a method."""
        return Counter(call.method for call in [*self.traffic.log])[method]

    @property
    def instances(self) -> dict[str, Instance]:
        """Return the instances that exist, by name."""
        return {each.name: each for each in self._instances.all()}

    def inventory(self) -> list[str]:
        """Return everything that is in it and costs money, runs, or is about to."""
        left = [f"instance {each.name} {each.status}" for each in self._instances.all()]
        left += [f"disk {name}" for name in [*self._instances.disks]]
        left += [f"process {key}" for key in self._instances.processes]
        left += [f"secret {name}" for name in self.secrets.names]
        return left + self.operations.unfinished("bulkInsert")

    # -- What may go wrong

    def fault(
        self,
        method: str,
        status: int | None = None,
        reason: str = "backendError",
        *,
        times: float = 1,
        skip: int = 0,
        after: bool = False,
        before: Callable[[], None] | None = None,
    ) -> CallFault:
        """Let calls go wrong, and return what may be removed from ``traffic.faults`` later.

        Parameters
        ----------
        method : str
            Theirs, ``instances.bulkInsert``; ``*`` for all.
        status : int, optional
            Of the error; without one, the answer is lost.
        reason : str
            What the error is called.
        times, skip : float, int
            How many go wrong, which may be `math.inf`, after so many that do not.
        after : bool
            Whether the call is done before.
        before : callable, optional
            Is called before all else, such as to kill the client.
        """
        fault = CallFault(method, status, reason, times, skip, after, before)
        self.traffic.faults.append(fault)
        return fault

    def deny(self, *permissions: str) -> None:
        """Let callers be denied what these name: ``compute.instances.create``."""
        self.traffic.denied.update(permissions)

    def preempt(self, name: str, *, notice: float = 0.0) -> None:
        """Let Compute Engine take an instance, after so many seconds of notice."""
        self._instances.preempt(name, notice)

    def remove(self, name: str) -> None:
        """Delete an instance, as somebody else may."""
        self._instances.remove(name)

    def stop(self, name: str) -> None:
        """Stop an instance, as somebody else may."""
        self._instances.stop(name)

    # -- The methods

    def _methods(self) -> list[Method]:
        instance = "zones/{zone}/instances/{name}"
        operations = "zones/{zone}/operations"
        return [
            *self.secrets.methods(),
            Method("projects.get", "GET", "", self._own(self._get_project)),
            Method("zones.list", "GET", "zones", self._own(self._list_zones)),
            Method("zones.get", "GET", "zones/{zone}", self._own(self._get_zone)),
            Method("regions.get", "GET", "regions/{name}", self._own(self._get_region)),
            Method(
                "instances.bulkInsert",
                "POST",
                "zones/{zone}/instances/bulkInsert",
                self._own(self._bulk_insert),
            ),
            Method("instances.list", "GET", "zones/{zone}/instances", self._own(self._list)),
            Method("instances.get", "GET", instance, self._own(self._get)),
            Method("instances.delete", "DELETE", instance, self._own(self._delete)),
            Method(
                "instances.getSerialPortOutput",
                "GET",
                f"{instance}/serialPort",
                self._own(self._get_console),
            ),
            Method(
                "instances.aggregatedList",
                "GET",
                "aggregated/instances",
                self._own(self._list_everywhere),
            ),
            Method("zoneOperations.list", "GET", operations, self._own(self._list_operations)),
            Method(
                "zoneOperations.get",
                "GET",
                f"{operations}/{{name}}",
                self._own(self._get_operation),
            ),
            Method("disks.list", "GET", "zones/{zone}/disks", self._own(self._list_disks)),
            Method(
                "machineTypes.list", "GET", "zones/{zone}/machineTypes", self._own(self._list_types)
            ),
            Method(
                "machineTypes.get",
                "GET",
                "zones/{zone}/machineTypes/{name}",
                self._own(self._get_type),
            ),
            Method(
                "acceleratorTypes.list",
                "GET",
                "zones/{zone}/acceleratorTypes",
                self._own(self._list_gpus),
            ),
            Method(
                "acceleratorTypes.get",
                "GET",
                "zones/{zone}/acceleratorTypes/{name}",
                self._own(self._get_gpu),
            ),
            Method("firewalls.list", "GET", "global/firewalls", self._own(self._list_firewalls)),
            Method("networks.get", "GET", "global/networks/{name}", self._get_network),
            Method(
                "subnetworks.get",
                "GET",
                "regions/{region}/subnetworks/{name}",
                self._get_subnetwork,
            ),
            Method("images.get", "GET", "global/images/{name}", self._get_image),
            Method("images.getFromFamily", "GET", "global/images/family/{name}", self._get_image),
        ]

    def _own(
        self, answer: Callable[[Request], Mapping[str, Any]]
    ) -> Callable[[Request], Mapping[str, Any]]:
        """Return what answers requests for the project itself and zones of its, and refuses others."""

        def checked(request: Request) -> Mapping[str, Any]:
            if (project := request.parts["project"]) != PROJECT:
                message = f"Required 'compute.projects.get' permission for 'projects/{project}'"
                raise RefusedError(403, "forbidden", message)
            zone = request.parts.get("zone")
            if zone is not None and zone not in self.catalogue.zones:
                raise _not_found(f"projects/{project}/zones/{zone}")
            return answer(request)

        return checked

    def _get_project(self, _: Request) -> Mapping[str, Any]:
        quotas = self._quotas("CPUS_ALL_REGIONS", "GPUS_ALL_REGIONS")
        return {"name": PROJECT, "quotas": quotas, "defaultServiceAccount": ACCOUNT}

    def _list_zones(self, request: Request) -> Mapping[str, Any]:
        zones = [self._zone(name) for name in self.catalogue.zones]
        return gce_lists.page(zones, request.query, self.page)

    def _get_zone(self, request: Request) -> Mapping[str, Any]:
        return self._zone(request.zone)

    def _zone(self, name: str) -> dict[str, Any]:
        region = gce_rules.region_of(name)
        return {
            "name": name,
            "status": "UP",
            "region": f"{BASE}projects/{PROJECT}/regions/{region}",
        }

    def _get_region(self, request: Request) -> Mapping[str, Any]:
        if request.name not in self.catalogue.regions:
            raise _not_found(f"projects/{PROJECT}/regions/{request.name}")
        metrics = (
            *("CPUS", "N2_CPUS", "N2D_CPUS", "C2_CPUS", "PREEMPTIBLE_CPUS"),
            *("INSTANCES", "IN_USE_ADDRESSES", "SSD_TOTAL_GB"),
            *("NVIDIA_L4_GPUS", "PREEMPTIBLE_NVIDIA_L4_GPUS", "NVIDIA_T4_GPUS"),
        )
        zones = [z for z in self.catalogue.zones if gce_rules.region_of(z) == request.name]
        links = [f"{BASE}projects/{PROJECT}/zones/{zone}" for zone in zones]
        return {"name": request.name, "zones": links, "quotas": self._quotas(*metrics)}

    def _quotas(self, *metrics: str) -> list[dict[str, Any]]:
        limits = dict.fromkeys(metrics, self.conditions.cpu_quota) | self.conditions.quotas
        usage = float(self._instances.cpus)
        return [
            {"metric": metric, "limit": float(limits[metric]), "usage": usage} for metric in metrics
        ]

    def _bulk_insert(self, request: Request) -> Mapping[str, Any]:
        request_id = request.query.get("requestId")
        gce_rules.check_request_id(request_id)
        body = gce_rules.read_bulk(request.body)
        key = (request.zone, body.SerializeToString(deterministic=True))
        if (first := self.operations.repeated(request_id, key)) is not None:
            return first
        gce_rules.check_bulk(body, request.zone, self.catalogue)
        return self._instances.create(request.zone, body, request_id)

    def _delete(self, request: Request) -> Mapping[str, Any]:
        request_id = request.query.get("requestId")
        gce_rules.check_request_id(request_id)
        key = (request.zone, request.name)
        if (first := self.operations.repeated(request_id, key)) is not None:
            return first
        return self._instances.delete(request.zone, request.name, request_id)

    def _get(self, request: Request) -> Mapping[str, Any]:
        return self._instances.show(self._instances.get(request.zone, request.name))

    def _list(self, request: Request) -> Mapping[str, Any]:
        shown = map(self._instances.show, self._instances.all(request.zone))
        return gce_lists.page(shown, request.query, self.page)

    def _list_everywhere(self, request: Request) -> Mapping[str, Any]:
        shown = map(self._instances.show, self._instances.all())
        answer = gce_lists.page(shown, request.query, self.page)
        found = answer.pop("items")
        scopes: dict[str, dict[str, Any]] = {}
        for zone in self.catalogue.zones:
            inside = [item for item in found if item["zone"].endswith(f"/{zone}")]
            nothing = {"warning": {"code": "NO_RESULTS_ON_PAGE", "message": "There are none."}}
            scopes[f"zones/{zone}"] = {"instances": inside} if inside else nothing
        return {**answer, "items": scopes}

    def _get_console(self, request: Request) -> Mapping[str, Any]:
        start = int(request.query.get("start", "0"))
        return self._instances.console(request.zone, request.name, start)

    def _list_operations(self, request: Request) -> Mapping[str, Any]:
        return gce_lists.page(self.operations.of(request.zone), request.query, self.page)

    def _get_operation(self, request: Request) -> Mapping[str, Any]:
        return _one(self.operations.of(request.zone), request)

    def _list_disks(self, request: Request) -> Mapping[str, Any]:
        disks = [
            {"name": name} for name, zone in self._instances.disks.items() if zone == request.zone
        ]
        return gce_lists.page(disks, request.query, self.page)

    def _types(self) -> list[dict[str, Any]]:
        kinds = self.catalogue.machine_types.items()
        return [
            {"name": name, "guestCpus": cpus, "memoryMb": memory} for name, (cpus, memory) in kinds
        ]

    def _list_types(self, request: Request) -> Mapping[str, Any]:
        return gce_lists.page(self._types(), request.query, 500)

    def _get_type(self, request: Request) -> Mapping[str, Any]:
        return _one(self._types(), request)

    def _list_gpus(self, request: Request) -> Mapping[str, Any]:
        gpus = [{"name": name} for name in sorted(self.catalogue.gpus)]
        return gce_lists.page(gpus, request.query, self.page)

    def _get_gpu(self, request: Request) -> Mapping[str, Any]:
        return _one([{"name": name} for name in self.catalogue.gpus], request)

    def _list_firewalls(self, request: Request) -> Mapping[str, Any]:
        ports = [str(port) for port in sorted(self.conditions.open_ports)]
        rule = {
            "name": "dask",
            "direction": "INGRESS",
            "disabled": False,
            "network": f"{BASE}projects/{PROJECT}/global/networks/default",
            "sourceRanges": ["0.0.0.0/0"],
            "allowed": [{"IPProtocol": "tcp", "ports": ports}],
        }
        inside = {
            **rule,
            "name": "default-allow-internal",
            "sourceRanges": ["10.128.0.0/9", "127.0.0.0/8"],
            "allowed": [{"IPProtocol": "tcp", "ports": ["0-65535"]}],
        }
        return gce_lists.page([inside, *([rule] if ports else [])], request.query, self.page)

    def _get_network(self, request: Request) -> Mapping[str, Any]:
        return _one([{"name": "default", "autoCreateSubnetworks": True}], request)

    def _get_subnetwork(self, request: Request) -> Mapping[str, Any]:
        key = (request.parts["project"], request.parts["region"], request.name)
        if key not in self.catalogue.subnetworks:
            raise _not_found("projects/{}/regions/{}/subnetworks/{}".format(*key))
        return {
            "name": request.name,
            "network": f"{BASE}projects/{key[0]}/global/networks/{request.name}",
            "privateIpGoogleAccess": self.catalogue.subnetworks[key],
        }

    def _get_image(self, request: Request) -> Mapping[str, Any]:
        key = (request.parts["project"], request.name)
        if key not in self.catalogue.images:
            raise _not_found("projects/{}/global/images/{}".format(*key))
        size = str(self.catalogue.images[key])
        return {"name": request.name, "status": "READY", "diskSizeGb": size}


def _one(items: list[dict[str, Any]], request: Request) -> Mapping[str, Any]:
    for item in items:
        if item["name"] == request.name:
            return item
    raise _not_found("/".join(itertools.chain(*request.parts.items())))


def _not_found(what: str) -> RefusedError:
    return RefusedError(404, "notFound", f"The resource '{what}' was not found")


@contextlib.contextmanager
def provide(directory: Path, patch: pytest.MonkeyPatch) -> Iterator[GceProject]:
    """Provide a project, which the provider reaches by the environment."""
    if sys.platform != "linux":
        pytest.skip("only Linux has all addresses of 127.0.0.0/8")
    project = GceProject(directory)
    try:
        for name in [*os.environ]:
            if name.startswith(("GOOGLE_", "GCE_", "CLOUDSDK_")):
                patch.delenv(name)
        patch.setenv("SCALABLE_GCE_ENDPOINT", project.url)
        patch.setenv("NO_PROXY", "*")
        patch.setenv("no_proxy", "*")
        yield project
    finally:
        project.close()


def manifest(target: Mapping[str, Any], **sections: Any) -> str:
    """Return a manifest whose only target, ``here``, is in a project."""
    whole = {
        "version": 1,
        "project": {"name": "tests"},
        "targets": {"here": {"provider": "gcp", **target}},
        **sections,
    }
    return json.dumps(whole, ensure_ascii=False)  # as YAML has it
