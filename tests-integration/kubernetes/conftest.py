"""A real Kubernetes with the Dask operator, for the tests in this directory: see `kubernetes_site.provide`."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import kubernetes_site
import pytest
from kubernetes_site import KubernetesSite
from slurm_site import wait_until

_stacks = pytest.StashKey[ExitStack]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Provide one cluster for all processes of pytest-xdist, which ``KUBECONFIG`` then names."""
    parallel = getattr(session.config.option, "numprocesses", None)
    if not parallel or "PYTEST_XDIST_WORKER" in os.environ or session.config.option.collectonly:
        return
    stack = session.config.stash[_stacks] = ExitStack()
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kubernetes-")))
    with contextlib.suppress(
        pytest.skip.Exception
    ):  # each process skips its tests, with the reason
        stack.enter_context(kubernetes_site.provide(directory, patch))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that it does not end alone."""
    items.sort(key=lambda item: "ensemble" not in item.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Take it down."""
    session.config.stash.get(_stacks, ExitStack()).close()


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
