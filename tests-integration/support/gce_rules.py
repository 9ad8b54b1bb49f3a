"""What Compute Engine refuses in a request: the rules of its server that its client library does not check.

Each is from the reference of the API (https://cloud.google.com/compute/docs/reference/rest/v1), from the docstrings of
google-cloud-compute, or from the pages on naming and labelling of resources.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from google.cloud import compute_v1
from google.protobuf import json_format

BASE = "https://www.googleapis.com/compute/v1/"

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_KEY, _VALUE = re.compile(r"[a-z][-_a-z0-9]{0,62}"), re.compile(r"[-_a-z0-9]{0,63}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_IMAGE = re.compile(rf"(?:{BASE})?projects/([^/]+)/global/images/(?:family/)?([^/]+)")
_SUBNETWORK = re.compile(rf"(?:{BASE})?projects/([^/]+)/regions/([^/]+)/subnetworks/([^/]+)")
_NETWORK = re.compile(rf"(?:{BASE})?(?:projects/[^/]+/)?global/networks/([^/]+)")
_ACCOUNT = re.compile(r"default|[^@\s]+@[^@\s]+\.[^@\s]+")
_FITTED = re.compile(r"(a[234]x?|g[24])-.+")


class RefusedError(Exception):
    """An error that Compute Engine answers with.

    Parameters
    ----------
    status : int
        Of HTTP.
    reason : str
        Its name for the error: ``notFound``.
    message : str
        What it says.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason

    @property
    def body(self) -> dict[str, Any]:
        """Return the content of the answer."""
        message = str(self)
        errors = [{"message": message, "domain": "global", "reason": self.reason}]
        return {"error": {"code": self.status, "message": message, "errors": errors}}


