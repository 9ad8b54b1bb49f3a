"""Options of a target on Google Cloud."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from scalable.manifest.units import Duration
from scalable.providers.options import (
    DaskImage,
    Matching,
    OneLine,
    RemoteTargetOptions,
    SpotCapacity,
    WorkerEnvironment,
)

__all__ = ["GCPOptions", "LabelKey", "LabelValue"]

# https://cloud.google.com/resource-manager/docs/creating-managing-projects; the prefix is that of old domain projects.
ProjectId = Annotated[
    str,
    Matching(
        "([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]",
        "a project id: 6 to 30 lower-case letters, digits and -, beginning with a letter",
    ),
]
Region = Annotated[str, Matching("[a-z]+-[a-z]+[0-9]{1,2}", "a region such as europe-west4")]
Zone = Annotated[str, Matching("[a-z]+-[a-z]+[0-9]{1,2}-[a-z]", "a zone such as europe-west4-a")]
MachineType = Annotated[
    str, Matching("[a-z][a-z0-9]*(-[a-z0-9]+)+", "a machine type such as n2-standard-4")
]
Network = Annotated[
    str,
    Matching(
        "(projects/[a-z0-9.:-]+/global/networks/)?[a-z]([a-z0-9-]{0,61}[a-z0-9])?",
        "a network such as default or projects/host/global/networks/shared",
    ),
]
Subnetwork = Annotated[
    str,
    Matching(
        "(projects/[a-z0-9.:-]+/regions/[a-z0-9-]+/subnetworks/)?[a-z]([a-z0-9-]{0,61}[a-z0-9])?",
        "a subnetwork such as default or projects/host/regions/europe-west4/subnetworks/shared",
    ),
]
ServiceAccount = Annotated[
    str,
    Matching(
        r"(default|[a-z0-9-]+@[a-z0-9-]+(\.[a-z0-9-]+)+)",
        "the e-mail address of a service account, or default",
    ),
]
BootImage = Annotated[
    str,
    Matching(
        "projects/[a-z0-9.:-]+/global/images/(family/)?[a-z]([a-z0-9-]{0,61}[a-z0-9])?",
        "a machine image such as projects/debian-cloud/global/images/family/debian-12",
    ),
]
# https://cloud.google.com/compute/docs/labeling-resources#requirements, without letters of other alphabets.
LabelKey = Annotated[
    str,
    Matching(
        "(?!scalable-)(?!goog)[a-z][a-z0-9_-]{0,62}",
        "the key of a label: 63 lower-case letters, digits, _ and - at most, beginning with a letter, and not with "
        "goog or scalable-",
    ),
]
LabelValue = Annotated[
    str,
    Matching(
        "[a-z0-9_-]{0,63}", "the value of a label: 63 lower-case letters, digits, _ and - at most"
    ),
]


class GCPOptions(RemoteTargetOptions):
    """Options of a target on Google Cloud."""

    project_id: ProjectId | None = Field(
        default=None, description="Project. By default the one of the credentials."
    )
    region: Region | None = Field(
        default=None,
        description="Region. By default that of the zones; one of region, zone and zones is required.",
    )
    zone: Zone | None = Field(default=None, description="The only zone, in place of `zones`.")
    zones: Annotated[tuple[Zone, ...], Field(max_length=10)] = Field(
        default=(),
        description="Zones of one region, in the order in which they are tried where one has no machines. By default "
        "those of the region, in the order of their names.",
    )
    machine_type: MachineType | None = Field(
        default=None,
        description="Machine type of the workers. By default the cheapest of the series e2, n2, n2d and g2 that holds "
        "what a component requires.",
    )
    instance_type: MachineType | None = Field(
        default=None, description="Another name of `machine_type`; set one of them."
    )
    gpu_type: Literal["nvidia-l4", "nvidia-tesla-a100", "nvidia-tesla-t4"] | None = Field(
        default=None,
        description="GPU of workers whose component requires some: by default nvidia-l4, with machines of series g2; "
        "those of nvidia-tesla-a100 are of series a2, and an nvidia-tesla-t4 is attached to series n1.",
    )
    scheduler_machine_type: MachineType = Field(
        default="e2-standard-2", description="Machine type of the scheduler."
    )
    boot_image: BootImage | None = Field(
        default=None,
        description="Machine image, with bash, curl, and Docker or apt-get. By default Container-Optimized OS; "
        "machines with GPUs need one with NVIDIA's driver and container toolkit.",
    )
    image: DaskImage = None
    python: OneLine = Field(
        default="python3",
        description="Python in the images, by its path or by its name on the PATH.",
    )
    network: Network = Field(default="default", description="VPC network.")
    subnetwork: Subnetwork | None = Field(
        default=None,
        description="Subnetwork. By default that of the region with the network's name.",
    )
    network_project: ProjectId | None = Field(
        default=None,
        description="Project of network and subnetwork, where another one shares them. By default the target's own.",
    )
    external_ips: bool = Field(
        default=True,
        description="Whether scheduler and workers have external addresses. Without them, the subnetwork needs Private "
        "Google Access or Cloud NAT, and this machine must reach the VPC's own addresses.",
    )
    service_account: ServiceAccount = Field(
        default="default", description="Service account that the machines act as."
    )
    keys: Literal["metadata", "secret-manager"] = Field(
        default="metadata",
        description="Where machines get the private key of the run from: their own metadata, which whoever may read an "
        "instance can read; or a secret of Secret Manager, which only their service account can read.",
    )
    spot: SpotCapacity = False
    # 64 TiB is the largest disk.
    disk_gb: Annotated[int, Field(ge=10, le=65536)] = Field(
        default=50, description="Size of a machine's boot disk in GB, which holds its images."
    )
    # https://cloud.google.com/compute/docs/instances/limit-vm-runtime: 30 seconds to 120 days.
    lifetime: Annotated[Duration, Field(ge=600, le=120 * 86400)] = Field(
        default=7 * 86400,
        description="Time after which Compute Engine deletes a machine, whatever happens; workers hand over before. A "
        "run must not take longer, because its scheduler is deleted, too.",
    )
    environment: WorkerEnvironment = Field(default_factory=dict)
    # 64 is the limit of Compute Engine; some are reserved for the labels of Scalable itself.
    labels: Annotated[Mapping[LabelKey, LabelValue], Field(max_length=40)] = Field(
        default_factory=dict, description="Labels of all machines and disks that a run creates."
    )

    @property
    def machine(self) -> str | None:
        """The machine type, under whichever name it was set."""
        return self.machine_type or self.instance_type

    @property
    def own_zones(self) -> tuple[str, ...]:
        """The zones that the target names, without the region's."""
        return self.zones or ((self.zone,) if self.zone else ())

    @property
    def own_region(self) -> str:
        """The region; empty where the target names none."""
        if self.region:
            return self.region
        return self.own_zones[0].rpartition("-")[0] if self.own_zones else ""
