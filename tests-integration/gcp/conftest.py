"""A project of Google Cloud for the tests in this directory: see `gce_project`."""

from __future__ import annotations

from collections.abc import Iterator

import gce_project
import pytest
from gce_project import GceProject
from slurm_site import wait_until


@pytest.fixture(scope="session")
def gce_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GceProject]:
    """The project of all tests."""
    with (
        pytest.MonkeyPatch.context() as patch,
        gce_project.provide(tmp_path_factory.mktemp("gce"), patch) as project,
    ):
        yield project


@pytest.fixture
def used_project(gce_site: GceProject) -> GceProject:
    """A new project, in which a test may leave what it likes."""
    gce_site.renew()
    return gce_site


@pytest.fixture
def project(used_project: GceProject) -> Iterator[GceProject]:
    """A new project, in which nothing may be left of a test, and of which it may ask nothing that is unknown."""
    yield used_project
    wait_until(lambda: not used_project.inventory(), "nothing is left", timeout=30)
    assert used_project.traffic.unknown == []