@dataclass
class Catalogue:
    """What a project can choose from. A test may change it.

    Parameters
    ----------
    project : str
        Its id.
    zones : list of str
        Its zones.
    machine_types : dict of str to (int, int)
        vCPUs and MiB of each machine type.
    gpus : set of str
        The accelerators that may be attached to machines.
    images : dict of (str, str) to int
        GB of each image or family, by project and name.
    subnetworks : dict of (str, str, str) to bool
        By project, region and name; whether each has Private Google Access.
    """

    project: str
    zones: list[str]
    machine_types: dict[str, tuple[int, int]] = field(default_factory=lambda: _machine_types())
    gpus: set[str] = field(default_factory=lambda: {"nvidia-tesla-t4", "nvidia-l4"})
    images: dict[tuple[str, str], int] = field(
        default_factory=lambda: {
            ("cos-cloud", "cos-stable"): 10,
            ("debian-cloud", "debian-12"): 10,
            ("ubuntu-os-cloud", "ubuntu-2404-lts-amd64"): 10,
        }
    )
    subnetworks: dict[tuple[str, str, str], bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for region in self.regions:
            self.subnetworks.setdefault((self.project, region, "default"), True)

    @property
    def regions(self) -> set[str]:
        """The regions of the zones."""
        return {region_of(zone) for zone in self.zones}


def _machine_types() -> dict[str, tuple[int, int]]:
    types = {"e2-small": (2, 2048), "g2-standard-4": (4, 16384), "a2-highgpu-1g": (12, 87040)}
    for series, standard in (("e2", 4.0), ("n1", 3.75), ("n2", 4.0), ("n2d", 4.0), ("c2", 4.0)):
        for kind, gib in (("standard", standard), ("highmem", 8.0), ("highcpu", 1.0)):
            for cpus in (1, 2, 4, 8, 16, 32):
                if cpus > 1 or series == "n1":
                    types[f"{series}-{kind}-{cpus}"] = (cpus, int(cpus * gib * 1024))
    return types


def region_of(zone: str) -> str:
    """Return the region of a zone.

    Examples
    --------
    >>> region_of("us-central1-a")
    'us-central1'
    """
    return zone.rpartition("-")[0]


def require(ok: object, what: str, value: object, why: str) -> None:
    """Refuse a request, unless something is true of it."""
    if not ok:
        message = f"Invalid value for field '{what}': '{value}'. {why}"
        raise RefusedError(400, "invalid", message)


def check_request_id(request_id: str | None) -> None:
    """Refuse a request id that is not a UUID."""
    require(request_id is None or _UUID.fullmatch(request_id), "requestId", request_id, "A UUID.")


def read_bulk(raw: bytes) -> Any:
    """Return the body of bulkInsert as Google's own type, and refuse one with unknown fields."""
    body = compute_v1.BulkInsertInstanceResource.pb(compute_v1.BulkInsertInstanceResource())
    try:
        return json_format.ParseDict(json.loads(raw), body)
    except (json_format.ParseError, ValueError) as error:
        message = f"Invalid JSON payload received. {error}"
        raise RefusedError(400, "badRequest", message) from None


def check_bulk(body: Any, zone: str, catalogue: Catalogue) -> None:
    """Refuse a request to create several instances that Compute Engine would refuse."""
    names, properties = [*body.per_instance_properties], body.instance_properties
    require(1 <= body.count <= 5000, "resource.count", body.count, "Must be in [1, 5000].")
    require(
        bool(names) != bool(body.name_pattern),
        "resource.namePattern",
        body.name_pattern,
        "Exactly one of namePattern and perInstanceProperties is required.",
    )
    require(names, "resource.namePattern", body.name_pattern, "Tests know names only.")
    require(
        len(names) == body.count >= body.min_count,
        "resource.perInstanceProperties",
        len(names),
        "There must be as many as count, which is no less than minCount.",
    )
    for name in names:
        why = "Must be a match of regex '[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?'"
        require(_NAME.fullmatch(name), "resource.name", name, why)
    _check_machine(properties, catalogue)
    _check_labels("instanceProperties.labels", properties.labels)
    _check_disks(properties, catalogue)
    _check_network(properties, zone, catalogue)
    _check_scheduling(properties)
    _check_metadata(properties)
    for tag in properties.tags.items:
        require(_NAME.fullmatch(tag), "instanceProperties.tags", tag, "Must be a name.")
    accounts = properties.service_accounts
    require(len(accounts) <= 1, "instanceProperties.serviceAccounts", len(accounts), "One at most.")
    for account in accounts:
        what = "instanceProperties.serviceAccounts[0]"
        require(_ACCOUNT.fullmatch(account.email), f"{what}.email", account.email, "No address.")
        require(account.scopes, f"{what}.scopes", "", "At least one scope is required.")


def _check_machine(properties: Any, catalogue: Catalogue) -> None:
    kind = properties.machine_type
    if "/" in kind:  # the name only, as the docstring of InstanceProperties.machine_type says
        raise RefusedError(500, "internalError", "INTERNAL_ERROR")
    what = "instanceProperties.machineType"
    require(kind in catalogue.machine_types, what, kind, "Machine type does not exist.")
    for each in properties.guest_accelerators:
        what = "instanceProperties.guestAccelerators"
        require(each.accelerator_type in catalogue.gpus, what, each.accelerator_type, "Not found.")
        require(each.accelerator_count > 0, what, each.accelerator_count, "At least one.")
        require(kind.startswith("n1-"), what, kind, "GPUs are attached to series n1 only.")


def _check_labels(what: str, labels: Any) -> None:
    require(len(labels) <= 64, what, len(labels), "At most 64.")
    for key, value in labels.items():
        why = "Lower-case letters, digits, - and _ only; at most 63."
        require(_KEY.fullmatch(key) and _VALUE.fullmatch(value), what, f"{key}={value}", why)


def _check_disks(properties: Any, catalogue: Catalogue) -> None:
    what = "instanceProperties.disks"
    require(len(properties.disks) == 1, what, len(properties.disks), "Tests know boot disks only.")
    (disk,) = properties.disks
    require(disk.boot, f"{what}[0].boot", disk.boot, "The first disk must be the boot disk.")
    given = disk.initialize_params
    image = _IMAGE.fullmatch(given.source_image)
    size = catalogue.images.get((image[1], image[2])) if image else None
    what = f"{what}[0].initializeParams"
    why = "The referenced image resource cannot be found."
    require(size, f"{what}.sourceImage", given.source_image, why)
    assert size is not None
    why = f"Requested disk size cannot be smaller than the image size ({size} GB)"
    fits = not given.disk_size_gb or given.disk_size_gb >= size
    require(fits, f"{what}.diskSizeGb", given.disk_size_gb, why)
    known = ("", "pd-standard", "pd-balanced", "pd-ssd", "hyperdisk-balanced")
    require(given.disk_type in known, f"{what}.diskType", given.disk_type, "A bare name.")
    _check_labels(f"{what}.labels", given.labels)


def _check_network(properties: Any, zone: str, catalogue: Catalogue) -> None:
    what = "instanceProperties.networkInterfaces"
    interfaces = properties.network_interfaces
    require(len(interfaces) == 1, what, len(interfaces), "Exactly one is what tests know.")
    network, subnetwork = interfaces[0].network, interfaces[0].subnetwork
    require(network or subnetwork, what, "", "A network or a subnetwork is required.")
    if network:
        require(_NETWORK.fullmatch(network), f"{what}.network", network, "No network.")
    if subnetwork:
        found = _SUBNETWORK.fullmatch(subnetwork)
        why = "The referenced subnetwork resource cannot be found."
        require(found and found.groups() in catalogue.subnetworks, what, subnetwork, why)
        assert found is not None
        require(found[2] == region_of(zone), what, subnetwork, "It is of another region.")
    for access in interfaces[0].access_configs:
        require(access.type_ in ("", "ONE_TO_ONE_NAT"), f"{what}.accessConfigs", access.type_, "")


def _check_scheduling(properties: Any) -> None:
    given, what = properties.scheduling, "instanceProperties.scheduling"
    model, action = given.provisioning_model, given.instance_termination_action
    require(model in ("", "STANDARD", "SPOT"), f"{what}.provisioningModel", model, "Unknown.")
    is_spot = model == "SPOT"
    restarts = not given.HasField("automatic_restart") or given.automatic_restart
    why = "Must be false for Spot VMs."
    require(not (is_spot and restarts), f"{what}.automaticRestart", restarts, why)
    has_gpu = properties.guest_accelerators or _FITTED.fullmatch(properties.machine_type)
    ends = given.on_host_maintenance == "TERMINATE"
    why = "VMs that are Spot or have GPUs cannot migrate: TERMINATE is required."
    what_ends = f"{what}.onHostMaintenance"
    require(ends or not (is_spot or has_gpu), what_ends, given.on_host_maintenance, why)
    limit = given.max_run_duration.seconds if given.HasField("max_run_duration") else None
    why = "Must be from 30 seconds to 120 days."
    fits = limit is None or 30 <= limit <= 120 * 86400
    require(fits, f"{what}.maxRunDuration", limit, why)
    why = "STOP or DELETE, and only of Spot VMs or of those with maxRunDuration."
    allowed = action in ("STOP", "DELETE") and (is_spot or limit is not None)
    require(not action or allowed, f"{what}.instanceTerminationAction", action, why)
    why = "Required with maxRunDuration."
    require(limit is None or action, f"{what}.instanceTerminationAction", action, why)


def _check_metadata(properties: Any) -> None:
    items, what = properties.metadata.items, "instanceProperties.metadata"
    keys = [item.key for item in items]
    require(len(keys) == len({*keys}), what, keys, "A key twice.")
    for item in items:
        require(re.fullmatch(r"[-_a-zA-Z0-9]{1,128}", item.key), what, item.key, "No key.")
        size = len(item.value.encode())
        require(size <= 256 * 1024, f"{what}.{item.key}", size, "At most 256 KiB.")
    whole = sum(len(item.key) + len(item.value.encode()) for item in items)
    require(whole <= 512 * 1024, what, whole, "At most 512 KiB together.")
