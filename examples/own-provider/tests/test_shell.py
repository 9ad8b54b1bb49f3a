"""What is specific to this provider: the command prefix, environments, and what it does not support."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from scalable.client import ScalableClient
from scalable.manifest import parse_manifest
from scalable.planning import build_plan
from scalable.providers.base import ClusterHandle, DeploymentSpec
from scalable.testing.conformance import by_value
from scalable_shell import ShellProvider

MANIFEST = """
version: 1
project: {name: shell}
targets:
  polite:
    provider: shell
    launcher: [nice, -n, "10"]
    workers: {model: 2, plots: 1}
components:
  model: {cpus: 2, env: {KIND: model}}
  plots: {env: {KIND: plots}}
"""


def spec_of(text: str) -> DeploymentSpec:
    manifest = parse_manifest(text, target_name="polite")
    return DeploymentSpec.from_manifest(manifest, target_name="polite")


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterHandle]:
    provider, spec = ShellProvider(), spec_of(MANIFEST)
    with provider.build_cluster(spec) as handle:
        provider.scale(handle, build_plan(spec, provider).scale_plan)
        yield handle


@by_value  # workers do not import the modules of tests
def describe_worker(_: int) -> tuple[str, str, int]:
    import os

    return os.environ["KIND"], os.environ["OMP_NUM_THREADS"], os.nice(0)


def test_each_group_has_workers_of_its_own(cluster: ClusterHandle) -> None:
    with cluster.client_factory() as client:
        assert isinstance(client, ScalableClient)
        niceness = min(os.nice(0) + 10, 19)
        for tag, cpus in (("model", "2"), ("plots", "1")):
            seen = client.gather(client.map(describe_worker, range(4), tag=tag))
            assert set(seen) == {(tag, cpus, niceness)}


def test_an_image_is_refused() -> None:
    spec = spec_of(MANIFEST.replace("{cpus: 2, ", "{image: gcam, "))
    (issue,) = ShellProvider().validate(spec).errors
    assert (issue.path, issue.code) == ("components.model.image", "E_NOT_SUPPORTED")


def test_a_missing_launcher_is_reported() -> None:
    provider, spec = ShellProvider(), spec_of(MANIFEST.replace("nice,", "no-such-program,"))
    with provider.build_cluster(spec) as handle:
        provider.scale(handle, build_plan(spec, provider).scale_plan)
        with pytest.raises(RuntimeError, match="no-such-program"):
            handle.backend.wait_for_group("model", timeout=30)
