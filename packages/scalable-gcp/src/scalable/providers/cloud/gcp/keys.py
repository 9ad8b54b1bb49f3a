"""The key of a run, and where its machines get it from: their metadata, or Secret Manager. Pure functions.

A secret is the run's own, by its name and labels. Only the machines' service account may read it, and it ends by
itself.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from scalable.providers.cloud.gcp.names import Run

__all__ = ["Keys", "SecretRequest", "secret_requests"]

_MARGIN = 3600
"""Seconds for which a secret is there after the last machine of its run."""


@dataclass(frozen=True)
class Keys:
    """The keys of a run, as its machines get them.

    Parameters
    ----------
    certificate : str
        The certificate.
    private : str
        The private key; empty where the machines ask Secret Manager for it.
    secret : str
        The URL at which they do so; empty where the key is in their metadata.
    """

    certificate: str
    private: str = field(repr=False)
    secret: str = ""


class SecretRequest(NamedTuple):
    """A request to Secret Manager."""

    verb: str
    path: str
    body: Mapping[str, Any]


def secret_requests(
    project: str, run: Run, account: str, lifetime: float, key: str
) -> list[SecretRequest]:
    """Return the requests that keep a key until the run's machines are over.

    Parameters
    ----------
    project, account : str
        The project, and the address of the machines' service account, which alone is allowed to read it.
    run : Run
        The run.
    lifetime : float
        Seconds for which its machines may last.
    key : str
        The private key.
    """
    path = f"/v1/projects/{project}/secrets"
    secret = {
        "replication": {"automatic": {}},
        "labels": run.all_labels,
        "ttl": f"{int(lifetime) + _MARGIN}s",
    }
    reader = {
        "role": "roles/secretmanager.secretAccessor",
        "members": [f"serviceAccount:{account}"],
    }
    data = base64.b64encode(key.encode()).decode()
    return [
        SecretRequest("POST", f"{path}?secretId={run.name}", secret),
        SecretRequest(
            "POST", f"{path}/{run.name}:setIamPolicy", {"policy": {"bindings": [reader]}}
        ),
        SecretRequest("POST", f"{path}/{run.name}:addVersion", {"payload": {"data": data}}),
    ]
