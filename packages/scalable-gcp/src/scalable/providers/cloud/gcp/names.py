"""Names and labels of what a run creates. Pure functions."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from scalable.providers.labels import dns_label, owner_label

__all__ = [
    "OWNER",
    "REQUEST",
    "RUN",
    "TAG",
    "Run",
    "native_request",
    "owner_value",
    "regions_of",
    "run_prefix",
    "scheduler_name",
    "worker_names",
    "zones_of",
]

RUN = "scalable-run"
"""Label: the run."""
OWNER = "scalable-owner"
"""Label: the user who started it."""
TAG = "scalable-tag"
"""Label of a worker: its component."""
REQUEST = "scalable-request"
"""Label of a worker: the launch that it answers."""


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
        return {**self.labels, RUN: self.name, OWNER: owner_value(self.owner)}


def owner_value(owner: str) -> str:
    """Return a user's name as the value of a label."""
    return owner_label(owner, "[^a-z0-9_-]", 63)


def run_prefix(target: str) -> str:
    """Return the beginning of a run's name, from its target's name.

    Examples
    --------
    >>> run_prefix("GCP_us-east1"), run_prefix("a-target-with-a-long-name")
    ('gcp-us-east1', 'a-target-with-a-long')
    """
    return dns_label(dns_label(target)[:20])


def zones_of(region: str, zones: Iterable[str]) -> list[str]:
    """Return those of the zones that are in a region.

    Examples
    --------
    >>> zones_of("us-east1", ["us-east1-b", "us-east11-a"]), regions_of(["us-east1-b", "us-east1-c"])
    (['us-east1-b'], ['us-east1'])
    """
    return [zone for zone in zones if zone.startswith(f"{region}-")]


def regions_of(zones: Iterable[str]) -> list[str]:
    """Return the regions in which zones are."""
    return sorted({zone.rpartition("-")[0] for zone in zones})


def scheduler_name(run: str) -> str:
    """Return the name of the scheduler's machine."""
    return f"{run}-scheduler"


def worker_names(run: str, tag: str, request_id: str, n: int) -> list[str]:
    """Return the names of the machines of a launch, which are the same whenever it is repeated.

    Examples
    --------
    >>> worker_names("gcp-1f00ba", "GCAM_core", "9c2f44d1", 2)
    ['gcp-1f00ba-gcam-core-9c2f44d1-0', 'gcp-1f00ba-gcam-core-9c2f44d1-1']
    """
    # 63 characters with the longest run, and the three digits of a thousand machines. A run may have thousands of
    # launches, so that fewer digits of the request would be the same once.
    part = dns_label(dns_label(tag)[:16])
    return [f"{run}-{part}-{request_id[:12]}-{number}" for number in range(n)]


def native_request(request_id: str, zone: str) -> str:
    """Return the UUID by which Compute Engine knows a request if it is repeated.

    Examples
    --------
    >>> native_request("9c2f44d1", "us-east1-b") == native_request("9c2f44d1", "us-east1-b")
    True
    """
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{request_id}/{zone}"))
