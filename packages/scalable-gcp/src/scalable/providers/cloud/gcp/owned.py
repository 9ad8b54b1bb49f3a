"""What runs have left at a target, and its removal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scalable.cluster.port import Leftover
from scalable.providers.base import Owned
from scalable.providers.cloud.gcp.names import OWNER, RUN, owner_value
from scalable.providers.cloud.gcp.removal import delete_run
from scalable.providers.cloud.gcp.secret_manager import delete_secret, list_secrets
from scalable.providers.labels import owner_of_label

if TYPE_CHECKING:
    from scalable.providers.cloud.gcp.api import GceApi
    from scalable.providers.cloud.gcp.options import GCPOptions

__all__ = ["list_owned", "reap"]

_REAP_TIMEOUT = 300.0


async def list_owned(api: GceApi, options: GCPOptions) -> list[Owned]:
    """Return the machines of all runs in the target's region, or in the whole project if it names none.

    Of a target that keeps keys in Secret Manager, also the secrets of all runs in the project.
    """
    project = await api.check_credentials()
    scopes = await api.call("Instances", "aggregated_list", filter=f"labels.{RUN}:*")
    found = []
    for name, scope in scopes:
        zone = name.rpartition("/")[2]
        if options.own_region and not zone.startswith(f"{options.own_region}-"):
            continue
        for each in scope.instances:
            run, owner = each.labels.get(RUN), each.labels.get(OWNER, "")
            if run:
                owner = owner_of_label(owner, owner_value)
                place = f"{project} {zone}"
                found.append(Owned("machine", each.name, run, owner, each.status.lower(), place))
    return [*found, *(await list_secrets(api) if options.keys == "secret-manager" else ())]


async def reap(api: GceApi, owned: Sequence[Owned]) -> list[Leftover]:
    """Delete the machines of the runs of these, and the secrets; return what could not be deleted."""
    await api.check_credentials()
    zones: dict[str, set[str]] = {}
    for each in owned:
        if each.kind == "machine":
            zones.setdefault(each.run_id, set()).add(each.place.rpartition(" ")[2])
    left: list[Leftover] = []
    for run, where in zones.items():
        left += await delete_run(api, sorted(where), run, _REAP_TIMEOUT)
    for each in owned:
        if each.kind == "secret":
            left += await delete_secret(api, each.name)
    return left
