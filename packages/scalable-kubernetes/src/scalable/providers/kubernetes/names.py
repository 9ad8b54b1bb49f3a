"""Names and labels of what a run creates. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping

from scalable.providers.labels import dns_label

__all__ = [
    "COMPONENT",
    "DASK_COMPONENT",
    "MANAGED",
    "OWNER",
    "REQUEST",
    "RUN",
    "group_name",
    "labels",
    "run_prefix",
    "scheduler_name",
    "secret_name",
    "selector",
]

RUN = "scalable/run"
"""Label: the run."""
COMPONENT = "scalable/component"
"""Label: the component, as `dns_label` writes it."""
REQUEST = "scalable/request"
"""Label: the launch that a worker group answers."""
OWNER = "scalable/owner"
"""Annotation: the user who started the run, whose name need not be a valid label."""
DASK_COMPONENT = "dask.org/component"
"""Label of the operator's: ``scheduler``, ``workergroup`` or ``worker``."""
MANAGED = {"app.kubernetes.io/managed-by": "scalable"}
"""Labels of everything that Scalable creates."""

_MAX_PREFIX = 8
"""With it, the longest component (40 characters) and a run's suffix fit into the value of a label, which has 63."""


def run_prefix(target: str) -> str:
    """Return the beginning of a run's name, from its target's name.

    Examples
    --------
    >>> run_prefix("GKE_europe-west4"), run_prefix("k8s")
    ('gke-euro', 'k8s')
    """
    return dns_label(dns_label(target)[:_MAX_PREFIX])


def labels(run: str) -> dict[str, str]:
    """Return the labels of everything that belongs to a run."""
    # The operator finds a cluster's parts by its own label.
    return {**MANAGED, RUN: run, "dask.org/cluster-name": run}


def selector(wanted: Mapping[str, str]) -> str:
    """Return labels as a selector.

    Examples
    --------
    >>> selector({"scalable/run": "k8s-1", "dask.org/component": "worker"})
    'scalable/run=k8s-1,dask.org/component=worker'
    """
    return ",".join(f"{key}={value}" for key, value in wanted.items())


def scheduler_name(run: str) -> str:
    """Return the name of the scheduler's Service and Deployment, which the operator gives them."""
    return f"{run}-scheduler"


def secret_name(run: str) -> str:
    """Return the name of the Secret with a run's keys."""
    return f"{run}-tls"


def group_name(run: str, tag: str, number: int) -> str:
    """Return the name of the worker group of a component's launch.

    Examples
    --------
    >>> group_name("k8s-1f00ba", "GCAM_core", 3)
    'k8s-1f00ba-gcam-core-3'
    """
    return f"{run}-{dns_label(tag)}-{number}"
