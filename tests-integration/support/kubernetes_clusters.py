"""Clusters of Scalable on Kubernetes, as tests want them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import kubernetes_site

from scalable.manifest.parser import parse_manifest
from scalable.providers.base import DeploymentSpec
from scalable.providers.registry import get_provider
from scalable.testing.conformance import Running

TIMEOUT = 150.0

SMALL = {
    "provider": "kubernetes",
    "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}},
    "scheduler_cpu": "50m",
    "scheduler_memory": "512Mi",
}
"""Options of targets whose workers find room on a node as small as a test machine."""


def spec(
    namespace: str,
    components: Mapping[str, Mapping[str, Any]],
    options: Mapping[str, Any] | None = None,
) -> DeploymentSpec:
    """Return the spec of a target with these options."""
    image = kubernetes_site.image("worker")
    target = {**SMALL, "namespace": namespace, "image": image, **(options or {})}
    document = {
        "version": 1,
        "project": {"name": "tests"},
        "targets": {"there": target},
        "components": {name: dict(component) for name, component in components.items()},
    }
    return DeploymentSpec.from_manifest(parse_manifest(document), target_name="there")


@contextmanager
def cluster(
    namespace: str,
    components: Mapping[str, Mapping[str, Any]],
    options: Mapping[str, Any] | None = None,
) -> Iterator[Running]:
    """Build a cluster whose groups are empty, and close it."""
    wanted = spec(namespace, components, options)
    provider = get_provider("kubernetes")
    handle = provider.build_cluster(wanted)
    try:
        yield Running(provider, handle, TIMEOUT)
    finally:
        provider.close(handle)
