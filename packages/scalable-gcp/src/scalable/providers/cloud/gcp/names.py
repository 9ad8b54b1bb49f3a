"""Names and labels of what a run creates. Pure functions."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from scalable.providers.common import dns_label

__all__ = [
    "OWNER",
    "REQUEST",
    "RUN",
    "TAG",
    "Run",
    "native_request",
    "run_prefix",
    "scheduler_name",
    "worker_names",
]

RUN = "scalable-run"
"""Label: the run."""
OWNER = "scalable-owner"
"""Label: the user who started it."""
TAG = "scalable-tag"
"""Label of a worker: its component."""
REQUEST = "scalable-request"
"""Label of a worker: the launch that it answers."""

_NOT_IN_LABELS = re.compile(r"[^a-z0-9_-]")


@dataclass(frozen=True)
class Run:
    """A run, for the names and the labels of its machines.

    Parameters
    ----------
    name : str
        Its name.
    owner : str
        The user who started it.
    labels : mapping of str to str
        Further labels of everything that it creates.
    """

    name: str
    owner: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_labels(self) -> dict[str, str]:
        """The labels of everything that it creates. Ours take precedence, because `scalable reap` relies on them."""
        owner = _NOT_IN_LABELS.sub("_", self.owner.lower())[:63]
        return {**self.labels, RUN: self.name, OWNER: owner}


def run_prefix(target: str) -> str:
    """Return the beginning of a run's name, from its target's name.

    Examples
    --------
    >>> run_prefix("GCP_us-east1"), run_prefix("a-target-with-a-long-name")
    ('gcp-us-east1', 'a-target-with-a-long')
    """
    return dns_label(dns_label(target)[:20])


def scheduler_name(run: str) -> str:
    """Return the name of the scheduler's machine."""
    return f"{run}-scheduler"


def worker_names(run: str, tag: str, request_id: str, n: int) -> list[str]:
    """Return the names of the machines of a launch, which are the same whenever it is repeated.

    Examples
    --------
    >>> worker_names("gcp-1f00ba", "GCAM_core", "9c2f44d1", 2)
    ['gcp-1f00ba-gcam-core-9c2f44-0', 'gcp-1f00ba-gcam-core-9c2f44-1']
    """
    part = dns_label(dns_label(tag)[:16])
    return [f"{run}-{part}-{request_id[:6]}-{number}" for number in range(n)]


def native_request(request_id: str, zone: str) -> str:
    """Return the UUID by which Compute Engine knows a request if it is repeated.

    Examples
    --------
    >>> native_request("9c2f44d1", "us-east1-b") == native_request("9c2f44d1", "us-east1-b")
    True
    """
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{request_id}/{zone}"))
