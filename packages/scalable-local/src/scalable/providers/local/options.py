"""Options of a target on this machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from scalable.manifest.schema import MOST_SLOTS
from scalable.providers.options import Matching, TargetOptions

__all__ = ["LocalOptions"]

_PORT = r"(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[0-9]{1,4})"

ListenAddress = Annotated[
    str,
    Matching(rf"([A-Za-z0-9._-]*|\[[0-9A-Fa-f:]+\]):{_PORT}", "host:port such as 127.0.0.1:8787"),
]


class LocalOptions(TargetOptions):
    """Options of a target on this machine.

    Examples
    --------
    >>> LocalOptions(processes=False, max_workers=4).dashboard_address
    '127.0.0.1:0'
    """

    processes: bool = Field(
        default=True,
        description="Whether each worker is a separate process; otherwise workers are threads of the client's process.",
    )
    threads_per_worker: Annotated[int, Field(ge=1, le=MOST_SLOTS)] | None = Field(
        default=None, description="Slots of components that do not set `slots`."
    )
    containers: Literal["none", "auto", "docker", "podman", "apptainer"] = Field(
        default="none",
        description="The runtime of each component's image; `auto` is the component's own runtime, or else the first "
        "installed one of podman, docker and apptainer; `none` runs no containers.",
    )
    dashboard_address: ListenAddress | None = Field(
        default="127.0.0.1:0",
        description="Address of Dask's dashboard, as host:port; port 0 is any free port, null is no dashboard. The "
        "dashboard has no password: on a host other than 127.0.0.1, everyone who reaches this machine can use it.",
    )
