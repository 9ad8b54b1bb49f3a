"""A real Kubernetes with the Dask operator, for the tests in this directory: see `kubernetes_site.provide`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import kubernetes_site
import pytest
from kubernetes_site import KubernetesSite
from slurm_site import wait_until


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesSite]:
    with (
        pytest.MonkeyPatch.context() as patch,
        kubernetes_site.provide(tmp_path_factory.mktemp("kubernetes"), patch) as site,
    ):
        patch.setenv("SCALABLE_TESTS_IMAGE", kubernetes_site.image("worker"))
        patch.setenv("SCALABLE_TESTS_OTHER_IMAGE", kubernetes_site.image("other"))
        yield site


@pytest.fixture
def namespace(site: KubernetesSite, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A namespace for a test; afterwards, it must be empty of what Scalable has made."""
    with site.namespace() as name:
        monkeypatch.setenv("SCALABLE_TESTS_NAMESPACE", name)
        yield name
        wait_until(lambda: not site.leftovers(name), "nothing is left")


@pytest.fixture
def work(namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and a namespace."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
