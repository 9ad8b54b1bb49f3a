"""Containers on this machine with each runtime that is or can be installed: see `container_site.provide`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from container_site import ContainerSite, provide
from slurm_site import wait_until


@pytest.fixture(scope="session", params=["podman", "docker", "apptainer"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ContainerSite]:
    with pytest.MonkeyPatch.context() as patch:
        site = provide(request.param, tmp_path_factory.mktemp(request.param), patch)
        patch.setenv("SCALABLE_TESTS_IMAGE", site.image)
        patch.setenv("SCALABLE_TESTS_RUNTIME", site.runtime)
        yield site


@pytest.fixture
def work(site: ContainerSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty directory that has the files of runs; check that neither files nor containers are left."""
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    runs.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(runs))
    yield tmp_path
    wait_until(lambda: not site.containers(), "no container is left")
    files = [path for path in runs.glob("scalable-*/**/*") if path.is_file()]
    assert [path for path in files if path.suffix != ".log"] == []
