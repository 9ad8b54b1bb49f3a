"""A component's mounts as volumes of Kubernetes. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from scalable.providers.kubernetes.quantities import is_quantity

__all__ = ["KINDS", "mounted", "volume"]

KINDS = (
    "an absolute path of the node, pvc:CLAIM, configMap:NAME, secret:NAME, emptyDir, emptyDir:SIZE "
    "or nfs:SERVER:/PATH"
)
"""What can be mounted, for messages."""

# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")

_READ_ONLY = ("configMap:", "secret:")


def volume(source: str) -> dict[str, Any]:
    """Return the volume that the host side of a mount names, without its name.

    Raises
    ------
    ValueError
        There is no such kind of volume, or no such size.

    Examples
    --------
    >>> volume("/data"), volume("pvc:inputs")
    ({'hostPath': {'path': '/data'}}, {'persistentVolumeClaim': {'claimName': 'inputs'}})
    >>> volume("nfs:files.example:/export"), volume("emptyDir:20Gi")
    ({'nfs': {'server': 'files.example', 'path': '/export'}}, {'emptyDir': {'sizeLimit': '20Gi'}})
    """
    if source.startswith("/"):
        return {"hostPath": {"path": source}}
    kind, _, name = source.partition(":")
    if kind in ("pvc", "configMap", "secret") and not _NAME.fullmatch(name):
        raise ValueError(f"must be {KINDS}, each name of lower-case letters, digits, - and .")
    if kind == "emptyDir" and (not name or is_quantity(name)):
        return {"emptyDir": {"sizeLimit": name} if name else {}}
    if kind == "pvc":
        return {"persistentVolumeClaim": {"claimName": name}}
    if kind == "configMap":
        return {"configMap": {"name": name}}
    if kind == "secret":
        return {"secret": {"secretName": name}}
    server, _, path = name.partition(":")
    if kind == "nfs" and server and path.startswith("/"):
        return {"nfs": {"server": server, "path": path}}
    if kind == "emptyDir":
        raise ValueError("must have a size of Kubernetes, such as emptyDir:500M or emptyDir:2Gi")
    raise ValueError(f"must be {KINDS}")


def mounted(mounts: Mapping[str, str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the volumes of a pod, and where its container mounts them.

    Parameters
    ----------
    mounts : mapping of str to str
        The absolute path in the container, by what is mounted there.

    Examples
    --------
    >>> volumes, places = mounted({"secret:keys": "/keys"})
    >>> volumes
    [{'name': 'mount-0', 'secret': {'secretName': 'keys'}}]
    >>> places
    [{'name': 'mount-0', 'mountPath': '/keys', 'readOnly': True}]
    """
    volumes, places = [], []
    for number, (source, path) in enumerate(mounts.items()):
        name = f"mount-{number}"
        volumes.append({"name": name, **volume(source)})
        read_only = {"readOnly": True} if source.startswith(_READ_ONLY) else {}
        places.append({"name": name, "mountPath": path, **read_only})
    return volumes, places
