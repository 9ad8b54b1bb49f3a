"""Containers on this machine, by each runtime that it has; podman is installed if that is possible."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_site import ContainerSite
from slurm_site import wait_until

HERE = Path(__file__).parent


@pytest.fixture(scope="session", params=["podman", "docker", "apptainer"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ContainerSite]:
    if sys.platform != "linux":
        pytest.skip("containers of other systems are in a virtual machine")
    runtime: str = request.param
    if runtime == "podman":
        done = subprocess.run([HERE / "up.sh"], stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            pytest.skip(done.stderr.strip())
    if shutil.which(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    if runtime == "docker" and subprocess.run(["docker", "ps"], capture_output=True).returncode:
        pytest.skip("no Docker daemon answers")
    directory = tmp_path_factory.mktemp(runtime)
    with pytest.MonkeyPatch.context() as patch:
        if runtime == "podman" and "CONTAINERS_CONF" not in os.environ:
            patch.setenv("CONTAINERS_CONF", str(_write_configuration(directory)))
        try:
            site = ContainerSite(runtime, directory)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"{runtime} takes no image here: {error.stderr.strip()}")
        patch.setenv("SCALABLE_TESTS_IMAGE", site.image)
        patch.setenv("SCALABLE_TESTS_RUNTIME", runtime)
        if refusal := site.refusal():
            pytest.skip(f"{runtime} runs nothing here: {refusal}")
        yield site


def _write_configuration(directory: Path) -> Path:
    """Ask podman for modest limits: by default root gets some that, in a virtual machine, not even root may raise to.

    Where there are cgroups of both versions, runc is the runtime that can do with them.
    """
    limits = [
        f"{name}={value}:{value}"
        for name, kind, modest in (
            ("nofile", resource.RLIMIT_NOFILE, 16384),
            ("nproc", resource.RLIMIT_NPROC, 4096),
        )
        for hard in resource.getrlimit(kind)[1:]
        for value in [modest if hard == resource.RLIM_INFINITY else min(hard, modest)]
    ]
    lines = ["[containers]", f"default_ulimits = {limits!r}"]
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        lines += ["[engine]", 'runtime = "runc"']
    configuration = directory / "containers.conf"
    configuration.write_text("\n".join(lines) + "\n")
    return configuration


@pytest.fixture
def work(site: ContainerSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty directory, below which runs keep their files; neither those nor containers may be left."""
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    runs.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(runs))
    yield tmp_path
    wait_until(lambda: not site.containers(), "no container is left")
    files = [path for path in runs.glob("scalable-*/**/*") if path.is_file()]
    assert [path for path in files if path.suffix != ".log"] == []
