"""Clusters of a manifest's target ``here``, whatever its provider."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from scalable.cluster import GroupedCluster
from scalable.manifest.parser import parse_manifest
from scalable.providers.base import ClusterHandle, DeploymentSpec
from scalable.providers.registry import get_provider


def spec_of(manifest: str) -> DeploymentSpec:
    """Return the specification of the target."""
    return DeploymentSpec.from_manifest(parse_manifest(manifest), target_name="here")


@contextmanager
def built(spec: DeploymentSpec) -> Iterator[ClusterHandle]:
    """Build its cluster, and close it at the end."""
    provider = get_provider(spec.provider_name)
    handle = provider.build_cluster(spec)
    try:
        yield handle
    finally:
        provider.close(handle)


def start(backend: GroupedCluster, **counts: int) -> None:
    """Scale groups, and wait until they have that many workers."""
    backend.scale_groups(counts)
    for tag, n in counts.items():
        backend.wait_for_group(tag, n, timeout=120)
