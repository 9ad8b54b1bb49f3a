"""Options of a target on Google Cloud."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from scalable.providers.options import DaskImage, Matching, SpotCapacity, TargetOptions

__all__ = ["GCPOptions"]

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


class GCPOptions(TargetOptions):
    """Options of a target on Google Cloud."""

    project_id: ProjectId | None = Field(
        default=None, description="Project. By default the one of the credentials."
    )
    region: Region | None = Field(
        default=None, description="Region. By default the zone's; one of the two is required."
    )
    zone: Zone | None = Field(default=None, description="Zone. By default any of the region's.")
    machine_type: MachineType | None = Field(
        default=None,
        description="Machine type of the workers. By default chosen by what a component requires.",
    )
    instance_type: MachineType | None = Field(
        default=None, description="Another name of `machine_type`; set one of them."
    )
    image: DaskImage = None
    network: Network = Field(default="default", description="VPC network.")
    subnetwork: Subnetwork | None = Field(
        default=None, description="Subnetwork. By default the network's in the region."
    )
    service_account: ServiceAccount = Field(
        default="default", description="Service account that the machines act as."
    )
    spot: SpotCapacity = False
    # 64 TiB is the largest disk.
    disk_gb: Annotated[int, Field(ge=10, le=65536)] = Field(
        default=50, description="Size of a machine's boot disk in GB, which holds its images."
    )

    @property
    def machine(self) -> str | None:
        """The machine type, under whichever name it was set."""
        return self.machine_type or self.instance_type
