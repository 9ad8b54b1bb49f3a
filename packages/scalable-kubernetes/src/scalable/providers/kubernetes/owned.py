"""What runs have left at a target, and its removal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scalable.cluster.port import Leftover
from scalable.errors import describe_error
from scalable.providers.base import Owned
from scalable.providers.kubernetes.api import ApiError, ApiUnreachableError
from scalable.providers.kubernetes.names import COMPONENT, MANAGED, OWNER, RUN, selector
from scalable.providers.kubernetes.removal import SINGULAR, remove_run
from scalable.providers.kubernetes.workflow import GRACE

if TYPE_CHECKING:
    from scalable.providers.kubernetes.api import KubernetesApi

__all__ = ["list_owned", "reap"]

_KINDS = ("jobs", "daskclusters", "daskworkergroups", "deployments", "services", "secrets")
_ALWAYS = ("jobs", "daskclusters", "daskworkergroups")
"""Kinds that are listed one by one; what else there is goes with its run."""

_PLURAL = {name: kind for kind, name in SINGULAR.items()}

_REAP_TIMEOUT = GRACE + 30.0
"""Seconds for the removal of a run, whose workflow may take its time to end, and a node to notice it."""


async def list_owned(api: KubernetesApi) -> list[Owned]:
    """Return the Jobs and DaskClusters of all runs, their worker groups, and what is left of runs without either.

    Raises
    ------
    ProviderNotSetUpError
        There are no credentials.
    ApiError, ApiUnreachableError
        The API server refuses the request, or does not answer.
    """
    await api.open()
    found = {kind: await _list(api, kind) for kind in _KINDS}
    complete = {_run_of(each) for kind in ("jobs", "daskclusters") for each in found[kind]}
    return [
        _owned(kind, each, f"{api.server} {api.namespace}")
        for kind, objects in found.items()
        for each in objects
        if kind in _ALWAYS or _run_of(each) not in complete
    ]


async def _list(api: KubernetesApi, kind: str) -> list[dict[str, Any]]:
    try:
        found = await api.list(kind, selector(MANAGED))
    except ApiError as error:
        if error.code == 404:  # without the operator's definitions, there are no such objects
            return []
        if kind == "jobs" and error.code == 403:  # a Role for workflows outside of the cluster
            return []
        raise
    # What somebody else manages may have the same label, and is of no run.
    return [each for each in found if _run_of(each) and "deletionTimestamp" not in each["metadata"]]


def _run_of(made: Mapping[str, Any]) -> str:
    return str(made["metadata"]["labels"].get(RUN, ""))


def _owned(kind: str, made: Mapping[str, Any], place: str) -> Owned:
    metadata = made["metadata"]
    owner = metadata.get("annotations", {}).get(OWNER, "")
    return Owned(SINGULAR[kind], metadata["name"], _run_of(made), owner, _detail(kind, made), place)


def _detail(kind: str, made: Mapping[str, Any]) -> str:
    if kind == "daskworkergroups":
        replicas = made["spec"]["worker"].get("replicas", 0)
        component = made["metadata"]["labels"].get(COMPONENT, "default")
        return f"{component}, {replicas} workers when launched"
    if kind == "jobs":
        return f"a workflow, since {made['metadata']['creationTimestamp']}"
    if kind == "daskclusters":
        since = made["metadata"]["creationTimestamp"]
        return f"{made.get('status', {}).get('phase', 'not acted on')}, since {since}"
    return ""


async def reap(api: KubernetesApi, owned: Sequence[Owned]) -> list[Leftover]:
    """Remove these; with a DaskCluster, everything of its run. Return what could not be removed."""
    await api.open()
    runs = dict.fromkeys(each.run_id for each in owned if each.kind == SINGULAR["daskclusters"])
    left: list[Leftover] = []
    for run in runs:
        left += await remove_run(api, run, _REAP_TIMEOUT)
    for each in owned:
        if each.run_id not in runs:
            try:
                await api.delete(_PLURAL[each.kind], each.name)
            except (ApiError, ApiUnreachableError) as error:
                left.append(Leftover(each.kind, each.name, describe_error(error)))
    return left
